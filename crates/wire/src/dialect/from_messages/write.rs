//! Messages replies and their events, in the form in which they are written.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::types::Usage;

/// A `message`: complete, or as `message_start` announces it.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub id: &'a str,
    pub r#type: &'static str,
    pub role: &'static str,
    pub model: &'a str,
    pub content: &'a [Block<'a>],
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<&'static str>,
    pub usage: Counts,
}

impl<'a> Message<'a> {
    /// A message that has neither content nor an end yet.
    pub(super) fn new(id: &'a str, model: &'a str) -> Self {
        let usage = Counts::from(Usage::default());
        let (content, stop_reason, stop_sequence) = (&[][..], None, None);
        Self { id, r#type: "message", role: "assistant", model, content, stop_reason, stop_sequence, usage }
    }
}

/// A content block: complete, or as `content_block_start` announces it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Text {
        text: &'a str,
    },
    /// The signature is empty for models that do not sign.
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: &'a RawValue,
    },
    RedactedThinking {
        data: &'a str,
    },
}

/// What a `content_block_delta` adds.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
    #[serde(rename = "citations_delta")]
    Citation { citation: &'a RawValue },
}

/// The payload of an event.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: Block<'a> },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop, usage: Counts },
    MessageStop {},
}

/// Why a message ended.
#[derive(Serialize)]
pub(super) struct Stop {
    pub stop_reason: &'static str,
    /// Always `None`: Chat Completions does not report which sequence ended the answer.
    pub stop_sequence: Option<&'static str>,
}

/// `usage`. `input_tokens` excludes tokens read from and written to the prompt cache.
#[derive(Serialize)]
pub(super) struct Counts {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation: Option<Creation>,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<Details>,
}

#[derive(Serialize)]
struct Creation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Serialize)]
struct Details {
    thinking_tokens: u64,
}

impl From<Usage> for Counts {
    fn from(usage: Usage) -> Self {
        let (short, long) = (usage.cache_write_tokens, usage.cache_write_1h_tokens);
        let written = short.saturating_add(long);
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens).saturating_sub(written),
            cache_creation_input_tokens: written,
            cache_read_input_tokens: usage.cached_tokens,
            cache_creation: (long > 0)
                .then_some(Creation { ephemeral_5m_input_tokens: short, ephemeral_1h_input_tokens: long }),
            output_tokens: usage.completion_tokens,
            output_tokens_details: (usage.reasoning_tokens > 0)
                .then_some(Details { thinking_tokens: usage.reasoning_tokens }),
        }
    }
}

impl Event<'_> {
    /// Appends the event.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let head: &[u8] = match self {
            Event::MessageStart { .. } => b"event: message_start\ndata: ",
            Event::ContentBlockStart { .. } => b"event: content_block_start\ndata: ",
            Event::ContentBlockDelta { .. } => b"event: content_block_delta\ndata: ",
            Event::ContentBlockStop { .. } => b"event: content_block_stop\ndata: ",
            Event::MessageDelta { .. } => b"event: message_delta\ndata: ",
            Event::MessageStop {} => b"event: message_stop\ndata: ",
        };
        out.extend_from_slice(head);
        // Texts, numbers and JSON values always serialise, and memory takes them all.
        let _ = serde_json::to_writer((&mut *out).writer(), self);
        out.extend_from_slice(b"\n\n");
    }
}
