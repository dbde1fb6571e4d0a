//! Turns a chat or legacy completion into the chunks that OpenAI would have streamed.

use bytes::Bytes;

use super::chunks::{ChunkChoice, Chunks, events};
use super::parts::{Object, elements, is_empty, is_text, member};

/// The chunks of a chat completion. Per choice: role and unknown members, text, refusal, annotations, calls, and its end.
pub(super) fn to_events(json: &str) -> Option<Bytes> {
    events(json, "\"chat.completion.chunk\"", chat_choice)
}

/// The chunks of a legacy completion. Per choice: its text, and its end.
pub(super) fn legacy_to_events(json: &str) -> Option<Bytes> {
    events(json, "\"text_completion\"", |chunks, choice| {
        let text = choice.object.get("text").filter(|text| text.starts_with('"'))?;
        if is_text(text) {
            let logprobs = choice.logprobs.take();
            chunks.part(choice, "text", text, logprobs);
        }
        chunks.end(choice, "text", "\"\"");
        Some(())
    })
}

fn chat_choice(chunks: &mut Chunks, choice: &mut ChunkChoice<'_>) -> Option<()> {
    let message = Object::read(choice.object.get("message")?)?;
    // Streamed audio has another encoding.
    if !message.get("audio").is_none_or(is_empty) {
        return None;
    }
    chunks.delta(choice, &opening(&message));
    let unknown = message.iter().filter(|(name, value)| !is_known(name) && !is_empty(value));
    let mut delta = String::new();
    unknown.for_each(|(name, value)| member(&mut delta, name, value));
    if !delta.is_empty() {
        chunks.delta(choice, &delta);
    }
    for name in ["content", "refusal", "annotations"] {
        let Some(value) = message.get(name).filter(|value| !is_empty(value)) else { continue };
        let mut delta = String::new();
        member(&mut delta, name, value);
        let logprobs = if name == "annotations" { None } else { choice.logprobs.take() };
        chunks.delta_with(choice, &delta, logprobs);
    }
    if let Some(calls) = message.get("tool_calls").filter(|calls| !is_empty(calls)) {
        for (number, call) in elements(calls)?.into_iter().enumerate() {
            tool_call(chunks, choice, number, &Object::read(call)?);
        }
    }
    if let Some(call) = message.get("function_call").filter(|call| !is_empty(call)) {
        let (begin, rest) = split_call(&Object::read(call)?);
        chunks.delta(choice, &format!("\"function_call\":{begin}"));
        if let Some((name, text)) = rest {
            chunks.delta(choice, &format!("\"function_call\":{{\"{name}\":{text}}}"));
        }
    }
    chunks.end(choice, "delta", "{}");
    Some(())
}

/// Members of a message that have a chunk of their own.
fn is_known(name: &str) -> bool {
    matches!(name, "role" | "content" | "refusal" | "annotations" | "tool_calls" | "function_call")
}

/// The first delta: the role, and the members that are present but empty. An empty list of calls is left out, because clients
/// take the name alone for a call.
fn opening(message: &Object<'_>) -> String {
    let mut delta = String::new();
    member(&mut delta, "role", message.get("role").filter(|role| is_text(role)).unwrap_or("\"assistant\""));
    for (name, value) in message.iter() {
        match name {
            "role" | "tool_calls" | "function_call" => (),
            _ if is_empty(value) => member(&mut delta, name, value),
            "content" => member(&mut delta, name, "\"\""),
            "refusal" => member(&mut delta, name, "null"),
            _ => (),
        }
    }
    delta
}

/// A function or custom tool with its arguments or input emptied, and that member on its own.
fn split_call<'a>(function: &Object<'a>) -> (String, Option<(&'a str, &'a str)>) {
    let long = function.iter().find(|(name, value)| matches!(*name, "arguments" | "input") && is_text(value));
    (function.with(long.map(|(name, _)| (name, "\"\"")).as_slice()), long)
}

/// A tool call as OpenAI streams it: first everything but its arguments or input, then these.
fn tool_call(chunks: &mut Chunks, choice: &ChunkChoice<'_>, number: usize, call: &Object<'_>) {
    let mut first = format!("\"tool_calls\":[{{\"index\":{number}");
    let mut then = None;
    for (name, value) in call.iter().filter(|call| call.0 != "index") {
        match Object::read(value).filter(|_| matches!(name, "function" | "custom")) {
            Some(function) => {
                let (begin, rest) = split_call(&function);
                member(&mut first, name, &begin);
                then = rest.map(|(text, value)| format!("\"{name}\":{{\"{text}\":{value}}}")).or(then);
            }
            None => member(&mut first, name, value),
        }
    }
    first.push_str("}]");
    chunks.delta(choice, &first);
    if let Some(then) = then {
        chunks.delta(choice, &format!("\"tool_calls\":[{{\"index\":{number},{then}}}]"));
    }
}
