//! Reading a client's JSON: null is absent, and a wrong type is refused by its path.

use std::fmt;

use serde_json::{Map, Value};

use crate::dialect::{Dropped, Refusal, note_dropped};

/// An object of the client's body.
pub(super) type Object = Map<String, Value>;

/// Where something stands in the client's body. Written out only in a refusal.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// A top-level parameter.
    Param(&'a str),
    /// A member of an object.
    Member(&'a At<'a>, &'a str),
    /// An element of an array.
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    /// A refusal of what stands here.
    pub(super) fn refuse(&self, message: impl Into<String>) -> Refusal {
        Refusal::new(self.to_string(), message)
    }

    /// The refusal of a wrong type.
    pub(super) fn must_be(&self, what: &str) -> Refusal {
        self.refuse(format!("{self}: this must be {what}."))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Param(name) => f.write_str(name),
            At::Member(parent, name) => write!(f, "{parent}.{name}"),
            At::Item(parent, n) => write!(f, "{parent}[{n}]"),
        }
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

/// Names a breakpoint of the prompt cache: wherever it stands, it is lost once.
pub(super) fn no_cache(of: &Object, dropped: &mut Vec<Dropped>) {
    if given(of, "cache_control").is_some() {
        note_dropped(dropped, "cache_control");
    }
}
