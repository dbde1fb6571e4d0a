//! A whole reply.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use uuid::Uuid;

use super::{
    line::{Line, Logprobs, Text, ToolCall, Usage},
    stream::Stream,
};
use crate::dialect::{Events, Replies};

/// Puts what Ollama answers into Chat's form.
pub(super) struct Chat {
    model: Box<str>,
}

impl Chat {
    /// For a request to this model.
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
            head: Head::new("chat.completion", &line.model, &self.model),
            choices: [Choice {
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

    fn events(&self) -> Box<dyn Events> {
        Box::new(Stream::new(self.model.clone()))
    }
}

/// What every reply and every chunk starts with.
#[derive(Serialize)]
pub(super) struct Head<'a> {
    id: String,
    object: &'static str,
    /// In seconds.
    created: u64,
    model: &'a str,
}

impl<'a> Head<'a> {
    /// A new one. The model is the one Ollama names, else the one that was asked for.
    pub(super) fn new(object: &'static str, told: &'a Text<'_>, asked: &'a str) -> Self {
        Self {
            id: format!("chatcmpl-{}", Uuid::now_v7().simple()),
            object,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: if told.0.is_empty() { asked } else { &told.0 },
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    choices: [Choice<'a>; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct Choice<'a> {
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
