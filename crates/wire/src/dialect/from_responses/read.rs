//! Reads a client's JSON: null counts as absent, and a value of a wrong type is refused with its path.

use std::fmt;

use serde_json::{Map, Value};

use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// An object of the client's body.
pub(super) type Object = Map<String, Value>;

/// Makes refusals of the value at a path.
pub(super) trait Refuse {
    /// A refusal of the value at this path.
    fn refuse(&self, message: impl fmt::Display) -> Refusal;

    /// The refusal of a value of a wrong type or an unknown word.
    fn must_be(&self, what: &str) -> Refusal;
}

impl Refuse for At<'_> {
    fn refuse(&self, message: impl fmt::Display) -> Refusal {
        let path = self.to_string();
        let message = format!("`{path}`: {message}");
        Refusal::new(path, message)
    }

    fn must_be(&self, what: &str) -> Refusal {
        self.refuse(format_args!("this must be {what}."))
    }
}

/// The member, unless it is null.
pub(super) fn given<'a>(of: &'a Object, name: &str) -> Option<&'a Value> {
    of.get(name).filter(|value| !value.is_null())
}

/// The value as an object.
pub(super) fn object<'a>(value: &'a Value, at: At<'_>) -> Result<&'a Object, Refusal> {
    value.as_object().ok_or_else(|| at.must_be("an object"))
}

/// The value as an array.
pub(super) fn list<'a>(value: &'a Value, at: At<'_>) -> Result<&'a [Value], Refusal> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| at.must_be("an array"))
}

/// The value as a string.
pub(super) fn string<'a>(value: &'a Value, at: At<'_>) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| at.must_be("a string"))
}

/// The value as true or false.
pub(super) fn flag(value: &Value, at: At<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| at.must_be("true or false"))
}

/// A string that must be there.
pub(super) fn text<'a>(of: &'a Object, name: &'static str, at: At<'_>) -> Result<&'a str, Refusal> {
    match given(of, name) {
        Some(value) => string(value, at.member(name)),
        None => Err(at.member(name).refuse("this string is required.")),
    }
}

/// A string that may be there.
pub(super) fn optional<'a>(of: &'a Object, name: &'static str, at: At<'_>) -> Result<Option<&'a str>, Refusal> {
    given(of, name).map(|value| string(value, at.member(name))).transpose()
}

/// Notes as dropped the members of an object that are given but not `known`.
pub(super) fn others(of: &Object, known: &[&str], place: &str, dropped: &mut Vec<Dropped>) {
    for (name, value) in of {
        if !value.is_null() && !known.contains(&name.as_str()) {
            note_dropped(dropped, format!("{place}.{name}"));
        }
    }
}

/// Copies the marks for the provider's prompt cache; they stand in the same place in Chat Completions.
pub(super) fn cache_marks(from: &Object, to: &mut Object) {
    for name in CACHE_MARKS {
        if let Some(mark) = given(from, name) {
            to.insert((*name).to_owned(), mark.clone());
        }
    }
}

/// Marks for the prompt cache: OpenAI's, and the extension for Anthropic's models.
pub(super) const CACHE_MARKS: &[&str] = &["prompt_cache_breakpoint", "cache_control"];
