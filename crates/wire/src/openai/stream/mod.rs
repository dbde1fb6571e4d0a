//! Relays a provider's event stream to the client: each event leaves at once, most of them as the very bytes that came,
//! and the gateway reads usage, service tier and the outcome of the stream on the way.
//!
//! ```text
//! Open ── [DONE] | response.completed | message_stop … ──▶ Complete
//!   │                                          ▲
//!   ├── clean end after a finish_reason ───────┘  (+ data: [DONE])
//!   └── error event | cut | end too early | stop ──▶ Failed (+ one error event, never [DONE])
//! ```
//!
//! On request the relay also keeps the generated text, for streams whose provider never reports its count.

mod alike;
mod chat;
mod messages;
mod responses;
#[cfg(test)]
mod tests;
mod tools;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::anthropic::error_event;
use super::endpoint::Endpoint;
use super::error::ErrorBody;
use super::generated::append_chunk;
use super::hosted::CallCounter;
use super::locate::{is_json, is_space};
use crate::sse::{DONE, RawEvent, Scanner};
use crate::types::{ServiceTier, Usage};
use alike::{Alike, Like};
use tools::ToolCalls;

pub use chat::ChatUsage;
pub use messages::MessageUsage;
pub use responses::responses_error_event;

/// The dialect of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Chat completions and legacy completions: chunks, then `[DONE]`.
    Chat,
    /// The Responses API: named events, the last of them terminal.
    Responses,
    /// Anthropic's Messages: named events, `message_stop` the last.
    Messages,
}

impl StreamKind {
    /// The dialect that an endpoint streams in.
    pub fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Responses => Self::Responses,
            Endpoint::Messages => Self::Messages,
            _ => Self::Chat,
        }
    }
}

/// Which changes the relay makes to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayOptions {
    /// The client did not ask for usage: omit chunks with empty `choices` and cut `usage` out of the others. [`StreamKind::Chat`]
    /// only.
    pub hide_usage: bool,
    /// The vendor does not number streamed tool calls, gives several the same number, or ends them with `stop`: give each new
    /// call the next index and change the `finish_reason` to `tool_calls`. Chunks without tool calls stay as they are.
    /// [`StreamKind::Chat`] only.
    pub repair_tools: bool,
}

/// How the provider's body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The body ended as its framing said.
    Clean,
    /// The body was cut off. The reason is shown to the client: a few words such as `the connection to the provider was reset`.
    Cut(String),
}

/// How far the stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// More is expected.
    Open,
    /// The whole answer was seen.
    Complete,
    /// The provider reported an error, or the answer is known to be partial. Not to be cached.
    Failed,
}

/// The state machine between one upstream body and one downstream body. No event waits for another.
#[derive(Debug)]
pub struct StreamRelay {
    kind: StreamKind,
    options: RelayOptions,
    scanner: Scanner,
    state: StreamState,
    /// Nothing more is sent, whatever arrives.
    closed: bool,
    seen: Seen,
    tools: ToolCalls,
    /// Keep the generated text that is relayed.
    tallies: bool,
    /// Generated text that was kept and not yet taken.
    generated: String,
    /// Bytes of generated text that were taken.
    taken: u64,
    /// Bytes of sound and images that were relayed.
    media: u64,
    /// More than one answer is generated.
    several: bool,
    /// Counts the calls of tools that the provider runs.
    calls: Option<Box<CallCounter>>,
    /// Keep the payloads that may name objects of the provider.
    watch: bool,
    /// Payloads that were kept and not yet taken.
    watched: Vec<Vec<u8>>,
    /// The last chunk that contained nothing but text.
    alike: Option<Box<Alike>>,
}

/// What has been read from the stream so far.
#[derive(Debug, Default)]
struct Seen {
    events: u64,
    usage: Option<Usage>,
    /// The counts of chunks.
    chat: ChatUsage,
    /// Anthropic's counts, which come in portions.
    counts: MessageUsage,
    service_tier: Option<ServiceTier>,
    model: Option<String>,
    first_token: bool,
    /// The Responses API numbers its events.
    last_sequence: Option<u64>,
    error: Option<ErrorBody>,
}

/// The state before an event, of everything that an event may change besides the text.
type Before = (ChatUsage, Option<ServiceTier>, u64, usize);

/// How one event is relayed.
#[derive(Debug)]
enum EventVerdict {
    Pass,
    Drop,
    /// Pass with these bytes in the place of this range of the raw event.
    Splice(Range<usize>, Vec<u8>),
    /// Send these bytes instead.
    Replace(Bytes),
    /// Pass and send nothing more.
    Last,
    /// Send this error and nothing more.
    Fail(ErrorBody),
}

impl StreamRelay {
    /// A relay for one stream.
    pub fn new(kind: StreamKind, options: RelayOptions) -> Self {
        Self {
            kind,
            options,
            scanner: Scanner::new(),
            state: StreamState::Open,
            closed: false,
            seen: Seen::default(),
            tools: ToolCalls::default(),
            tallies: false,
            generated: String::new(),
            taken: 0,
            media: 0,
            several: false,
            calls: None,
            watch: false,
            watched: Vec::new(),
            alike: None,
        }
    }

    /// Counts the calls of tools that the provider runs, when given a counter.
    #[must_use]
    pub fn counting(self, calls: Option<CallCounter>) -> Self {
        Self { calls: calls.map(Box::new), ..self }
    }

    /// The calls that were counted so far.
    pub fn calls(&self) -> Option<&CallCounter> {
        self.calls.as_deref()
    }

    /// Keeps, when `on`, the generated text that is relayed: content, reasoning, refusals, names and arguments of calls,
    /// one behind the other as they came. [`Self::take_generated`] hands it out; take it often, it has no bound.
    ///
    /// Sound and images have no text and are not kept, see [`Self::media_bytes`]. The texts of several choices are interleaved,
    /// so a count of their tokens is slightly off.
    #[must_use]
    pub fn tallying(self, on: bool) -> Self {
        Self { tallies: on, ..self }
    }

    /// Keeps, when `on`, the payloads of those events that may name an object which the provider has made: a response, an item
    /// of one, a container, a file. [`Self::take_watched`] hands them out.
    #[must_use]
    pub fn watching(self, on: bool) -> Self {
        Self { watch: on, ..self }
    }

    /// Parses every event, even one that differs from an earlier one in its text alone: the reference for tests.
    #[cfg(any(test, fuzzing))]
    #[must_use]
    pub fn reading_all(self) -> Self {
        Self { alike: Some(Box::new(Alike::learnt_out())), ..self }
    }

    /// Hands out the payloads that were kept since the last call, see [`Self::watching`].
    pub fn take_watched(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.watched)
    }

    /// Takes upstream bytes and returns what to send now, perhaps nothing. A chunk of whole events that need no change
    /// comes back as the same buffer.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        if self.closed {
            return Bytes::new();
        }
        let mut out = Out::new(chunk.clone());
        self.scanner.push(chunk);
        while !self.closed {
            match self.scanner.next_event() {
                Ok(Some(event)) => self.relay(&event, &mut out),
                Ok(None) => break,
                Err(error) => self.fail(interrupted(&error.to_string()), &mut out),
            }
        }
        out.take()
    }

    /// Ends the relay when the upstream body is over: returns the last bytes to send, including the end or the error event that
    /// the stream lacks.
    pub fn finish(&mut self, end: &StreamEnd) -> Bytes {
        let mut out = Out::new(Bytes::new());
        if let Some(event) = self.scanner.finish()
            && !self.closed
        {
            self.relay_last(&event, &mut out);
        }
        if self.state == StreamState::Open {
            match end {
                StreamEnd::Clean if self.seen.chat.finished => {
                    out.write(DONE);
                    self.seen.chat.done = true;
                    self.state = StreamState::Complete;
                }
                StreamEnd::Clean => {
                    self.fail(interrupted("the provider closed the stream before the answer was complete"), &mut out);
                }
                StreamEnd::Cut(reason) => self.fail(interrupted(reason), &mut out),
            }
        }
        self.close();
        out.take()
    }

    /// Ends the stream on the gateway's behalf with this error; returns the error event in the stream's dialect.
    ///
    /// Nothing is relayed afterwards and the state is [`StreamState::Failed`]. If the end of the answer was seen
    /// before, the state stays and nothing is returned.
    pub fn stop(&mut self, error: ErrorBody) -> Bytes {
        let mut out = Out::new(Bytes::new());
        if self.state == StreamState::Open {
            self.fail(error, &mut out);
        }
        self.close();
        out.take()
    }

    /// Ends the stream on the gateway's behalf with this error, which replaces the bytes that [`Self::feed`] returned last,
    /// even if they are the end of the answer. Returns the error event, as [`Self::stop`] does; what was counted stays counted.
    pub fn revoke(&mut self, error: ErrorBody) -> Bytes {
        let mut out = Out::new(Bytes::new());
        self.fail(error, &mut out);
        out.take()
    }

    /// Discards the incomplete event that is held, so that [`Self::finish`] does not relay it.
    pub fn drop_held(&mut self) {
        self.scanner = Scanner::new();
    }

    /// Hands out the generated text that was relayed since the last call, escapes decoded. Empty without
    /// [`Self::tallying`]. The end of the stream does not lose it.
    pub fn take_generated(&mut self) -> String {
        self.taken += self.generated.len() as u64;
        std::mem::take(&mut self.generated)
    }

    /// Bytes of generated text that were relayed, taken or not.
    pub fn generated_bytes(&self) -> u64 {
        self.taken + self.generated.len() as u64
    }

    /// Whether the provider has finished the answer but its usage may still follow.
    pub fn awaits_usage(&self) -> bool {
        self.state == StreamState::Open && self.seen.chat.finished && self.usage().is_none()
    }

    /// Bytes of sound and images that were relayed, as the events spell them.
    pub fn media_bytes(&self) -> u64 {
        self.media
    }

    /// Sets whether several answers are generated at the same time: one of them may then be finished before the others.
    #[must_use]
    pub fn with_several(self, several: bool) -> Self {
        Self { several, ..self }
    }

    /// Bytes that [`Self::take_generated`] would hand out.
    pub fn generated_pending(&self) -> usize {
        self.generated.len()
    }

    /// The provider's count of a finished answer; the last one when several events have a count.
    pub fn usage(&self) -> Option<Usage> {
        match self.kind {
            StreamKind::Chat => self.seen.chat.whole(self.several),
            StreamKind::Responses | StreamKind::Messages => self.seen.usage,
        }
    }

    /// The provider's count so far, where it reports one before the end: Anthropic counts the prompt, others prompt and output.
    pub fn usage_so_far(&self) -> Option<Usage> {
        match self.kind {
            StreamKind::Chat => self.seen.chat.so_far(),
            StreamKind::Responses | StreamKind::Messages => self.seen.counts.so_far(),
        }
    }

    /// The tier the provider says it served the request in.
    pub fn service_tier(&self) -> Option<ServiceTier> {
        self.seen.service_tier
    }

    /// The model the provider says it used.
    pub fn model(&self) -> Option<&str> {
        self.seen.model.as_deref()
    }

    /// How far the stream has come.
    pub fn state(&self) -> StreamState {
        self.state
    }

    /// Whether an event carried generated content: text, reasoning, a refusal, audio or a tool call.
    pub fn saw_first_token(&self) -> bool {
        self.seen.first_token
    }

    /// Number of events with a payload so far, including events that were not relayed.
    pub fn events(&self) -> u64 {
        self.seen.events
    }

    /// The error the stream ended with.
    pub fn error(&self) -> Option<&ErrorBody> {
        self.seen.error.as_ref()
    }

    /// Upstream bytes held because their event is not complete.
    pub fn held(&self) -> usize {
        self.scanner.held()
    }

    fn relay(&mut self, event: &RawEvent, out: &mut Out) {
        if let Some(like) = self.alike.as_mut().and_then(|alike| alike.matches(&event.raw)) {
            return self.relay_alike(&event.raw, &like, out);
        }
        let before = self.learns().then(|| self.before());
        let verdict = self.judge(event);
        if let Some(before) = before {
            self.learn(event, &verdict, before);
        }
        match verdict {
            EventVerdict::Pass => out.pass(&event.raw),
            EventVerdict::Drop => (),
            EventVerdict::Splice(range, new) => {
                out.write(&event.raw[..range.start]);
                out.write(&new);
                out.write(&event.raw[range.end..]);
            }
            EventVerdict::Replace(bytes) => out.write(&bytes),
            EventVerdict::Last => {
                out.pass(&event.raw);
                self.close();
            }
            EventVerdict::Fail(error) => self.fail(error, out),
        }
    }

    /// Whether an event may be learnt for later comparison: everything that is looked for once per stream has been found.
    fn learns(&self) -> bool {
        let plain = self.kind == StreamKind::Chat && self.calls.is_none() && !self.options.repair_tools;
        let knows = self.seen.first_token && self.seen.knows_model();
        plain && knows && self.state == StreamState::Open && self.alike.as_ref().is_none_or(|alike| alike.learns())
    }

    /// Learns an event that changed nothing but the text.
    fn learn(&mut self, event: &RawEvent, verdict: &EventVerdict, before: Before) {
        let cut = match verdict {
            EventVerdict::Pass => None,
            EventVerdict::Splice(range, new) if new.is_empty() => Some(range),
            _ => return,
        };
        if self.before() != before {
            return;
        }
        let read = |raw: &[u8]| {
            let mut text = String::new();
            (append_chunk(&event.with(raw).data()?, &mut text) == 0).then_some(text)
        };
        self.alike.get_or_insert_default().learn(&event.raw, read, cut);
    }

    fn before(&self) -> Before {
        (self.seen.chat.clone(), self.seen.service_tier, self.media, self.watched.len())
    }

    /// Relays an event that equals a learnt one except for its text.
    fn relay_alike(&mut self, raw: &Bytes, like: &Like, out: &mut Out) {
        self.seen.events += 1;
        if self.tallies
            && let Ok(text) = std::str::from_utf8(&raw[like.text.clone()])
        {
            self.generated.push_str(text);
        }
        match &like.cut {
            None => out.pass(raw),
            Some(cut) => {
                out.write(&raw[..cut.start]);
                out.write(&raw[cut.end..]);
            }
        }
    }

    fn judge(&mut self, event: &RawEvent) -> EventVerdict {
        let fields = event.fields();
        let Some(data) = fields.data.as_deref() else { return EventVerdict::Pass };
        self.seen.events += 1;
        if let Some(calls) = &mut self.calls {
            calls.event(data);
        }
        if self.watch && self.names_an_object(fields.event, data) {
            self.watched.push(data.to_vec());
        }
        match self.kind {
            StreamKind::Chat => {
                let verdict = self.chat(&fields, data);
                if self.tallies
                    && matches!(verdict, EventVerdict::Pass | EventVerdict::Splice(..) | EventVerdict::Replace(_))
                {
                    self.media += append_chunk(data, &mut self.generated);
                }
                verdict
            }
            StreamKind::Responses => self.responses(fields.event, data),
            StreamKind::Messages => self.messages(data),
        }
    }

    /// Whether an event may name an object of the provider: a cheap check with false positives.
    fn names_an_object(&self, name: Option<&[u8]>, data: &[u8]) -> bool {
        let holds = |word: &str| memchr::memmem::find(data, word.as_bytes()).is_some();
        match self.kind {
            // Every chunk has the id of the first.
            StreamKind::Chat => self.seen.events == 1 || holds("\"audio\""),
            StreamKind::Responses => match name {
                Some(name) => !name.ends_with(b".delta"),
                None => holds("\"id\"") || holds("_id\""),
            },
            StreamKind::Messages => holds("\"container\"") || holds("\"file_id\""),
        }
    }

    /// Relays the event behind the last empty line. An incomplete payload is left out, because it is useless to the client.
    fn relay_last(&mut self, event: &RawEvent, out: &mut Out) {
        if event.is_terminated() {
            return self.relay(event, out);
        }
        let whole = event.data().is_some_and(|data| is_json(&data) || is_done(&data));
        if whole {
            let before = out.len();
            self.relay(event, out);
            // The gateway's own error event is terminated already.
            if out.len() > before && self.seen.error.is_none() {
                out.write(if event.raw.ends_with(b"\n") { b"\n" } else { b"\n\n" });
            }
        }
    }

    /// Ends the stream with an error event.
    fn fail(&mut self, error: ErrorBody, out: &mut Out) {
        match self.kind {
            StreamKind::Chat => {
                out.write(b"data: ");
                out.write(&error.to_bytes());
                out.write(b"\n\n");
            }
            StreamKind::Responses => out.write(&responses_error_event(&error, self.seen.last_sequence)),
            StreamKind::Messages => out.write(&error_event(&error)),
        }
        self.seen.error = Some(error);
        self.state = StreamState::Failed;
        self.close();
    }

    fn close(&mut self) {
        self.closed = true;
        // Frees the buffers; the relay itself may live until the record is written.
        self.scanner = Scanner::new();
        self.tools = ToolCalls::default();
        self.alike = None;
    }
}

fn interrupted(reason: &str) -> ErrorBody {
    let message = format!("The stream was interrupted: {reason}.");
    ErrorBody::new(message, "server_error", Some("stream_interrupted"))
}

fn is_done(data: &[u8]) -> bool {
    trim(data).1.starts_with(b"[DONE]")
}

/// The number of white space bytes before `data`'s content, and `data` without the white space around it.
fn trim(data: &[u8]) -> (usize, &[u8]) {
    let start = data.iter().position(|byte| !is_space(*byte)).unwrap_or(data.len());
    let end = data.iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| last + 1);
    (start, &data[start..end])
}

/// Collects the bytes that one step sends. Adjacent parts of the incoming chunk stay one slice of it; only other bytes are
/// copied.
struct Out {
    chunk: Bytes,
    first: Bytes,
    copied: BytesMut,
}

impl Out {
    fn new(chunk: Bytes) -> Self {
        Self { chunk, first: Bytes::new(), copied: BytesMut::new() }
    }

    fn pass(&mut self, raw: &Bytes) {
        if self.copied.is_empty() {
            if self.first.is_empty() {
                self.first = raw.clone();
                return;
            }
            if let (Some((start, end)), Some((next, last))) = (self.within(&self.first), self.within(raw))
                && end == next
            {
                self.first = self.chunk.slice(start..last);
                return;
            }
        }
        self.write(raw);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.copied.is_empty() {
            self.copied.reserve(self.first.len() + bytes.len().max(self.chunk.len()));
            self.copied.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.copied.extend_from_slice(bytes);
    }

    fn len(&self) -> usize {
        self.first.len() + self.copied.len()
    }

    fn take(self) -> Bytes {
        if self.copied.is_empty() { self.first } else { self.copied.freeze() }
    }

    /// The byte range of the chunk that `part` is a slice of.
    fn within(&self, part: &Bytes) -> Option<(usize, usize)> {
        let start = (part.as_ptr() as usize).checked_sub(self.chunk.as_ptr() as usize)?;
        let end = start.checked_add(part.len())?;
        (end <= self.chunk.len()).then_some((start, end))
    }
}
