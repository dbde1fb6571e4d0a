//! The vendors that the gateway knows: their base URLs, how they take their key, and which variable usually holds it.

use super::resolved::{AuthStyle, Dialect, Vendor};
use crate::types::Api;

/// What the gateway knows of a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The vendor.
    pub vendor: Vendor,
    /// The name of the preset in the file, and of the provider that exists without a file.
    pub name: &'static str,
    /// Base URL; `None` if only the user knows it.
    pub base_url: Option<&'static str>,
    /// The dialect of requests to the vendor.
    pub dialect: Dialect,
    /// True if the vendor serves OpenAI's Responses API.
    pub responses_api: bool,
    /// How the vendor takes its key.
    pub auth: AuthStyle,
    /// Environment variables that usually hold a key; the first that is set counts.
    pub key_vars: &'static [&'static str],
    /// False for vendors that serve without a key.
    pub needs_key: bool,
    /// False for vendors that refuse `stream_options`, or count tokens in streams unasked.
    pub stream_usage: bool,
    /// The form of the vendor's keys, if a client may send its own; `None` if only the gateway's key is sent to the vendor.
    pub client_keys: Option<ClientKeys>,
    /// The name under which the vendor takes the limit of an answer.
    pub limit_name: LimitName,
    /// The vendor's streamed tool calls need [`crate::openai::RelayOptions::repair_tools`]: they have no index or the same one,
    /// or end with `stop`. Gemini sends whole calls without an index and ends them with `stop`; older Ollamas number every call
    /// 0.
    pub repairs_tools: bool,
    /// The vendor's name for `seed`; `None` if it has none.
    pub seed_name: Option<&'static str>,
    /// The vendor's value for `tool_choice: required`; `None` if it has none.
    pub required_tool: Option<&'static str>,
    /// Prefixes of the names of models that do not think with `reasoning_effort: none`, according to the vendor's documentation
    /// (November 2026).
    pub effort_none: &'static [&'static str],
    /// True for OpenAI's own models: their tokens are counted as documented, the answer to a legacy completion has at most 16
    /// tokens unless the request says otherwise, and `-search-preview` models search for every answer.
    pub is_openai: bool,
    /// True if `thinking: {type: disabled}` turns thinking off in the vendor's models that allow it.
    pub thinking_disabled: bool,
    /// True if the vendor silently truncates a prompt that is too long.
    pub cuts_prompts: bool,
    /// True if a request can limit the calls of the tools that the vendor runs.
    pub limits_tool_calls: bool,
    /// What costs nothing at the vendor without being in the price list.
    pub free: Free,
    /// True if `/v1` is added to a base URL without a path.
    pub default_path: bool,
}

/// The form of a vendor's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKeys {
    /// How the vendor's keys begin.
    pub prefix: &'static str,
    /// How keys of other vendors begin that share the prefix.
    pub not: &'static [&'static str],
    /// The domain that the keys are meant for.
    pub home: &'static str,
}

impl ClientKeys {
    /// Whether a key looks like one of the vendor's.
    pub fn fit(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && !self.not.iter().any(|other| key.starts_with(other))
    }
}

/// The name under which a vendor takes the limit of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitName {
    /// `max_completion_tokens`, OpenAI's newer name.
    New,
    /// Either name; the vendor's documentation has the newer one.
    Both,
    /// `max_tokens`; the vendor ignores or refuses the newer name.
    Old,
    /// `max_tokens`; how the vendor treats the newer name is not documented.
    Unknown,
}

/// What costs nothing at a vendor without being in the price list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// Nothing.
    Nothing,
    /// The vendor's models for moderation.
    Moderation,
    /// Every model that runs on the user's own machine.
    Local,
}

impl Dialect {
    /// The public API whose paths and objects a provider of this dialect has.
    pub const fn api(self) -> Api {
        match self {
            Self::OpenAi | Self::Ollama => Api::OpenAi,
            Self::Anthropic => Api::Anthropic,
        }
    }

    /// Whether a provider of this dialect can have the Responses API.
    pub const fn may_have_responses(self) -> bool {
        matches!(self, Self::OpenAi)
    }

    /// How a key is sent in this dialect, for a vendor that takes keys as `usual` in its own dialect.
    pub const fn auth(self, usual: AuthStyle) -> AuthStyle {
        match (self.api(), usual) {
            (Api::Anthropic, _) => AuthStyle::XApiKey,
            // Anthropic's OpenAI-compatible endpoint.
            (_, AuthStyle::XApiKey) => AuthStyle::Bearer,
            (_, auth) => auth,
        }
    }
}

impl Preset {
    /// The preset of a vendor.
    pub fn of(vendor: Vendor) -> &'static Preset {
        PRESETS.get(vendor as usize).unwrap_or(&CUSTOM)
    }

    /// The preset called `name`.
    pub fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

const CUSTOM: Preset = Preset { base_url: None, needs_key: false, ..preset(Vendor::Custom, "custom", "", &[]) };

/// Prefixes of OpenAI's models that take `reasoning_effort: none`: the value came with GPT-5.1, and earlier models refuse it.
const GPT_EFFORT_NONE: &[&str] = &["gpt-5.1", "gpt-5.2", "gpt-5.4"];

/// All presets, in the order of [`Vendor`]. Sources: the vendors' own documentation.
pub const PRESETS: &[Preset] = &[
    Preset {
        responses_api: true,
        // The keys of Anthropic and OpenRouter also begin with `sk-`.
        client_keys: Some(ClientKeys { prefix: "sk-", not: &["sk-ant-", "sk-or-"], home: "openai.com" }),
        limit_name: LimitName::New,
        effort_none: GPT_EFFORT_NONE,
        is_openai: true,
        limits_tool_calls: true,
        free: Free::Moderation,
        ..preset(Vendor::OpenAi, "openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"])
    },
    Preset {
        dialect: Dialect::Anthropic,
        auth: AuthStyle::XApiKey,
        client_keys: Some(ClientKeys { prefix: "sk-ant-", not: &[], home: "anthropic.com" }),
        limits_tool_calls: true,
        thinking_disabled: true,
        ..preset(Vendor::Anthropic, "anthropic", "https://api.anthropic.com/v1", &["ANTHROPIC_API_KEY"])
    },
    Preset {
        limit_name: LimitName::Both,
        effort_none: &["qwen/qwen3"],
        ..preset(Vendor::Groq, "groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"])
    },
    Preset {
        dialect: Dialect::Ollama,
        needs_key: false,
        limit_name: LimitName::Old,
        repairs_tools: true,
        free: Free::Local,
        cuts_prompts: true,
        default_path: true,
        ..preset(Vendor::Ollama, "ollama", "http://127.0.0.1:11434/v1", &[])
    },
    Preset {
        limit_name: LimitName::Old,
        ..preset(Vendor::Cohere, "cohere", "https://api.cohere.ai/compatibility/v1", &["COHERE_API_KEY", "CO_API_KEY"])
    },
    Preset {
        limit_name: LimitName::Old,
        ..preset(
            Vendor::HuggingFace,
            "huggingface",
            "https://router.huggingface.co/v1",
            &["HF_TOKEN", "HUGGINGFACE_API_KEY"],
        )
    },
    Preset {
        stream_usage: false,
        limit_name: LimitName::Old,
        ..preset(Vendor::Replicate, "replicate", "https://openai-proxy.replicate.com/v1", &["REPLICATE_API_TOKEN"])
    },
    Preset {
        limit_name: LimitName::Old,
        ..preset(Vendor::Together, "together", "https://api.together.xyz/v1", &["TOGETHER_API_KEY"])
    },
    Preset {
        base_url: None,
        auth: AuthStyle::ApiKeyHeader,
        responses_api: true,
        limit_name: LimitName::New,
        effort_none: GPT_EFFORT_NONE,
        is_openai: true,
        limits_tool_calls: true,
        ..preset(Vendor::Azure, "azure", "", &["AZURE_OPENAI_API_KEY"])
    },
    // Mistral refuses unknown members with 422; usage comes unasked, in the last chunk.
    Preset {
        stream_usage: false,
        limit_name: LimitName::Old,
        seed_name: Some("random_seed"),
        required_tool: Some("any"),
        ..preset(Vendor::Mistral, "mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"])
    },
    Preset {
        limit_name: LimitName::Old,
        ..preset(Vendor::DeepSeek, "deepseek", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"])
    },
    Preset {
        repairs_tools: true,
        // Source: Gemini's guide to thinking. Thinking cannot be turned off in 2.5 Pro and 3.
        effort_none: &["gemini-2.5-flash"],
        ..preset(
            Vendor::Gemini,
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        )
    },
    Preset {
        responses_api: true,
        limit_name: LimitName::Both,
        ..preset(Vendor::Xai, "xai", "https://api.x.ai/v1", &["XAI_API_KEY"])
    },
    Preset {
        limit_name: LimitName::Both,
        ..preset(Vendor::OpenRouter, "openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"])
    },
    Preset {
        needs_key: false,
        limit_name: LimitName::Both,
        ..preset(Vendor::Vllm, "vllm", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"])
    },
    CUSTOM,
];

const fn preset(
    vendor: Vendor,
    name: &'static str,
    base_url: &'static str,
    key_vars: &'static [&'static str],
) -> Preset {
    Preset {
        vendor,
        name,
        base_url: Some(base_url),
        dialect: Dialect::OpenAi,
        responses_api: false,
        auth: AuthStyle::Bearer,
        key_vars,
        needs_key: true,
        stream_usage: true,
        client_keys: None,
        limit_name: LimitName::Unknown,
        repairs_tools: false,
        seed_name: None,
        required_tool: None,
        effort_none: &[],
        is_openai: false,
        thinking_disabled: false,
        cuts_prompts: false,
        limits_tool_calls: false,
        free: Free::Nothing,
        default_path: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_file() {
        for preset in PRESETS {
            assert_eq!(serde_json::to_value(preset.vendor).unwrap(), preset.name);
            assert_eq!(Preset::of(preset.vendor), preset);
            assert_eq!(Preset::named(preset.name), Some(preset));
        }
    }
}
