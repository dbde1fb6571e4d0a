//! Translates the messages: roles, tool calls, tool results, thinking.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    content::Content,
    request::{drop_unknown, given, wrong},
};
use crate::dialect::{Dropped, Refusal, note_dropped};

const ROLES: &str = "one of system, developer, user, assistant, tool and function";
/// The key for the arguments of an earlier call that are not an object, which Ollama requires.
const RAW: &str = "_raw";

/// Names of the functions that were called, by the ids of the calls.
type Called<'a> = HashMap<&'a str, &'a str>;

/// All messages, in order.
pub(super) fn messages(chat: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<Vec<Value>, Refusal> {
    let list = match given(chat, "messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        _ => return Err(wrong("messages", "a list of at least one message")),
    };
    let mut called = Called::new();
    let mut all = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let Some(message) = message.as_object() else { return Err(wrong(format!("messages[{i}]"), "an object")) };
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => plain("system", message, i, dropped, &mut all)?,
            Some("user") => plain("user", message, i, dropped, &mut all)?,
            Some("assistant") => all.push(assistant(message, i, dropped, &mut called)?),
            Some("tool" | "function") => all.push(result(message, i, dropped, &called)?),
            _ => return Err(wrong(format!("messages[{i}].role"), ROLES)),
        }
    }
    Ok(all)
}

fn plain(
    role: &str,
    message: &Map<String, Value>,
    i: usize,
    dropped: &mut Vec<Dropped>,
    all: &mut Vec<Value>,
) -> Result<(), Refusal> {
    drop_unknown(message, &["role", "content"], "messages[].", dropped);
    all.extend(Content::split(message, i, dropped)?.into_iter().map(|content| with(role, content).into()));
    Ok(())
}

fn assistant<'a>(
    message: &'a Map<String, Value>,
    i: usize,
    dropped: &mut Vec<Dropped>,
    called: &mut Called<'a>,
) -> Result<Value, Refusal> {
    const KNOWN: &[&str] = &[
        "role",
        "content",
        "refusal",
        "reasoning_content",
        "reasoning",
        "thinking_blocks",
        "tool_calls",
        "function_call",
    ];
    drop_unknown(message, KNOWN, "messages[].", dropped);
    let mut content = Content::read(message, i, dropped)?.unwrap_or_default();
    if content.text.is_empty()
        && let Some(refusal) = text(message, i, "refusal")?
    {
        refusal.clone_into(&mut content.text);
    }
    let mut said = with("assistant", content);
    if let Some(thinking) = thinking(message, i, dropped)? {
        said.insert("thinking".into(), thinking.into());
    }
    let mut calls = Vec::new();
    match given(message, "tool_calls") {
        None => {}
        Some(Value::Array(all)) => {
            for (j, entry) in all.iter().enumerate() {
                calls.push(call(entry, &format!("messages[{i}].tool_calls[{j}]"), dropped, called)?);
            }
        }
        Some(_) => return Err(wrong(format!("messages[{i}].tool_calls"), "a list")),
    }
    if let Some(old) = given(message, "function_call") {
        calls.push(json!({ "function": function(old, &format!("messages[{i}].function_call"), dropped)?.1 }));
    }
    if !calls.is_empty() {
        said.insert("tool_calls".into(), calls.into());
    }
    Ok(said.into())
}

/// The model's thinking as text. Signatures, and thinking that only Anthropic can read, mean nothing to Ollama.
fn thinking(message: &Map<String, Value>, i: usize, dropped: &mut Vec<Dropped>) -> Result<Option<String>, Refusal> {
    let thought = match text(message, i, "reasoning_content")? {
        None => text(message, i, "reasoning")?,
        found => found,
    };
    let blocks = match given(message, "thinking_blocks") {
        None => &[],
        Some(Value::Array(blocks)) => blocks.as_slice(),
        Some(_) => return Err(wrong(format!("messages[{i}].thinking_blocks"), "a list")),
    };
    if !blocks.is_empty() {
        note_dropped(dropped, "messages[].thinking_blocks");
    }
    let thought = match thought {
        Some(thought) => thought.to_owned(),
        None => blocks.iter().filter_map(|block| block.get("thinking")?.as_str()).collect(),
    };
    Ok(Some(thought).filter(|thought| !thought.is_empty()))
}

fn call<'a>(
    entry: &'a Value,
    path: &str,
    dropped: &mut Vec<Dropped>,
    called: &mut Called<'a>,
) -> Result<Value, Refusal> {
    if entry.get("type").is_some_and(|kind| !kind.is_null() && kind != "function") {
        let message =
            "Ollama knows only calls of functions: turn custom tools into functions with one string argument.";
        return Err(Refusal::new(format!("{path}.type"), message));
    }
    let Some(given) = entry.get("function") else { return Err(wrong(path, "an object with a function")) };
    let (name, function) = function(given, &format!("{path}.function"), dropped)?;
    let mut call = Map::new();
    match entry.get("id") {
        None | Some(Value::Null) => {}
        Some(Value::String(id)) => {
            called.insert(id, name);
            call.insert("id".into(), id.as_str().into());
        }
        Some(_) => return Err(wrong(format!("{path}.id"), "a string")),
    }
    call.insert("function".into(), function);
    Ok(call.into())
}

/// Name and arguments of a call. Arguments are JSON text in Chat and an object at Ollama; arguments that are not an object
/// are kept as text under `_raw`.
fn function<'a>(function: &'a Value, path: &str, dropped: &mut Vec<Dropped>) -> Result<(&'a str, Value), Refusal> {
    let Some(name) = function.get("name").and_then(Value::as_str) else {
        return Err(wrong(format!("{path}.name"), "a string"));
    };
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => {
                note_dropped(dropped, "messages[].tool_calls[].function.arguments");
                json!({ RAW: text })
            }
        },
        Some(object @ Value::Object(_)) => object.clone(),
        Some(_) => return Err(wrong(format!("{path}.arguments"), "a string of JSON")),
    };
    Ok((name, json!({ "name": name, "arguments": arguments })))
}

/// The result of a call. Templates of many models show the function's name, so it is looked up.
fn result(
    message: &Map<String, Value>,
    i: usize,
    dropped: &mut Vec<Dropped>,
    called: &Called<'_>,
) -> Result<Value, Refusal> {
    drop_unknown(message, &["role", "content", "name", "tool_call_id"], "messages[].", dropped);
    let id = text(message, i, "tool_call_id")?;
    let name = text(message, i, "name")?;
    let Some(content) = Content::read(message, i, dropped)? else {
        return Err(wrong(format!("messages[{i}].content"), "a string or a list of content parts"));
    };
    let mut result = with("tool", content);
    if let Some(name) = id.and_then(|id| called.get(id).copied()).or(name) {
        result.insert("tool_name".into(), name.into());
    }
    if let Some(id) = id {
        result.insert("tool_call_id".into(), id.into());
    }
    Ok(result.into())
}

fn with(role: &str, content: Content) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    message.insert("content".into(), content.text.into());
    if !content.images.is_empty() {
        message.insert("images".into(), content.images.into());
    }
    message
}

/// A member that is a text; an empty text counts as absent.
fn text<'a>(message: &'a Map<String, Value>, i: usize, name: &str) -> Result<Option<&'a str>, Refusal> {
    match given(message, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(wrong(format!("messages[{i}].{name}"), "a string")),
    }
}
