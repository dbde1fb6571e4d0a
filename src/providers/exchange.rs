//! Between the dialect in which a client asks and the one that a provider understands: whether a request has to be
//! translated, the translation, and the way back.

use bytes::Bytes;
use serde_json::Value;

use super::{quirks, translator::StreamTranslator};
use crate::{
    config::{Dialect, Provider},
    dialect::{Lost, Model, Refusal, Replies, Step, anthropic, messages, ollama, responses},
    openai::{Endpoint, ErrorBody, Peek, map_status, read_error, splice},
};

/// What a translated request needs for its way there and back.
pub struct Exchange {
    /// What the translation left out.
    pub lost: Vec<Lost>,
    /// The request marks what Anthropic is to keep in its prompt cache, which costs more than to read it.
    pub marks_cache: bool,
    /// From the provider's dialect towards the client's.
    steps: Vec<Box<dyn Replies>>,
    dialect: Dialect,
}

/// Whether a request has to be translated for a provider.
pub fn is_translated(endpoint: &Endpoint, provider: &Provider) -> bool {
    match (endpoint, provider.dialect) {
        (Endpoint::ChatCompletions, dialect) => dialect != Dialect::OpenAi,
        (Endpoint::Messages | Endpoint::CountTokens, dialect) => dialect != Dialect::Anthropic,
        (Endpoint::Responses, _) => !provider.responses_api,
        // Nothing corresponds there, which the translation says.
        (Endpoint::Completions | Endpoint::Embeddings | Endpoint::Moderations, Dialect::Anthropic) => true,
        _ => false,
    }
}

/// Puts a request into the provider's dialect. The body is one that [`Peek::parse`] took; `memory` counts for the Responses
/// API only.
///
/// # Errors
/// Something that the client relies on, and that the provider's dialect does not have.
pub fn translate(
    endpoint: &Endpoint,
    provider: &Provider,
    model: &Model<'_>,
    memory: responses::Memory<'_>,
    body: &[u8],
) -> Result<(Bytes, Exchange), Refusal> {
    let read = || {
        serde_json::from_slice::<Value>(body).map_err(|error| {
            Refusal::new("", format!("The request cannot be translated for provider '{}': {error}.", provider.name))
        })
    };
    let read = || read().and_then(require_ranges);
    let mut exchange = Exchange { lost: Vec::new(), marks_cache: false, steps: Vec::new(), dialect: provider.dialect };
    let chat = match endpoint {
        Endpoint::ChatCompletions => read()?,
        Endpoint::Messages => exchange.add(messages::request(&read()?, model)?),
        Endpoint::Responses => exchange.add(responses::request(&read()?, model, memory)?),
        _ => {
            let message = format!(
                "Provider '{}' speaks a dialect that has nothing like this endpoint ({}). Ask for a model of another provider.",
                provider.name,
                endpoint.label()
            );
            return Err(Refusal::new("model", message));
        }
    };
    let body = match provider.dialect {
        Dialect::OpenAi => plain(provider, model.name, chat, body.len())?,
        Dialect::Anthropic => {
            let asked = exchange.add(anthropic::request(&chat, model)?);
            exchange.marks_cache = anthropic::has_marks(&asked);
            drop(chat);
            write(&asked, body.len())
        }
        Dialect::Ollama => {
            let asked = exchange.add(ollama::request(&chat, model)?);
            drop(chat);
            write(&asked, body.len())
        }
    };
    exchange.steps.reverse();
    Ok((body, exchange))
}

/// The highest temperature of any vendor (OpenAI's). A vendor's own lower limit is its translation's business.
const MAX_TEMPERATURE: f64 = 2.0;

/// Refuses what no vendor takes, before a translation makes something else of it.
fn require_ranges(body: Value) -> Result<Value, Refusal> {
    match body["temperature"].as_f64() {
        Some(given) if !(0.0..=MAX_TEMPERATURE).contains(&given) => {
            let message =
                format!("Invalid 'temperature': expected a number from 0 to {MAX_TEMPERATURE}, but got {given}.");
            Err(Refusal::new("temperature", message))
        }
        _ => Ok(body),
    }
}

/// A body's text, in a buffer that does not grow for a text of about the size of the client's.
fn write(body: &Value, size: usize) -> Bytes {
    let mut text = Vec::with_capacity(size + size / 16 + 256);
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut text, body);
    text.into()
}

/// A Chat request as its vendor wants it.
fn plain(provider: &Provider, model: &str, mut chat: Value, size: usize) -> Result<Bytes, Refusal> {
    let messages = chat.get_mut("messages").and_then(Value::as_array_mut);
    for message in messages.into_iter().flatten().filter_map(Value::as_object_mut) {
        // Only Anthropic's dialect has a place for them.
        message.shift_remove("thinking_blocks");
    }
    if let Some(object) = chat.as_object_mut()
        && !quirks::takes_max_completion_tokens(provider, model)
        && let Some(limit) = object.remove("max_completion_tokens")
    {
        object.entry("max_tokens").or_insert(limit);
    }
    let body = write(&chat, size);
    drop(chat);
    let peek = Peek::parse(&body).map_err(|error| Refusal::new(error.param.unwrap_or_default(), error.message))?;
    let edits = quirks::edits(&Endpoint::ChatCompletions, provider, model, &body, &peek);
    Ok(splice(&body, &peek, &edits))
}

impl Exchange {
    fn add(&mut self, step: Step) -> Value {
        let Step { body, lost, replies } = step;
        for path in lost {
            crate::dialect::lose(&mut self.lost, path);
        }
        self.steps.push(replies);
        body
    }

    /// Path of the provider's endpoint, behind its base URL.
    pub fn path(&self, provider: &Provider) -> String {
        match self.dialect {
            Dialect::OpenAi => format!("{}/chat/completions", provider.base.prefix),
            Dialect::Anthropic => format!("{}/messages", provider.base.prefix),
            Dialect::Ollama => format!("{}/api/chat", provider.base.root()),
        }
    }

    /// Whether a provider's own reply says what it counted in a way that is read before its translation.
    pub fn counts_itself(&self) -> bool {
        self.dialect != Dialect::Ollama
    }

    /// Whether a reply of this type is a stream.
    pub fn is_stream(&self, content_type: &str) -> bool {
        let wanted = if self.dialect == Dialect::Ollama { "application/x-ndjson" } else { "text/event-stream" };
        content_type.starts_with(wanted)
    }

    /// A whole successful reply in the client's dialect; `None` for one that is not understood.
    pub fn json(&self, body: &[u8]) -> Option<Bytes> {
        let (first, rest) = self.steps.split_first()?;
        rest.iter().try_fold(first.json(body)?, |body, step| step.json(&body)).map(Bytes::from)
    }

    /// A stream that begins.
    pub fn stream(&self) -> StreamTranslator {
        StreamTranslator::new(self.dialect, &self.steps)
    }
}

/// A provider's error reply as the status and error that a client of OpenAI's gets.
pub fn error_of(dialect: Dialect, status: u16, content_type: Option<&str>, body: &[u8]) -> (u16, ErrorBody) {
    match dialect {
        Dialect::OpenAi => (map_status(status), read_error(map_status(status), content_type, body)),
        Dialect::Anthropic => anthropic::read_error(status, body),
        Dialect::Ollama => ollama::read_error(status, body),
    }
}
