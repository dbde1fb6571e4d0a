//! A reply as it comes in, whole or in chunks, and the response that it makes.
//!
//! ```text
//! waiting ──chunk──▶ running ── [DONE] | usage behind a finish_reason | clean end behind one ──▶ over (response.completed)
//!    └─────────error────┴────────────────────────────────────────────────────────────────────▶ over (error)
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::chunk::{self, Choice, Chunk, Delta};
use super::draft::Draft;
use super::item::Status;
use super::reply::Door;
use super::write::Numbered;
use crate::dialect::Events;
use crate::openai::{ErrorBody, find_usage};
use crate::types::Usage;

/// The longest part of a provider's id that ours are made of, in bytes: OpenAI takes ids of 64.
const LONGEST_ID: usize = 48;

/// A reply that comes in.
pub(super) struct Answer {
    door: Arc<Door>,
    id: String,
    created: Option<u64>,
    model: String,
    service_tier: Option<String>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    /// The output, from the first chunk on.
    draft: Option<Draft>,
    over: bool,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Whole,
    /// It lacks its end, for this reason in the words of the Responses API.
    Cut(&'static str),
    /// The provider gave up.
    Broken,
}

impl Finish {
    fn read(word: &str) -> Self {
        match word {
            "length" | "max_tokens" => Self::Cut("max_output_tokens"),
            "content_filter" => Self::Cut("content_filter"),
            // OpenRouter's and DeepSeek's words.
            "error" | "insufficient_system_resource" => Self::Broken,
            _ => Self::Whole,
        }
    }
}

impl Answer {
    /// A reply of which nothing came yet.
    pub(super) fn new(door: Arc<Door>) -> Self {
        Self {
            door,
            id: String::new(),
            created: None,
            model: String::new(),
            service_tier: None,
            usage: None,
            finish: None,
            draft: None,
            over: false,
        }
    }

    /// The response to a whole reply; `None` for a reply that is none.
    pub(super) fn whole(mut self, body: &[u8]) -> Option<Vec<u8>> {
        let body = body.trim_ascii();
        let chunk = Chunk::read(body)?;
        if chunk.may_be_error() && error_in(false, body).is_some() {
            return None;
        }
        let choice = chunk.choice()?;
        let message = choice.message()?;
        // The events that this writes are of no use.
        let mut events = BytesMut::new();
        self.head(&chunk, body);
        self.begin(&mut events);
        self.choice(choice, &message, &mut events);
        (self.finish != Some(Finish::Broken)).then(|| self.end(&mut events))?
    }

    /// What a chunk says about the reply as such.
    fn head(&mut self, chunk: &Chunk<'_>, json: &[u8]) {
        let fill = |known: &mut String, word: Option<Cow<'_, str>>| {
            if known.is_empty()
                && let Some(word) = word
            {
                *known = word.into_owned();
            }
        };
        if self.draft.is_none() {
            fill(&mut self.id, chunk::text(chunk.id));
            let created = chunk.created.and_then(|created| created.get().parse::<f64>().ok());
            // `as` saturates.
            self.created = self.created.or(created.map(|seconds| seconds as u64).filter(|seconds| *seconds > 0));
        }
        if self.model.is_empty() {
            fill(&mut self.model, chunk::text(chunk.model));
        }
        if let Some(tier) = chunk::text(chunk.service_tier) {
            self.service_tier = Some(tier.into_owned());
        }
        if chunk.may_have_usage() {
            self.usage = find_usage(json).or(self.usage);
        }
    }

    /// Announces the response.
    fn begin(&mut self, out: &mut BytesMut) {
        if self.draft.is_some() {
            return;
        }
        let known = |byte: &char| byte.is_ascii_alphanumeric() || matches!(byte, '_' | '-');
        let own = self.id.strip_prefix("chatcmpl-").unwrap_or(&self.id);
        self.id = own.chars().filter(known).take(LONGEST_ID).collect();
        // Some providers count from one, or draw from a thousand.
        if self.id.is_empty() || self.door.kept {
            self.id = (self.door.source.id)();
        }
        self.created.get_or_insert_with(self.door.source.now);
        let mut draft = Draft::new(Arc::clone(&self.door), self.id.clone());
        let response = self.response(Status::InProgress, None, &[]);
        draft.events.response("response.created", &response, out);
        draft.events.response("response.in_progress", &response, out);
        self.draft = Some(draft);
    }

    /// What a chunk adds to the answer.
    fn choice(&mut self, choice: &Choice<'_>, delta: &Delta<'_>, out: &mut BytesMut) {
        let Some(draft) = &mut self.draft else { return };
        if let Some(text) = delta.reasoning() {
            draft.think(&text, out);
        }
        if delta.thinking_blocks.is_some() {
            draft.sign(values(delta.thinking_blocks), out);
        }
        match chunk::text(delta.content) {
            Some(text) => draft.say(&text, choice.logprobs(), out),
            // Mistral's parts.
            None => values(delta.content).iter().for_each(|part| say_part(draft, part, out)),
        }
        if let Some(text) = chunk::text(delta.refusal) {
            draft.refuse(&text, out);
        }
        values(delta.annotations).into_iter().for_each(|annotation| draft.annotate(annotation, out));
        delta.calls().iter().for_each(|piece| draft.call(piece, out));
        if let Some(word) = choice.finish_reason() {
            self.finish = Some(Finish::read(&word));
        }
    }

    /// Closes the output, writes the last event and gives the response.
    fn end(&mut self, out: &mut BytesMut) -> Option<Vec<u8>> {
        self.over = true;
        let mut draft = self.draft.take()?;
        let (kind, status, reason) = match self.finish {
            Some(Finish::Cut(reason)) => ("response.incomplete", Status::Incomplete, Some(reason)),
            _ => ("response.completed", Status::Completed, None),
        };
        draft.close(reason.is_some(), out);
        let response = self.response(status, reason, &draft.output());
        draft.events.response(kind, &response, out);
        Some(response)
    }

    fn response(&self, status: Status, reason: Option<&'static str>, output: &[&RawValue]) -> Vec<u8> {
        let created_at = self.created.unwrap_or(0);
        let completed_at = (status == Status::Completed).then(|| (self.door.source.now)().max(created_at));
        let ended = status != Status::InProgress;
        let head = Response {
            id: format!("resp_{}", self.id),
            object: "response",
            created_at,
            status,
            completed_at,
            error: (),
            incomplete_details: reason.map(|reason| Details { reason }),
            model: if self.model.is_empty() { &self.door.model } else { &self.model },
            output,
            service_tier: self.service_tier.as_deref(),
            usage: self.usage.filter(|_| ended).map(Counts::from),
        };
        // Texts, numbers and JSON always serialise.
        let mut json = serde_json::to_vec(&head).unwrap_or_default();
        json.pop();
        json.push(b',');
        json.extend_from_slice(self.door.echo.get(1..).unwrap_or_default());
        json
    }

    fn fail(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        self.over = true;
        match self.draft.take() {
            Some(mut draft) => draft.events.error(error, out),
            None => Numbered::default().error(error, out),
        }
    }
}

impl Events for Answer {
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        if self.over {
            return;
        }
        let payload = data.trim_ascii();
        if payload.starts_with(b"[DONE]") {
            self.end(out);
            return;
        }
        let named_error = name == Some(b"error");
        let chunk = Chunk::read(payload);
        if (named_error || chunk.as_ref().is_none_or(Chunk::may_be_error))
            && let Some(error) = error_in(named_error, payload)
        {
            self.fail(&error, out);
            return;
        }
        let Some(chunk) = chunk else { return };
        self.head(&chunk, payload);
        let choice = chunk.choice();
        if choice.is_some() || !self.id.is_empty() {
            self.begin(out);
        }
        match choice {
            Some(choice) => self.choice(choice, &choice.delta(), out),
            // The count comes last. Some providers count in every chunk.
            None if self.finish.is_some() && self.usage.is_some() => {
                self.end(out);
            }
            None => {}
        }
        if self.finish == Some(Finish::Broken) {
            self.fail(&gave_up(), out);
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if !self.over && self.finish.is_some() {
            self.end(out);
        }
    }
}

/// A part of a content that is a list: text, or thinking that holds texts itself.
fn say_part(draft: &mut Draft, part: &Value, out: &mut BytesMut) {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if part.get("type").is_some_and(|kind| kind == "thinking") {
        let thinking = match part.get("thinking") {
            Some(Value::Array(parts)) => parts.iter().map(|part| text(part, "text")).collect(),
            _ => text(part, "thinking"),
        };
        if !thinking.is_empty() {
            draft.think(&thinking, out);
        }
        return;
    }
    let (said, refused) = (text(part, "text"), text(part, "refusal"));
    if !said.is_empty() {
        draft.say(&said, Vec::new(), out);
    }
    if !refused.is_empty() {
        draft.refuse(&refused, out);
    }
}

fn values(list: Option<&RawValue>) -> Vec<Value> {
    list.and_then(|list| serde_json::from_str(list.get()).ok()).unwrap_or_default()
}

/// The error that a payload is, in any of the known shapes.
fn error_in(named_error: bool, payload: &[u8]) -> Option<ErrorBody> {
    let value = serde_json::from_slice::<Value>(payload).ok();
    if let Some(error) = value.as_ref().and_then(|value| ErrorBody::read(500, value)) {
        return Some(error);
    }
    // vLLM's older object bears no wrapper.
    let object = value.as_ref().and_then(Value::as_object);
    let is = |key: &str| object.is_some_and(|object| object.get(key).is_some_and(|word| word == "error"));
    match object {
        Some(object) if named_error || ((is("object") || is("type")) && object.contains_key("message")) => {
            Some(ErrorBody::from_object(500, object))
        }
        _ => named_error.then(gave_up),
    }
}

fn gave_up() -> ErrorBody {
    ErrorBody::new("The provider ended the stream with an error.", "server_error", None)
}

/// The members of a response that the reply decides.
#[derive(Serialize)]
struct Response<'a> {
    id: String,
    object: &'static str,
    created_at: u64,
    status: Status,
    completed_at: Option<u64>,
    error: (),
    incomplete_details: Option<Details>,
    model: &'a str,
    output: &'a [&'a RawValue],
    service_tier: Option<&'a str>,
    usage: Option<Counts>,
}

#[derive(Serialize)]
struct Details {
    reason: &'static str,
}

#[derive(Serialize)]
struct Counts {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
    /// Only where there are some: OpenAI does not have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_1h_tokens: Option<u64>,
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for Counts {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: usage.cache_write_tokens,
                cache_write_1h_tokens: Some(usage.cache_write_1h_tokens).filter(|tokens| *tokens > 0),
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.total_tokens(),
        }
    }
}
