//! What a stream of Chat says, borrowed from the provider's event that says it.

use std::borrow::Cow;

use bytes::BytesMut;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Serialize as Derive};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::openai::ErrorBody;
use crate::openai::lenient::Text;
use crate::types::Usage;

/// Reads a provider's stream. Each of its events makes any number of chat events at once.
///
/// It never panics, whatever comes; what is not understood makes nothing. An error that a provider reports within the stream
/// ends it, and so does [`ChatEvent::End`]: nothing follows either. A stream that is cut off gets no end.
pub trait ChatReader: Send + Sync {
    /// One event: its payload, and its name where it has one.
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut ChatOut<'_>);

    /// The body ended as its framing said: tells the end if only its mark is missing.
    fn finish(&mut self, out: &mut ChatOut<'_>);
}

/// Writes a stream in the client's dialect.
pub trait ChatWriter: Send + Sync {
    /// Appends the server-sent events, each whole, that this chat event makes.
    fn event(&mut self, event: ChatEvent<'_>, out: &mut BytesMut);
}

/// Where a reader's events go: the writer, and the text that it has written.
pub struct ChatOut<'a> {
    /// Writes each event.
    pub writer: &'a mut dyn ChatWriter,
    /// What is written.
    pub text: &'a mut BytesMut,
}

impl ChatOut<'_> {
    /// Passes an event on.
    pub fn tell(&mut self, event: ChatEvent<'_>) {
        self.writer.event(event, self.text);
    }

    /// Passes on what is added to the answer, if that comes without log probabilities.
    pub fn add(&mut self, piece: Piece<'_>) {
        self.tell(ChatEvent::Delta { piece, logprobs: None });
    }
}

/// One thing that a stream of Chat says. `Head` and `Usage` may come any number of times; the last one counts.
#[derive(Clone, Copy)]
pub enum ChatEvent<'a> {
    /// What is said of the answer as such.
    Head(Head<'a>),
    /// The answer begins: comes once, behind a head and in front of the first piece.
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
    /// What was counted so far.
    Usage(Counted),
    /// The provider failed.
    Error(&'a ErrorBody),
    /// The provider is alive.
    Ping,
    /// The stream came to its own end.
    End,
}

/// What is said of an answer as such. What is not said is empty.
#[derive(Clone, Copy, Default)]
pub struct Head<'a> {
    /// The id of the completion.
    pub id: &'a str,
    /// In seconds since 1970.
    pub created: Option<u64>,
    /// The model that answers.
    pub model: &'a str,
    /// The tier that serves the request.
    pub service_tier: &'a str,
}

/// What is added to an answer. Texts are not empty.
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
        /// The blocks, each whole unless it is not signed.
        blocks: Listed<'a, Thought<'a>>,
        /// The same chunk had reasoning: text of a block without a signature says it again.
        beside_reasoning: bool,
    },
    /// Text of a refusal.
    Refusal(&'a str),
    /// What the text refers to.
    Annotations(Listed<'a, Annotation>),
    /// Pieces of tool calls.
    Calls(&'a [CallPiece<'a>]),
    /// A piece of the call of a deprecated function, of which there is one at most.
    Function(CallPiece<'a>),
}

/// A piece of a call.
#[derive(Clone, Copy, Default)]
pub struct CallPiece<'a> {
    /// The provider's number for the call.
    pub index: Option<u64>,
    /// The call's id; empty where the piece does not say it.
    pub id: &'a str,
    /// The function's name, where the piece says it.
    pub name: Option<&'a str>,
    /// A piece of the arguments, as JSON text.
    pub arguments: &'a str,
}

/// A list within a piece: as the JSON that a provider sent, or made by a reader.
pub enum Listed<'a, T> {
    /// JSON, which may be of any form.
    Json(&'a RawValue),
    /// Values.
    Made(&'a [T]),
}

/// A member of `thinking_blocks`.
#[derive(Clone, Derive)]
pub struct Thought<'a> {
    /// Its place among all of the answer, where others came before: by it the official SDKs put lists together that come in
    /// several chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The block.
    #[serde(flatten)]
    pub block: ThoughtBlock<'a>,
}

/// A block of thinking as Anthropic knows it.
#[derive(Clone, Derive)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ThoughtBlock<'a> {
    /// With a signature it is whole; without one it is text that may also stand beside it, as reasoning.
    Thinking {
        /// The text.
        thinking: Cow<'a, str>,
        /// Anthropic's signature of the text.
        signature: Cow<'a, str>,
    },
    /// A whole block that only Anthropic can read.
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
    /// In characters, as OpenAI counts.
    pub start_index: usize,
    /// Behind the last character.
    pub end_index: usize,
    /// The page's title.
    pub title: String,
    /// The page's address.
    pub url: String,
}

/// The log probability of a token. Ollama's have the same members as OpenAI's.
#[derive(Deserialize, Derive)]
pub struct Logprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
    #[serde(borrow, default)]
    top_logprobs: Vec<TopLogprob<'a>>,
}

/// A token that might have been in the place of another.
#[derive(Deserialize, Derive)]
pub struct TopLogprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
}

/// What was counted, and how much of it Chat's `usage` says.
#[derive(Clone, Copy)]
pub struct Counted {
    /// The counts.
    pub usage: Usage,
    /// Which counts the provider tells.
    pub details: Details,
}

/// The counts that a provider tells beside those of prompt and completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// None.
    None,
    /// What the prompt cache read.
    CacheReads,
    /// What the prompt cache read and wrote, and the reasoning.
    All,
}

impl<T> Clone for Listed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Listed<'_, T> {}

impl<T: Serialize> Listed<'_, T> {
    /// The elements as JSON values; none of what is no list.
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

/// An element of `tool_calls`: the first piece of a call, which has the id, says also that it is a function's.
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
                // OpenAI does not have them.
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
