//! Breakpoints of the prompt cache.
//!
//! OpenAI caches prompts without being asked, Anthropic only up to each `cache_control`. Without breakpoints, a client of
//! OpenAI's API that continues a conversation would pay the full price for the whole conversation in every turn.

use serde_json::{Map, Value, json};

use super::super::{Dropped, Refusal, note_dropped};
use super::must_be;
use crate::types::PromptCaching;

/// The most breakpoints that Anthropic takes in one request.
const MAX: usize = 4;

/// Number of the user's turns that get a breakpoint: the last, up to which the cache is written, and the one before, up to which
/// the previous request has written it. Anthropic finds an earlier entry by itself only within 20 blocks.
const TURNS: usize = 2;

/// Reads the client's parameters about the prompt cache, and adds breakpoints where `caching` and these parameters ask for them.
/// None is added where the client has set any itself: it knows best what stays the same, and only four are allowed.
///
/// # Errors
/// A parameter has a wrong type.
pub(super) fn place(
    body: &mut Value,
    chat: &Map<String, Value>,
    caching: PromptCaching,
    dropped: &mut Vec<Dropped>,
) -> Result<(), Refusal> {
    let explicit = wish(chat, dropped)?;
    let asked = WISHES.iter().any(|param| chat.get(*param).is_some_and(|value| !value.is_null()));
    match caching {
        PromptCaching::Off => {
            for param in WISHES.iter().filter(|param| chat.get(**param).is_some_and(|value| !value.is_null())) {
                note_dropped(dropped, *param);
            }
            return Ok(());
        }
        PromptCaching::Auto if !asked => return Ok(()),
        PromptCaching::Auto | PromptCaching::Always => {}
    }
    if explicit || has_marks(body) {
        return Ok(());
    }
    if let Some(tool) = body.get_mut("tools").and_then(Value::as_array_mut).and_then(|tools| tools.last_mut()) {
        mark(tool);
    }
    body.get_mut("system").into_iter().for_each(mark_last);
    let messages = body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
    let users = messages.rev().filter(|message| message["role"] == "user").take(TURNS);
    users.filter_map(|message| message.get_mut("content")).for_each(mark_last);
    Ok(())
}

/// Whether a Messages request has a breakpoint, so that the prompt cache may be written.
pub fn has_marks(body: &Value) -> bool {
    let marked = |value: &Value| value.get("cache_control").is_some();
    let list = |value: Option<&Value>, is: &dyn Fn(&Value) -> bool| {
        value.and_then(Value::as_array).is_some_and(|all| all.iter().any(is))
    };
    let block = |block: &Value| marked(block) || list(block.get("content"), &marked);
    marked(body)
        || list(body.get("tools"), &marked)
        || list(body.get("system"), &marked)
        || list(body.get("messages"), &|message| list(message.get("content"), &block))
}

/// Chat's parameters about the prompt cache.
const WISHES: [&str; 3] = ["prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"];

/// Whether only the client's own breakpoints are wanted. Notes as dropped what has no counterpart.
fn wish(chat: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<bool, Refusal> {
    let given = |param: &str| chat.get(param).filter(|value| !value.is_null());
    for param in ["prompt_cache_key", "prompt_cache_retention"] {
        if given(param).is_some_and(|value| !value.is_string()) {
            return Err(must_be(param, "a text"));
        }
    }
    // OpenAI does not charge for this. At Anthropic it doubles the price of input, which a client must decide itself.
    if given("prompt_cache_retention").is_some_and(|life| life == "24h") {
        note_dropped(dropped, "prompt_cache_retention");
    }
    let Some(options) = given("prompt_cache_options") else { return Ok(false) };
    let Some(options) = options.as_object() else { return Err(must_be("prompt_cache_options", "an object")) };
    for (param, _) in options.iter().filter(|(param, value)| !value.is_null() && *param != "mode") {
        note_dropped(dropped, format!("prompt_cache_options.{param}"));
    }
    Ok(options.get("mode").is_some_and(|mode| mode == "explicit"))
}

/// Marks the last block of a content of the system or the user, which is never blank and never thinking.
fn mark_last(content: &mut Value) {
    if let Value::String(text) = content {
        *content = json!([{"type": "text", "text": std::mem::take(text)}]);
    }
    if let Some(block) = content.as_array_mut().and_then(|blocks| blocks.last_mut()) {
        mark(block);
    }
}

fn mark(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}

/// Removes the first breakpoints until no more are left than Anthropic accepts: the last ones also cover what stands before.
pub(super) fn limit(body: &mut Value, dropped: &mut Vec<Dropped>) {
    // A top-level `cache_control` counts as one on the last block.
    let top = usize::from(body.get("cache_control").is_some());
    let mut count = 0;
    each(body, &mut |_, _| count += 1);
    let mut surplus = (count + top).saturating_sub(MAX);
    each(body, &mut |block, path| {
        if surplus > 0 {
            surplus -= 1;
            note_dropped(dropped, path);
            if let Some(block) = block.as_object_mut() {
                block.shift_remove("cache_control");
            }
        }
    });
}

/// Visits all blocks with a breakpoint, in the order of the prompt, with their path in Chat.
fn each(body: &mut Value, visit: &mut impl FnMut(&mut Value, &'static str)) {
    const CONTENT: &str = "messages[].content[].cache_control";
    for tool in elements(body.get_mut("tools")) {
        marked(tool, "tools[].cache_control", visit);
    }
    for block in elements(body.get_mut("system")) {
        marked(block, CONTENT, visit);
    }
    for message in elements(body.get_mut("messages")) {
        for block in elements(message.get_mut("content")) {
            for part in elements(block.get_mut("content")) {
                marked(part, CONTENT, visit);
            }
            marked(block, CONTENT, visit);
        }
    }
}

fn elements(list: Option<&mut Value>) -> &mut [Value] {
    list.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn marked(block: &mut Value, path: &'static str, visit: &mut impl FnMut(&mut Value, &'static str)) {
    if block.get("cache_control").is_some() {
        visit(block, path);
    }
}
