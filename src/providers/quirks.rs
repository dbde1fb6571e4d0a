//! The changes that an OpenAI-compatible vendor needs in a request to serve it correctly, and in a reply for SDKs to read it
//! correctly.
//!
//! Only differences that decide correctness are handled (each vendor's row in the providers' documentation); everything else is
//! forwarded byte for byte, and the vendor's own answer stands.

use bytes::Bytes;

use super::adapter;
use crate::{
    config::{LimitName, Provider},
    dialect,
    openai::{
        DEFAULT_MODERATION_MODEL, Edit, Endpoint, Field, Peek, ThinkingSwitches, escape_json_string, include_usage_edit,
    },
};

/// The edits that turn a client's body into the one this provider gets for this model.
pub fn edits(endpoint: &Endpoint, provider: &Provider, model: &str, body: &Bytes, peek: &Peek) -> Vec<Edit> {
    let mut edits = Vec::new();
    // A request without a model stays without one: the server has a default model.
    if !model.is_empty() && peek.model.as_deref().unwrap_or(DEFAULT_MODERATION_MODEL) != model {
        edits.push(Edit::Set(Field::Model, escape_json_string(model)));
    }
    if !matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions) {
        return edits;
    }
    if !provider.stream_usage {
        edits.push(Edit::Remove(Field::StreamOptions));
    } else if peek.stream {
        edits.extend(include_usage_edit(body, peek));
    }
    if peek.max_completion_tokens.is_some() && !takes_max_completion_tokens(provider, model) {
        edits.push(match peek.max_completion_tokens {
            // Many servers read 0 as no limit, so it must not replace a limit.
            Some(0) => Edit::Remove(Field::MaxCompletionTokens),
            _ => Edit::Rename(Field::MaxCompletionTokens, "max_tokens"),
        });
    }
    if let Some(name) = provider.preset().seed_name.filter(|_| peek.has_seed) {
        edits.push(Edit::Rename(Field::Seed, name));
    }
    if let Some(word) = provider.preset().required_tool.filter(|_| peek.requires_tool) {
        edits.push(Edit::Set(Field::ToolChoice, escape_json_string(word)));
    }
    edits
}

/// The values that keep a provider's model from thinking, according to its vendor's documentation. Any other model may think
/// whatever a request says.
pub fn thinking_switches(provider: &Provider, model: &str) -> ThinkingSwitches {
    let names = provider.preset().effort_none;
    ThinkingSwitches {
        // The large models and those for code refuse the value `none`.
        effort_none: names.iter().any(|name| model.starts_with(name))
            && !["-pro", "codex"].iter().any(|other| model.contains(other)),
        thinking_disabled: provider.preset().thinking_disabled && dialect::claude_can_be_kept_from_thinking(model),
    }
}

/// Whether the limit of an answer is sent under OpenAI's newer name, `max_completion_tokens`. Many servers do not know that name
/// and would answer without any limit; OpenAI's reasoning models know only that name, even behind another vendor.
pub fn takes_max_completion_tokens(provider: &Provider, model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let reasons = ["o1", "o3", "o4", "gpt-5"].iter().any(|prefix| name.starts_with(prefix));
    match provider.preset().limit_name {
        LimitName::New => true,
        LimitName::Both | LimitName::Unknown => reasons,
        LimitName::Old => false,
    }
}

/// Whether the limit of an answer binds this provider's model under the name that is sent. `max_tokens` binds everywhere; the
/// newer name only if the vendor documents it.
pub fn limit_binds(endpoint: &Endpoint, provider: &Provider, model: &str, peek: &Peek) -> bool {
    let documented = matches!(provider.preset().limit_name, LimitName::New | LimitName::Both);
    let own_name = *endpoint == Endpoint::Responses && provider.responses_api;
    let states_max_tokens = *endpoint == Endpoint::ChatCompletions && peek.max_tokens.is_some_and(|limit| limit > 0);
    adapter::of(provider).facts().limit_binds
        || *endpoint == Endpoint::Completions
        || own_name
        || documented
        || states_max_tokens
        || !takes_max_completion_tokens(provider, model)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::{Config, Source, Vendor},
        openai::splice,
    };

    /// The provider that this entry of `providers` makes.
    fn provider(entry: &str) -> Arc<Provider> {
        let source = Source { file: None, env: Arc::new(|_| None), simulate: false };
        let text = format!("providers: {{x: {{base_url: \"http://x/v1\", {entry}}}}}");
        Config::load_text(&text, &source).unwrap().config.providers["x"].clone()
    }

    fn sent_to(entry: &str, model: &str, body: &str) -> serde_json::Value {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let peek = Peek::parse(&body).unwrap();
        let edits = edits(&Endpoint::ChatCompletions, &provider(entry), model, &body, &peek);
        serde_json::from_slice(&splice(&body, &peek, &edits)).unwrap()
    }

    #[test]
    fn a_request_in_its_own_dialect_is_not_touched() {
        let body = Bytes::from_static(br#"{"model":"gpt-4o","messages":[],"max_completion_tokens":5}"#);
        let peek = Peek::parse(&body).unwrap();
        assert!(edits(&Endpoint::ChatCompletions, &provider("preset: openai"), "gpt-4o", &body, &peek).is_empty());
    }

    #[test]
    fn streams_ask_for_usage_where_the_provider_takes_the_question() {
        let body = r#"{"model":"m","stream":true}"#;
        let asked = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#;
        for (entry, asks) in [
            ("preset: openai", true),
            ("preset: custom", true),
            ("preset: mistral", false),
            ("preset: replicate", false),
            ("stream_usage: true", true),
            ("stream_usage: false", false),
            ("preset: mistral, stream_usage: true", true),
            ("preset: openai, stream_usage: false", false),
        ] {
            let included = |body| sent_to(entry, "m", body).get("stream_options").map(|o| o["include_usage"] == true);
            let expected = asks.then_some(true);
            assert_eq!((included(body), included(asked)), (expected, expected), "{entry}");
        }
        // `stream_options` is added to streams only.
        assert_eq!(sent_to("preset: openai", "m", r#"{"model":"m"}"#).get("stream_options"), None);
    }

    #[test]
    fn mistral_gets_its_own_names() {
        let body = r#"{"model":"m","seed":7,"max_completion_tokens":5,"tool_choice":"required"}"#;
        let sent = sent_to("preset: mistral", "m", body);
        assert_eq!(sent, serde_json::json!({"model":"m","random_seed":7,"max_tokens":5,"tool_choice":"any"}));
    }

    #[test]
    fn a_limit_goes_under_a_name_that_binds() {
        let body = r#"{"model":"m","max_completion_tokens":5}"#;
        for preset in ["custom", "groq", "vllm", "xai", "openrouter", "gemini", "mistral", "ollama"] {
            let sent = sent_to(&format!("preset: {preset}"), "m", body);
            assert_eq!(sent, serde_json::json!({"model": "m", "max_tokens": 5}), "{preset}");
        }
        let both = r#"{"model":"m","max_tokens":3,"max_completion_tokens":0}"#;
        assert_eq!(sent_to("preset: custom", "m", both), serde_json::json!({"model": "m", "max_tokens": 3}));
        // OpenAI's reasoning models take only the newer name, whoever serves them; a vendor not known to take it is not bound by
        // it.
        let binds = |entry: &str, model: &str, body: &str| {
            let peek = Peek::parse(body.as_bytes()).unwrap();
            limit_binds(&Endpoint::ChatCompletions, &provider(entry), model, &peek)
        };
        assert_eq!(sent_to("preset: custom", "o3", body)["max_completion_tokens"], 5);
        assert!(binds("preset: custom", "m", body) && binds("preset: openai", "o3", body));
        assert!(binds("preset: openrouter", "openai/o3", body) && binds("preset: mistral", "o3", body));
        assert!(!binds("preset: custom", "o3", body));
        assert!(binds("preset: custom", "o3", both));
    }

    #[test]
    fn a_word_keeps_from_thinking_only_where_it_is_documented() {
        let both = |vendor, model| {
            let base = Provider::clone(&provider("preset: custom"));
            let switches = thinking_switches(&Provider { vendor, ..base }, model);
            (switches.effort_none, switches.thinking_disabled)
        };
        assert_eq!(both(Vendor::OpenAi, "gpt-5.1"), (true, false));
        assert_eq!(both(Vendor::Gemini, "gemini-2.5-flash-lite"), (true, false));
        assert_eq!(both(Vendor::Anthropic, "claude-sonnet-4-5"), (false, true));
        assert_eq!(both(Vendor::Anthropic, "claude-opus-5"), (false, true));
        for (vendor, model) in [
            (Vendor::OpenAi, "o3"),
            (Vendor::OpenAi, "gpt-5"),
            (Vendor::OpenAi, "gpt-5.1-codex-max"),
            (Vendor::OpenAi, "gpt-5.2-pro"),
            (Vendor::Xai, "grok-4.7"),
            (Vendor::Gemini, "gemini-2.5-pro"),
            (Vendor::Custom, "gpt-5.1"),
            (Vendor::Anthropic, "claude-sonnet-5-5"),
            (Vendor::Anthropic, "claude-opus-5-5"),
            (Vendor::Anthropic, "claude-mythos-preview"),
        ] {
            assert_eq!(both(vendor, model), (false, false), "{model}");
        }
    }

    #[test]
    fn a_mapped_model_name_is_written_as_json() {
        assert_eq!(sent_to("preset: custom", "a\"b", r#"{"model":"m"}"#)["model"], "a\"b");
    }
}
