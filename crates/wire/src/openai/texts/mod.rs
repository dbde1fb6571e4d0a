//! The texts of a prompt or a reply: who speaks, what it is, and where it stands in the raw body.
//!
//! A place is the byte range of the content of a JSON string, without its quotes and still escaped: another escaped text can be
//! spliced in there, and all else stays as it came. Of an object that a table knows, everything is listed but ids, signatures,
//! numbers and encoded media: a string under a name that the table does not know is listed as [`TextKind::Other`] rather than left
//! out, because a provider may read it. Keys are not listed. Of a repeated key every value is listed, because parsers differ in
//! which one they take; of a repeated `role` the last one counts.

mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use serde::de::{Deserializer, Visitor};

use self::{table::Place, walk::Walk};
use super::endpoint::Endpoint;
use crate::sse::{RawEvent, Scanner};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The application: `system`, and what stands outside of messages for it (`instructions`).
    System,
    /// OpenAI's newer word for it.
    Developer,
    /// The user; also of prompts without messages.
    User,
    /// The model.
    Assistant,
    /// A tool's result; `function` is its old name.
    Tool,
    /// Nobody of these, or nobody is named.
    Other,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// Part of what the model reads: a message of whatever role, also of an earlier answer.
    Prompt,
    /// What is only looked at: to embed, or to moderate.
    Input,
    /// What a tool has answered.
    ToolResult,
    /// What a tool is called with. JSON within the string for OpenAI; of Anthropic's each string in the object is a text.
    ToolArguments,
    /// Descriptions, names and schemas of tools, and of the format of the answer.
    Definition,
    /// What the model thinks, or a summary of it.
    Reasoning,
    /// What the model answers.
    Reply,
    /// What it answers in the place of an answer.
    Refusal,
    /// Anything else that may be read: names, titles, URLs, members that nobody knows yet.
    Other,
}

/// One text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Who speaks.
    pub role: Role,
    /// What it is.
    pub kind: TextKind,
    // Bodies beyond 4 GiB are refused, and there may be millions of texts in one.
    start: u32,
    end: u32,
}

impl Text {
    /// Where it stands in the body, in bytes, without the quotes around it. Never empty.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The texts of a body, in the order in which they stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    body: Bytes,
    list: Vec<Text>,
}

/// Why the texts of a body cannot be told. What cannot be read cannot be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no JSON object, is not UTF-8, or an event is larger than any that is read.
    NotJson,
    /// Something in it that has texts is nested deeper than [`DEEPEST`].
    TooDeep,
}

/// Levels of nesting that are followed; serde_json's limit, too.
pub const DEEPEST: usize = 127;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("it is not a JSON object"),
            Self::TooDeep => write!(f, "it is nested deeper than {DEEPEST} levels"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl Texts {
    /// The texts of a request.
    ///
    /// # Errors
    /// A body that cannot be read.
    pub fn of_request(endpoint: &Endpoint, body: Bytes) -> Result<Self, Unreadable> {
        let input = match endpoint {
            Endpoint::Embeddings | Endpoint::Moderations => TextKind::Input,
            _ => TextKind::Prompt,
        };
        Self::of(body, Place::Request { input })
    }

    /// The texts of a whole JSON reply of any endpoint. A reply of another form, an error among them, has none.
    ///
    /// # Errors
    /// A body that cannot be read.
    pub fn of_reply(body: Bytes) -> Result<Self, Unreadable> {
        Self::of(body, Place::Reply)
    }

    /// The texts of a piece of an event stream that consists of whole events. Ranges are those of the piece.
    ///
    /// # Errors
    /// A payload that cannot be read.
    pub fn of_events(events: Bytes) -> Result<Self, Unreadable> {
        check_size(&events)?;
        let mut list = Vec::new();
        let mut scanner = Scanner::new();
        scanner.push(events.clone());
        let mut at = 0;
        while let Some(event) = scanner.next_event().map_err(|_| Unreadable::NotJson)? {
            of_event(&event, at, &mut list)?;
            at += event.raw.len();
        }
        if let Some(event) = scanner.finish() {
            of_event(&event, at, &mut list)?;
        }
        Ok(Self { body: events, list })
    }

    fn of(body: Bytes, place: Place) -> Result<Self, Unreadable> {
        check_size(&body)?;
        let mut list = Vec::new();
        Walk::over(&body, place, &mut list)?;
        Ok(Self { body, list })
    }

    /// All of them.
    pub fn list(&self) -> &[Text] {
        &self.list
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What they stand in: a JSON body, or a piece of an event stream.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// A text with its escapes decoded. Half of a surrogate pair becomes replacement characters. Nothing for one that is not of
    /// this list.
    pub fn decoded(&self, text: &Text) -> Cow<'_, str> {
        let Range { start, end } = text.range();
        match (start.checked_sub(1), self.body.get(start..end)) {
            (Some(quote), Some(_)) => decode(self.body.get(quote..=end).unwrap_or_default()),
            _ => Cow::Borrowed(""),
        }
    }

    /// Each text with who speaks and what it is, decoded.
    pub fn iter(&self) -> impl Iterator<Item = (Role, TextKind, Cow<'_, str>)> {
        self.list.iter().map(|text| (text.role, text.kind, self.decoded(text)))
    }
}

fn check_size(body: &Bytes) -> Result<(), Unreadable> {
    u32::try_from(body.len()).map(drop).map_err(|_| Unreadable::NotJson)
}

/// Adds the texts of one event that stands at `at` in the piece.
fn of_event(event: &RawEvent, at: usize, list: &mut Vec<Text>) -> Result<(), Unreadable> {
    let Some(payload) = event.data() else { return Ok(()) };
    let shown = payload.trim_ascii();
    if shown.is_empty() || shown.starts_with(b"[DONE]") {
        return Ok(());
    }
    let first = list.len();
    Walk::over(&payload, Place::Event, list)?;
    // A string cannot go over the end of a line: each text stands within one `data` field.
    let mut lines = event.data_lines();
    let (mut line, mut joined_at) = (lines.next(), 0);
    for text in &mut list[first..] {
        while let Some(range) = line.clone()
            && text.start as usize > joined_at + range.len()
        {
            joined_at += range.len() + 1;
            line = lines.next();
        }
        let Some(range) = &line else { return Err(Unreadable::NotJson) };
        // Less than the length of the piece, which is checked.
        let shift = |offset: u32| u32::try_from(at + range.start + (offset as usize - joined_at)).unwrap_or(u32::MAX);
        (text.start, text.end) = (shift(text.start), shift(text.end));
    }
    Ok(())
}

/// A JSON string with its quotes, decoded. It is part of a valid text.
fn decode(quoted: &[u8]) -> Cow<'_, str> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if memchr::memchr(b'\\', inner).is_none() {
        return String::from_utf8_lossy(inner);
    }
    struct Decoded;
    impl Visitor<'_> for Decoded {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    Cow::Owned(serde_json::Deserializer::from_slice(quoted).deserialize_bytes(Decoded).unwrap_or_default())
}
