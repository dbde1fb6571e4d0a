//! Translates the conversation: instructions and items become chat messages.

use serde_json::{Value, json};

use super::content::{self, Speaker, collapse, is_plain, text_part};
use super::names;
use super::read::{self, CACHE_MARKS, Object, Refuse, cache_marks, given, others};
use super::thinking;
use super::turns::Turns;
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

const PLACE: &str = "input[]";

/// The text in a tool message in place of content that only a user's message can hold.
const IMAGE_ELSEWHERE: &str = "[image: see the next message]";
const FILE_ELSEWHERE: &str = "[file: see the next message]";

/// All messages, the instructions first.
pub(super) fn messages(body: &Object, dropped: &mut Vec<Dropped>) -> Result<Vec<Value>, Refusal> {
    let mut turns = Turns::default();
    if let Some(value) = given(body, "instructions") {
        let text = read::string(value, At::Param("instructions"))?;
        if !text.is_empty() {
            turns.message(json!({"role": "system", "content": text}), dropped);
        }
    }
    let at = At::Param("input");
    match given(body, "input") {
        None => {}
        Some(Value::String(text)) => turns.message(json!({"role": "user", "content": text}), dropped),
        Some(Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                item(value, at.item(index), &mut turns, dropped)?;
            }
        }
        Some(_) => return Err(at.must_be("a string or an array of items")),
    }
    let messages = turns.finish(dropped);
    if messages.is_empty() {
        return Err(at.refuse("there is nothing to answer; send a text or at least one message."));
    }
    Ok(messages)
}

fn item(value: &Value, at: At<'_>, turns: &mut Turns, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let item = read::object(value, at)?;
    match read::optional(item, "type", at)? {
        Some("message") => message(item, at, turns, dropped),
        None if item.contains_key("role") => message(item, at, turns, dropped),
        None => Err(at.member("type").refuse("an item without a `role` must have a `type`.")),
        Some("function_call") => {
            let arguments = read::text(item, "arguments", at)?;
            call(item, arguments, at, turns, dropped)
        }
        Some("custom_tool_call") => {
            let arguments = json!({"input": read::text(item, "input", at)?}).to_string();
            call(item, &arguments, at, turns, dropped)
        }
        Some("function_call_output" | "custom_tool_call_output") => output(item, at, turns, dropped),
        Some("reasoning") => {
            match given(item, "encrypted_content").and_then(Value::as_str).and_then(thinking::open) {
                Some(blocks) => turns.think(blocks, dropped),
                None => note_dropped(dropped, "input[].reasoning"),
            }
            Ok(())
        }
        // Earlier searches: their findings are in the text that follows.
        Some("web_search_call") => {
            note_dropped(dropped, "input[].web_search_call");
            Ok(())
        }
        Some("file_search_call") => {
            note_dropped(dropped, "input[].file_search_call");
            Ok(())
        }
        Some("item_reference") => Err(at.member("type").refuse(
            "no item of this id is kept; send the item itself. SDKs do so with `store: false`.",
        )),
        Some(kind) => Err(at.member("type").refuse(format_args!(
            "an item of type `{kind}` cannot be given to this model; messages, function calls and custom tool calls, their \
             outputs and reasoning can."
        ))),
    }
}

fn message(item: &Object, at: At<'_>, turns: &mut Turns, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let known = [&["type", "role", "content", "id", "status"], CACHE_MARKS].concat();
    others(item, &known, PLACE, dropped);
    let (role, speaker) = match read::text(item, "role", at)? {
        "user" => ("user", Speaker::User),
        "assistant" => ("assistant", Speaker::Assistant),
        // Many chat providers do not know `developer`.
        "system" | "developer" => ("system", Speaker::System),
        _ => return Err(at.member("role").must_be("`user`, `assistant`, `system` or `developer`")),
    };
    let content = item.get("content").unwrap_or(&Value::Null);
    let parts = content::parts(content, speaker, at.member("content"), dropped)?;
    let mut marks = Object::new();
    cache_marks(item, &mut marks);
    if speaker == Speaker::Assistant {
        turns.say(parts, marks, dropped);
    } else {
        let mut message = Object::new();
        message.insert("role".into(), role.into());
        message.insert("content".into(), collapse(parts));
        message.extend(marks);
        turns.message(message.into(), dropped);
    }
    Ok(())
}

fn call(
    item: &Object,
    arguments: &str,
    at: At<'_>,
    turns: &mut Turns,
    dropped: &mut Vec<Dropped>,
) -> Result<(), Refusal> {
    let known = ["type", "id", "status", "call_id", "name", "namespace", "arguments", "input", "caller"];
    others(item, &known, PLACE, dropped);
    called_by_model(item, dropped);
    let name = names::function(read::text(item, "name", at)?, read::optional(item, "namespace", at)?);
    let function = json!({"name": name, "arguments": arguments});
    let call = json!({"id": read::text(item, "call_id", at)?, "type": "function", "function": function});
    turns.call(call, dropped);
    Ok(())
}

/// Translates a tool's output. A tool message holds text only: other content goes to a user's message behind it.
fn output(item: &Object, at: At<'_>, turns: &mut Turns, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let known = [&["type", "id", "status", "call_id", "name", "namespace", "output", "caller"], CACHE_MARKS].concat();
    others(item, &known, PLACE, dropped);
    called_by_model(item, dropped);
    let output = item.get("output").unwrap_or(&Value::Null);
    let parts = content::parts(output, Speaker::Tool, at.member("output"), dropped)?;
    let (mut texts, mut elsewhere) = (Vec::with_capacity(parts.len()), Vec::new());
    for part in parts {
        if part.get("text").is_some() {
            texts.push(part);
        } else {
            let note = if part.get("image_url").is_some() { IMAGE_ELSEWHERE } else { FILE_ELSEWHERE };
            texts.push(text_part(note));
            elsewhere.push(part);
        }
    }
    let mut message = Object::new();
    message.insert("role".into(), "tool".into());
    message.insert("tool_call_id".into(), read::text(item, "call_id", at)?.into());
    message.insert("content".into(), lines(texts));
    cache_marks(item, &mut message);
    turns.output(message.into(), elsewhere, dropped);
    Ok(())
}

/// Joins plain texts to one, because every provider reads that; texts with cache marks stay parts.
fn lines(texts: Vec<Value>) -> Value {
    if texts.iter().any(|part| !is_plain(part)) {
        return texts.into();
    }
    texts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("\n").into()
}

/// Notes a caller other than the model itself as dropped.
fn called_by_model(item: &Object, dropped: &mut Vec<Dropped>) {
    if given(item, "caller").is_some_and(|caller| caller.get("type").is_none_or(|kind| kind != "direct")) {
        note_dropped(dropped, "input[].caller");
    }
}
