//! Between the dialect in which a client asks and the one that a provider understands: whether a request has to be
//! translated, the translation, and the way back.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::quirks;
use crate::{
    config::{Dialect, Provider},
    dialect::{Events, Lost, Model, Refusal, Replies, Step, anthropic, messages, ollama, responses},
    openai::{ChatUsage, Endpoint, ErrorBody, MessageUsage, Peek, map_status, read_error, splice},
    sse::{DEFAULT_MAX_EVENT, EventTooLarge, RawEvent, Scanner},
    types::Usage,
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
        let framing = |index| match self.dialect {
            Dialect::Ollama if index == 0 => Framing::Lines(BytesMut::new()),
            _ => Framing::Events(Scanner::new()),
        };
        let stages = self.steps.iter().enumerate();
        StreamTranslator {
            counted: match self.dialect {
                Dialect::OpenAi => Counted::Chat(ChatUsage::default()),
                Dialect::Anthropic => Counted::Messages(MessageUsage::default()),
                Dialect::Ollama => Counted::Translated,
            },
            stages: stages.map(|(index, step)| Stage { framing: framing(index), events: step.events() }).collect(),
        }
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

/// Puts a stream into the client's dialect as it arrives.
pub struct StreamTranslator {
    stages: Vec<Stage>,
    counted: Counted,
}

/// What a provider's own events count: the client's dialect may have no way to say that nothing was counted.
enum Counted {
    Chat(ChatUsage),
    Messages(MessageUsage),
    /// Only the translation can tell.
    Translated,
}

impl Counted {
    fn read(&mut self, data: &[u8]) {
        match self {
            Self::Chat(usage) => usage.read(data),
            Self::Messages(usage) => usage.read(data),
            Self::Translated => {}
        }
    }
}

/// One step of the way back.
struct Stage {
    framing: Framing,
    events: Box<dyn Events>,
}

enum Framing {
    /// Server-sent events.
    Events(Scanner),
    /// One JSON object a line: what has no end yet.
    Lines(BytesMut),
}

impl StreamTranslator {
    /// Takes what the provider sent, and gives what it says in the client's dialect so far.
    ///
    /// # Errors
    /// An event without end.
    pub fn feed(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        let Self { stages, counted } = self;
        stages.iter_mut().enumerate().try_fold(chunk, |chunk, (index, stage)| {
            let mut out = BytesMut::new();
            if !chunk.is_empty() {
                stage.feed(chunk, Some(&mut *counted).filter(|_| index == 0), &mut out)?;
            }
            Ok(out.freeze())
        })
    }

    /// The provider's own whole count, where it differs from what the translated stream says: `Some(None)` while there is none.
    /// Of `several` answers one may be finished before the others.
    pub fn usage(&self, several: bool) -> Option<Option<Usage>> {
        match &self.counted {
            Counted::Chat(usage) => Some(usage.whole(several)),
            Counted::Messages(usage) => Some(usage.whole()),
            Counted::Translated => None,
        }
    }

    /// Searches that the provider says it made (Anthropic).
    pub fn searches(&self) -> u64 {
        match &self.counted {
            Counted::Messages(usage) => usage.searches(),
            Counted::Chat(_) | Counted::Translated => 0,
        }
    }

    /// What the provider has counted so far, where it tells that before the end.
    pub fn usage_so_far(&self) -> Option<Usage> {
        match &self.counted {
            Counted::Messages(usage) => usage.so_far(),
            Counted::Chat(usage) => usage.so_far(),
            Counted::Translated => None,
        }
    }

    /// The provider's body ended as its framing said.
    ///
    /// # Errors
    /// As for [`Self::feed`].
    pub fn finish(&mut self) -> Result<Bytes, EventTooLarge> {
        let Self { stages, counted } = self;
        stages.iter_mut().enumerate().try_fold(Bytes::new(), |chunk, (index, stage)| {
            let mut out = BytesMut::new();
            let mut counted = Some(&mut *counted).filter(|_| index == 0);
            if !chunk.is_empty() {
                stage.feed(chunk, counted.as_deref_mut(), &mut out)?;
            }
            stage.finish(counted, &mut out);
            Ok(out.freeze())
        })
    }
}

impl Stage {
    fn feed(
        &mut self,
        chunk: Bytes,
        mut counted: Option<&mut Counted>,
        out: &mut BytesMut,
    ) -> Result<(), EventTooLarge> {
        match &mut self.framing {
            Framing::Events(scanner) => {
                scanner.push(chunk);
                while let Some(event) = scanner.next_event()? {
                    tell(&mut *self.events, &event, counted.as_deref_mut(), out);
                }
            }
            Framing::Lines(carry) => {
                carry.extend_from_slice(&chunk);
                while let Some(end) = memchr::memchr(b'\n', carry) {
                    let line = carry.split_to(end + 1);
                    self.events.event(None, line.trim_ascii(), out);
                }
                if carry.len() > DEFAULT_MAX_EVENT {
                    return Err(EventTooLarge { max: DEFAULT_MAX_EVENT });
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, counted: Option<&mut Counted>, out: &mut BytesMut) {
        match &mut self.framing {
            Framing::Events(scanner) => {
                if let Some(event) = scanner.finish() {
                    tell(&mut *self.events, &event, counted, out);
                }
            }
            Framing::Lines(carry) if !carry.is_empty() => {
                let line = carry.split();
                self.events.event(None, line.trim_ascii(), out);
            }
            Framing::Lines(_) => {}
        }
        self.events.finish(out);
    }
}

fn tell(events: &mut dyn Events, event: &RawEvent, counted: Option<&mut Counted>, out: &mut BytesMut) {
    let fields = event.fields();
    if let Some(data) = fields.data.as_deref() {
        if let Some(counted) = counted {
            counted.read(data);
        }
        events.event(fields.event, data, out);
    }
}
