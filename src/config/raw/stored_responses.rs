//! Responses that the gateway keeps for providers without the Responses API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{HumanDuration, HumanSize};

/// Responses that the gateway keeps for providers that keep none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoredResponses {
    /// How long a response is kept after its last use; a conversation that goes on uses all of its responses. At most 30d.
    pub ttl: HumanDuration,
    /// How much memory all kept responses may take, at most an eighth of `server.memory_budget`; the least recently used ones are
    /// removed first. `0B`: none is kept, and requests that refer to a kept response are refused.
    pub memory: HumanSize,
    /// How much memory the kept responses of one tenant may take. A larger conversation is not kept.
    pub tenant_memory: HumanSize,
}

impl Default for StoredResponses {
    fn default() -> Self {
        Self { ttl: HumanDuration::secs(86_400), memory: HumanSize::mib(128), tenant_memory: HumanSize::mib(32) }
    }
}
