//! Translates a complete reply.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use uuid::Uuid;

use super::{
    line::{Line, Logprobs, ToolCall},
    stream::Stream,
};
use crate::dialect::{
    Replies,
    chat::{ChatReader, Counted},
};

/// Translates Ollama's replies into Chat.
pub(super) struct Chat {
    model: Box<str>,
}

impl Chat {
    /// The translation of replies to a request to this model.
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.into() }
    }
}

impl Replies for Chat {
    fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        let line = Line::read(body).filter(|line| line.error().is_none() && !line.is_unfinished())?;
        let message = line.message.as_ref()?;
        let tool_calls = message.calls(None);
        let content = (!message.content.0.is_empty() || tool_calls.is_empty()).then_some(&*message.content.0);
        let finish_reason = line.finish_reason(!tool_calls.is_empty());
        let reply = Completion {
            head: Head {
                id: completion_id(),
                object: "chat.completion",
                created: now(),
                model: model(&line.model, &self.model),
            },
            choices: [CompletionChoice {
                index: 0,
                message: Answer {
                    role: "assistant",
                    content,
                    reasoning_content: &message.thinking.0,
                    tool_calls,
                    refusal: (),
                },
                logprobs: line.logprobs(),
                finish_reason,
            }],
            usage: line.usage(),
        };
        serde_json::to_vec(&reply).ok()
    }

    fn reader(&self) -> Box<dyn ChatReader> {
        Box::new(Stream::new(self.model.clone()))
    }
}

/// The first members of a reply.
#[derive(Serialize)]
struct Head<'a> {
    id: String,
    object: &'static str,
    /// In seconds since 1970.
    created: u64,
    model: &'a str,
}

/// A new id for an answer.
pub(super) fn completion_id() -> String {
    format!("chatcmpl-{}", Uuid::now_v7().simple())
}

/// The current time, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The model's name: the one that Ollama reports, otherwise the requested one.
pub(super) fn model<'a>(told: &'a str, asked: &'a str) -> &'a str {
    if told.is_empty() { asked } else { told }
}

#[derive(Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    choices: [CompletionChoice<'a>; 1],
    usage: Counted,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u32,
    message: Answer<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Answer<'a> {
    role: &'static str,
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    refusal: (),
}
