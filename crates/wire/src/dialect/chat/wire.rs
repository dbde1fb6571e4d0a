//! Chat replies and chunks as every "OpenAI-compatible" provider sends them: a member of an unexpected type is read as absent,
//! so that the other members are still read. Texts without escapes are borrowed.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess};
use serde_json::value::RawValue;

use super::event::{Counted, Details, Head, Listed, Logprob, Thought, ThoughtBlock};
use crate::openai::lenient::{self, Count, FromAny, Lenient, List, Maybe, Text};
use crate::openai::{ErrorBody, find_error, find_usage, read_error};

/// A complete reply, or a chunk of one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct Chunk<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    service_tier: Text<'a>,
    #[serde(borrow)]
    choices: List<Choice<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Groq's place for usage.
    #[serde(borrow)]
    x_groq: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
}

impl<'a> Chunk<'a> {
    /// A chunk or a reply; `None` for anything that is not an object.
    pub(in crate::dialect) fn read(json: &'a [u8]) -> Option<Self> {
        // serde would read a list as the members in their order.
        json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
    }

    /// Whether the chunk reports an error in any of the known shapes. vLLM's older error object has no wrapper.
    fn is_error(&self) -> bool {
        let says_something = |error: &RawValue| !matches!(error.get(), "null" | "false" | "\"\"" | "{}" | "[]");
        self.error.is_some_and(says_something) || &*self.object == "error" || &*self.r#type == "error"
    }

    /// The chunk's head, for use in front of the first piece of the answer.
    pub(in crate::dialect) fn head(&self) -> Head<'_> {
        let created = self.created.and_then(|created| created.get().parse::<f64>().ok());
        // `as` saturates.
        let created = created.map(|seconds| seconds as u64).filter(|seconds| *seconds > 0);
        Head { created, ..self.later_head() }
    }

    /// The chunk's head once the answer has begun: `created` is no longer needed.
    pub(super) fn later_head(&self) -> Head<'_> {
        Head { id: &self.id, created: None, model: &self.model, service_tier: &self.service_tier }
    }

    /// The chunk's usage; `json` is the chunk's text.
    pub(in crate::dialect) fn usage(&self, json: &[u8]) -> Option<Counted> {
        let usage = (self.usage.is_some() || self.x_groq.is_some()).then(|| find_usage(json))??;
        Some(Counted { usage, details: Details::All })
    }

    /// The pieces of the answer. Only one answer was asked for, so choices of another index are ignored.
    pub(super) fn answer(&self) -> impl Iterator<Item = &Choice<'a>> {
        self.choices.0.iter().filter(|choice| choice.index.0.unwrap_or_default() == 0)
    }

    /// The answer of a complete reply, whatever its index; `None` where the provider failed.
    pub(in crate::dialect) fn whole_answer(&self) -> Option<(&Choice<'a>, Message<'a>)> {
        let choice = self.answer().next().or(self.choices.0.first())?;
        let message: Maybe<Message<'_>> = serde_json::from_str(choice.message?.get()).ok()?;
        Some((choice, message.0?)).filter(|_| !self.is_error() && !choice.is_broken())
    }
}

/// The error that a payload reports; `chunk` is the parsed payload, if it could be parsed.
pub(super) fn error_in(is_named_error: bool, payload: &[u8], chunk: Option<&Chunk<'_>>) -> Option<ErrorBody> {
    /// The status used for an error within a stream, which has none.
    const STATUS: u16 = 500;
    match chunk {
        Some(chunk) => (is_named_error || chunk.is_error()).then(|| read_error(STATUS, None, payload)),
        // Gemini sends a list with the error.
        None => find_error(STATUS, payload).or_else(|| is_named_error.then(gave_up)),
    }
}

/// The error for a provider that ended the stream with an error but without details.
pub(in crate::dialect) fn gave_up() -> ErrorBody {
    ErrorBody::new("The provider ended the stream with an error.", "server_error", None)
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct Choice<'a> {
    index: Count,
    /// The message's piece in a chunk.
    #[serde(borrow)]
    pub(super) delta: Maybe<Message<'a>>,
    /// A [`Message`] in a complete reply. Some providers also send it in chunks, where it is ignored.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    logprobs: Lenient<Logprobs<'a>>,
    #[serde(borrow)]
    pub finish_reason: Text<'a>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Logprobs<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

impl<'a> Choice<'a> {
    /// The log probabilities of the content's tokens.
    pub(super) fn logprobs(&self) -> Option<Listed<'a, Logprob<'a>>> {
        self.logprobs.0.content.map(Listed::Json)
    }

    /// Whether the provider failed, as OpenRouter's `finish_reason` reports it.
    pub(super) fn is_broken(&self) -> bool {
        &*self.finish_reason == "error"
    }
}

/// A message or a piece of one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct Message<'a> {
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub refusal: Text<'a>,
    #[serde(borrow)]
    reasoning_content: Text<'a>,
    /// The reasoning under the name that Groq, OpenRouter and newer vLLMs use.
    #[serde(borrow)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    pub thinking_blocks: Option<&'a RawValue>,
    #[serde(borrow)]
    pub annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    pub tool_calls: List<ToolCall<'a>>,
    /// The deprecated predecessor of `tool_calls`.
    #[serde(borrow)]
    function_call: Maybe<Function<'a>>,
}

impl<'a> Message<'a> {
    /// The text of the message's thinking. A provider that sends both names sends the same text twice.
    pub(in crate::dialect) fn reasoning(&self) -> &str {
        if self.reasoning_content.is_empty() { &self.reasoning } else { &self.reasoning_content }
    }

    /// The call of a deprecated function, unless the message also has tool calls, which it would repeat.
    pub(in crate::dialect) fn function_call(&self) -> Option<&Function<'a>> {
        self.function_call.0.as_ref().filter(|_| self.tool_calls.0.is_empty())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct ToolCall<'a> {
    pub index: Count,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub function: Maybe<Function<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct Function<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl<'a> Function<'a> {
    /// The text of the arguments; some providers send an object instead of a text.
    pub(in crate::dialect) fn arguments(&self) -> Cow<'a, str> {
        match self.arguments.map(RawValue::get) {
            None => Cow::Borrowed(""),
            Some(text) if text.starts_with('"') => serde_json::from_str::<Text<'a>>(text).unwrap_or_default().0,
            Some(text) => Cow::Borrowed(text),
        }
    }
}

/// The content of a message.
#[derive(Default)]
pub(in crate::dialect) enum Content<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// Text.
    Text(Cow<'a, str>),
    /// Mistral's list of parts.
    Parts(Vec<Part<'a>>),
}

impl Content<'_> {
    /// All text of the content.
    pub(in crate::dialect) fn text(&self) -> Cow<'_, str> {
        match self {
            Content::Nothing => Cow::Borrowed(""),
            Content::Text(text) => Cow::Borrowed(text),
            Content::Parts(parts) => parts.iter().map(|part| &*part.text).collect(),
        }
    }
}

impl<'de: 'a, 'a> FromAny<'de> for Content<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self::Text(text)
    }

    fn from_seq<A: SeqAccess<'de>>(seq: A) -> Result<Self, A::Error> {
        List::from_seq(seq).map(|parts| Self::Parts(parts.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::any(deserializer)
    }
}

/// A part of a content: `text`, `refusal`, or `thinking` with parts of its own.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(in crate::dialect) struct Part<'a> {
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub refusal: Text<'a>,
    #[serde(borrow)]
    pub thinking: Content<'a>,
}

/// A member of `thinking_blocks`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ThinkingBlock<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    thinking: Text<'a>,
    #[serde(borrow)]
    signature: Text<'a>,
    #[serde(borrow)]
    data: Text<'a>,
}

impl<'a> ThinkingBlock<'a> {
    fn known(self) -> Option<ThoughtBlock<'a>> {
        match &*self.r#type {
            "redacted_thinking" => Some(ThoughtBlock::RedactedThinking { data: self.data.0 }),
            "thinking" => Some(ThoughtBlock::Thinking { thinking: self.thinking.0, signature: self.signature.0 }),
            _ => None,
        }
    }
}

impl<'a> Listed<'a, Thought<'a>> {
    /// The blocks of known types.
    pub(in crate::dialect) fn blocks(&self) -> Vec<ThoughtBlock<'a>> {
        match self {
            Self::Json(json) => blocks(json),
            Self::Made(all) => all.iter().map(|thought| thought.block.clone()).collect(),
        }
    }
}

/// The blocks of known types in a `thinking_blocks`.
pub(in crate::dialect) fn blocks(json: &RawValue) -> Vec<ThoughtBlock<'_>> {
    let all: List<ThinkingBlock<'_>> = serde_json::from_str(json.get()).unwrap_or_default();
    all.0.into_iter().filter_map(ThinkingBlock::known).collect()
}
