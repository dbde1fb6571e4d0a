//! The texts of a prompt or a reply: who speaks, what kind of text it is, and where it stands in the raw body.
//!
//! A place is the byte range of the content of a JSON string, without its quotes and still escaped: another escaped text can be
//! spliced in there, and the rest of the body stays unchanged. Everything in a known object is listed except ids, signatures,
//! numbers and encoded media: a string under a name that the table does not know is listed as [`TextKind::Other`] rather than left
//! out, because a provider may read it. Keys are not listed. Of a repeated key every value is listed, because parsers differ in
//! which value they take; of a repeated `role` the last one counts.

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

/// Who speaks in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The application: `system`, or its equivalent outside of messages (`instructions`).
    System,
    /// The application, in OpenAI's newer word.
    Developer,
    /// The user; also for prompts without messages.
    User,
    /// The model.
    Assistant,
    /// A tool's result; `function` is the old name of the role.
    Tool,
    /// Another role, or none is named.
    Other,
}

/// The kind of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextKind {
    /// Part of what the model reads: a message of any role, including earlier answers.
    Prompt,
    /// A text to embed or to moderate, which no model answers.
    Input,
    /// A tool's result.
    ToolResult,
    /// The arguments of a tool call: for OpenAI a string that contains JSON; for Anthropic each string in the object is a text.
    ToolArguments,
    /// Descriptions, names and schemas of tools, and of the format of the answer.
    Definition,
    /// The model's reasoning, or a summary of it.
    Reasoning,
    /// The model's answer.
    Reply,
    /// The model's refusal to answer.
    Refusal,
    /// Anything else that a provider may read: names, titles, URLs, unknown members.
    Other,
}

/// One text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Who speaks.
    pub role: Role,
    /// What kind of text it is.
    pub kind: TextKind,
    // 32 bits, because bodies beyond 4 GiB are refused and one body may have millions of texts.
    start: u32,
    end: u32,
}

impl Text {
    /// The text's byte range in the body, without the quotes around it. Never empty.
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

/// Why the texts of a body cannot be read, and so cannot be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The body is not a JSON object or not UTF-8, or an event is too large.
    NotJson,
    /// A part of the body that has texts is nested deeper than [`DEEPEST`].
    TooDeep,
}

/// Most levels of nesting that are followed; serde_json has the same limit.
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

    /// The texts of a complete JSON reply of any endpoint. A reply of another form, such as an error, has none.
    ///
    /// # Errors
    /// A body that cannot be read.
    pub fn of_reply(body: Bytes) -> Result<Self, Unreadable> {
        Self::of(body, Place::Reply)
    }

    /// The texts of a piece of an event stream that consists of whole events. Ranges refer to the piece.
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

    /// All texts, in the order of the body.
    pub fn list(&self) -> &[Text] {
        &self.list
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bytes that the texts stand in: a JSON body, or a piece of an event stream.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// A text with its escapes decoded. Half of a surrogate pair becomes replacement characters. Empty for a text that is not
    /// from this list.
    pub fn decoded(&self, text: &Text) -> Cow<'_, str> {
        let Range { start, end } = text.range();
        match (start.checked_sub(1), self.body.get(start..end)) {
            (Some(quote), Some(_)) => decode(self.body.get(quote..=end).unwrap_or_default()),
            _ => Cow::Borrowed(""),
        }
    }

    /// Each text, decoded, with its role and kind.
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
    // A string cannot contain a line end, so each text stands within one `data` field.
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
        // The sum is less than the length of the piece, which was checked.
        let shift = |offset: u32| u32::try_from(at + range.start + (offset as usize - joined_at)).unwrap_or(u32::MAX);
        (text.start, text.end) = (shift(text.start), shift(text.end));
    }
    Ok(())
}

/// Decodes a JSON string that is part of valid JSON and given with its quotes.
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
