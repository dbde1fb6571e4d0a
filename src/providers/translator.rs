//! A provider's stream on its way into the client's dialect.

use bytes::{Bytes, BytesMut};

use crate::{
    config::Dialect,
    dialect::{Events, Replies},
    openai::{ChatUsage, MessageUsage},
    sse::{DEFAULT_MAX_EVENT, EventTooLarge, RawEvent, Scanner},
    types::Usage,
};

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
    /// A stream that begins, of a provider of this dialect; the first of `steps` reads what the provider sends, the last
    /// writes what the client reads.
    pub(super) fn new(dialect: Dialect, steps: &[Box<dyn Replies>]) -> Self {
        let framing = |index| match dialect {
            Dialect::Ollama if index == 0 => Framing::Lines(BytesMut::new()),
            _ => Framing::Events(Scanner::new()),
        };
        let stages = steps.iter().enumerate();
        Self {
            counted: match dialect {
                Dialect::OpenAi => Counted::Chat(ChatUsage::default()),
                Dialect::Anthropic => Counted::Messages(MessageUsage::default()),
                Dialect::Ollama => Counted::Translated,
            },
            stages: stages.map(|(index, step)| Stage { framing: framing(index), events: step.events() }).collect(),
        }
    }

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
