//! Further attempts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often and when another attempt is made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in total, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// Replies of a provider after which another attempt is made. A provider that cannot be reached counts too.
    #[schemars(inner(range(min = 400, max = 599)))]
    pub statuses: Vec<u16>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, statuses: vec![408, 429, 500, 502, 503, 504, 529] }
    }
}
