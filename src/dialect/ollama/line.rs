//! What Ollama says: a whole reply, or one line of a stream. They have the same form.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// One object.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, default)]
    pub(super) model: Text<'a>,
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
    done: Option<bool>,
    #[serde(borrow, default)]
    done_reason: Text<'a>,
    prompt_eval_count: Option<f64>,
    prompt_eval_cached_count: Option<f64>,
    eval_count: Option<f64>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow, default)]
    pub(super) content: Text<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl<'a> Line<'a> {
    /// Reads an object; `None` for anything else. An object whose other members are of no known form still tells its
    /// error.
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Failure<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }

        // Serde reads a list as a struct, too.
        let data = data.trim_ascii();
        if !data.starts_with(b"{") {
            return None;
        }
        serde_json::from_slice(data).ok().or_else(|| {
            let failure: Failure<'a> = serde_json::from_slice(data).ok()?;
            failure.error.map(Self::failed)
        })
    }

    fn failed(error: &'a RawValue) -> Self {
        Self {
            model: Text::default(),
            message: None,
            done: None,
            done_reason: Text::default(),
            prompt_eval_count: None,
            prompt_eval_cached_count: None,
            eval_count: None,
            logprobs: None,
            error: Some(error),
        }
    }

    /// What went wrong, if anything did.
    pub(super) fn error(&self) -> Option<&'a RawValue> {
        self.error.filter(|error| error.get() != "\"\"")
    }

    /// Whether this is the end of the answer.
    pub(super) fn is_done(&self) -> bool {
        self.done == Some(true) || self.done != Some(false) && !self.done_reason.0.is_empty()
    }

    /// Whether more of the answer is to come.
    pub(super) fn is_unfinished(&self) -> bool {
        self.done == Some(false)
    }

    /// Chat's word for the end: Ollama knows `stop`, `length`, and `load` and `unload` for empty answers.
    pub(super) fn finish_reason(&self, has_calls: bool) -> &'static str {
        match &*self.done_reason.0 {
            _ if has_calls => "tool_calls",
            "length" => "length",
            _ => "stop",
        }
    }

    /// What was counted. Old versions leave the prompt's count out when it was cached; since 0.33.3 the cached part is
    /// told, as a part of the whole.
    pub(super) fn usage(&self) -> Usage {
        // Negative numbers become 0 and large ones the largest.
        let count = |count: Option<f64>| count.unwrap_or_default() as u64;
        let (prompt_tokens, completion_tokens) = (count(self.prompt_eval_count), count(self.eval_count));
        let cached = self.prompt_eval_cached_count.map(|cached| count(Some(cached)).min(prompt_tokens));
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: cached.map(|cached_tokens| PromptDetails { cached_tokens }),
        }
    }

    /// Chat's form of the log probabilities; `None` when there are none.
    pub(super) fn logprobs(&self) -> Option<Logprobs<'a>> {
        let content: Vec<Logprob<'a>> = serde_json::from_str(self.logprobs?.get()).ok()?;
        (!content.is_empty()).then_some(Logprobs { content, refusal: () })
    }
}

impl<'a> Message<'a> {
    /// Chat's form of the calls. In a stream they are counted from `first` on: Ollama's own numbers are all 0 in some
    /// versions.
    pub(super) fn calls(&self, first: Option<usize>) -> Vec<ToolCall<'_>> {
        let calls = self.tool_calls.iter().flatten().enumerate();
        calls.map(|(i, call)| call.to_chat(first.map(|first| first + i))).collect()
    }
}

impl Call<'_> {
    fn to_chat(&self, index: Option<usize>) -> ToolCall<'_> {
        let id = match &*self.id.0 {
            "" => Cow::Owned(format!("call_{}", Uuid::now_v7().simple())),
            id => Cow::Borrowed(id),
        };
        let arguments = match self.function.arguments.map(RawValue::get) {
            None => Cow::Borrowed("{}"),
            // Not Ollama's way, but what a server made after OpenAI's would send.
            Some(text) if text.starts_with('"') => serde_json::from_str(text).map_or(Cow::Borrowed("{}"), Cow::Owned),
            Some(object) => Cow::Borrowed(object),
        };
        ToolCall { index, id, r#type: "function", function: Called { name: &self.function.name.0, arguments } }
    }
}

/// Chat's tool call, whole.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: Cow<'a, str>,
    r#type: &'static str,
    function: Called<'a>,
}

#[derive(Serialize)]
struct Called<'a> {
    name: &'a str,
    arguments: Cow<'a, str>,
}

/// Chat's usage.
#[derive(Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

/// Chat's log probabilities. Ollama's lists have the same members.
#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    content: Vec<Logprob<'a>>,
    refusal: (),
}

#[derive(Deserialize, Serialize)]
struct Logprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
    #[serde(borrow, default)]
    top_logprobs: Vec<TopLogprob<'a>>,
}

#[derive(Deserialize, Serialize)]
struct TopLogprob<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    logprob: f64,
    bytes: Option<Vec<u8>>,
}

/// Text, borrowed unless it has escapes. Any other value is empty text.
#[derive(Default, Serialize)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}
