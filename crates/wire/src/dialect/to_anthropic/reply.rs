//! Turns Anthropic's complete answer into a `chat.completion`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::finish::{Called, finish_reason};
use super::stream::Stream;
use super::usage::{Counts, Usage};
use super::wire::{Block, Citation, Lenient, Text, arguments, completion_id, now, read};
use crate::dialect::Replies;
use crate::dialect::chat::{Annotation, ChatReader, Counted, UrlCitation};

/// Translates the answers to one request into Chat.
pub(super) struct Answers {
    facts: Arc<Facts>,
}

/// What is needed of a request to read its answer.
pub(super) struct Facts {
    /// The requested model, for an answer that does not name its model.
    pub(super) model: String,
    /// The name of the tool whose input is the answer's text, if there is one.
    pub(super) json_tool: Option<String>,
    /// Calls are those of deprecated functions.
    pub(super) functions: bool,
}

impl Answers {
    pub(super) fn new(model: &str, json_tool: Option<String>, functions: bool) -> Self {
        Self { facts: Arc::new(Facts { model: model.to_owned(), json_tool, functions }) }
    }
}

impl Replies for Answers {
    fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        let message: Message<'_> = serde_json::from_slice(body).ok()?;
        if &*message.r#type != "message" {
            return None;
        }
        let mut answer = Answer::default();
        for block in read::<Vec<&RawValue>>(message.content?)? {
            if let Some(parsed) = read::<Block<'_>>(block) {
                answer.add(&parsed, block, &self.facts);
            }
        }
        serde_json::to_vec(&answer.completion(&message, &self.facts)).ok()
    }

    fn reader(&self) -> Box<dyn ChatReader> {
        Box::new(Stream::new(Arc::clone(&self.facts)))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Text<'a>,
    #[serde(borrow)]
    usage: Lenient<Usage<'a>>,
}

/// The answer as far as its blocks have been read.
#[derive(Default)]
struct Answer<'a> {
    text: String,
    /// The input of the tool whose input is the answer's text.
    json: Option<String>,
    reasoning: String,
    thinking: Vec<&'a RawValue>,
    calls: Vec<ToolCall>,
    annotations: Vec<Annotation>,
}

impl<'a> Answer<'a> {
    /// Adds a block. Blocks of tools that run at Anthropic are left out.
    fn add(&mut self, block: &Block<'_>, raw: &'a RawValue, facts: &Facts) {
        match &*block.r#type {
            "text" => {
                let start = self.text.chars().count();
                self.text.push_str(&block.text);
                if let Some(citations) = block.citations.and_then(read::<Vec<&RawValue>>) {
                    let end = self.text.chars().count();
                    let pages = citations.into_iter().filter_map(Citation::of_page);
                    self.annotations.extend(pages.map(|page| annotation(&page, start, end)));
                }
            }
            "thinking" => {
                self.reasoning.push_str(&block.thinking);
                if !block.signature.is_empty() {
                    self.thinking.push(raw);
                }
            }
            "redacted_thinking" => self.thinking.push(raw),
            "tool_use" if facts.json_tool.as_deref() == Some(&*block.name) => {
                self.json.get_or_insert_with(|| arguments(block.input));
            }
            "tool_use" => {
                let index = self.calls.len();
                self.calls.push(ToolCall {
                    id: if block.id.is_empty() { format!("call_{index}") } else { block.id.to_string() },
                    r#type: "function",
                    function: Function { name: block.name.to_string(), arguments: arguments(block.input) },
                });
            }
            _ => {}
        }
    }

    fn completion<'m>(self, message: &'m Message<'_>, facts: &'m Facts) -> Completion<'m>
    where
        'a: 'm,
    {
        let called = match () {
            () if self.calls.is_empty() => Called::Nothing,
            () if facts.functions => Called::Function,
            () => Called::Tools,
        };
        // If the answer came as a tool's input, other text is left out.
        let (content, annotations) = match self.json {
            Some(json) => (Some(json), Vec::new()),
            None => (Some(self.text).filter(|text| !text.is_empty() || called == Called::Nothing), self.annotations),
        };
        let (tool_calls, function_call) = match called {
            Called::Function => (Vec::new(), self.calls.into_iter().next().map(|call| call.function)),
            _ => (self.calls, None),
        };
        let usage = &message.usage.0;
        let mut counts = Counts::default();
        counts.update(usage);
        Completion {
            id: completion_id(&message.id),
            object: "chat.completion",
            created: now(),
            model: if message.model.is_empty() { &facts.model } else { &message.model },
            choices: [CompletionChoice {
                index: 0,
                message: Said {
                    role: "assistant",
                    content,
                    refusal: None,
                    reasoning_content: Some(self.reasoning).filter(|text| !text.is_empty()),
                    thinking_blocks: self.thinking,
                    tool_calls,
                    function_call,
                    annotations,
                },
                logprobs: None,
                finish_reason: finish_reason(&message.stop_reason, called),
            }],
            usage: counts.known(),
            service_tier: usage.service_tier(),
        }
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [CompletionChoice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Counted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u32,
    message: Said<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    thinking_blocks: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function>,
    annotations: Vec<Annotation>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// A reference to a page, for the characters from `start` to before `end`.
pub(super) fn annotation(page: &Citation<'_>, start: usize, end: usize) -> Annotation {
    let (title, url) = (page.title.to_string(), page.url.to_string());
    Annotation { r#type: "url_citation", url_citation: UrlCitation { start_index: start, end_index: end, title, url } }
}
