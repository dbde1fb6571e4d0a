//! Development against a local Ollama.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `mode: dev` does.
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
    /// Its address; `/v1` is added where it has no path. Without it: that of the provider `ollama`.
    /// `OLLAMA_BASE_URL` replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"http://127.0.0.1:11434")]
    pub base_url: Option<String>,
    /// Client-facing model, or a pattern with one `*` at its end → Ollama's model. A model that nothing matches keeps
    /// its name. Giving this map replaces all of it.
    pub models: BTreeMap<String, String>,
}

impl Default for DevOllama {
    fn default() -> Self {
        let models = [("*", "llama3.2"), ("text-embedding-*", "nomic-embed-text")];
        Self { base_url: None, models: models.map(|(from, to)| (from.to_owned(), to.to_owned())).into() }
    }
}
