//! Chat completions and legacy completions, as every "OpenAI-compatible" provider streams them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{EventVerdict, Seen, StreamRelay, StreamState, is_done, trim};
use crate::openai::error::ErrorBody;
use crate::openai::locate::{Depths, hits, member_cut, skip_space, top_level};
use crate::openai::usage::{find_service_tier, find_usage};
use crate::sse::{Fields, data_event};
use crate::types::Usage;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"choices\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));
static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"finish_reason\""));

/// Events in which the model's name is looked for; providers give it in the first or second.
const MODEL_WITHIN: u64 = 4;

/// The usage that a stream of chunks reports. Some providers report it in every chunk: then it counts what was generated so
/// far, and is the whole count only where the answer is finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatUsage {
    last: Option<Usage>,
    standing: Standing,
    /// A choice has got its `finish_reason`.
    pub(super) finished: bool,
    /// The stream has come to its end.
    pub(super) done: bool,
}

/// Which kind of chunk the last count came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// A chunk that continues an answer.
    #[default]
    Running,
    /// The chunk that finishes an answer, or a later one.
    Finished,
    /// A chunk without an answer.
    Alone,
}

impl ChatUsage {
    /// Reads the payload of one event.
    pub fn read(&mut self, payload: &[u8]) {
        self.done |= is_done(payload);
        self.note(payload);
    }

    /// Notes the usage that a chunk reports; true if it reports one.
    fn note(&mut self, payload: &[u8]) -> bool {
        if !self.finished {
            // choices[].finish_reason is at depth 3.
            let mut depths = Depths::of(payload);
            self.finished = hits(payload, &FINISH_REASON)
                .any(|hit| payload[hit.value_at] == b'"' && depths.at(hit.key_at) == Some(3));
        }
        let Some(usage) = find_usage(payload) else { return false };
        self.last = Some(usage);
        let answers = top_level(payload, &CHOICES).is_some_and(|hit| !is_empty_list(&payload[hit.value_at..]));
        self.standing = match (answers, self.finished) {
            (false, _) => Standing::Alone,
            (true, true) => Standing::Finished,
            (true, false) => Standing::Running,
        };
        true
    }

    /// The whole count; `None` before it has come. Set `several` when the request has more than one answer: one of them may be
    /// finished while others continue.
    pub fn whole(&self, several: bool) -> Option<Usage> {
        let is_whole = match self.standing {
            Standing::Running => false,
            Standing::Finished => self.done || !several,
            Standing::Alone => self.done || self.finished,
        };
        self.last.filter(|_| is_whole)
    }

    /// The latest count. More may have been generated since.
    pub fn so_far(&self) -> Option<Usage> {
        self.last.filter(|usage| usage.prompt_tokens > 0)
    }
}

impl Seen {
    /// The model's name is known, or is no longer looked for.
    pub(super) fn knows_model(&self) -> bool {
        self.model.is_some() || self.events > MODEL_WITHIN
    }
}

impl StreamRelay {
    pub(super) fn chat(&mut self, fields: &Fields<'_>, data: &[u8]) -> EventVerdict {
        let (before, payload) = trim(data);
        if payload.starts_with(b"[DONE]") {
            self.state = StreamState::Complete;
            self.seen.chat.done = true;
            return EventVerdict::Last;
        }
        let named_error = fields.event == Some(b"error");
        if named_error || may_be_error(payload) {
            let error = error_in(payload).or_else(|| named_error.then(|| ErrorBody::of_event(payload)));
            if let Some(error) = error {
                return EventVerdict::Fail(error);
            }
        }
        self.read_chunk(payload);
        let repaired = if self.options.repair_tools { self.tools.repair(payload) } else { None };
        let usage = match self.options.hide_usage {
            true => added_usage(repaired.as_deref().unwrap_or(payload)),
            false => Added::Nothing,
        };
        // The range of the payload to replace, and its replacement.
        let (range, new) = match (repaired, usage) {
            (_, Added::Chunk) => return EventVerdict::Drop,
            (None, Added::Nothing) => return EventVerdict::Pass,
            (None, Added::Member(range)) => (range, Vec::new()),
            (Some(new), Added::Nothing) => (0..payload.len(), new),
            (Some(mut new), Added::Member(range)) => {
                new.drain(range);
                (0..payload.len(), new)
            }
        };
        let range = before + range.start..before + range.end;
        match fields.data_at {
            Some(at) => EventVerdict::Splice(at + range.start..at + range.end, new),
            None => {
                let mut whole = data.to_vec();
                whole.splice(range, new);
                EventVerdict::Replace(data_event(&whole))
            }
        }
    }

    fn read_chunk(&mut self, payload: &[u8]) {
        let seen = &mut self.seen;
        let counts = seen.chat.note(payload);
        if (seen.service_tier.is_none() || counts)
            && let Some(tier) = find_service_tier(payload)
        {
            seen.service_tier = Some(tier);
        }
        if !seen.first_token || !seen.knows_model() {
            let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(payload) else { return };
            seen.first_token |= chunk.choices.iter().flatten().any(DeltaChoice::has_content);
            if seen.model.is_none() {
                seen.model = chunk.model.filter(|model| !model.is_empty()).map(Cow::into_owned);
            }
        }
    }
}

impl ErrorBody {
    /// The error in the payload of an event that is named `error`.
    fn of_event(payload: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(payload) {
            Ok(Value::Object(object)) if !object.is_empty() => Self::from_object(500, &object),
            _ => {
                let text: String = String::from_utf8_lossy(payload).chars().take(500).collect();
                let message =
                    if text.is_empty() { "The provider ended the stream with an error.".into() } else { text };
                Self::new(message, "server_error", None)
            }
        }
    }
}

/// Whether `"error"` occurs as a key whose value is not null, or as a value. Generated text cannot match: inside a string the
/// quotes are escaped.
fn may_be_error(payload: &[u8]) -> bool {
    ERROR.find_iter(payload).any(|at| {
        let colon = skip_space(payload, at + ERROR.needle().len());
        payload.get(colon) != Some(&b':') || !payload[skip_space(payload, colon + 1)..].starts_with(b"null")
    })
}

/// The error in a payload of any of the known shapes.
fn error_in(payload: &[u8]) -> Option<ErrorBody> {
    let value: Value = serde_json::from_slice(payload).ok()?;
    // OpenRouter sends a chunk with choices and a top-level error.
    if let Some(error) = ErrorBody::read(500, &value) {
        return Some(error);
    }
    let object = value.as_object()?;
    // vLLM's older bare object.
    let is = |key: &str| object.get(key).and_then(Value::as_str) == Some("error");
    if (is("object") || is("type")) && object.contains_key("message") {
        return Some(ErrorBody::from_object(500, object));
    }
    let choices = object.get("choices").and_then(Value::as_array)?;
    let failed = |choice: &Value| choice.get("finish_reason").and_then(Value::as_str) == Some("error");
    choices
        .iter()
        .any(failed)
        .then(|| ErrorBody::new("The provider ended the stream with an error.", "server_error", None))
}

/// What a chunk contains only because the gateway itself set `include_usage`.
enum Added {
    Nothing,
    /// The whole chunk.
    Chunk,
    /// The `usage` member: its byte range, including one comma.
    Member(Range<usize>),
}

fn added_usage(payload: &[u8]) -> Added {
    let mut depths = Depths::of(payload);
    let no_choices =
        hits(payload, &CHOICES).any(|hit| is_empty_list(&payload[hit.value_at..]) && depths.at(hit.key_at) == Some(1));
    if no_choices {
        return Added::Chunk;
    }
    let Some(hit) = top_level(payload, &USAGE) else { return Added::Nothing };
    if payload[hit.value_at] == b'{' && CHOICES.find(payload).is_none() {
        return Added::Chunk;
    }
    member_cut(payload, hit).map_or(Added::Nothing, |(start, end)| Added::Member(start..end))
}

fn is_empty_list(value: &[u8]) -> bool {
    match value.first() {
        Some(b'[') => value.get(skip_space(value, 1)) == Some(&b']'),
        _ => value.starts_with(b"null"),
    }
}

/// The members of a chunk that show its model and whether something was generated.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    choices: Option<Vec<DeltaChoice<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DeltaChoice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

impl DeltaChoice<'_> {
    fn has_content(&self) -> bool {
        let some = |value: Option<&RawValue>| value.is_some_and(|v| !matches!(v.get(), "null" | "\"\"" | "[]" | "{}"));
        let delta = self.delta.as_ref().is_some_and(|d| {
            let all = [d.content, d.reasoning_content, d.reasoning, d.refusal, d.tool_calls, d.function_call, d.audio];
            all.into_iter().any(some)
        });
        delta || some(self.text)
    }
}
