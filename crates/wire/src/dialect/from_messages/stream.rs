//! Turns a chat stream into a Messages stream.
//!
//! ```text
//! the answer begins     message_start, once
//! a piece of it         content_block_start, _delta, _stop: see held.rs
//! its finish_reason     remembered: the counts are still to come
//! its end               the last content_block_stop, message_delta, message_stop
//! an error              error
//! ```

use bytes::BytesMut;

use super::held::Blocks;
use super::reply::{model, stem, stop_reason};
use super::write::{Counts, Event, Message, Stop};
use crate::dialect::chat::{ChatEvent, ChatWriter, Listed, Piece, Thought, ThoughtBlock};
use crate::openai::error_event;
use crate::types::Usage;

pub(super) struct Stream {
    /// The model's name, for a provider that does not report it.
    asked: String,
    /// Id and model of the last head in front of the answer.
    id: String,
    model: String,
    omit_thinking: bool,
    begun: bool,
    blocks: Blocks,
    refused: bool,
    finish_reason: String,
    /// The latest counts.
    usage: Usage,
}

impl Stream {
    pub(super) fn new(asked: String, omit_thinking: bool) -> Self {
        Self {
            asked,
            id: String::new(),
            model: String::new(),
            omit_thinking,
            begun: false,
            blocks: Blocks::default(),
            refused: false,
            finish_reason: String::new(),
            usage: Usage::default(),
        }
    }

    /// Starts the message. Azure's first chunk has neither choices nor an id, so the message starts only behind it.
    fn start(&mut self, out: &mut BytesMut) {
        self.begun = true;
        self.blocks.stem = stem(&self.id).into_owned();
        let id = format!("msg_{}", self.blocks.stem);
        Event::MessageStart { message: Message::new(&id, &self.model) }.write(out);
    }

    fn piece(&mut self, piece: Piece<'_>, out: &mut BytesMut) {
        match piece {
            Piece::Text(text) => self.blocks.text(text, out),
            Piece::Reasoning(text) => self.thinking(text, out),
            Piece::Thoughts { blocks, beside_reasoning } => self.thoughts(blocks, beside_reasoning, out),
            Piece::Refusal(text) => {
                self.refused = true;
                self.blocks.text(text, out);
            }
            Piece::Calls(calls) => {
                for call in calls {
                    self.blocks.call(call.index, call.id, call.name.unwrap_or_default(), call.arguments, out);
                }
            }
            Piece::Function(call) => {
                self.blocks.call(Some(0), "", call.name.unwrap_or_default(), call.arguments, out);
            }
            Piece::Nothing | Piece::Annotations(_) => {}
        }
    }

    fn thinking(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() && !self.omit_thinking {
            self.blocks.thinking(text, out);
        }
    }

    fn thoughts(&mut self, blocks: Listed<'_, Thought<'_>>, beside_reasoning: bool, out: &mut BytesMut) {
        for block in blocks.blocks() {
            match block {
                ThoughtBlock::RedactedThinking { data } => self.blocks.redacted(&data, out),
                ThoughtBlock::Thinking { thinking, signature } if !signature.is_empty() => {
                    self.blocks.sign(&thinking, &signature, out);
                }
                ThoughtBlock::Thinking { thinking, .. } if !beside_reasoning => self.thinking(&thinking, out),
                ThoughtBlock::Thinking { .. } => {}
            }
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.blocks.finish(out);
        let stop_reason = stop_reason(&self.finish_reason, self.blocks.any_call, self.refused);
        let usage = Counts::from(self.usage);
        Event::MessageDelta { delta: Stop { stop_reason, stop_sequence: None }, usage }.write(out);
        Event::MessageStop {}.write(out);
    }
}

impl ChatWriter for Stream {
    fn event(&mut self, event: ChatEvent<'_>, out: &mut BytesMut) {
        match event {
            ChatEvent::Delta { piece, .. } => self.piece(piece, out),
            ChatEvent::Head(_) if self.begun => {}
            ChatEvent::Head(head) => {
                head.id.clone_into(&mut self.id);
                model(head.model, &self.asked).clone_into(&mut self.model);
            }
            ChatEvent::Begin => self.start(out),
            ChatEvent::Finish(reason) => reason.clone_into(&mut self.finish_reason),
            ChatEvent::Usage(counted) => self.usage = counted.usage,
            ChatEvent::Error(error) => out.extend_from_slice(&error_event(error)),
            ChatEvent::End if self.begun => self.end(out),
            ChatEvent::Ping | ChatEvent::End => {}
        }
    }
}
