//! The simulated provider.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::HumanDuration;

/// The simulated provider of `can serve --simulate`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Simulate {
    /// Time between two events of a stream.
    pub token_interval: HumanDuration,
    /// Time before a reply starts.
    pub latency: HumanDuration,
}

impl Default for Simulate {
    fn default() -> Self {
        Self { token_interval: HumanDuration::millis(5), latency: HumanDuration::millis(0) }
    }
}
