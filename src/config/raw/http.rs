//! Bounds on what a client may send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{HumanDuration, HumanSize};

/// Bounds on what a client may send.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Largest JSON body that is read; a larger one is refused with 413. Forwarded uploads have no limit here.
    pub max_body: HumanSize,
    /// A whole JSON body must have arrived within this time, or it is refused with 408.
    pub body_timeout: HumanDuration,
    /// How long a client's idle connection stays open.
    pub keepalive: HumanDuration,
    /// Largest JSON reply that is held back until its cost is known; a larger one carries no `X-ChittyCan-Cost`.
    pub max_held_reply: HumanSize,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_body: HumanSize::mib(64),
            body_timeout: HumanDuration::secs(60),
            keepalive: HumanDuration::secs(60),
            max_held_reply: HumanSize::mib(8),
        }
    }
}
