//! Translates the conversation: turns of content blocks become chat messages.

use serde_json::{Value, json};

use super::content::{self, IMAGE_ELSEWHERE, collapse};
use super::read::{self, Object, Refuse, given, no_cache};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// All messages, the system prompt first.
pub(super) fn messages(body: &Object, dropped: &mut Vec<Dropped>) -> Result<Vec<Value>, Refusal> {
    let mut out = Vec::new();
    if let Some(value) = given(body, "system") {
        let content = content::texts(value, &At::Param("system"), dropped)?;
        if !content.is_empty() {
            out.push(system(content));
        }
    }
    let at = At::Param("messages");
    let Some(value) = given(body, "messages") else { return Err(at.refuse("messages: Field required")) };
    for (n, value) in read::list(value, &at)?.iter().enumerate() {
        message(value, &At::Item(&at, n), &mut out, dropped)?;
    }
    Ok(out)
}

fn message(value: &Value, at: &At<'_>, out: &mut Vec<Value>, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let message = read::object(value, at)?;
    for name in message.keys().filter(|name| !matches!(name.as_str(), "role" | "content")) {
        note_dropped(dropped, format!("messages[].{name}"));
    }
    let role = read::member(message, at, "role")?;
    let content_at = At::Member(at, "content");
    let Some(content) = given(message, "content") else {
        return Err(content_at.refuse(format!("{content_at}: Field required")));
    };
    match (role, content) {
        ("user" | "assistant" | "system", Value::String(text)) => out.push(json!({"role": role, "content": text})),
        ("user", Value::Array(blocks)) => user(blocks, &content_at, out, dropped)?,
        ("assistant", Value::Array(blocks)) => out.push(assistant(blocks, &content_at, dropped)?),
        ("user" | "assistant", _) => return Err(content_at.must_be("a string or an array of content blocks")),
        ("system", _) => out.push(system(content::texts(content, &content_at, dropped)?)),
        _ => return Err(At::Member(at, "role").must_be("`user`, `assistant` or `system`")),
    }
    Ok(())
}

fn system(parts: Vec<Value>) -> Value {
    json!({"role": "system", "content": collapse(parts)})
}

/// Translates a user's turn. Results of tools come before everything else, because nothing may stand between calls and results.
fn user(blocks: &[Value], at: &At<'_>, out: &mut Vec<Value>, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let (mut others, mut parts) = (Vec::new(), Vec::new());
    let first = out.len();
    for (n, value) in blocks.iter().enumerate() {
        let at = At::Item(at, n);
        let block = read::object(value, &at)?;
        match read::member(block, &at, "type")? {
            "tool_result" => out.push(tool_result(block, &at, &mut parts, dropped)?),
            "mid_conv_system" => {
                no_cache(block, dropped);
                let content = At::Member(&at, "content");
                let texts = content::texts(block.get("content").unwrap_or(&Value::Null), &content, dropped)?;
                if !parts.is_empty() {
                    others.push(json!({"role": "user", "content": collapse(std::mem::take(&mut parts))}));
                }
                others.push(system(texts));
            }
            kind => content::put(kind, block, &at, &mut parts, dropped)?,
        }
    }
    if !parts.is_empty() || (others.is_empty() && out.len() == first) {
        others.push(json!({"role": "user", "content": collapse(parts)}));
    }
    out.append(&mut others);
    Ok(())
}

/// Translates a tool's result. A tool message holds text only: other content goes to `parts`, the content of the user message
/// behind it.
fn tool_result(
    block: &Object,
    at: &At<'_>,
    parts: &mut Vec<Value>,
    dropped: &mut Vec<Dropped>,
) -> Result<Value, Refusal> {
    let id = read::member(block, at, "tool_use_id")?;
    no_cache(block, dropped);
    if read::flag(block, at, "is_error")? {
        // The text of the result describes the error.
        note_dropped(dropped, "messages[].content[].is_error");
    }
    let at = At::Member(at, "content");
    let content = match given(block, "content") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => {
            let mut all = Vec::new();
            for (n, value) in read::list(value, &at)?.iter().enumerate() {
                let at = At::Item(&at, n);
                let block = read::object(value, &at)?;
                content::put(read::member(block, &at, "type")?, block, &at, &mut all, dropped)?;
            }
            let mut texts = Vec::with_capacity(all.len());
            for part in all {
                match (part.get("text").and_then(Value::as_str), part.get("file")) {
                    (Some(text), _) => texts.push(text.to_owned()),
                    (None, file) => {
                        let note = if file.is_some() { content::FILE_ELSEWHERE } else { IMAGE_ELSEWHERE };
                        texts.push(note.to_owned());
                        parts.push(part);
                    }
                }
            }
            texts.join("\n")
        }
    };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}

fn assistant(blocks: &[Value], at: &At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let mut text = String::new();
    let mut calls = Vec::new();
    // Text behind another block starts a new paragraph; text that follows a text directly, as cited text does, is joined to it.
    let mut interrupted = false;
    for (n, value) in blocks.iter().enumerate() {
        let at = At::Item(at, n);
        let block = read::object(value, &at)?;
        no_cache(block, dropped);
        let kind = read::member(block, &at, "type")?;
        let more = match kind {
            "text" => {
                content::no_citations(block, dropped);
                Some(read::member(block, &at, "text")?)
            }
            // The summary of an earlier conversation; null says that there is none.
            "compaction" => read::optional(block, &at, "content")?,
            "tool_use" => {
                calls.push(call(block, &at)?);
                None
            }
            _ => {
                note_dropped(dropped, content::history_only(kind).ok_or_else(|| content::unknown(kind, &at))?);
                None
            }
        };
        match more {
            Some(more) if !more.is_empty() => {
                if interrupted && !text.is_empty() {
                    text.push_str("\n\n");
                }
                text.push_str(more);
                interrupted = false;
            }
            Some(_) => {}
            None => interrupted = true,
        }
    }
    Ok(match (calls.is_empty(), text.is_empty()) {
        (true, _) => json!({"role": "assistant", "content": text}),
        (false, true) => json!({"role": "assistant", "content": null, "tool_calls": calls}),
        (false, false) => json!({"role": "assistant", "content": text, "tool_calls": calls}),
    })
}

fn call(block: &Object, at: &At<'_>) -> Result<Value, Refusal> {
    let arguments = match given(block, "input") {
        None => "{}".to_owned(),
        Some(input) => {
            read::object(input, &At::Member(at, "input"))?;
            input.to_string()
        }
    };
    let function = json!({"name": read::member(block, at, "name")?, "arguments": arguments});
    Ok(json!({"id": read::member(block, at, "id")?, "type": "function", "function": function}))
}
