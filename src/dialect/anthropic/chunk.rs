//! The events that Anthropic streams, and the parts of the chunks that they become.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::reply::Annotation;
use super::usage::Usage;
use super::wire::{Count, Lenient, Text};

/// Any event, as far as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Event<'a> {
    #[serde(borrow)]
    pub(super) r#type: Text<'a>,
    pub(super) index: Count,
    #[serde(borrow)]
    pub(super) delta: Lenient<Delta<'a>>,
    #[serde(borrow)]
    pub(super) content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) message: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) r#type: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) partial_json: Text<'a>,
    #[serde(borrow)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow)]
    pub(super) signature: Text<'a>,
    #[serde(borrow)]
    pub(super) citation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) stop_reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Start<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) model: Text<'a>,
    #[serde(borrow)]
    pub(super) usage: Lenient<Usage<'a>>,
}

/// What every chunk says.
#[derive(Serialize)]
pub(super) struct Head<'a> {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
}

/// The first delta.
#[derive(Serialize)]
pub(super) struct Said {
    pub(super) role: &'static str,
    pub(super) content: &'static str,
}

#[derive(Serialize)]
pub(super) struct Content<'a> {
    pub(super) content: &'a str,
}

#[derive(Serialize)]
pub(super) struct Reasoning<'a> {
    pub(super) reasoning_content: &'a str,
}

#[derive(Serialize)]
pub(super) struct ThinkingBlocks {
    pub(super) thinking_blocks: Vec<Thought>,
}

/// A whole block of thinking.
#[derive(Serialize)]
pub(super) struct Thought {
    /// Its place among all of the answer, where others came before: by it the official SDKs put lists together that come in
    /// several chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<usize>,
    #[serde(flatten)]
    pub(super) block: ThoughtBlock,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ThoughtBlock {
    Thinking { thinking: String, signature: String },
    RedactedThinking { data: String },
}

#[derive(Serialize)]
pub(super) struct Annotations {
    pub(super) annotations: Vec<Annotation>,
}

#[derive(Serialize)]
pub(super) struct ToolCalls<'a> {
    pub(super) tool_calls: [ToolCall<'a>; 1],
}

#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    pub(super) index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#type: Option<&'static str>,
    pub(super) function: Function<'a>,
}

#[derive(Serialize)]
pub(super) struct FunctionCall<'a> {
    pub(super) function_call: Function<'a>,
}

#[derive(Serialize)]
pub(super) struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    pub(super) arguments: &'a str,
}

/// Appends a value as JSON.
pub(super) fn write(value: &impl Serialize, out: &mut BytesMut) {
    // Texts and numbers always serialise, and the buffer grows.
    let _ = serde_json::to_writer(out.writer(), value);
}
