//! Paths in a client's body.

use std::fmt;

/// A path such as `messages[2].content[0].text`. It borrows its parts and is written out only in a refusal.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// A top-level parameter.
    Param(&'a str),
    /// A member of an object.
    Member(&'a At<'a>, &'a str),
    /// An element of an array.
    Item(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    /// The path of a member of the object at this path.
    pub(super) fn member(&'a self, name: &'a str) -> At<'a> {
        At::Member(self, name)
    }

    /// The path of an element of the array at this path.
    pub(super) fn item(&'a self, index: usize) -> At<'a> {
        At::Item(self, index)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Param(name) => f.write_str(name),
            At::Member(parent, name) => write!(f, "{parent}.{name}"),
            At::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl From<At<'_>> for String {
    fn from(at: At<'_>) -> Self {
        at.to_string()
    }
}

impl From<&At<'_>> for String {
    fn from(at: &At<'_>) -> Self {
        at.to_string()
    }
}
