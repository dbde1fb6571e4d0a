//! Builds a response from a reply that comes complete or in chunks.
//!
//! ```text
//! waiting ──id | begin──▶ running ──end──▶ over (response.completed)
//!    └─────────error─────────┴──error───▶ over (error)
//! ```

use std::sync::Arc;

use bytes::BytesMut;
use serde::Serialize;
use serde_json::value::RawValue;

use super::draft::Draft;
use super::item::Status;
use super::reply::Door;
use super::write::Numbered;
use crate::dialect::chat::wire::{Chunk, gave_up};
use crate::dialect::chat::{CallPiece, ChatEvent, ChatOut, ChatWriter, Head, Listed, Logprob, Piece};
use crate::openai::ErrorBody;
use crate::types::Usage;

/// The number given to the call of a deprecated `function_call`: there is only one, and it has no number.
const LEGACY: u64 = u64::MAX;

/// Most bytes of a provider's id that are used in the gateway's ids: OpenAI accepts ids of 64 bytes.
const LONGEST_ID: usize = 48;

/// A reply while it is received.
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
    /// The answer is incomplete, for this reason in the words of the Responses API.
    Cut(&'static str),
    /// The provider gave up.
    Broken,
}

impl Finish {
    fn read(word: &str) -> Self {
        match word {
            "length" | "max_tokens" => Self::Cut("max_output_tokens"),
            "content_filter" => Self::Cut("content_filter"),
            // DeepSeek's word.
            "insufficient_system_resource" => Self::Broken,
            _ => Self::Whole,
        }
    }
}

impl Answer {
    /// A reply of which nothing has come yet.
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

    /// The response for a complete reply; `None` for a body that is not a reply or reports an error.
    pub(super) fn whole(mut self, body: &[u8]) -> Option<Vec<u8>> {
        let body = body.trim_ascii();
        let chunk = Chunk::read(body)?;
        let (choice, message) = chunk.whole_answer()?;
        // The events that are written here are discarded.
        let mut events = BytesMut::new();
        let mut out = ChatOut { writer: &mut self, text: &mut events };
        out.tell(ChatEvent::Head(chunk.head()));
        if let Some(counted) = chunk.usage(body) {
            out.tell(ChatEvent::Usage(counted));
        }
        out.tell(ChatEvent::Begin);
        choice.tell(Some(&message), &mut out);
        self.end(&mut events)
    }

    /// Takes the id, model and other members that describe the reply as a whole.
    fn head(&mut self, head: &Head<'_>, out: &mut BytesMut) {
        if self.draft.is_none() {
            if self.id.is_empty() {
                head.id.clone_into(&mut self.id);
            }
            self.created = self.created.or(head.created);
        }
        if self.model.is_empty() {
            head.model.clone_into(&mut self.model);
        }
        if !head.service_tier.is_empty() {
            self.service_tier = Some(head.service_tier.to_owned());
        }
        if !self.id.is_empty() {
            self.begin(out);
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
        // A stored response needs a unique id, but some providers number replies from one, or choose from a thousand ids.
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

    /// Adds a piece to the answer.
    fn piece(&mut self, piece: Piece<'_>, logprobs: Option<Listed<'_, Logprob<'_>>>, out: &mut BytesMut) {
        let Some(draft) = &mut self.draft else { return };
        match piece {
            Piece::Nothing => {}
            Piece::Text(text) => {
                draft.say(text, logprobs.map(|logprobs| logprobs.values()).unwrap_or_default(), out);
            }
            Piece::Reasoning(text) => draft.think(text, out),
            Piece::Thoughts { blocks, .. } => draft.sign(blocks.values(), out),
            Piece::Refusal(text) => draft.refuse(text, out),
            Piece::Annotations(all) => all.values().into_iter().for_each(|annotation| draft.annotate(annotation, out)),
            Piece::Calls(calls) => calls.iter().for_each(|call| draft.call(call, out)),
            Piece::Function(call) => draft.call(&CallPiece { index: Some(LEGACY), ..call }, out),
        }
    }

    /// Closes the output, writes the last event and returns the response.
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

impl ChatWriter for Answer {
    fn event(&mut self, event: ChatEvent<'_>, out: &mut BytesMut) {
        match event {
            _ if self.over => {}
            ChatEvent::Delta { piece, logprobs } => self.piece(piece, logprobs, out),
            ChatEvent::Head(head) => self.head(&head, out),
            ChatEvent::Begin => self.begin(out),
            ChatEvent::Finish(word) => match Finish::read(word) {
                Finish::Broken => self.fail(&gave_up(), out),
                finish => self.finish = Some(finish),
            },
            ChatEvent::Usage(counted) => self.usage = Some(counted.usage),
            ChatEvent::Error(error) => self.fail(error, out),
            ChatEvent::Ping => {}
            ChatEvent::End => drop(self.end(out)),
        }
    }
}

/// The members of a response that depend on the reply.
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
    /// An extension that OpenAI does not have; only written where it is not 0.
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
