//! The typed events of a Chat stream, borrowed from the provider's events.

use std::borrow::Cow;

use bytes::BytesMut;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Serialize as Derive};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::openai::ErrorBody;
use crate::openai::lenient::Text;
use crate::types::Usage;

/// Reads a provider's stream. Each provider event becomes any number of chat events at once.
///
/// A reader never panics on any input; input that is not understood becomes no event. [`ChatEvent::Error`] and
/// [`ChatEvent::End`] end a stream: nothing follows them. A stream that is cut off gets no end.
pub trait ChatReader: Send + Sync {
    /// Reads one provider event, given as its payload and its name where it has one.
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut ChatOut<'_>);

    /// Called when the body ended as its framing said: emits the end if only the end marker is missing.
    fn finish(&mut self, out: &mut ChatOut<'_>);
}

/// Writes a stream in the client's dialect.
pub trait ChatWriter: Send + Sync {
    /// Appends this chat event to `out` as any number of complete server-sent events.
    fn event(&mut self, event: ChatEvent<'_>, out: &mut BytesMut);
}

/// Where a reader sends its events: the writer, and the bytes that it has written.
pub struct ChatOut<'a> {
    /// Writes each event.
    pub writer: &'a mut dyn ChatWriter,
    /// The written bytes.
    pub text: &'a mut BytesMut,
}

impl ChatOut<'_> {
    /// Passes an event to the writer.
    pub fn tell(&mut self, event: ChatEvent<'_>) {
        self.writer.event(event, self.text);
    }

    /// Passes a piece of the answer without log probabilities to the writer.
    pub fn add(&mut self, piece: Piece<'_>) {
        self.tell(ChatEvent::Delta { piece, logprobs: None });
    }
}

/// One event of a Chat stream. `Head` and `Usage` may come any number of times; the last one counts.
#[derive(Clone, Copy)]
pub enum ChatEvent<'a> {
    /// The members that describe the answer as a whole.
    Head(Head<'a>),
    /// The answer begins: comes once, after a head and before the first piece.
    Begin,
    /// Something is added to the answer.
    Delta {
        /// What is added.
        piece: Piece<'a>,
        /// Log probabilities of the tokens of the piece.
        logprobs: Option<Listed<'a, Logprob<'a>>>,
    },
    /// Why the answer ended, in Chat's words.
    Finish(&'a str),
    /// The counts so far.
    Usage(Counted),
    /// The provider failed.
    Error(&'a ErrorBody),
    /// The provider is alive.
    Ping,
    /// The stream ended regularly.
    End,
}

/// The members that describe an answer as a whole. Absent texts are empty.
#[derive(Clone, Copy, Default)]
pub struct Head<'a> {
    /// The id of the completion.
    pub id: &'a str,
    /// When the answer was created, in seconds since 1970.
    pub created: Option<u64>,
    /// The model that answers.
    pub model: &'a str,
    /// The service tier that serves the request.
    pub service_tier: &'a str,
}

/// A piece that is added to an answer. Texts are not empty.
#[derive(Clone, Copy)]
pub enum Piece<'a> {
    /// Nothing but log probabilities.
    Nothing,
    /// Text of the answer.
    Text(&'a str),
    /// Text of the thinking.
    Reasoning(&'a str),
    /// Anthropic's blocks of thinking.
    Thoughts {
        /// The blocks. A signed block is complete.
        blocks: Listed<'a, Thought<'a>>,
        /// The same chunk had reasoning, which the text of a block without a signature repeats.
        beside_reasoning: bool,
    },
    /// Text of a refusal.
    Refusal(&'a str),
    /// References of the text to pages.
    Annotations(Listed<'a, Annotation>),
    /// Pieces of tool calls.
    Calls(&'a [CallPiece<'a>]),
    /// A piece of the call of a deprecated function; an answer has at most one such call.
    Function(CallPiece<'a>),
}

/// A piece of a call.
#[derive(Clone, Copy, Default)]
pub struct CallPiece<'a> {
    /// The provider's number for the call.
    pub index: Option<u64>,
    /// The call's id; empty where the piece does not have it.
    pub id: &'a str,
    /// The function's name, where the piece has it.
    pub name: Option<&'a str>,
    /// A piece of the arguments, as JSON text.
    pub arguments: &'a str,
}

/// A list within a piece: either JSON as a provider sent it, or values made by a reader.
pub enum Listed<'a, T> {
    /// JSON of any form, not validated.
    Json(&'a RawValue),
    /// Values made by a reader.
    Made(&'a [T]),
}

/// A member of `thinking_blocks`.
#[derive(Clone, Derive)]
pub struct Thought<'a> {
    /// The block's place among all blocks of the answer, where others came before: the official SDKs use it to merge lists that
    /// come in several chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The block.
    #[serde(flatten)]
    pub block: ThoughtBlock<'a>,
}

/// A block of thinking in Anthropic's form.
#[derive(Clone, Derive)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ThoughtBlock<'a> {
    /// Text of thinking. With a signature the block is complete; without one the same text may also come as reasoning.
    Thinking {
        /// The text.
        thinking: Cow<'a, str>,
        /// Anthropic's signature of the text.
        signature: Cow<'a, str>,
    },
    /// A complete block that only Anthropic can read.
    RedactedThinking {
        /// Its ciphertext.
        data: Cow<'a, str>,
    },
}

/// OpenAI's reference to a page, for a stretch of the answer's text.
#[derive(Derive)]
pub struct Annotation {
    /// `url_citation`
    pub r#type: &'static str,
    /// The page and the stretch.
    pub url_citation: UrlCitation,
}

/// A page and the stretch of text that refers to it.
#[derive(Derive)]
pub struct UrlCitation {
    /// The first character of the stretch, counted in characters as OpenAI does.
    pub start_index: usize,
    /// The character behind the last one of the stretch.
    pub end_index: usize,
    /// The page's title.
    pub title: String,
    /// The page's address.
    pub url: String,
}

/// The log probability of a token. Ollama and OpenAI use the same members.
#[derive(Deserialize, Derive)]
pub struct Logprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
    #[serde(borrow, default)]
    top_logprobs: Vec<TopLogprob<'a>>,
}

/// An alternative to a generated token.
#[derive(Deserialize, Derive)]
pub struct TopLogprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
}

/// The counts of a request, and which of them Chat's `usage` contains.
#[derive(Clone, Copy)]
pub struct Counted {
    /// The counts.
    pub usage: Usage,
    /// Which counts the provider reports.
    pub details: Details,
}

/// The counts that a provider reports besides those of prompt and completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// No further counts.
    None,
    /// Tokens read from the prompt cache.
    CacheReads,
    /// Tokens read from and written to the prompt cache, and reasoning tokens.
    All,
}

impl<T> Clone for Listed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Listed<'_, T> {}

impl<T: Serialize> Listed<'_, T> {
    /// The elements as JSON values; none where the JSON is not a list.
    pub fn values(&self) -> Vec<Value> {
        match self {
            Self::Json(json) => serde_json::from_str(json.get()).unwrap_or_default(),
            Self::Made(all) => all.iter().filter_map(|each| serde_json::to_value(each).ok()).collect(),
        }
    }
}

impl<T: Serialize> Serialize for Listed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(json) => json.serialize(serializer),
            Self::Made(all) => all.serialize(serializer),
        }
    }
}

/// An element of `tool_calls`. The first piece of a call, which has the id, also has the type `function`.
impl Serialize for CallPiece<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut call = serializer.serialize_map(None)?;
        if let Some(index) = self.index {
            call.serialize_entry("index", &index)?;
        }
        if !self.id.is_empty() {
            call.serialize_entry("id", self.id)?;
            call.serialize_entry("type", "function")?;
        }
        call.serialize_entry("function", &self.function())?;
        call.end()
    }
}

/// The `function` of a call.
#[derive(Derive)]
pub(super) struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> CallPiece<'a> {
    pub(super) fn function(&self) -> Function<'a> {
        Function { name: self.name, arguments: self.arguments }
    }
}

/// Chat's `usage`.
impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Derive)]
        struct PromptDetails {
            cached_tokens: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            cache_write_tokens: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            cache_write_1h_tokens: Option<u64>,
        }
        #[derive(Derive)]
        struct CompletionDetails {
            reasoning_tokens: u64,
        }
        let Self { usage, details } = self;
        let all = *details == Details::All;
        let mut counts = serializer.serialize_map(None)?;
        counts.serialize_entry("prompt_tokens", &usage.prompt_tokens)?;
        counts.serialize_entry("completion_tokens", &usage.completion_tokens)?;
        counts.serialize_entry("total_tokens", &usage.total_tokens())?;
        if *details != Details::None {
            let prompt = PromptDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: all.then_some(usage.cache_write_tokens),
                // An extension that OpenAI does not have.
                cache_write_1h_tokens: Some(usage.cache_write_1h_tokens).filter(|tokens| all && *tokens > 0),
            };
            counts.serialize_entry("prompt_tokens_details", &prompt)?;
        }
        if all {
            let completion = CompletionDetails { reasoning_tokens: usage.reasoning_tokens };
            counts.serialize_entry("completion_tokens_details", &completion)?;
        }
        counts.end()
    }
}
