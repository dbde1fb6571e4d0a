//! Takes JSON texts apart and puts them together member by member, each value as its raw text.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::openai::members::walk;

/// The members of one object, in order: the name between its quotes, escapes not decoded, and the value's text.
pub(super) struct Object<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Object<'a> {
    /// `None` when `text` is not an object.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut members = Vec::with_capacity(8);
        walk(text, |member| members.push((&member.raw_key[1..member.raw_key.len() - 1], member.value))).ok()?;
        Some(Self(members))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().rev().find(|member| member.0 == name).map(|member| member.1)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a str)> {
        self.0.iter().copied()
    }

    /// The object with other values for some members; a member that is absent or null stays so.
    pub(super) fn with(&self, edits: &[(&str, &str)]) -> String {
        let mut out = String::from("{");
        for (name, value) in self.iter() {
            let edit = edits.iter().find(|edit| edit.0 == name && value != "null");
            member(&mut out, name, edit.map_or(value, |edit| edit.1));
        }
        out.push('}');
        out
    }

    /// Whether the object, a reply or a chunk, reports an error in any of the known shapes.
    pub(super) fn is_error(&self) -> bool {
        let is = |name: &str| self.get(name) == Some("\"error\"");
        self.get("error").is_some_and(|error| !is_empty(error) && error != "false") || is("object") || is("type")
    }
}

/// The elements of an array; `None` when `text` is not an array.
pub(super) fn elements(text: &str) -> Option<Vec<&str>> {
    let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(all.into_iter().map(RawValue::get).collect())
}

/// Whether a value has no content: null, or an empty string, array or object.
pub(super) fn is_empty(value: &str) -> bool {
    match value.as_bytes() {
        [b'[' | b'{', inner @ .., _] => inner.iter().all(u8::is_ascii_whitespace),
        text => matches!(text, b"null" | b"\"\""),
    }
}

/// Whether a value is a string that is not empty.
pub(super) fn is_text(value: &str) -> bool {
    value.starts_with('"') && value != "\"\""
}

/// Appends a member to an object that is being written.
pub(super) fn member(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() && !out.ends_with(['{', ',']) {
        out.push(',');
    }
    for part in ["\"", name, "\":", value] {
        out.push_str(part);
    }
}

/// The JSON text on one line: without the white space between its tokens, if that contains a line end.
pub(in crate::openai) fn one_line(text: &str) -> Cow<'_, str> {
    // Inside a string a line end is escaped.
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        let (between, string) = rest.split_at(quote);
        out.extend(between.split_ascii_whitespace());
        let end = string_end(string);
        out.push_str(&string[..end]);
        rest = &string[end..];
    }
    out.extend(rest.split_ascii_whitespace());
    Cow::Owned(out)
}

/// Length of the string that `text` starts with, or of `text` when it does not end.
fn string_end(text: &str) -> usize {
    let mut at = 1;
    while let Some(step) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest.as_bytes())) {
        at += step;
        if text.as_bytes()[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

/// An object that is merged from many chunks and written at the end.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<(String, Part)>);

#[derive(Debug)]
enum Part {
    Text(String),
    Object(Parts),
    List(Vec<Parts>),
}

impl Parts {
    /// The text under a name. `None` also for what is being built with [`Self::object`] or [`Self::list`].
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        match &self.0.iter().find(|part| part.0 == name)?.1 {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Sets a member. A later value replaces an earlier one; null counts only where there is no value yet.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.slot(name) {
            Some(Part::Text(old)) if old == value => (),
            Some(part) if value != "null" => *part = Part::Text(value.to_owned()),
            Some(_) => (),
            None => self.0.push((name.to_owned(), Part::Text(value.to_owned()))),
        }
    }

    /// Sets a member unless it already has a value that is not empty and not 0.
    pub(super) fn keep(&mut self, name: &str, value: &str) {
        if self.get(name).is_none_or(|old| is_empty(old) || old == "0") {
            self.set(name, value);
        }
    }

    /// Appends a string or an array to the existing value; any other value is [`Self::set`].
    pub(super) fn grow(&mut self, name: &str, value: &str) {
        if let Some(Part::Text(old)) = self.slot(name) {
            let both = |open: char| old.starts_with(open) && value.starts_with(open);
            if both('"') {
                old.pop();
                old.push_str(&value[1..]);
                return;
            }
            if both('[') {
                if is_empty(old) {
                    value.clone_into(old);
                } else if !is_empty(value) {
                    old.pop();
                    old.push(',');
                    old.push_str(&value[1..]);
                }
                return;
            }
        }
        self.set(name, value);
    }

    /// The object under a name, created when absent.
    pub(super) fn object(&mut self, name: &str) -> &mut Parts {
        let at = self.place(name);
        let part = &mut self.0[at].1;
        if !matches!(part, Part::Object(_)) {
            *part = Part::Object(Parts::default());
        }
        match part {
            Part::Object(parts) => parts,
            _ => unreachable!("it was made an object"),
        }
    }

    /// The list under a name, created when absent.
    pub(super) fn list(&mut self, name: &str) -> &mut Vec<Parts> {
        let at = self.place(name);
        let part = &mut self.0[at].1;
        if !matches!(part, Part::List(_)) {
            *part = Part::List(Vec::new());
        }
        match part {
            Part::List(all) => all,
            _ => unreachable!("it was made a list"),
        }
    }

    /// Appends the object's text.
    pub(super) fn write(&self, out: &mut String) {
        out.push('{');
        for (name, part) in &self.0 {
            match part {
                Part::Text(text) => member(out, name, text),
                Part::Object(parts) => {
                    member(out, name, "");
                    parts.write(out);
                }
                Part::List(all) => {
                    member(out, name, "[");
                    for (n, parts) in all.iter().enumerate() {
                        if n > 0 {
                            out.push(',');
                        }
                        parts.write(out);
                    }
                    out.push(']');
                }
            }
        }
        out.push('}');
    }

    fn slot(&mut self, name: &str) -> Option<&mut Part> {
        self.0.iter_mut().find(|part| part.0 == name).map(|part| &mut part.1)
    }

    fn place(&mut self, name: &str) -> usize {
        self.0.iter().position(|part| part.0 == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Part::Text("null".into())));
            self.0.len() - 1
        })
    }
}
