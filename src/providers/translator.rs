//! Translates a provider's stream into the client's dialect.

use bytes::{Bytes, BytesMut};

use super::adapter::{self, Adapter, Counter};
use crate::{
    dialect::{Events, Replies},
    sse::{DEFAULT_MAX_EVENT, EventTooLarge, RawEvent, Scanner},
};

/// Bytes that the output buffer has beyond the length of the input: events in the client's dialect are seldom longer, so the
/// buffer seldom grows.
const HEADROOM: usize = 256;

/// Translates a stream into the client's dialect as it arrives.
pub struct StreamTranslator {
    framing: Framing,
    events: Events,
    counter: Counter,
}

enum Framing {
    /// Server-sent events.
    Events(Scanner),
    /// One JSON object per line; holds a line whose end has not arrived.
    Lines(BytesMut),
}

impl StreamTranslator {
    /// For a stream that begins, of a provider with this adapter. The first of `steps` reads what the provider sends, the last
    /// writes what the client reads.
    pub(super) fn new(adapter: &dyn Adapter, steps: &[Box<dyn Replies>]) -> Self {
        Self {
            framing: match adapter.framing() {
                adapter::Framing::Lines => Framing::Lines(BytesMut::new()),
                adapter::Framing::Events => Framing::Events(Scanner::new()),
            },
            events: Events::new(steps),
            counter: adapter.counter(),
        }
    }

    /// Takes a piece of the provider's stream, and returns the translation of all events that are complete.
    ///
    /// # Errors
    /// An event is larger than the limit.
    pub fn feed(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        if chunk.is_empty() {
            return Ok(chunk);
        }
        let Self { framing, events, counter } = self;
        let mut out = BytesMut::with_capacity(chunk.len() + HEADROOM);
        match framing {
            Framing::Events(scanner) => {
                scanner.push(chunk);
                while let Some(event) = scanner.next_event()? {
                    translate(&event, counter, events, &mut out);
                }
            }
            Framing::Lines(carry) => {
                carry.extend_from_slice(&chunk);
                while let Some(end) = memchr::memchr(b'\n', carry) {
                    let line = carry.split_to(end + 1);
                    events.event(None, line.trim_ascii(), &mut out);
                }
                if carry.len() > DEFAULT_MAX_EVENT {
                    return Err(EventTooLarge { max: DEFAULT_MAX_EVENT });
                }
            }
        }
        Ok(out.freeze())
    }

    /// The reader of the token counts in the provider's own events.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// To be called when the provider's body has ended as its framing said: returns the translation of the last event and of the
    /// end.
    pub fn finish(&mut self) -> Bytes {
        let Self { framing, events, counter } = self;
        let mut out = BytesMut::new();
        match framing {
            Framing::Events(scanner) => {
                if let Some(event) = scanner.finish() {
                    translate(&event, counter, events, &mut out);
                }
            }
            Framing::Lines(carry) if !carry.is_empty() => {
                let line = carry.split();
                events.event(None, line.trim_ascii(), &mut out);
            }
            Framing::Lines(_) => {}
        }
        events.finish(&mut out);
        out.freeze()
    }
}

/// Reads the token count of an event, and translates it.
fn translate(event: &RawEvent, counter: &mut Counter, events: &mut Events, out: &mut BytesMut) {
    let fields = event.fields();
    if let Some(data) = fields.data.as_deref() {
        counter.read(data);
        events.event(fields.event, data, out);
    }
}
