//! Vendor accounts.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{
    resolved::{Credentials, Dialect, Vendor},
    values::{HumanDuration, SecretText},
};

/// A vendor account.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Provider {
    /// Whose address, key variable and quirks apply. Without it: the preset of the entry's own name, else `custom`,
    /// which is any other OpenAI-compatible endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Vendor::OpenAi)]
    pub preset: Option<Vendor>,
    /// In which dialect it is asked; what a client asks in another one is translated (`can config dialects` shows what becomes
    /// of each parameter). `openai`: Chat Completions. `anthropic`: its Messages API. `ollama`: Ollama's own `/api/chat`, which
    /// takes a context length and tells what a model thinks. Without it: that of the preset, which is `openai` for all but
    /// `anthropic` and `ollama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Dialect::OpenAi)]
    pub dialect: Option<Dialect>,
    /// It serves OpenAI's Responses API. Where it does not, a request for that is translated to Chat Completions, without what
    /// a provider would have to remember (`conversation`, `background`); what the gateway remembers in its place says
    /// `stored_responses`. Without it: `true` for `openai`, `azure` and `xai`, else `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub responses_api: Option<bool>,
    /// The most output tokens to ask for when the client states no limit and the dialect requires one (`anthropic`). Without
    /// it: the model's longest answer by the price list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &8192)]
    pub default_max_tokens: Option<NonZeroU32>,
    /// What stands before `/chat/completions`. Without it: the preset's. `azure` and `custom` have none.
    /// `OLLAMA_BASE_URL` replaces that of the entry `ollama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://api.openai.com/v1")]
    pub base_url: Option<String>,
    /// The gateway's key: `env:NAME`, `file:PATH`, or the key itself. Without it: the preset's variable, where it is
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = SecretText::env("OPENAI_API_KEY"))]
    pub api_key: Option<SecretText>,
    /// Which key goes upstream. `mapped`: the gateway's, always. `passthrough`: the client's own, always; one that does not
    /// look like the vendor's (OpenAI's `sk-…`, Anthropic's `sk-ant-…`) is refused here and goes nowhere.
    /// `auto`: the client's own where it looks like the vendor's, else the gateway's. The latter two for the
    /// presets `openai` and `anthropic` only, whose default is `auto`; elsewhere it is `mapped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Credentials::Auto)]
    pub credentials: Option<Credentials>,
    /// More headers on every request to it. A value may be `env:NAME` or `file:PATH` too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = json!({"OpenAI-Project": "proj_123"}))]
    pub headers: BTreeMap<String, SecretText>,
    /// Names of further request headers of clients that go to it; they become part of the cache's key. Without an entry here
    /// it gets only the headers that official SDKs send and providers act on; `X-Forwarded-For` and others of a proxy,
    /// cookies and headers that change the method or the path never go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["X-Session-Affinity"])]
    pub forward_headers: Vec<String>,
    /// Appended to every request's query. Not for secrets: it is printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"api-version=preview")]
    pub query: Option<String>,
    /// Ask it to count tokens in streams, with `stream_options.include_usage`, so that a stream's cost is known; clients
    /// that did not ask do not see the count. `false` for an endpoint that refuses `stream_options`, which then never
    /// gets them. Without it: `false` for `mistral` and `replicate`, else `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub stream_usage: Option<bool>,
    /// Its own models are in `GET /v1/models` too, besides those of the routes: under their own names where these lead to it,
    /// else as `provider/model`. Asked for with the key that the client's requests go with, and kept for five minutes where
    /// that is the gateway's. A fine-tune is listed to those who may use it.
    pub list_models: bool,
    /// Offer HTTP/2 to it: by ALPN over https, by prior knowledge over http.
    pub http2: bool,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// PEM file with the only certificate authorities to trust for it. Without it: the usual public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/can/internal-ca.pem")]
    pub ca_file: Option<String>,
}

/// How long to wait for a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until it is connected, TLS included.
    pub connect: HumanDuration,
    /// Until the header of its answer is there, from the end of the request; then the longest silence between two pieces of its
    /// body. A model may think for minutes before its first byte.
    pub read: HumanDuration,
    /// Until it has taken a request: its header with the first 256 KiB of its body, and the same again for each further 256 KiB.
    pub write: HumanDuration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: HumanDuration::secs(5), read: HumanDuration::secs(600), write: HumanDuration::secs(60) }
    }
}

/// The entry that the commented default file shows: each key with its own example.
pub(super) fn example() -> Value {
    json!({"openai": {}})
}
