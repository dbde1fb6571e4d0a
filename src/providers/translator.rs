//! A provider's stream on its way into the client's dialect.

use bytes::{Bytes, BytesMut};

use super::adapter::{self, Adapter, Counter};
use crate::{
    dialect::{Events, Replies},
    sse::{DEFAULT_MAX_EVENT, EventTooLarge, RawEvent, Scanner},
};

/// Puts a stream into the client's dialect as it arrives.
pub struct StreamTranslator {
    stages: Vec<Stage>,
    counter: Counter,
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
    /// A stream that begins, of a provider with this adapter; the first of `steps` reads what the provider sends, the last writes
    /// what the client reads.
    pub(super) fn new(adapter: &dyn Adapter, steps: &[Box<dyn Replies>]) -> Self {
        let framing = |index| match adapter.framing() {
            adapter::Framing::Lines if index == 0 => Framing::Lines(BytesMut::new()),
            _ => Framing::Events(Scanner::new()),
        };
        let stages = steps.iter().enumerate();
        Self {
            counter: adapter.counter(),
            stages: stages.map(|(index, step)| Stage { framing: framing(index), events: step.events() }).collect(),
        }
    }

    /// Takes what the provider sent, and gives what it says in the client's dialect so far.
    ///
    /// # Errors
    /// An event without end.
    pub fn feed(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        let Self { stages, counter: counted } = self;
        stages.iter_mut().enumerate().try_fold(chunk, |chunk, (index, stage)| {
            let mut out = BytesMut::new();
            if !chunk.is_empty() {
                stage.feed(chunk, Some(&mut *counted).filter(|_| index == 0), &mut out)?;
            }
            Ok(out.freeze())
        })
    }

    /// Reads what the provider's own events count.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// The provider's body ended as its framing said.
    ///
    /// # Errors
    /// As for [`Self::feed`].
    pub fn finish(&mut self) -> Result<Bytes, EventTooLarge> {
        let Self { stages, counter: counted } = self;
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
        mut counted: Option<&mut Counter>,
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

    fn finish(&mut self, counted: Option<&mut Counter>, out: &mut BytesMut) {
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

fn tell(events: &mut dyn Events, event: &RawEvent, counted: Option<&mut Counter>, out: &mut BytesMut) {
    let fields = event.fields();
    if let Some(data) = fields.data.as_deref() {
        if let Some(counted) = counted {
            counted.read(data);
        }
        events.event(fields.event, data, out);
    }
}
