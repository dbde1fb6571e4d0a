//! The members of a request that its response repeats.

use serde_json::{Value, json};

use super::read::{Object, given};
use super::reply::Memory;

/// The members of the response that depend on the request, as a compact JSON object.
pub(super) fn echo(body: &Object, memory: Memory<'_>) -> Box<[u8]> {
    let or = |name: &str, default: Value| given(body, name).cloned().unwrap_or(default);
    let or_null = |name: &str| or(name, Value::Null);
    let members = [
        ("background", false.into()),
        ("instructions", or_null("instructions")),
        ("max_output_tokens", or_null("max_output_tokens")),
        ("max_tool_calls", or_null("max_tool_calls")),
        ("metadata", or("metadata", json!({}))),
        ("parallel_tool_calls", or("parallel_tool_calls", true.into())),
        ("previous_response_id", memory.previous_response_id.into()),
        ("prompt_cache_key", or_null("prompt_cache_key")),
        ("prompt_cache_retention", or_null("prompt_cache_retention")),
        ("reasoning", reasoning(body)),
        ("safety_identifier", or_null("safety_identifier")),
        ("store", memory.kept.into()),
        ("temperature", or_null("temperature")),
        ("text", text(body)),
        ("tool_choice", or("tool_choice", "auto".into())),
        ("tools", or("tools", json!([]))),
        ("top_logprobs", or("top_logprobs", 0.into())),
        ("top_p", or_null("top_p")),
        ("truncation", "disabled".into()),
        ("user", or_null("user")),
    ];
    let members: Object = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Value::Object(members).to_string().into_bytes().into()
}

fn reasoning(body: &Object) -> Value {
    let asked = body.get("reasoning").and_then(Value::as_object);
    let word = |name: &str| asked.and_then(|asked| given(asked, name)).cloned();
    let summary = word("summary").or_else(|| word("generate_summary"));
    json!({"effort": word("effort"), "summary": summary})
}

fn text(body: &Object) -> Value {
    let mut text = body.get("text").and_then(Value::as_object).cloned().unwrap_or_default();
    if given(&text, "format").is_none() {
        text.insert("format".into(), json!({"type": "text"}));
    }
    text.into()
}
