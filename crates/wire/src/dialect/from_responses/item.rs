//! The items of a response's output.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// How far an item or a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    InProgress,
    Completed,
    Incomplete,
}

/// An item of the output.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Item<'a> {
    /// Reasoning has no status: OpenAI refuses a reasoning item that is sent back with one.
    Reasoning {
        id: &'a str,
        summary: &'a [Part<'a>],
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
    },
    Message {
        id: &'a str,
        status: Status,
        role: &'static str,
        content: &'a [Box<RawValue>],
    },
    FunctionCall {
        id: &'a str,
        status: Status,
        call_id: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
        arguments: &'a str,
    },
    CustomToolCall {
        id: &'a str,
        status: Status,
        call_id: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
        input: &'a str,
    },
}

/// A part of a message, or of a reasoning's summary.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part<'a> {
    OutputText { text: &'a str, annotations: &'a [Value], logprobs: &'a [Value] },
    Refusal { refusal: &'a str },
    SummaryText { text: &'a str },
}

/// The value as raw JSON text, for use inside other JSON.
pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    // These values always serialise.
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The members of an event about an item; absent members are not written.
#[derive(Default, Serialize)]
pub(super) struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<&'a str>,
    pub output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<&'a RawValue>,
}
