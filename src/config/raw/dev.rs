//! Development against a local Ollama.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of `mode: dev`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dev {
    /// The Ollama that serves every model.
    pub ollama: DevOllama,
}

/// The Ollama that serves every model in dev mode.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DevOllama {
    /// The address of Ollama; `/v1` is added if it has no path. Without it: the address of the provider `ollama`.
    /// `OLLAMA_BASE_URL` overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"http://127.0.0.1:11434")]
    pub base_url: Option<String>,
    /// Maps a client-facing model, or a pattern with one `*` at its end, to Ollama's model. A model that no entry matches keeps
    /// its name. A map in the file replaces the whole default map.
    pub models: BTreeMap<String, String>,
}

impl Default for DevOllama {
    fn default() -> Self {
        let models = [("*", "llama3.2"), ("text-embedding-*", "nomic-embed-text")];
        Self { base_url: None, models: models.map(|(from, to)| (from.to_owned(), to.to_owned())).into() }
    }
}
