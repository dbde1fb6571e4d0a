//! What every translator is made of.

use std::borrow::Cow;

use bytes::BytesMut;
use serde_json::{Map, Value};

use super::chat::{ChatOut, ChatReader, ChatWriter, ChunkReader, ChunkWriter};
use crate::types::PromptCaching;

/// The model that a request is translated for.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The provider's name for it; it goes into the body.
    pub name: &'a str,
    /// The longest answer it gives, in tokens, by the price list; `None` where that does not know it.
    pub max_output_tokens: Option<u64>,
    /// The most output tokens to ask for on behalf of a client that states no limit, where the dialect requires one.
    pub default_max_tokens: Option<u64>,
    /// Tokens of the context to run with, where the dialect takes a wish (Ollama's `num_ctx`).
    pub context: Option<u64>,
    /// When it gets breakpoints of the prompt cache, where the dialect has them (Anthropic).
    pub prompt_caching: PromptCaching,
}

/// A request in the other dialect.
pub struct Step {
    /// Its body, `model` and `stream` included. In Chat a streamed one asks for `stream_options.include_usage`.
    pub body: Value,
    /// What was left out or changed in meaning, in the order of the body: paths such as `logit_bias` or `messages[].name`,
    /// each once.
    pub dropped: Vec<Dropped>,
    /// Puts what comes back into the first dialect.
    pub replies: Box<dyn Replies>,
}

/// The path of something that a translation left out.
pub type Dropped = Cow<'static, str>;

/// Puts replies to one request into the dialect in which it was asked. A provider step reads what the provider says, a door step
/// writes what the client reads; Chat is what the other side of each is.
pub trait Replies: Send + Sync {
    /// A whole successful reply; `None` for a document that is not understood.
    fn json(&self, body: &[u8]) -> Option<Vec<u8>>;

    /// Reads a stream that begins.
    fn reader(&self) -> Box<dyn ChatReader> {
        Box::<ChunkReader>::default()
    }

    /// Writes a stream that begins.
    fn writer(&self) -> Box<dyn ChatWriter> {
        Box::<ChunkWriter>::default()
    }
}

/// A stream's translation: what its reader tells is written at once, and nothing stands between the two.
pub struct Events {
    reader: Box<dyn ChatReader>,
    writer: Box<dyn ChatWriter>,
}

impl Events {
    /// A stream that begins; the first of `steps` knows the provider's dialect, the last one the client's.
    pub fn new(steps: &[Box<dyn Replies>]) -> Self {
        Self {
            reader: steps.first().map_or_else(|| Box::<ChunkReader>::default() as _, |first| first.reader()),
            writer: steps.last().map_or_else(|| Box::<ChunkWriter>::default() as _, |last| last.writer()),
        }
    }

    /// The stream of a single step.
    #[cfg(test)]
    pub(super) fn of(step: &(impl Replies + ?Sized)) -> Self {
        Self { reader: step.reader(), writer: step.writer() }
    }

    /// One event: its payload, and its name where it has one. Writes whole server-sent events to `out`.
    pub fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        self.reader.event(name, data, &mut ChatOut { writer: &mut *self.writer, text: out });
    }

    /// The body ended as its framing said: writes the end if only its mark is missing.
    pub fn finish(&mut self, out: &mut BytesMut) {
        self.reader.finish(&mut ChatOut { writer: &mut *self.writer, text: out });
    }
}

/// Why a request cannot be put into the other dialect: the client's fault, a 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The parameter at fault, as a path in the client's body such as `n` or `messages[3].content[1]`.
    pub param: String,
    /// One sentence for the client that says what cannot be had, where, and what would work.
    pub message: String,
}

impl Refusal {
    /// A refusal of one parameter.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: param.into(), message: message.into() }
    }
}

/// What a step does with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is put into the other dialect.
    Translated,
    /// It is a hint that the other dialect does not have: it is left out and named.
    Dropped,
    /// The client relies on it and cannot have it: a 400.
    Refused,
}

/// What a step does with one top-level parameter.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name.
    pub param: &'static str,
    /// What becomes of it.
    pub disposition: Disposition,
    /// Values, as JSON, that ask for nothing and so are never named nor refused. `null` is always one.
    pub neutral: &'static [&'static str],
    /// What it becomes, or why it cannot be had; one line for the documentation and for a refusal.
    pub note: &'static str,
}

impl Rule {
    /// A parameter that is translated.
    pub const fn translated(param: &'static str, note: &'static str) -> Self {
        Self { param, disposition: Disposition::Translated, neutral: &[], note }
    }

    /// A parameter that is left out.
    pub const fn dropped(param: &'static str, neutral: &'static [&'static str], note: &'static str) -> Self {
        Self { param, disposition: Disposition::Dropped, neutral, note }
    }

    /// A parameter that is refused.
    pub const fn refused(param: &'static str, neutral: &'static [&'static str], note: &'static str) -> Self {
        Self { param, disposition: Disposition::Refused, neutral, note }
    }
}

/// Goes through the top-level parameters of a body by the table: names what is dropped, refuses what must be. A parameter
/// that the table does not know is dropped and named.
///
/// # Errors
/// The first parameter that cannot be had.
pub fn apply_rules(table: &[Rule], body: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    for (param, value) in body.iter().filter(|(_, value)| !value.is_null()) {
        let Some(rule) = table.iter().find(|rule| rule.param == param) else {
            note_dropped(dropped, param.clone());
            continue;
        };
        let neutral = || !rule.neutral.is_empty() && rule.neutral.contains(&value.to_string().as_str());
        match rule.disposition {
            Disposition::Translated => {}
            _ if neutral() => {}
            Disposition::Dropped => note_dropped(dropped, rule.param),
            Disposition::Refused => return Err(Refusal::new(rule.param, rule.note)),
        }
    }
    Ok(())
}

/// The most that is named one by one: names come from the client, and there may be any number of them.
const MOST_NAMED: usize = 64;
/// The longest name, in bytes.
const LONGEST: usize = 96;
/// What stands for the rest.
const AND_MORE: Dropped = Cow::Borrowed("and more");

/// Names something that was lost, once.
pub fn note_dropped(dropped: &mut Vec<Dropped>, path: impl Into<Dropped>) {
    let mut path = path.into();
    if path.len() > LONGEST {
        let end = path.floor_char_boundary(LONGEST);
        path.to_mut().truncate(end);
    }
    match dropped.len() {
        // The last place says that there is more.
        MOST_NAMED.. => {}
        _ if dropped.contains(&path) => {}
        count => dropped.push(if count + 1 == MOST_NAMED { AND_MORE } else { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Rule] =
        &[Rule::translated("a", "x"), Rule::dropped("b", &["0"], "x"), Rule::refused("c", &["1", "\"no\""], "x")];

    fn sifted(body: &str) -> Result<Vec<Dropped>, Refusal> {
        let Ok(Value::Object(body)) = serde_json::from_str(body) else { panic!("{body}") };
        let mut dropped = Vec::new();
        apply_rules(TABLE, &body, &mut dropped).map(|()| dropped)
    }

    #[test]
    fn the_table_decides() {
        assert_eq!(sifted(r#"{"a":1,"b":0,"c":"no"}"#).unwrap(), [""; 0]);
        assert_eq!(sifted(r#"{"b":1,"x":{},"y":null,"c":null}"#).unwrap(), ["b", "x"]);
        assert_eq!(sifted(r#"{"b":1,"c":2}"#).unwrap_err(), Refusal::new("c", "x"));
    }

    #[test]
    fn what_clients_name_is_bounded() {
        let body: Map<_, _> = (0..100_000).map(|n| (format!("k{n}"), Value::Bool(true))).collect();
        let mut dropped = Vec::new();
        apply_rules(TABLE, &body, &mut dropped).unwrap();
        assert_eq!((dropped.len(), &*dropped[63]), (MOST_NAMED, "and more"));
    }
}
