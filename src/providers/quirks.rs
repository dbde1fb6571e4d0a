//! What an OpenAI-compatible vendor needs changed in a request before it serves it rightly, and in a reply before SDKs
//! read it rightly.
//!
//! Only differences that decide correctness are here (each vendor's row in the providers' documentation); everything else
//! is forwarded byte for byte and the vendor's own answer stands.

use bytes::Bytes;

use crate::{
    config::Vendor,
    openai::{Edit, Endpoint, Field, Peek, escape_json_string, include_usage_edit},
};

/// The edits that turn a client's body into the one this vendor gets for this model.
pub fn edits(endpoint: &Endpoint, vendor: Vendor, model: &str, body: &Bytes, peek: &Peek) -> Vec<Edit> {
    let mut edits = Vec::new();
    if peek.model.as_deref() != Some(model) {
        edits.push(Edit::Set(Field::Model, escape_json_string(model)));
    }
    if !matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions) {
        return edits;
    }
    if peek.stream && counts_on_request(vendor) {
        edits.extend(include_usage_edit(body, peek));
    }
    if knows_only_max_tokens(vendor) && peek.max_completion_tokens.is_some() {
        edits.push(Edit::Rename(Field::MaxCompletionTokens, "max_tokens"));
    }
    if vendor == Vendor::Mistral {
        // Unknown members are a 422 there; usage comes unasked, in the last chunk.
        edits.push(Edit::Remove(Field::StreamOptions));
        if peek.has_seed {
            edits.push(Edit::Rename(Field::Seed, "random_seed"));
        }
        if peek.requires_tool {
            edits.push(Edit::Set(Field::ToolChoice, "\"any\"".to_owned()));
        }
    }
    edits
}

/// Vendors whose streams carry usage when `stream_options.include_usage` asks for it. The others send it unasked, or
/// refuse the member.
fn counts_on_request(vendor: Vendor) -> bool {
    !matches!(vendor, Vendor::Mistral | Vendor::Replicate)
}

/// Vendors whose streamed tool calls SDKs cannot put together: Gemini sends whole calls without an index and ends them
/// with `stop`, older Ollamas number every call 0. What [`crate::openai::RelayOptions::repair_tools`] is for.
pub fn repairs_tools(vendor: Vendor) -> bool {
    matches!(vendor, Vendor::Gemini | Vendor::Ollama)
}

/// Vendors that ignore or refuse OpenAI's newer `max_completion_tokens`.
fn knows_only_max_tokens(vendor: Vendor) -> bool {
    matches!(
        vendor,
        Vendor::Mistral
            | Vendor::DeepSeek
            | Vendor::Together
            | Vendor::Ollama
            | Vendor::Cohere
            | Vendor::HuggingFace
            | Vendor::Replicate
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::splice;

    fn sent(vendor: Vendor, model: &str, body: &str) -> serde_json::Value {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let peek = Peek::parse(&body).unwrap();
        let edits = edits(&Endpoint::ChatCompletions, vendor, model, &body, &peek);
        serde_json::from_slice(&splice(&body, &peek, &edits)).unwrap()
    }

    #[test]
    fn a_request_in_its_own_dialect_is_not_touched() {
        let body = Bytes::from_static(br#"{"model":"gpt-4o","messages":[],"max_completion_tokens":5}"#);
        let peek = Peek::parse(&body).unwrap();
        assert!(edits(&Endpoint::ChatCompletions, Vendor::OpenAi, "gpt-4o", &body, &peek).is_empty());
    }

    #[test]
    fn streams_ask_for_usage_where_that_is_known() {
        let body = r#"{"model":"m","stream":true}"#;
        assert_eq!(sent(Vendor::OpenAi, "m", body)["stream_options"]["include_usage"], true);
        assert_eq!(sent(Vendor::Mistral, "m", body).get("stream_options"), None);
        let asked = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(sent(Vendor::Mistral, "m", asked).get("stream_options"), None);
    }

    #[test]
    fn mistral_gets_its_own_names() {
        let body = r#"{"model":"m","seed":7,"max_completion_tokens":5,"tool_choice":"required"}"#;
        let sent = sent(Vendor::Mistral, "m", body);
        assert_eq!(sent, serde_json::json!({"model":"m","random_seed":7,"max_tokens":5,"tool_choice":"any"}));
    }

    #[test]
    fn a_mapped_model_name_is_written_as_json() {
        assert_eq!(sent(Vendor::Custom, "a\"b", r#"{"model":"m"}"#)["model"], "a\"b");
    }
}
