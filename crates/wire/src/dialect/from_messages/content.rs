//! Turns content blocks into parts of a chat message.

use serde_json::{Value, json};

use super::read::{self, Object, Refuse, given, no_cache};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// The text in a tool message in place of an image.
pub(super) const IMAGE_ELSEWHERE: &str = "[image: see the next message]";

/// The text in a tool message in place of a file.
pub(super) const FILE_ELSEWHERE: &str = "[document: see the next message]";

/// The text parts of a string or of text blocks; none for an empty string.
pub(super) fn texts(value: &Value, at: &At<'_>, dropped: &mut Vec<Dropped>) -> Result<Vec<Value>, Refusal> {
    if let Value::String(text) = value {
        return Ok(if text.is_empty() { Vec::new() } else { vec![text_part(text)] });
    }
    let blocks = value.as_array().ok_or_else(|| at.must_be("a string or an array of text blocks"))?;
    let mut parts = Vec::with_capacity(blocks.len());
    for (n, value) in blocks.iter().enumerate() {
        let at = At::Item(at, n);
        let block = read::object(value, &at)?;
        match read::member(block, &at, "type")? {
            "text" => put("text", block, &at, &mut parts, dropped)?,
            kind => return Err(at.refuse(format!("{at}: a block of type `{kind}` is not allowed here; only text is."))),
        }
    }
    Ok(parts)
}

/// Adds the content of a block of this type to the parts of a user message.
pub(super) fn put(
    kind: &str,
    block: &Object,
    at: &At<'_>,
    parts: &mut Vec<Value>,
    dropped: &mut Vec<Dropped>,
) -> Result<(), Refusal> {
    no_cache(block, dropped);
    match kind {
        "text" => {
            no_citations(block, dropped);
            parts.push(text_part(read::member(block, at, "text")?));
        }
        "image" => parts.push(image(block, at)?),
        "document" => document(block, at, parts, dropped)?,
        "search_result" => {
            no_citations(block, dropped);
            let (title, source) = (read::member(block, at, "title")?, read::member(block, at, "source")?);
            let content = texts(block.get("content").unwrap_or(&Value::Null), &At::Member(at, "content"), dropped)?;
            let content = content.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("\n");
            parts.push(text_part(&format!("{title}\n{source}\n\n{content}")));
        }
        // The found tool itself is among `tools`, so the model knows it already.
        "tool_reference" => parts.push(text_part(read::member(block, at, "tool_name")?)),
        _ => note_dropped(dropped, history_only(kind).ok_or_else(|| unknown(kind, at))?),
    }
    Ok(())
}

/// The content of a message: a string where there is only one text, because every provider reads that.
pub(super) fn collapse(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [] => "".into(),
        [Value::Object(part)] => match part.remove("text") {
            Some(text) => text,
            None => parts.into(),
        },
        _ => parts.into(),
    }
}

/// Notes citations as dropped: those of a text, or the request for them.
pub(super) fn no_citations(block: &Object, dropped: &mut Vec<Dropped>) {
    let nothing = match given(block, "citations") {
        None => true,
        Some(Value::Array(all)) => all.is_empty(),
        Some(Value::Object(config)) => config.get("enabled") != Some(&Value::Bool(true)),
        Some(_) => false,
    };
    if !nothing {
        note_dropped(dropped, "messages[].content[].citations");
    }
}

/// The path of a block in the history that only Anthropic's own models can use: thinking, and calls and results of tools that ran
/// at Anthropic. `None` for other types of blocks.
pub(super) fn history_only(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "thinking" | "redacted_thinking" => "messages[].content[].thinking",
        "server_tool_use" => "messages[].content[].server_tool_use",
        "web_search_tool_result" => "messages[].content[].web_search_tool_result",
        "web_fetch_tool_result" => "messages[].content[].web_fetch_tool_result",
        "code_execution_tool_result" => "messages[].content[].code_execution_tool_result",
        "bash_code_execution_tool_result" => "messages[].content[].bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result" => "messages[].content[].text_editor_code_execution_tool_result",
        "tool_search_tool_result" => "messages[].content[].tool_search_tool_result",
        "advisor_tool_result" => "messages[].content[].advisor_tool_result",
        "mcp_tool_use" => "messages[].content[].mcp_tool_use",
        "mcp_tool_result" => "messages[].content[].mcp_tool_result",
        "fallback" => "messages[].content[].fallback",
        _ => return None,
    })
}

/// The refusal of a block that is not supported where it stands.
pub(super) fn unknown(kind: &str, at: &At<'_>) -> Refusal {
    let at = At::Member(at, "type");
    at.refuse(format!(
        "{at}: a block of type `{kind}` cannot be given to this model here; leave it out or choose a Claude model."
    ))
}

fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn image(block: &Object, at: &At<'_>) -> Result<Value, Refusal> {
    let (source, kind) = source(block, at)?;
    let at = At::Member(at, "source");
    let url = match kind {
        "base64" => data_url(source, &at)?,
        "url" => read::member(source, &at, "url")?.to_owned(),
        _ => return Err(elsewhere(kind, &at, "give the image as `base64` or `url`")),
    };
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn document(block: &Object, at: &At<'_>, parts: &mut Vec<Value>, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    no_citations(block, dropped);
    if given(block, "context").is_some() {
        note_dropped(dropped, "messages[].content[].context");
    }
    let title = read::optional(block, at, "title")?.filter(|title| !title.is_empty());
    let (source, kind) = source(block, at)?;
    let at = At::Member(at, "source");
    match kind {
        "base64" => {
            let file = json!({"filename": title.unwrap_or("document.pdf"), "file_data": data_url(source, &at)?});
            parts.push(json!({"type": "file", "file": file}));
        }
        "text" => {
            let text = read::member(source, &at, "data")?;
            parts.push(match title {
                Some(title) => text_part(&format!("{title}\n\n{text}")),
                None => text_part(text),
            });
        }
        "content" => {
            parts.extend(title.map(text_part));
            let at = At::Member(&at, "content");
            match source.get("content") {
                Some(Value::Array(blocks)) => {
                    for (n, value) in blocks.iter().enumerate() {
                        let at = At::Item(&at, n);
                        let block = read::object(value, &at)?;
                        match read::member(block, &at, "type")? {
                            kind @ ("text" | "image") => put(kind, block, &at, parts, dropped)?,
                            kind => return Err(unknown(kind, &at)),
                        }
                    }
                }
                value => parts.append(&mut texts(value.unwrap_or(&Value::Null), &at, dropped)?),
            }
        }
        _ => return Err(elsewhere(kind, &at, "give the document as `base64` or `text`")),
    }
    Ok(())
}

fn source<'a>(block: &'a Object, at: &At<'_>) -> Result<(&'a Object, &'a str), Refusal> {
    let at = At::Member(at, "source");
    let source = read::object(block.get("source").unwrap_or(&Value::Null), &at)?;
    Ok((source, read::member(source, &at, "type")?))
}

fn data_url(source: &Object, at: &At<'_>) -> Result<String, Refusal> {
    Ok(format!("data:{};base64,{}", read::member(source, at, "media_type")?, read::member(source, at, "data")?))
}

fn elsewhere(kind: &str, at: &At<'_>, instead: &str) -> Refusal {
    at.refuse(format!("{at}: this model's provider cannot read a source of type `{kind}`; {instead}."))
}
