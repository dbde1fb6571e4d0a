//! Anthropic's JSON, borrowed from the bytes it came in. A member of an unexpected type counts as
//! absent, so that the rest is still read.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::value::RawValue;

pub(super) use crate::openai::lenient::{Count, Lenient, Text};

/// One block of an answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Block<'a> {
    #[serde(borrow)]
    pub(super) r#type: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow)]
    pub(super) signature: Text<'a>,
    #[serde(borrow)]
    pub(super) data: Text<'a>,
    #[serde(borrow)]
    pub(super) citations: Option<&'a RawValue>,
}

/// A source that a text cites.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Citation<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    pub(super) url: Text<'a>,
    #[serde(borrow)]
    pub(super) title: Text<'a>,
}

impl<'a> Citation<'a> {
    /// Reads the citation of a web page; `None` for any other citation.
    pub(super) fn of_page(raw: &'a RawValue) -> Option<Self> {
        let citation: Self = read(raw)?;
        (&*citation.r#type == "web_search_result_location" && !citation.url.is_empty()).then_some(citation)
    }
}

/// A JSON value as a type that ignores unknown members.
pub(super) fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The input of a tool as OpenAI's `arguments`: its JSON text without white space, so that no number changes.
pub(super) fn arguments(input: Option<&RawValue>) -> String {
    let text = input.map_or("", RawValue::get);
    if !text.starts_with('{') {
        return "{}".into();
    }
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            quoted = c == '"';
        }
        out.push(c);
    }
    out
}

/// OpenAI's id for an answer.
pub(super) fn completion_id(id: &str) -> String {
    if id.is_empty() { format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()) } else { format!("chatcmpl-{id}") }
}

/// The current time, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
