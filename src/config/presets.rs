//! The vendors the gateway knows: where they are, how they want their key, which variable usually holds it.

use super::resolved::{AuthStyle, Dialect, Vendor};

/// What the gateway knows of a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The vendor.
    pub vendor: Vendor,
    /// Its name in the file, and of the provider that is there without a file.
    pub name: &'static str,
    /// Base URL; `None` where only the user knows it.
    pub base_url: Option<&'static str>,
    /// In which dialect it is asked.
    pub dialect: Dialect,
    /// It serves OpenAI's Responses API.
    pub responses_api: bool,
    /// How it wants the key.
    pub auth: AuthStyle,
    /// Environment variables that usually hold a key; the first that is set counts.
    pub key_vars: &'static [&'static str],
    /// False for vendors that serve without a key.
    pub needs_key: bool,
    /// False for vendors that refuse `stream_options`, or count tokens in streams unasked.
    pub stream_usage: bool,
}

impl Preset {
    /// The preset of a vendor.
    pub fn of(vendor: Vendor) -> &'static Preset {
        PRESETS.iter().find(|preset| preset.vendor == vendor).unwrap_or(&CUSTOM)
    }

    /// The preset called `name`.
    pub fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}

const CUSTOM: Preset = Preset {
    vendor: Vendor::Custom,
    name: "custom",
    base_url: None,
    dialect: Dialect::OpenAi,
    responses_api: false,
    auth: AuthStyle::Bearer,
    key_vars: &[],
    needs_key: false,
    stream_usage: true,
};

/// All presets: the playbook's eight platforms first. Sources: the vendors' own documentation.
pub const PRESETS: &[Preset] = &[
    Preset {
        responses_api: true,
        ..preset(Vendor::OpenAi, "openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"])
    },
    Preset {
        dialect: Dialect::Anthropic,
        auth: AuthStyle::XApiKey,
        ..preset(Vendor::Anthropic, "anthropic", "https://api.anthropic.com/v1", &["ANTHROPIC_API_KEY"])
    },
    preset(Vendor::Groq, "groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"]),
    Preset {
        dialect: Dialect::Ollama,
        needs_key: false,
        ..preset(Vendor::Ollama, "ollama", "http://127.0.0.1:11434/v1", &[])
    },
    preset(Vendor::Cohere, "cohere", "https://api.cohere.ai/compatibility/v1", &["COHERE_API_KEY", "CO_API_KEY"]),
    preset(
        Vendor::HuggingFace,
        "huggingface",
        "https://router.huggingface.co/v1",
        &["HF_TOKEN", "HUGGINGFACE_API_KEY"],
    ),
    Preset {
        stream_usage: false,
        ..preset(Vendor::Replicate, "replicate", "https://openai-proxy.replicate.com/v1", &["REPLICATE_API_TOKEN"])
    },
    preset(Vendor::Together, "together", "https://api.together.xyz/v1", &["TOGETHER_API_KEY"]),
    Preset {
        base_url: None,
        auth: AuthStyle::ApiKeyHeader,
        responses_api: true,
        ..preset(Vendor::Azure, "azure", "", &["AZURE_OPENAI_API_KEY"])
    },
    // Unknown members are a 422 there; usage comes unasked, in the last chunk.
    Preset {
        stream_usage: false,
        ..preset(Vendor::Mistral, "mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"])
    },
    preset(Vendor::DeepSeek, "deepseek", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"]),
    preset(
        Vendor::Gemini,
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
    ),
    Preset { responses_api: true, ..preset(Vendor::Xai, "xai", "https://api.x.ai/v1", &["XAI_API_KEY"]) },
    preset(Vendor::OpenRouter, "openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"]),
    Preset { needs_key: false, ..preset(Vendor::Vllm, "vllm", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"]) },
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
