//! Reading a provider's chunks, and whole replies, which are the same with `message` for `delta`.
//!
//! Only what is certain is typed: whatever may have an odd type at some provider is read when it is needed, so that it
//! costs itself and not the chunk.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

type Raw<'a> = Option<&'a RawValue>;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub id: Raw<'a>,
    #[serde(borrow)]
    pub created: Raw<'a>,
    #[serde(borrow)]
    pub model: Raw<'a>,
    #[serde(borrow)]
    pub service_tier: Raw<'a>,
    #[serde(borrow)]
    pub choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    pub usage: Raw<'a>,
    /// Groq's place for usage.
    #[serde(borrow)]
    pub x_groq: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    object: Raw<'a>,
    #[serde(borrow)]
    r#type: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    index: Raw<'a>,
    #[serde(borrow)]
    delta: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    logprobs: Raw<'a>,
    #[serde(borrow)]
    finish_reason: Raw<'a>,
}

/// What a choice adds to the answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub content: Raw<'a>,
    #[serde(borrow)]
    reasoning_content: Raw<'a>,
    #[serde(borrow)]
    reasoning: Raw<'a>,
    #[serde(borrow)]
    pub thinking_blocks: Raw<'a>,
    #[serde(borrow)]
    pub refusal: Raw<'a>,
    #[serde(borrow)]
    pub annotations: Raw<'a>,
    #[serde(borrow)]
    tool_calls: Raw<'a>,
    #[serde(borrow)]
    function_call: Raw<'a>,
}

/// A piece of a tool call. Empty texts are absent.
#[derive(Debug, Default)]
pub(super) struct Piece<'a> {
    pub index: Option<u64>,
    pub id: Option<Cow<'a, str>>,
    pub name: Option<Cow<'a, str>>,
    pub arguments: Option<Cow<'a, str>>,
}

/// The number of the call that an old `function_call` is: it can be only one, and has none.
const LEGACY: u64 = u64::MAX;

impl<'a> Chunk<'a> {
    /// A chunk or a reply; `None` for anything that is not an object of that kind.
    pub(super) fn read(json: &'a [u8]) -> Option<Self> {
        // A list would be read as the members in their order.
        json.starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
    }

    /// The choice that the answer is made of.
    pub(super) fn choice(&self) -> Option<&Choice<'a>> {
        self.choices.iter().flatten().find(|choice| choice.index.is_none_or(|index| index.get() == "0"))
    }

    /// Whether it may be an error, of which [`super::answer`] makes sure.
    pub(super) fn may_be_error(&self) -> bool {
        let is_error = |word: Raw<'_>| word.is_some_and(|word| word.get() == "\"error\"");
        self.error.is_some() || is_error(self.object) || is_error(self.r#type)
    }

    /// Whether there is a count in it.
    pub(super) fn may_have_usage(&self) -> bool {
        self.usage.is_some() || self.x_groq.is_some()
    }
}

impl<'a> Choice<'a> {
    /// What a chunk adds.
    pub(super) fn delta(&self) -> Delta<'a> {
        object(self.delta).unwrap_or_default()
    }

    /// The whole message of a reply.
    pub(super) fn message(&self) -> Option<Delta<'a>> {
        object(self.message)
    }

    /// The word for why the answer ends.
    pub(super) fn finish_reason(&self) -> Option<Cow<'a, str>> {
        text(self.finish_reason)
    }

    /// The probabilities of the content's tokens.
    pub(super) fn logprobs(&self) -> Vec<Value> {
        #[derive(Deserialize)]
        struct Logprobs {
            content: Option<Vec<Value>>,
        }
        object::<Logprobs>(self.logprobs).and_then(|logprobs| logprobs.content).unwrap_or_default()
    }
}

impl<'a> Delta<'a> {
    /// The reasoning. Some providers give the same under both names.
    pub(super) fn reasoning(&self) -> Option<Cow<'a, str>> {
        text(self.reasoning_content).or_else(|| text(self.reasoning))
    }

    /// The pieces of calls.
    pub(super) fn calls(&self) -> Vec<Piece<'a>> {
        let mut pieces: Vec<_> = list(self.tool_calls).into_iter().filter_map(|call| Piece::read(Some(call))).collect();
        if let Some(function) = object::<Function<'_>>(self.function_call) {
            pieces.push(Piece {
                index: Some(LEGACY),
                id: None,
                name: text(function.name),
                arguments: function.arguments(),
            });
        }
        pieces
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Call<'a> {
    #[serde(borrow)]
    index: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
}

impl<'a> Piece<'a> {
    fn read(call: Raw<'a>) -> Option<Self> {
        let call: Call<'a> = object(call)?;
        let function: Function<'a> = object(call.function).unwrap_or_default();
        Some(Self {
            index: call.index.and_then(|index| index.get().parse().ok()),
            id: text(call.id),
            name: text(function.name),
            arguments: function.arguments(),
        })
    }
}

impl<'a> Function<'a> {
    /// JSON as a text; some local servers send the JSON itself.
    fn arguments(&self) -> Option<Cow<'a, str>> {
        text(self.arguments).or_else(|| Some(self.arguments.filter(|json| json.get().starts_with('{'))?.get().into()))
    }
}

/// A text that is not empty.
pub(super) fn text<'a>(raw: Raw<'a>) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let json = raw?.get();
    if !json.starts_with('"') || json == "\"\"" {
        return None;
    }
    serde_json::from_str::<Text<'a>>(json).ok().map(|text| text.0)
}

/// The elements of a list; none of anything else.
pub(super) fn list<'a>(raw: Raw<'a>) -> Vec<&'a RawValue> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn object<'a, T: Deserialize<'a>>(raw: Raw<'a>) -> Option<T> {
    let json = raw?.get();
    json.starts_with('{').then(|| serde_json::from_str(json).ok())?
}
