//! The request.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::echo::echo;
use super::read::Object;
use super::reply::{Door, Source};
use super::table::TABLE;
use super::{input, options, tools};
use crate::dialect::{Lost, Model, Refusal, Step, sift};

/// A Responses request as a chat request to `model`.
///
/// # Errors
/// The first parameter that the chat provider cannot be asked for, or that has a wrong type.
pub fn request(body: &Value, model: &Model<'_>) -> Result<Step, Refusal> {
    translate(body, model, Source::default())
}

/// The same with a clock and ids of the caller's choice.
pub(super) fn translate(body: &Value, model: &Model<'_>, source: Source) -> Result<Step, Refusal> {
    let body = body.as_object().ok_or_else(|| Refusal::new("body", "The body must be a JSON object."))?;
    let mut lost = Vec::new();
    sift(TABLE, body, &mut lost)?;
    let mut chat = Object::new();
    chat.insert("model".into(), model.name.into());
    chat.insert("messages".into(), input::messages(body, &mut lost)?.into());
    let names = tools::put(body, &mut chat, &mut lost)?;
    let include = options::put(body, &mut chat, &mut lost)?;
    sort(&mut lost, body);
    let door = Door { echo: echo(body), model: model.name.into(), names, include, source };
    Ok(Step { body: chat.into(), lost, replies: Box::new(Arc::new(door)) })
}

/// Into the order of the body; what says that there is more stays last.
fn sort(lost: &mut [Lost], body: &Object) {
    let places: HashMap<&str, usize> = body.keys().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let place = |path: &str| {
        let head = path.split(['.', '[']).next().unwrap_or_default();
        places.get(path).or_else(|| places.get(head)).map_or(usize::MAX, |place| *place)
    };
    lost.sort_by_key(|path| place(path));
}
