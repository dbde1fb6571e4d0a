//! Client-facing models, and the price list.

use std::{fmt, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::RouteCache;
use crate::types::PromptCaching;

/// A client-facing model and the deployments that serve it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The model a client asks for: a name, or a pattern with one `*` at its end (`claude-*`, or `*` for all).
    /// A name wins over a pattern, a longer pattern over a shorter one.
    pub model: String,
    /// Other names for the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["best-model"])]
    pub aliases: Vec<String>,
    /// The deployments that serve the model, first to last: `provider/model`, or `provider` alone to keep the client's name for
    /// the model. When a deployment fails, the next one is tried, see `retry`.
    #[schemars(length(min = 1))]
    pub to: Vec<Target>,
    /// Refuse a request if a translation would drop any of its parameters, instead of naming them in `X-ChittyCan-Dropped`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = &true)]
    pub strict: bool,
    /// The longest answer, in tokens, for a client that states no limit: the gateway asks for this limit in the client's place,
    /// and a budget holds no more than its cost. Without it: the model's longest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u32), example = &4096)]
    pub default_max_tokens: Option<NonZeroU32>,
    /// Whether a request in OpenAI's API that is translated for Anthropic gets breakpoints of Anthropic's prompt cache
    /// (`cache_control`): after the tools, after the system prompt and on the last two turns of the user, so that each turn of a
    /// conversation reads at a tenth of the price what the turn before wrote. `auto`: only if the client mentions the prompt
    /// cache (`prompt_cache_key`, `prompt_cache_retention`, `prompt_cache_options`), as Codex does, because writing to the cache
    /// costs a quarter more than plain input, which is wasted if no request follows. `always`: for clients that continue
    /// conversations without mentioning the cache. `off`: never. If a client sets breakpoints itself, no others are added. None
    /// are added for a model whose entry in the price list has no price for them (`cache_write`).
    #[serde(default, skip_serializing_if = "is_auto")]
    #[schemars(example = PromptCaching::Always)]
    pub prompt_caching: PromptCaching,
    /// Settings of `cache` that the route overrides: `enabled`, `ttl`, `stale_if_error`, `namespace`, `max_entry`.
    #[serde(default, skip_serializing_if = "RouteCache::is_empty")]
    pub cache: RouteCache,
}

// serde prescribes the signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_auto(caching: &PromptCaching) -> bool {
    *caching == PromptCaching::Auto
}

/// One provider and one model name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Target {
    /// `provider/model`, or `provider`.
    Name(String),
    /// Provider and model in two keys.
    Parts(TargetParts),
}

/// One provider and one model name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetParts {
    /// Name of the provider.
    pub provider: String,
    /// The provider's name for the model. Without it: the client's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) => f.write_str(text),
            Self::Parts(TargetParts { provider, model: Some(model) }) => write!(f, "{provider}/{model}"),
            Self::Parts(TargetParts { provider, model: None }) => f.write_str(provider),
        }
    }
}

/// The prices of models.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// A price list that is laid over the built-in one: its entries replace built-in entries of the same name. `conf/prices.yaml`
    /// shows the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/can/prices.yaml")]
    pub file: Option<String>,
}

/// The playbook's model table, and Anthropic's models under their own names. A model that its vendor has retired (by the dates in
/// the source of the price list) is served by the vendor's nearest current model: Sonnet 4 by Anthropic's Sonnet 4.6, o3-mini by
/// OpenAI's small reasoning model, and Llama by Groq's largest open model, since Groq serves no Llama for chat any more.
pub(super) fn defaults() -> Vec<Route> {
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("o3-mini", "openai/gpt-5.4-mini"),
        ("text-embedding-3-small", "openai/text-embedding-3-small"),
        ("claude-sonnet-4", "anthropic/claude-sonnet-4-6"),
        ("claude-*", "anthropic"),
        ("llama-3-70b", "groq/openai/gpt-oss-120b"),
    ]
    .into_iter()
    .map(|(model, to)| Route {
        model: model.into(),
        aliases: Vec::new(),
        to: vec![Target::Name(to.into())],
        strict: false,
        default_max_tokens: None,
        prompt_caching: PromptCaching::Auto,
        cache: RouteCache::default(),
    })
    .collect()
}
