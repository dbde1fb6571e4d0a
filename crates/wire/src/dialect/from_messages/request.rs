//! Translates a Messages request into one for Chat Completions.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    effort, read,
    read::{Object, Refuse, given},
    reply::ChatReplies,
    table::TABLE,
    tools, turn,
};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Model, Refusal, Step, apply_rules, note_dropped};

/// How many stop sequences Chat Completions takes.
const MAX_STOPS: usize = 4;

/// The longest `user`, in characters, that OpenAI takes.
const MAX_USER: usize = 64;

/// Translates a Messages request into Chat Completions.
///
/// # Errors
/// A parameter that a chat provider does not support or that is invalid in a Messages request, with its path.
pub fn request(body: &Value, model: &Model<'_>) -> Result<Step, Refusal> {
    let body = body.as_object().ok_or_else(|| Refusal::new("", "The body must be a JSON object."))?;
    let mut dropped = Vec::new();
    apply_rules(TABLE, body, &mut dropped)?;

    let mut chat = Map::new();
    chat.insert("model".into(), model.name.into());
    chat.insert("messages".into(), turn::messages(body, &mut dropped)?.into());
    chat.insert("max_completion_tokens".into(), max_tokens(body, model)?.into());
    tools::put(body, &mut chat, &mut dropped)?;
    let omit_thinking = effort::put(body, model.name, &mut chat, &mut dropped)?;
    sampling(body, &mut chat, &mut dropped)?;
    labels(body, &mut chat, &mut dropped)?;
    if stream(body)? {
        chat.insert("stream".into(), true.into());
        chat.insert("stream_options".into(), json!({"include_usage": true}));
    }
    sort(&mut dropped, body);
    let replies = ChatReplies { model: model.name.to_owned(), omit_thinking };
    Ok(Step { body: Value::Object(chat), dropped, replies: Box::new(replies) })
}

/// Sorts the dropped parameters into the order of the body; a path that belongs to no top-level parameter comes last.
fn sort(dropped: &mut [Dropped], body: &Object) {
    let places: HashMap<&str, usize> = body.keys().enumerate().map(|(n, name)| (&**name, n)).collect();
    dropped.sort_by_key(|path| {
        let param = path.split(['.', '[', ' ']).next().unwrap_or_default();
        places.get(param).copied().unwrap_or(usize::MAX)
    });
}

/// The limit of output tokens, lowered to the longest answer that the model gives, because providers refuse a higher limit.
fn max_tokens(body: &Object, model: &Model<'_>) -> Result<u64, Refusal> {
    let at = At::Param("max_tokens");
    let Some(value) = given(body, "max_tokens") else { return Err(at.refuse("max_tokens: Field required")) };
    let tokens = value.as_u64().filter(|tokens| *tokens > 0).ok_or_else(|| at.must_be("a whole number, 1 or more"))?;
    Ok(model.max_output_tokens.filter(|most| *most > 0).map_or(tokens, |most| tokens.min(most)))
}

fn sampling(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    for name in ["temperature", "top_p"] {
        if let Some(value) = given(body, name) {
            if !value.is_number() {
                return Err(At::Param(name).must_be("a number"));
            }
            chat.insert(name.into(), value.clone());
        }
    }
    if let Some(value) = given(body, "stop_sequences") {
        let at = At::Param("stop_sequences");
        let all = read::list(value, &at)?;
        for (n, stop) in all.iter().enumerate() {
            read::string(stop, &At::Item(&at, n))?;
        }
        if all.len() > MAX_STOPS {
            note_dropped(dropped, "stop_sequences (more than 4)");
        }
        if !all.is_empty() {
            chat.insert("stop".into(), all.iter().take(MAX_STOPS).cloned().collect());
        }
    }
    Ok(())
}

/// Translates the user's id and the service tier.
fn labels(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    if let Some(value) = given(body, "metadata") {
        let at = At::Param("metadata");
        let metadata = read::object(value, &at)?;
        if let Some(user) = read::optional(metadata, &at, "user_id")? {
            let user = match user.chars().count() > MAX_USER {
                true => blake3::hash(user.as_bytes()).to_hex().to_string(),
                false => user.to_owned(),
            };
            chat.insert("user".into(), user.into());
        }
        for name in metadata.keys().filter(|name| *name != "user_id") {
            note_dropped(dropped, format!("metadata.{name}"));
        }
    }
    if let Some(value) = given(body, "service_tier") {
        let tier = match value.as_str() {
            Some("auto") => "auto",
            Some("standard_only") => "default",
            _ => return Err(At::Param("service_tier").must_be("`auto` or `standard_only`")),
        };
        chat.insert("service_tier".into(), tier.into());
    }
    Ok(())
}

fn stream(body: &Object) -> Result<bool, Refusal> {
    given(body, "stream")
        .map_or(Ok(false), |value| value.as_bool().ok_or_else(|| At::Param("stream").must_be("true or false")))
}
