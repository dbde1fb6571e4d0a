//! A chat stream as one of Messages.
//!
//! ```text
//! chunk with a choice        message_start, once
//! its delta                  content_block_start, _delta, _stop: see held.rs
//! its finish_reason          remembered: the counts are still to come
//! choices:[] and usage,      the last content_block_stop, message_delta, message_stop
//!   [DONE] or the body's end
//! an error                   error, and nothing more
//! ```

use bytes::BytesMut;

use super::held::Blocks;
use super::reply::{model, stem, stop_reason};
use super::wire::{Choice, Chunk, Content, Message as Chat, Thought};
use super::write::{Counts, Event, Message, Stop};
use crate::dialect::Events;
use crate::openai::{error_event, find_usage, read_error};
use crate::types::Usage;

pub(super) struct Stream {
    /// The model's name, for a provider that does not say it.
    model: String,
    omit_thinking: bool,
    phase: Phase,
    blocks: Blocks,
    refused: bool,
    finish_reason: Option<String>,
    /// The last counts that came.
    usage: Option<Usage>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// `message_start` is still to come.
    Before,
    Message,
    /// The end, or an error, is written.
    Over,
}

impl Stream {
    pub(super) fn new(model: String, omit_thinking: bool) -> Self {
        Self {
            model,
            omit_thinking,
            phase: Phase::Before,
            blocks: Blocks::default(),
            refused: false,
            finish_reason: None,
            usage: None,
        }
    }

    /// Azure's first chunk has neither choices nor an id: the message starts behind it.
    fn start(&mut self, chunk: &Chunk<'_>, out: &mut BytesMut) {
        self.phase = Phase::Message;
        let stem = stem(&chunk.id.0);
        let id = format!("msg_{stem}");
        self.blocks.stem = stem.into_owned();
        Event::MessageStart { message: Message::new(&id, model(&chunk.model.0, &self.model)) }.write(out);
    }

    fn choice(&mut self, choice: &Choice<'_>, out: &mut BytesMut) {
        if let Some(chat) = &choice.delta.0 {
            self.delta(chat, out);
        }
        // Some providers send the whole message instead of a last delta, or beside each one: only the deltas count.
        if !choice.finish_reason.0.is_empty() {
            self.finish_reason = Some(choice.finish_reason.0.as_ref().to_owned());
        }
    }

    fn delta(&mut self, chat: &Chat<'_>, out: &mut BytesMut) {
        let reasoning = chat.reasoning();
        self.thinking(reasoning, out);
        for thought in chat.thinking_blocks() {
            self.thought(&thought, reasoning, out);
        }
        match &chat.content {
            Content::Nothing => {}
            Content::Text(text) => self.text(text, out),
            Content::Parts(parts) => {
                for part in parts {
                    self.thinking(&part.thinking.text(), out);
                    self.text(&part.text.0, out);
                }
            }
        }
        self.refused |= !chat.refusal.0.is_empty();
        self.text(&chat.refusal.0, out);
        for call in &chat.tool_calls.0 {
            let (name, arguments) = match &call.function.0 {
                Some(function) => (function.name.0.as_ref(), function.arguments()),
                None => Default::default(),
            };
            self.blocks.call(call.index.0, &call.id.0, name, &arguments, out);
        }
        // Some mirror the call here.
        if let (Some(function), true) = (&chat.function_call.0, chat.tool_calls.0.is_empty()) {
            self.blocks.call(Some(0), "", &function.name.0, &function.arguments(), out);
        }
    }

    fn text(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() {
            self.blocks.text(text, out);
        }
    }

    fn thinking(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() && !self.omit_thinking {
            self.blocks.thinking(text, out);
        }
    }

    fn thought(&mut self, thought: &Thought<'_>, reasoning: &str, out: &mut BytesMut) {
        match thought {
            Thought::Signed { thinking, signature } => self.blocks.sign(thinking, signature, out),
            Thought::Redacted(data) => self.blocks.redacted(data, out),
            Thought::Unsigned(thinking) if reasoning.is_empty() => self.thinking(thinking, out),
            Thought::Unsigned(_) => {}
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.phase = Phase::Over;
        self.blocks.finish(out);
        let finish_reason = self.finish_reason.as_deref().unwrap_or_default();
        let stop_reason = stop_reason(finish_reason, self.blocks.any_call, self.refused);
        let usage = Counts::from(self.usage.unwrap_or_default());
        Event::MessageDelta { delta: Stop { stop_reason, stop_sequence: None }, usage }.write(out);
        Event::MessageStop {}.write(out);
    }

    fn fail(&mut self, data: &[u8], out: &mut BytesMut) {
        self.phase = Phase::Over;
        out.extend_from_slice(&error_event(&read_error(500, None, data)));
    }
}

impl Events for Stream {
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        if self.phase == Phase::Over {
            return;
        }
        if name == Some(b"error") {
            return self.fail(data, out);
        }
        let data = data.trim_ascii();
        if data.starts_with(b"[DONE]") {
            if self.phase == Phase::Message {
                self.end(out);
            }
            return;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else { return };
        if chunk.is_error() {
            return self.fail(data, out);
        }
        self.usage = find_usage(data).or(self.usage);
        if self.phase == Phase::Before && !chunk.choices.0.is_empty() {
            self.start(&chunk, out);
        }
        // One answer was asked for.
        for choice in chunk.choices.0.iter().filter(|choice| choice.index.0.unwrap_or_default() == 0) {
            self.choice(choice, out);
        }
        // The chunk for the counts is the last by OpenAI's rules; counts in other chunks may still grow.
        if chunk.choices.0.is_empty() && self.finish_reason.is_some() && self.usage.is_some() {
            self.end(out);
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if self.phase == Phase::Message && self.finish_reason.is_some() {
            self.end(out);
        }
    }
}
