//! When the gateway asks for a provider's prompt cache on a client's behalf.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a request that is translated for Anthropic gets breakpoints of the prompt cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptCaching {
    /// Where the client's request has a parameter of OpenAI's API for the prompt cache.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never; breakpoints that the client sets itself are still sent.
    Off,
}
