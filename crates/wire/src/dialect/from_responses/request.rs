//! Translates the request.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::echo::echo;
use super::read::{Object, Refuse, given};
use super::reply::{Door, Memory, Source};
use super::table::TABLE;
use super::{input, options, tools};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Model, Refusal, Step, apply_rules, note_dropped};

/// Translates a Responses request into a chat request to `model`.
///
/// # Errors
/// The first parameter that a chat provider does not support or that has a wrong type.
pub fn request(body: &Value, model: &Model<'_>, memory: Memory<'_>) -> Result<Step, Refusal> {
    translate(body, model, memory, Source::default())
}

/// Like [`request`], with the caller's source of time and ids.
pub(super) fn translate(body: &Value, model: &Model<'_>, memory: Memory<'_>, source: Source) -> Result<Step, Refusal> {
    let body = body.as_object().ok_or_else(|| Refusal::new("body", "The body must be a JSON object."))?;
    let mut dropped = Vec::new();
    apply_rules(TABLE, body, &mut dropped)?;
    if given(body, "previous_response_id").is_some() {
        let why = "no response with this id is stored; send the whole conversation in `input`.";
        return Err(At::Param("previous_response_id").refuse(why));
    }
    if !memory.kept && given(body, "store").is_some_and(|store| *store == Value::Bool(true)) {
        note_dropped(&mut dropped, "store");
    }
    let mut chat = Object::new();
    chat.insert("model".into(), model.name.into());
    chat.insert("messages".into(), input::messages(body, &mut dropped)?.into());
    let names = tools::put(body, &mut chat, &mut dropped)?;
    let include = options::put(body, &mut chat, &mut dropped)?;
    sort(&mut dropped, body);
    let (echo, kept) = (echo(body, memory), memory.kept);
    let door = Door { echo, model: model.name.into(), names, include, kept, source };
    Ok(Step { body: chat.into(), dropped, replies: Box::new(Arc::new(door)) })
}

/// Sorts the dropped parameters into the order of the body; the mark that there are more stays last.
fn sort(dropped: &mut [Dropped], body: &Object) {
    let places: HashMap<&str, usize> = body.keys().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let place = |path: &str| {
        let head = path.split(['.', '[']).next().unwrap_or_default();
        places.get(path).or_else(|| places.get(head)).map_or(usize::MAX, |place| *place)
    };
    dropped.sort_by_key(|path| place(path));
}
