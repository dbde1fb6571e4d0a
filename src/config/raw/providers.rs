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
    /// The vendor whose address, key variable and quirks apply. Without it: the preset of the entry's own name, if there is one;
    /// otherwise `custom`, which is any other OpenAI-compatible endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Vendor::OpenAi)]
    pub preset: Option<Vendor>,
    /// The dialect of the provider; a client's request in another dialect is translated (`can config dialects` shows the
    /// disposition of each parameter). `openai`: Chat Completions. `anthropic`: the Messages API. `ollama`: Ollama's own
    /// `/api/chat`, which takes a context length and returns a model's thinking. Without it: the preset's dialect, which is
    /// `openai` for all presets but `anthropic` and `ollama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Dialect::OpenAi)]
    pub dialect: Option<Dialect>,
    /// Whether the provider serves OpenAI's Responses API. If `false`, a request to that API is translated to Chat Completions,
    /// without the parameters that need a provider's memory (`conversation`, `background`); `stored_responses` describes what the
    /// gateway keeps in the provider's place. Without it: `true` for `openai`, `azure` and `xai`, otherwise `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub responses_api: Option<bool>,
    /// The most output tokens to ask for when the client states no limit and the dialect requires one (`anthropic`). Without
    /// it: the model's longest answer by the price list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u32), example = &8192)]
    pub default_max_tokens: Option<NonZeroU32>,
    /// The URL before `/chat/completions`. Without it: the preset's; `azure` and `custom` have none.
    /// `OLLAMA_BASE_URL` overrides the URL of the entry `ollama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"https://api.openai.com/v1")]
    pub base_url: Option<String>,
    /// The gateway's key: `env:NAME`, `file:PATH`, or the key itself. Without it: the value of the preset's environment variable,
    /// if that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = SecretText::env("OPENAI_API_KEY"))]
    pub api_key: Option<SecretText>,
    /// Which key is sent upstream. `mapped`: always the gateway's key. `passthrough`: always the client's own key; a key that
    /// does not look like the vendor's (OpenAI's `sk-…`, Anthropic's `sk-ant-…`) is refused by the gateway and sent nowhere.
    /// `auto`: the client's own key if it looks like the vendor's, otherwise the gateway's. `passthrough` and `auto` are possible
    /// for the presets `openai` and `anthropic` only. Without it: `auto` for these two presets, `mapped` for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Credentials::Auto)]
    pub credentials: Option<Credentials>,
    /// Extra headers on every request to the provider. A value may also be `env:NAME` or `file:PATH`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = json!({"OpenAI-Project": "proj_123"}))]
    pub headers: BTreeMap<String, SecretText>,
    /// Names of further client headers that are forwarded to the provider; they become part of the cache's key. All other
    /// forwarded headers are those that official SDKs send and providers act on. `X-Forwarded-For` and other headers of proxies,
    /// cookies, and headers that change the method or the path are never forwarded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["X-Session-Affinity"])]
    pub forward_headers: Vec<String>,
    /// Appended to every request's query. Not for secrets, because the text is printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"api-version=preview")]
    pub query: Option<String>,
    /// Ask the provider to count tokens in streams, with `stream_options.include_usage`, so that a stream's cost is known;
    /// clients that did not ask do not see the count. Set it to `false` for an endpoint that refuses `stream_options`, which then
    /// never gets them. Without it: `false` for `mistral` and `replicate`, otherwise `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub stream_usage: Option<bool>,
    /// List the provider's own models in `GET /v1/models`, besides the models of the routes: under their own names if a request
    /// for that name reaches this provider, otherwise as `provider/model`. The list is requested with the key that the client's
    /// requests are sent with, and kept for five minutes if that is the gateway's key. A fine-tune is listed to those who may use
    /// it.
    pub list_models: bool,
    /// Offer HTTP/2 to the provider: by ALPN over https, by prior knowledge over http.
    pub http2: bool,
    /// How long to wait for the provider.
    pub timeouts: Timeouts,
    /// PEM file with the only certificate authorities to trust for the provider. Without it: the usual public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/can/internal-ca.pem")]
    pub ca_file: Option<String>,
}

/// How long to wait for a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The longest time to connect, TLS included.
    pub connect: HumanDuration,
    /// The longest time from the end of the request to the header of the reply, and then the longest silence between two pieces
    /// of the reply's body. A model may think for minutes before its first byte.
    pub read: HumanDuration,
    /// The longest time until the provider has taken the header of a request with the first 256 KiB of the body, and again for
    /// each further 256 KiB.
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
