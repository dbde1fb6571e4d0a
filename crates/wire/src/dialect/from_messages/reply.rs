//! Turns complete chat replies into Messages; also has what streams share with them.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::held::{no_input, tool_id};
use super::stream::Stream;
use super::write::{Block, Counts, Message};
use crate::dialect::Replies;
use crate::dialect::chat::wire::{Chunk, Content, Function, Message as Chat, blocks};
use crate::dialect::chat::{ChatWriter, ThoughtBlock};

/// Translates chat replies into Messages.
pub(super) struct ChatReplies {
    /// The model's name, for a provider that does not report it.
    pub model: String,
    /// The client does not want to receive thinking: thinking without a signature is left out.
    pub omit_thinking: bool,
}

impl Replies for ChatReplies {
    fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        let chunk = Chunk::read(body.trim_ascii())?;
        let (choice, chat) = chunk.whole_answer()?;
        let stem = stem(&chunk.id);
        let mut parts = Parts::default();
        parts.thinking(&chat, self.omit_thinking);
        parts.content(&chat, self.omit_thinking);
        for call in &chat.tool_calls.0 {
            parts.call(&call.id, call.function.0.as_ref(), &stem);
        }
        parts.call("", chat.function_call(), &stem);
        let content: Vec<Block<'_>> = parts.all.iter().map(Part::block).collect();
        let any_call = parts.all.iter().any(|part| matches!(part, Part::Call { .. }));
        let id = format!("msg_{stem}");
        let message = Message {
            content: &content,
            stop_reason: Some(stop_reason(&choice.finish_reason, any_call, parts.refused)),
            usage: Counts::from(chunk.usage(body).map(|counted| counted.usage).unwrap_or_default()),
            ..Message::new(&id, model(&chunk.model, &self.model))
        };
        serde_json::to_vec(&message).ok()
    }

    fn writer(&self) -> Box<dyn ChatWriter> {
        Box::new(Stream::new(self.model.clone(), self.omit_thinking))
    }
}

/// A content block that is being built.
enum Part<'a> {
    Text(Cow<'a, str>),
    Thinking { thinking: Cow<'a, str>, signature: Cow<'a, str> },
    Redacted(Cow<'a, str>),
    Call { id: Cow<'a, str>, name: &'a str, input: Box<RawValue> },
}

impl Part<'_> {
    fn block(&self) -> Block<'_> {
        match self {
            Part::Text(text) => Block::Text { text },
            Part::Thinking { thinking, signature } => Block::Thinking { thinking, signature },
            Part::Redacted(data) => Block::RedactedThinking { data },
            Part::Call { id, name, input } => Block::ToolUse { id, name, input },
        }
    }
}

#[derive(Default)]
struct Parts<'a> {
    all: Vec<Part<'a>>,
    refused: bool,
}

impl<'a> Parts<'a> {
    /// Adds thinking: signed blocks unchanged, and unsigned thinking once.
    fn thinking(&mut self, chat: &'a Chat<'_>, omit: bool) {
        let text = chat.reasoning();
        for block in chat.thinking_blocks.map(blocks).unwrap_or_default() {
            match block {
                ThoughtBlock::RedactedThinking { data } => self.all.push(Part::Redacted(data)),
                ThoughtBlock::Thinking { thinking, signature } if !signature.is_empty() => {
                    self.all.push(Part::Thinking { thinking, signature });
                }
                ThoughtBlock::Thinking { thinking, .. } if text.is_empty() && !omit => self.unsigned(thinking),
                ThoughtBlock::Thinking { .. } => {}
            }
        }
        if self.all.is_empty() && !omit {
            self.unsigned(Cow::Borrowed(text));
        }
    }

    fn unsigned(&mut self, thinking: Cow<'a, str>) {
        if !thinking.is_empty() {
            self.all.push(Part::Thinking { thinking, signature: Cow::Borrowed("") });
        }
    }

    fn content(&mut self, chat: &'a Chat<'_>, omit: bool) {
        match &chat.content {
            Content::Nothing => {}
            Content::Text(text) => self.text(text),
            Content::Parts(parts) => {
                for part in parts {
                    if !omit {
                        self.unsigned(part.thinking.text());
                    }
                    self.text(&part.text);
                    self.refusal(&part.refusal);
                }
            }
        }
        self.refusal(&chat.refusal);
    }

    fn refusal(&mut self, text: &'a str) {
        self.refused |= !text.is_empty();
        self.text(text);
    }

    /// Adds text to the last block if that is a text, otherwise as a new block.
    fn text(&mut self, more: &'a str) {
        match self.all.last_mut() {
            _ if more.is_empty() => {}
            Some(Part::Text(text)) => text.to_mut().push_str(more),
            _ => self.all.push(Part::Text(Cow::Borrowed(more))),
        }
    }

    fn call(&mut self, id: &'a str, function: Option<&'a Function<'_>>, stem: &str) {
        let Some(function) = function else { return };
        let arguments = function.arguments();
        let id = match id {
            "" if function.name.is_empty() && arguments.is_empty() => return,
            "" => Cow::Owned(tool_id(stem, self.all.len())),
            id => Cow::Borrowed(id),
        };
        self.all.push(Part::Call { id, name: &function.name, input: input(&arguments) });
    }
}

/// The arguments as an object. Arguments that are not an object are kept as text: `{"_raw":"…"}`.
fn input(arguments: &str) -> Box<RawValue> {
    let text = arguments.trim();
    if text.is_empty() {
        return no_input().to_owned();
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(object) if text.starts_with('{') => object.to_owned(),
        _ => {
            let raw = serde_json::value::to_raw_value(&serde_json::json!({"_raw": arguments}));
            raw.unwrap_or_else(|_| no_input().to_owned())
        }
    }
}

/// The message's id without its dialect's prefix; a new id where the provider gives none.
pub(super) fn stem(id: &str) -> Cow<'_, str> {
    let id = id.strip_prefix("chatcmpl-").unwrap_or(id);
    match id.strip_prefix("msg_").unwrap_or(id) {
        "" => Cow::Owned(uuid::Uuid::now_v7().simple().to_string()),
        stem => Cow::Borrowed(stem),
    }
}

/// The model's name as the provider reports it, otherwise the name that was asked for.
pub(super) fn model<'a>(said: &'a str, asked: &'a str) -> &'a str {
    if said.is_empty() { asked } else { said }
}

/// Anthropic's word for a `finish_reason`. Some providers say `stop` where they call tools.
pub(super) fn stop_reason(finish_reason: &str, any_call: bool, refused: bool) -> &'static str {
    match finish_reason {
        "content_filter" => "refusal",
        _ if refused => "refusal",
        "length" => "max_tokens",
        _ if any_call => "tool_use",
        _ => "end_turn",
    }
}
