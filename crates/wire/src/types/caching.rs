//! When the prompt cache of a provider is asked for in a client's place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a request that is translated for Anthropic gets breakpoints of the prompt cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptCaching {
    /// Where the client speaks of the prompt cache, in OpenAI's words.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never; those that the client sets itself are sent.
    Off,
}
