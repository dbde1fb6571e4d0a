//! Ollama's objects: a complete reply and one line of a stream have the same form.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::dialect::chat::{CallPiece, Counted, Details, Logprob};
pub(super) use crate::openai::lenient::Text;
use crate::types::Usage;

/// A complete reply, or one line of a stream.
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
    /// Reads an object; `None` for anything else. The error is read even from an object whose other members have unknown forms.
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

    /// The error that the object reports, if any.
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

    /// Chat's `finish_reason`. Ollama has `stop`, `length`, and `load` and `unload` for empty answers.
    pub(super) fn finish_reason(&self, has_calls: bool) -> &'static str {
        match &*self.done_reason.0 {
            _ if has_calls => "tool_calls",
            "length" => "length",
            _ => "stop",
        }
    }

    /// The counts. Old versions leave the prompt's count out when the prompt was cached; since 0.33.3 the cached tokens are
    /// reported, as a part of the prompt's count.
    pub(super) fn usage(&self) -> Counted {
        // Negative numbers become 0 and large ones the largest.
        let count = |count: Option<f64>| count.unwrap_or_default() as u64;
        let (prompt_tokens, completion_tokens) = (count(self.prompt_eval_count), count(self.eval_count));
        let details = self.prompt_eval_cached_count.map_or(Details::None, |_| Details::CacheReads);
        let cached_tokens = count(self.prompt_eval_cached_count).min(prompt_tokens);
        Counted { usage: Usage { prompt_tokens, completion_tokens, cached_tokens, ..Usage::default() }, details }
    }

    /// Chat's form of the log probabilities; `None` when there are none.
    pub(super) fn logprobs(&self) -> Option<Logprobs<'a>> {
        let content: Vec<Logprob<'a>> = serde_json::from_str(self.logprobs?.get()).ok()?;
        (!content.is_empty()).then_some(Logprobs { content, refusal: () })
    }
}

impl<'a> Message<'a> {
    /// Chat's form of the calls. In a stream the calls are numbered from `first`: Ollama's own numbers are all 0 in some
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
            // Not Ollama's form, but one that a server modelled on OpenAI's would send.
            Some(text) if text.starts_with('"') => serde_json::from_str(text).map_or(Cow::Borrowed("{}"), Cow::Owned),
            Some(object) => Cow::Borrowed(object),
        };
        ToolCall { index, id, r#type: "function", function: Called { name: &self.function.name.0, arguments } }
    }
}

impl ToolCall<'_> {
    /// The call as a piece in a stream.
    pub(super) fn piece(&self) -> CallPiece<'_> {
        let (name, arguments) = (Some(self.function.name), &*self.function.arguments);
        CallPiece { index: self.index.map(|index| index as u64), id: &self.id, name, arguments }
    }
}

/// Chat's tool call, complete.
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

/// Chat's log probabilities. The entries of Ollama's lists have the same members.
#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    pub(super) content: Vec<Logprob<'a>>,
    refusal: (),
}
