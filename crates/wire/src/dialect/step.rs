//! The common types of all translators.

use std::borrow::Cow;

use bytes::BytesMut;
use serde_json::{Map, Value};

use super::chat::{ChatOut, ChatReader, ChatWriter, ChunkReader, ChunkWriter};
use crate::types::PromptCaching;

/// The model that a request is translated for.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The provider's name for the model, which goes into the body.
    pub name: &'a str,
    /// The model's longest answer in tokens, from the price list; `None` where the list does not have it.
    pub max_output_tokens: Option<u64>,
    /// The most output tokens to ask for on behalf of a client that states no limit, where the dialect requires one.
    pub default_max_tokens: Option<u64>,
    /// The length of the context to request, in tokens, where the dialect has a parameter for it (Ollama's `num_ctx`).
    pub context: Option<u64>,
    /// When requests get breakpoints of the prompt cache, where the dialect has them (Anthropic).
    pub prompt_caching: PromptCaching,
}

/// A request translated into the other dialect.
pub struct Step {
    /// The translated body, `model` and `stream` included. A streamed Chat body has `stream_options.include_usage`.
    pub body: Value,
    /// What was dropped or changed in meaning, in the order of the body: paths such as `logit_bias` or `messages[].name`,
    /// each once.
    pub dropped: Vec<Dropped>,
    /// Translates the replies back into the first dialect.
    pub replies: Box<dyn Replies>,
}

/// The path of a parameter that a translation dropped.
pub type Dropped = Cow<'static, str>;

/// Translates the replies to one request back into the request's dialect. A provider step reads the provider's dialect and
/// returns Chat; a client step takes Chat and writes the client's dialect.
pub trait Replies: Send + Sync {
    /// Translates a complete successful reply; `None` for a document that is not understood.
    fn json(&self, body: &[u8]) -> Option<Vec<u8>>;

    /// A reader for a new stream; by default one that reads Chat.
    fn reader(&self) -> Box<dyn ChatReader> {
        Box::<ChunkReader>::default()
    }

    /// A writer for a new stream; by default one that writes Chat.
    fn writer(&self) -> Box<dyn ChatWriter> {
        Box::<ChunkWriter>::default()
    }
}

/// The translation of one stream: the writer writes each event of the reader at once.
pub struct Events {
    reader: Box<dyn ChatReader>,
    writer: Box<dyn ChatWriter>,
}

impl Events {
    /// The translation of a new stream; the first of `steps` reads the provider's dialect, the last one writes the client's.
    pub fn new(steps: &[Box<dyn Replies>]) -> Self {
        Self {
            reader: steps.first().map_or_else(|| Box::<ChunkReader>::default() as _, |first| first.reader()),
            writer: steps.last().map_or_else(|| Box::<ChunkWriter>::default() as _, |last| last.writer()),
        }
    }

    /// The translation of a new stream by a single step.
    #[cfg(test)]
    pub(super) fn of(step: &(impl Replies + ?Sized)) -> Self {
        Self { reader: step.reader(), writer: step.writer() }
    }

    /// Translates one event, given as its payload and its name where it has one. Writes complete server-sent events to `out`.
    pub fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        self.reader.event(name, data, &mut ChatOut { writer: &mut *self.writer, text: out });
    }

    /// Called when the body ended as its framing said: writes the end if only the end marker is missing.
    pub fn finish(&mut self, out: &mut BytesMut) {
        self.reader.finish(&mut ChatOut { writer: &mut *self.writer, text: out });
    }
}

/// Why a request cannot be translated: an error of the client, HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The parameter at fault, as a path in the client's body such as `n` or `messages[3].content[1]`.
    pub param: String,
    /// One sentence for the client that says what is not supported, where, and what would work.
    pub message: String,
}

impl Refusal {
    /// A refusal of one parameter.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: param.into(), message: message.into() }
    }
}

/// What becomes of a parameter in a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The parameter is translated into the other dialect.
    Translated,
    /// The parameter is a hint that the other dialect does not have: it is left out and named.
    Dropped,
    /// The client relies on the parameter, which is not supported: HTTP 400.
    Refused,
}

/// The disposition of one top-level parameter.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The parameter's name.
    pub param: &'static str,
    /// What becomes of the parameter.
    pub disposition: Disposition,
    /// Values, as JSON, that ask for nothing and so are neither named nor refused. `null` always is such a value.
    pub neutral: &'static [&'static str],
    /// What the parameter becomes, or why it is not supported; one line for the documentation and for a refusal.
    pub note: &'static str,
}

impl Rule {
    /// A parameter that is translated.
    pub const fn translated(param: &'static str, note: &'static str) -> Self {
        Self { param, disposition: Disposition::Translated, neutral: &[], note }
    }

    /// A parameter that is dropped.
    pub const fn dropped(param: &'static str, neutral: &'static [&'static str], note: &'static str) -> Self {
        Self { param, disposition: Disposition::Dropped, neutral, note }
    }

    /// A parameter that is refused.
    pub const fn refused(param: &'static str, neutral: &'static [&'static str], note: &'static str) -> Self {
        Self { param, disposition: Disposition::Refused, neutral, note }
    }
}

/// Applies the table to the top-level parameters of a body: notes dropped parameters in `dropped` and refuses others. A
/// parameter that is not in the table is dropped and named.
///
/// # Errors
/// The first parameter that is refused.
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

/// Most dropped parameters that are named: names come from the client, in any number.
const MOST_NAMED: usize = 64;
/// Most bytes of a name; longer names are cut.
const LONGEST: usize = 96;
/// The entry that stands for all further names.
const AND_MORE: Dropped = Cow::Borrowed("and more");

/// Notes a dropped parameter, once per path.
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
