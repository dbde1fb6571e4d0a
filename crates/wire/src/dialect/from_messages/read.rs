//! Reads a client's JSON: null counts as absent, and a value of a wrong type is refused with its path.

use serde_json::{Map, Value};

use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// An object of the client's body.
pub(super) type Object = Map<String, Value>;

/// Makes refusals of the value at a path.
pub(super) trait Refuse {
    /// A refusal of the value at this path.
    fn refuse(&self, message: impl Into<String>) -> Refusal;

    /// The refusal of a value of a wrong type or an unknown word.
    fn must_be(&self, what: &str) -> Refusal;
}

impl Refuse for At<'_> {
    fn refuse(&self, message: impl Into<String>) -> Refusal {
        Refusal::new(self.to_string(), message)
    }

    fn must_be(&self, what: &str) -> Refusal {
        self.refuse(format!("{self}: this must be {what}."))
    }
}

/// The member, unless it is null.
pub(super) fn given<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// The value as an object.
pub(super) fn object<'a>(value: &'a Value, at: &At<'_>) -> Result<&'a Object, Refusal> {
    value.as_object().ok_or_else(|| at.must_be("an object"))
}

/// The value as an array.
pub(super) fn list<'a>(value: &'a Value, at: &At<'_>) -> Result<&'a Vec<Value>, Refusal> {
    value.as_array().ok_or_else(|| at.must_be("an array"))
}

/// The value as a string.
pub(super) fn string<'a>(value: &'a Value, at: &At<'_>) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| at.must_be("a string"))
}

/// A string that must be there.
pub(super) fn member<'a>(of: &'a Object, at: &At<'_>, name: &str) -> Result<&'a str, Refusal> {
    let at = At::Member(at, name);
    match given(of, name) {
        Some(value) => string(value, &at),
        None => Err(at.refuse(format!("{at}: Field required"))),
    }
}

/// A string that may be there.
pub(super) fn optional<'a>(of: &'a Object, at: &At<'_>, name: &str) -> Result<Option<&'a str>, Refusal> {
    given(of, name).map(|value| string(value, &At::Member(at, name))).transpose()
}

/// A boolean that may be there; absent is false.
pub(super) fn flag(of: &Object, at: &At<'_>, name: &str) -> Result<bool, Refusal> {
    given(of, name)
        .map_or(Ok(false), |value| value.as_bool().ok_or_else(|| At::Member(at, name).must_be("true or false")))
}

/// Notes a breakpoint of the prompt cache as dropped, once for the whole body.
pub(super) fn no_cache(of: &Object, dropped: &mut Vec<Dropped>) {
    if given(of, "cache_control").is_some() {
        note_dropped(dropped, "cache_control");
    }
}
