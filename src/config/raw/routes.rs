//! Client-facing models, and their prices.

use std::{fmt, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::RouteCache;
use crate::types::PromptCaching;

/// A client-facing model and what serves it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The model a client asks for: a name, or a pattern with one `*` at its end (`claude-*`, or `*` for all).
    /// A name wins over a pattern, a longer pattern over a shorter one.
    pub model: String,
    /// Other names for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["best-model"])]
    pub aliases: Vec<String>,
    /// What serves it, first to last: `provider/model`, or `provider` alone to keep the client's name for the model.
    /// The next is tried when one fails, see `retry`.
    #[schemars(length(min = 1))]
    pub to: Vec<Target>,
    /// Refuse a request of which a translation would leave anything out, in place of naming it in `X-ChittyCan-Dropped`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(example = &true)]
    pub strict: bool,
    /// The longest answer, in tokens, where the client states no limit: it is asked for in the client's place, and is all that a
    /// budget has to hold. Without it: the model's longest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = &4096)]
    pub default_max_tokens: Option<NonZeroU32>,
    /// Whether a request of OpenAI's API that is translated for Anthropic gets breakpoints of Anthropic's prompt cache
    /// (`cache_control`): behind the tools, behind the system prompt and on the last two turns of the user, so that each turn of
    /// a conversation reads what the one before wrote, at a tenth of the price. `auto`: where the client speaks of the prompt
    /// cache (`prompt_cache_key`, `prompt_cache_retention`, `prompt_cache_options`), as Codex does; not otherwise, because
    /// to write costs a quarter more than to send, which a request that none follows pays for nothing. `always`: for clients
    /// that go on with conversations and do not say so. `off`: never. Where a client sets breakpoints itself, there are no
    /// others. None are added for a model whose entry in the price list has no price for them (`cache_write`).
    #[serde(default, skip_serializing_if = "is_auto")]
    #[schemars(example = PromptCaching::Always)]
    pub prompt_caching: PromptCaching,
    /// What it has otherwise than `cache` says: `enabled`, `ttl`, `stale_if_error`, `namespace`, `max_entry`.
    #[serde(default, skip_serializing_if = "RouteCache::is_empty")]
    pub cache: RouteCache,
}

// Its signature is serde's.
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
    /// The same in two keys.
    Parts(TargetParts),
}

/// One provider and one model name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetParts {
    /// Name of the provider.
    pub provider: String,
    /// The provider's name for the model; without it, the client's.
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

/// What a model costs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// A price list laid over the built-in one: its entries replace those of the same name. `conf/prices.yaml` shows the
    /// form.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"/etc/can/prices.yaml")]
    pub file: Option<String>,
}

/// The playbook's model table, and Anthropic's models under their own names. What a vendor has retired (by the dates in the
/// source of the price list) goes to that vendor's nearest model that is served: Anthropic's Sonnet 4.6 for Sonnet 4, OpenAI's
/// small reasoning model for o3-mini, and Groq's largest open model, since it serves no Llama for chat any more.
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
