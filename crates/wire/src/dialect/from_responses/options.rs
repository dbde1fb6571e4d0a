//! Translates the parameters that say how to answer.

use serde_json::{Value, json};

use super::read::{self, Object, Refuse, given, others};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Output that is shown only on request: the known values of `include`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Include {
    /// Signed thinking.
    pub encrypted_content: bool,
    /// Log probabilities of the tokens.
    logprobs: bool,
}

/// The type of a parameter that has the same name in both dialects.
enum Kind {
    Number,
    Text,
    Object,
}

const SAME: &[(&str, Kind)] = &[
    ("temperature", Kind::Number),
    ("top_p", Kind::Number),
    ("user", Kind::Text),
    ("safety_identifier", Kind::Text),
    ("prompt_cache_key", Kind::Text),
    ("prompt_cache_retention", Kind::Text),
    ("prompt_cache_options", Kind::Object),
    ("cache_control", Kind::Object),
    ("service_tier", Kind::Text),
];

/// Puts these parameters into the chat request.
pub(super) fn put(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<Include, Refusal> {
    let stream = given(body, "stream").map(|value| read::flag(value, At::Param("stream"))).transpose()?;
    chat.insert("stream".into(), stream.unwrap_or(false).into());
    if stream == Some(true) {
        chat.insert("stream_options".into(), json!({"include_usage": true}));
    }
    if let Some(limit) = count(body, "max_output_tokens")? {
        chat.insert("max_completion_tokens".into(), limit.into());
    }
    for (name, kind) in SAME {
        let Some(value) = given(body, name) else { continue };
        match kind {
            Kind::Number if !value.is_number() => return Err(At::Param(name).must_be("a number")),
            Kind::Text if !value.is_string() => return Err(At::Param(name).must_be("a string")),
            Kind::Object if !value.is_object() => return Err(At::Param(name).must_be("an object")),
            _ => chat.insert((*name).to_owned(), value.clone()),
        };
    }
    let include = include(body, dropped)?;
    let top = count(body, "top_logprobs")?.unwrap_or(0);
    if top > 0 || include.logprobs {
        chat.insert("logprobs".into(), true.into());
    }
    if top > 0 {
        chat.insert("top_logprobs".into(), top.into());
    }
    text(body, chat, dropped)?;
    reasoning(body, chat, dropped)?;
    if let Some(metadata) = given(body, "metadata") {
        read::object(metadata, At::Param("metadata"))?;
    }
    Ok(include)
}

fn count(body: &Object, name: &'static str) -> Result<Option<u64>, Refusal> {
    let number = |value: &Value| value.as_u64().ok_or_else(|| At::Param(name).must_be("a whole number"));
    given(body, name).map(number).transpose()
}

fn include(body: &Object, dropped: &mut Vec<Dropped>) -> Result<Include, Refusal> {
    let mut include = Include::default();
    let at = At::Param("include");
    let all = given(body, "include").map(|value| read::list(value, at)).transpose()?.unwrap_or_default();
    for (index, value) in all.iter().enumerate() {
        match read::string(value, at.item(index))? {
            "reasoning.encrypted_content" => include.encrypted_content = true,
            "message.output_text.logprobs" => include.logprobs = true,
            // The other values concern tools that OpenAI runs, or stored data.
            _ => note_dropped(dropped, "include"),
        }
    }
    Ok(include)
}

fn text(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let at = At::Param("text");
    let Some(value) = given(body, "text") else { return Ok(()) };
    let text = read::object(value, at)?;
    others(text, &["format", "verbosity"], "text", dropped);
    if let Some(verbosity) = read::optional(text, "verbosity", at)? {
        chat.insert("verbosity".into(), verbosity.into());
    }
    let at = at.member("format");
    let Some(value) = given(text, "format") else { return Ok(()) };
    let format = read::object(value, at)?;
    let made = match read::text(format, "type", at)? {
        "text" => return Ok(()),
        "json_object" => json!({"type": "json_object"}),
        "json_schema" => json!({"type": "json_schema", "json_schema": json_schema(format, at, dropped)?}),
        _ => return Err(at.member("type").must_be("`text`, `json_object` or `json_schema`")),
    };
    chat.insert("response_format".into(), made);
    Ok(())
}

fn json_schema(format: &Object, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Object, Refusal> {
    others(format, &["type", "name", "description", "schema", "strict"], "text.format", dropped);
    let mut made = Object::new();
    made.insert("name".into(), read::text(format, "name", at)?.into());
    if let Some(description) = read::optional(format, "description", at)? {
        made.insert("description".into(), description.into());
    }
    let schema = format.get("schema").unwrap_or(&Value::Null);
    made.insert("schema".into(), read::object(schema, at.member("schema"))?.clone().into());
    if let Some(strict) = given(format, "strict") {
        made.insert("strict".into(), read::flag(strict, at.member("strict"))?.into());
    }
    Ok(made)
}

fn reasoning(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let at = At::Param("reasoning");
    let Some(value) = given(body, "reasoning") else { return Ok(()) };
    let reasoning = read::object(value, at)?;
    if let Some(effort) = read::optional(reasoning, "effort", at)? {
        chat.insert("reasoning_effort".into(), effort.into());
    }
    // Chat has no reasoning summaries; the reasoning that the provider shows takes their place.
    for (name, neutral) in [("mode", "standard"), ("context", "auto")] {
        if given(reasoning, name).is_some_and(|value| value != neutral) {
            note_dropped(dropped, format!("reasoning.{name}"));
        }
    }
    others(reasoning, &["effort", "summary", "generate_summary", "mode", "context"], "reasoning", dropped);
    Ok(())
}
