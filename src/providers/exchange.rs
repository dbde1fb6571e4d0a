//! Translation between the dialect in which a client asks and the one that a provider understands: whether a request has to be
//! translated, its translation, and the translation of the replies.

use bytes::Bytes;
use serde_json::Value;

use super::{
    adapter::{self, Adapter},
    translator::StreamTranslator,
};
use crate::{
    config::Provider,
    dialect::{Dropped, Model, Refusal, Replies, Step, from_messages, from_responses},
    openai::Endpoint,
};

/// What a translated request leaves behind for the translation of its reply.
pub struct Exchange {
    /// The parameters that the translation dropped.
    pub dropped: Vec<Dropped>,
    /// The request marks a part of the prompt for Anthropic's prompt cache, where writing costs more than reading.
    pub marks_cache: bool,
    /// The translations of a reply, from the provider's dialect towards the client's.
    steps: Vec<Box<dyn Replies>>,
    adapter: &'static dyn Adapter,
}

/// Whether a request has to be translated for a provider.
pub fn is_translated(endpoint: &Endpoint, provider: &Provider) -> bool {
    !adapter::of(provider).takes(endpoint, provider)
}

/// Translates a request into the provider's dialect. The body is one that [`crate::openai::Peek::parse`] accepted; `memory` is
/// used for the Responses API only.
///
/// # Errors
/// The request uses something that the provider's dialect does not have and that its client relies on.
pub fn translate(
    endpoint: &Endpoint,
    provider: &Provider,
    model: &Model<'_>,
    memory: from_responses::Memory<'_>,
    body: &[u8],
) -> Result<(Bytes, Exchange), Refusal> {
    let read = || {
        serde_json::from_slice::<Value>(body).map_err(|error| {
            Refusal::new("", format!("The request cannot be translated for provider '{}': {error}.", provider.name))
        })
    };
    let read = || read().and_then(require_ranges);
    let adapter = adapter::of(provider);
    let mut exchange = Exchange { dropped: Vec::new(), marks_cache: false, steps: Vec::new(), adapter };
    let chat = match endpoint {
        Endpoint::ChatCompletions => read()?,
        Endpoint::Messages => exchange.add(from_messages::request(&read()?, model)?),
        Endpoint::Responses => exchange.add(from_responses::request(&read()?, model, memory)?),
        _ => {
            let message = format!(
                "Provider '{}' speaks a dialect without this endpoint ({}). Ask for a model of another provider.",
                provider.name,
                endpoint.label()
            );
            return Err(Refusal::new("model", message));
        }
    };
    let outgoing = adapter.request(provider, model, chat, body.len())?;
    exchange.marks_cache = outgoing.marks_cache;
    exchange.note_dropped(outgoing.dropped);
    exchange.steps.extend(outgoing.replies);
    exchange.steps.reverse();
    Ok((outgoing.body, exchange))
}

/// The highest temperature of any vendor (OpenAI's). A vendor's own lower limit is checked by its translation.
const MAX_TEMPERATURE: f64 = 2.0;

/// Refuses values that no vendor takes, before a translation turns them into something else.
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

/// A body as JSON text, in a buffer that need not grow for a text of about `size` bytes, the length of the client's.
pub(super) fn write(body: &Value, size: usize) -> Bytes {
    let mut text = Vec::with_capacity(size + size / 16 + 256);
    // Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut text, body);
    text.into()
}

impl Exchange {
    fn add(&mut self, step: Step) -> Value {
        let Step { body, dropped, replies } = step;
        self.note_dropped(dropped);
        self.steps.push(replies);
        body
    }

    fn note_dropped(&mut self, dropped: Vec<Dropped>) {
        for path in dropped {
            crate::dialect::note_dropped(&mut self.dropped, path);
        }
    }

    /// Whether the token counts of the provider's replies are read before their translation.
    pub fn counts_itself(&self) -> bool {
        self.adapter.counter().counts()
    }

    /// Whether a reply of this content type is a stream.
    pub fn is_stream(&self, content_type: &str) -> bool {
        self.adapter.framing().is_of(content_type)
    }

    /// A whole successful reply, translated into the client's dialect; `None` for one that is not understood.
    pub fn json(&self, body: &[u8]) -> Option<Bytes> {
        let (first, rest) = self.steps.split_first()?;
        rest.iter().try_fold(first.json(body)?, |body, step| step.json(&body)).map(Bytes::from)
    }

    /// A translator for a stream that begins.
    pub fn stream(&self) -> StreamTranslator {
        StreamTranslator::new(self.adapter, &self.steps)
    }
}
