//! Responses that the gateway keeps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{HumanDuration, HumanSize};

/// Responses that the gateway keeps for providers that keep none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoredResponses {
    /// How long after its last use one is kept; a conversation that goes on uses all of it. At most 30d.
    pub ttl: HumanDuration,
    /// What they may take in memory, at most an eighth of `server.memory_budget`; what was not used for the longest time goes
    /// first. `0B`: none is kept, and requests that refer to one are refused.
    pub memory: HumanSize,
    /// What those of one tenant may take. A longer conversation is not kept.
    pub tenant_memory: HumanSize,
}

impl Default for StoredResponses {
    fn default() -> Self {
        Self { ttl: HumanDuration::secs(86_400), memory: HumanSize::mib(128), tenant_memory: HumanSize::mib(32) }
    }
}
