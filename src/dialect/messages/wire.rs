//! Chat replies and chunks as every "OpenAI-compatible" provider sends them: whatever has another type than it should is
//! read as absent, so that one odd member costs nothing else. Texts are borrowed where they hold no escape.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A whole reply, or a chunk of one.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Chunk<'a> {
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub model: Text<'a>,
    #[serde(borrow)]
    pub object: Text<'a>,
    #[serde(borrow)]
    pub choices: List<Choice<'a>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Chunk<'_> {
    /// Whether it says that something failed, in any of the known shapes.
    pub(super) fn is_error(&self) -> bool {
        let says_something = |error: &RawValue| !matches!(error.get(), "null" | "false" | "\"\"" | "{}" | "[]");
        self.error.is_some_and(says_something)
            || self.object.0 == "error"
            || self.choices.0.iter().any(|choice| choice.finish_reason.0 == "error")
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    pub index: Number,
    /// In a chunk.
    #[serde(borrow)]
    pub delta: Maybe<Message<'a>>,
    /// In a whole reply.
    #[serde(borrow)]
    pub message: Maybe<Message<'a>>,
    #[serde(borrow)]
    pub finish_reason: Text<'a>,
}

/// A message or a piece of one.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub refusal: Text<'a>,
    #[serde(borrow)]
    reasoning_content: Text<'a>,
    /// The same under the name that Groq, OpenRouter and newer vLLMs give it.
    #[serde(borrow)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    thinking_blocks: Option<&'a RawValue>,
    #[serde(borrow)]
    pub tool_calls: List<ToolCall<'a>>,
    /// What there was before `tool_calls`.
    #[serde(borrow)]
    pub function_call: Maybe<Function<'a>>,
}

impl<'a> Message<'a> {
    /// Anthropic's blocks of it.
    pub(super) fn thinking_blocks(&self) -> Vec<Thought<'a>> {
        let blocks =
            self.thinking_blocks.and_then(|blocks| serde_json::from_str::<List<ThinkingBlock<'a>>>(blocks.get()).ok());
        blocks.unwrap_or_default().0.into_iter().filter_map(ThinkingBlock::thought).collect()
    }

    /// The text of its thinking. Who sends both names says the same twice.
    pub(super) fn reasoning(&self) -> &str {
        if self.reasoning_content.0.is_empty() { &self.reasoning.0 } else { &self.reasoning_content.0 }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ToolCall<'a> {
    pub index: Number,
    #[serde(borrow)]
    pub id: Text<'a>,
    #[serde(borrow)]
    pub function: Maybe<Function<'a>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl<'a> Function<'a> {
    /// The text of the arguments; some providers give an object instead of one.
    pub(super) fn arguments(&self) -> Cow<'a, str> {
        match self.arguments.map(RawValue::get) {
            None => Cow::Borrowed(""),
            Some(text) if text.starts_with('"') => serde_json::from_str::<Text<'a>>(text).unwrap_or_default().0,
            Some(text) => Cow::Borrowed(text),
        }
    }
}

/// What a message says.
#[derive(Default)]
pub(super) enum Content<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// Text.
    Text(Cow<'a, str>),
    /// Mistral's list of parts.
    Parts(Vec<Part<'a>>),
}

impl Content<'_> {
    /// All text in it.
    pub(super) fn text(&self) -> String {
        match self {
            Content::Nothing => String::new(),
            Content::Text(text) => text.as_ref().to_owned(),
            Content::Parts(parts) => parts.iter().map(|part| part.text.0.as_ref()).collect(),
        }
    }
}

/// A part of a content: `text`, or `thinking` with parts of its own.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Part<'a> {
    #[serde(borrow)]
    pub text: Text<'a>,
    #[serde(borrow)]
    pub thinking: Content<'a>,
}

/// A member of `thinking_blocks`.
#[derive(Default, serde::Deserialize)]
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

/// What a member of `thinking_blocks` is.
pub(super) enum Thought<'a> {
    /// A whole block.
    Signed { thinking: Cow<'a, str>, signature: Cow<'a, str> },
    /// A whole block that only Anthropic can read.
    Redacted(Cow<'a, str>),
    /// Text that may also stand beside it, as reasoning.
    Unsigned(Cow<'a, str>),
}

impl<'a> ThinkingBlock<'a> {
    fn thought(self) -> Option<Thought<'a>> {
        match &*self.r#type.0 {
            "redacted_thinking" => Some(Thought::Redacted(self.data.0)),
            "thinking" if self.signature.0.is_empty() => Some(Thought::Unsigned(self.thinking.0)),
            "thinking" => Some(Thought::Signed { thinking: self.thinking.0, signature: self.signature.0 }),
            _ => None,
        }
    }
}

/// A string; empty for anything else.
#[derive(Clone, Debug, Default)]
pub(super) struct Text<'a>(pub Cow<'a, str>);

/// A whole number; `None` for anything else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number(pub Option<u64>);

/// An array of objects; empty for anything else.
pub(super) struct List<T>(pub Vec<T>);

/// An object; `None` for anything else.
pub(super) struct Maybe<T>(pub Option<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// The visitor methods for types that are read as absent.
macro_rules! absent {
    ($($kind:ident)*) => { $(absent!(@ $kind);)* };
    (@ scalar) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("any JSON value") }
    };
    (@ number) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ string) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Read<'a> {
            type Value = Text<'a>;

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            absent!(scalar number list object);
        }

        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Read<'a> {
            type Value = Content<'a>;

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let parts = Vec::<Maybe<Part<'a>>>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(Content::Parts(parts.into_iter().filter_map(|part| part.0).collect()))
            }

            absent!(scalar number object);
        }

        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Number;

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Number(Some(number)))
            }

            absent!(scalar string list object);
        }

        deserializer.deserialize_any(Read)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = List<T>;

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let all = Vec::<Maybe<T>>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(List(all.into_iter().filter_map(|each| each.0).collect()))
            }

            absent!(scalar number string object);
        }

        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Maybe<T>;

            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(object)).map(|value| Maybe(Some(value)))
            }

            absent!(scalar number string list);
        }

        deserializer.deserialize_any(Read(PhantomData))
    }
}
