//! Turns Anthropic's event stream into chat events.
//!
//! ```text
//! Waiting ──message_start──▶ Running ──message_stop──▶ Ended
//!    └──────────── error ───────┴─────── error ──────────▲
//! ```

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::chunk::{Delta, Event, Start};
use super::error;
use super::finish::{Called, finish_reason};
use super::reply::{Facts, annotation};
use super::usage::{Counts, Usage};
use super::wire::{Block, Citation, arguments, completion_id, now, read};
use crate::dialect::chat::{
    Annotation, CallPiece, ChatEvent, ChatOut, ChatReader, Head, Listed, Piece, Thought, ThoughtBlock,
};

/// The stream of one answer.
pub(super) struct Stream {
    facts: Arc<Facts>,
    state: State,
    /// Open blocks, by Anthropic's index.
    open: Vec<(u64, Open)>,
    /// Complete thinking blocks that are not sent yet: adjacent blocks are sent together, before any other block begins.
    thoughts: Vec<ThoughtBlock<'static>>,
    /// Number of thinking blocks that have been sent.
    thought: usize,
    /// The pages that the text cites; sent as one list at the end.
    annotations: Vec<Annotation>,
    /// Number of calls so far.
    calls: usize,
    /// Number of characters of text so far.
    chars: usize,
    /// Text that is discarded if the answer comes as a tool's input.
    held: String,
    /// The answer came as a tool's input.
    has_json: bool,
    counts: Counts,
    stop_reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
}

/// A block that has begun.
enum Open {
    /// A text: the character at which it begins, and the pages that it cites.
    Text(usize, Vec<Annotation>),
    /// A call for the client.
    Tool(Input, usize),
    /// A call of the tool whose input is the answer's text.
    Json(Input),
    Thinking {
        text: String,
        signature: String,
    },
    /// Thinking that only Anthropic can read.
    Redacted(String),
}

/// The input of a tool.
struct Input {
    /// The input in the block's start, for a provider that does not send it in deltas.
    initial: String,
    /// Deltas of the input have come.
    came: bool,
}

impl Stream {
    pub(super) fn new(facts: Arc<Facts>) -> Self {
        Self {
            facts,
            state: State::Waiting,
            open: Vec::new(),
            thoughts: Vec::new(),
            thought: 0,
            annotations: Vec::new(),
            calls: 0,
            chars: 0,
            held: String::new(),
            has_json: false,
            counts: Counts::default(),
            stop_reason: String::new(),
        }
    }

    fn start(&mut self, message: Option<&RawValue>, out: &mut ChatOut<'_>) {
        let message: Start<'_> = message.and_then(read).unwrap_or_default();
        let usage = &message.usage.0;
        self.counts.update(usage);
        if self.state != State::Waiting {
            return;
        }
        out.tell(ChatEvent::Head(Head {
            id: &completion_id(&message.id),
            created: Some(now()),
            model: if message.model.is_empty() { &self.facts.model } else { &message.model },
            service_tier: usage.service_tier().unwrap_or_default(),
        }));
        out.tell(ChatEvent::Begin);
        self.state = State::Running;
    }

    fn block_start(&mut self, index: u64, raw: Option<&RawValue>, out: &mut ChatOut<'_>) {
        let Some(raw) = raw else { return };
        let Some(block) = read::<Block<'_>>(raw) else { return };
        self.block_stop(index, out);
        if !matches!(&*block.r#type, "thinking" | "redacted_thinking") {
            self.send_thoughts(out);
        }
        let open = match &*block.r#type {
            "text" => {
                let open = Open::Text(self.chars, Vec::new());
                self.text(&block.text, out);
                open
            }
            "thinking" => {
                self.reasoning(&block.thinking, out);
                let text = block.thinking.to_string();
                Open::Thinking { text, signature: block.signature.to_string() }
            }
            "redacted_thinking" => Open::Redacted(block.data.to_string()),
            "tool_use" if self.facts.json_tool.as_deref() == Some(&*block.name) => {
                // Only the first answer counts.
                if self.has_json {
                    return;
                }
                self.has_json = true;
                Open::Json(Input { initial: arguments(block.input), came: false })
            }
            "tool_use" => match self.call(&block, out) {
                Some(open) => open,
                None => return,
            },
            // Blocks of tools that run at Anthropic are left out.
            _ => return,
        };
        self.open.push((index, open));
    }

    fn call(&mut self, block: &Block<'_>, out: &mut ChatOut<'_>) -> Option<Open> {
        let index = self.calls;
        self.calls += 1;
        let call = CallPiece { name: Some(&block.name), ..CallPiece::default() };
        if !self.facts.functions {
            let made;
            let id = if block.id.is_empty() {
                made = format!("call_{index}");
                &made
            } else {
                &*block.id
            };
            out.add(Piece::Calls(&[CallPiece { index: Some(index as u64), id, ..call }]));
        } else if index == 0 {
            out.add(Piece::Function(call));
        } else {
            // The deprecated form has room for one call.
            return None;
        }
        Some(Open::Tool(Input { initial: arguments(block.input), came: false }, index))
    }

    fn block_delta(&mut self, index: u64, delta: &Delta<'_>, out: &mut ChatOut<'_>) {
        match &*delta.r#type {
            "text_delta" => self.text(&delta.text, out),
            "input_json_delta" => self.input(index, &delta.partial_json, out),
            "thinking_delta" => {
                self.reasoning(&delta.thinking, out);
                if let Some(Open::Thinking { text, .. }) = self.find(index) {
                    text.push_str(&delta.thinking);
                }
            }
            "signature_delta" => {
                if let Some(Open::Thinking { signature, .. }) = self.find(index) {
                    signature.push_str(&delta.signature);
                }
            }
            "citations_delta" => {
                if let Some(page) = delta.citation.and_then(Citation::of_page)
                    && let Some(Open::Text(start, pages)) = self.find(index)
                {
                    pages.push(annotation(&page, *start, *start));
                }
            }
            _ => {}
        }
    }

    fn block_stop(&mut self, index: u64, out: &mut ChatOut<'_>) {
        let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else { return };
        let (_, block) = self.open.swap_remove(at);
        self.close(block, out);
    }

    fn close(&mut self, block: Open, out: &mut ChatOut<'_>) {
        match block {
            // If the answer comes as a tool's input, other text and its citations are left out.
            Open::Text(_, pages) if pages.is_empty() || self.facts.json_tool.is_some() => {}
            Open::Text(_, pages) => {
                for mut page in pages {
                    page.url_citation.end_index = self.chars;
                    self.annotations.push(page);
                }
            }
            // Empty arguments would not be valid JSON.
            Open::Tool(input, call) if !input.came => self.arguments(call, &input.initial, out),
            Open::Json(input) if !input.came => out.add(Piece::Text(&input.initial)),
            Open::Thinking { text, signature } if !signature.is_empty() => {
                let (thinking, signature) = (Cow::Owned(text), Cow::Owned(signature));
                self.thoughts.push(ThoughtBlock::Thinking { thinking, signature });
            }
            Open::Redacted(data) => self.thoughts.push(ThoughtBlock::RedactedThinking { data: Cow::Owned(data) }),
            Open::Tool(..) | Open::Json(_) | Open::Thinking { .. } => {}
        }
    }

    fn send_thoughts(&mut self, out: &mut ChatOut<'_>) {
        if self.thoughts.is_empty() {
            return;
        }
        let before = self.thought;
        let blocks = mem::take(&mut self.thoughts).into_iter().enumerate();
        let place = |at| (before > 0).then_some(before + at);
        let blocks: Vec<_> = blocks.map(|(at, block)| Thought { index: place(at), block }).collect();
        self.thought += blocks.len();
        out.add(Piece::Thoughts { blocks: Listed::Made(&blocks), beside_reasoning: false });
    }

    fn text(&mut self, text: &str, out: &mut ChatOut<'_>) {
        if text.is_empty() {
            return;
        }
        if self.facts.json_tool.is_some() {
            self.held.push_str(text);
            return;
        }
        self.chars += text.chars().count();
        out.add(Piece::Text(text));
    }

    fn reasoning(&mut self, text: &str, out: &mut ChatOut<'_>) {
        if !text.is_empty() {
            out.add(Piece::Reasoning(text));
        }
    }

    fn input(&mut self, index: u64, part: &str, out: &mut ChatOut<'_>) {
        if part.is_empty() {
            return;
        }
        match self.find(index) {
            Some(Open::Tool(input, call)) => {
                input.came = true;
                let call = *call;
                self.arguments(call, part, out);
            }
            Some(Open::Json(input)) => {
                input.came = true;
                out.add(Piece::Text(part));
            }
            _ => {}
        }
    }

    fn arguments(&mut self, call: usize, part: &str, out: &mut ChatOut<'_>) {
        let piece = CallPiece { arguments: part, ..CallPiece::default() };
        if self.facts.functions {
            out.add(Piece::Function(piece));
        } else {
            out.add(Piece::Calls(&[CallPiece { index: Some(call as u64), ..piece }]));
        }
    }

    fn find(&mut self, index: u64) -> Option<&mut Open> {
        self.open.iter_mut().rfind(|(open, _)| *open == index).map(|(_, block)| block)
    }

    fn stop(&mut self, out: &mut ChatOut<'_>) {
        for (_, block) in mem::take(&mut self.open) {
            self.close(block, out);
        }
        self.send_thoughts(out);
        let annotations = mem::take(&mut self.annotations);
        if !annotations.is_empty() {
            out.add(Piece::Annotations(Listed::Made(&annotations)));
        }
        let held = mem::take(&mut self.held);
        if !held.is_empty() && !self.has_json {
            out.add(Piece::Text(&held));
        }
        let called = match self.calls {
            0 => Called::Nothing,
            _ if self.facts.functions => Called::Function,
            _ => Called::Tools,
        };
        out.tell(ChatEvent::Finish(finish_reason(&self.stop_reason, called)));
        if let Some(counts) = self.counts.known() {
            out.tell(ChatEvent::Usage(counts));
        }
        out.tell(ChatEvent::End);
        self.state = State::Ended;
    }
}

impl ChatReader for Stream {
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut ChatOut<'_>) {
        if self.state == State::Ended {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else { return };
        let index = event.index.0.unwrap_or(0);
        let kind = match &*event.r#type {
            "" => name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("error"),
            kind => kind,
        };
        match kind {
            "message_start" => self.start(event.message, out),
            "ping" => out.tell(ChatEvent::Ping),
            "error" if event.error.is_some() => {
                out.tell(ChatEvent::Error(&error::of_event(data)));
                self.state = State::Ended;
            }
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                // A relay in between may have lost `message_start`; the chat stream must begin all the same.
                if self.state == State::Waiting {
                    self.start(None, out);
                }
                match kind {
                    "content_block_start" => self.block_start(index, event.content_block, out),
                    "content_block_delta" => self.block_delta(index, &event.delta.0, out),
                    _ => self.block_stop(index, out),
                }
            }
            "message_delta" => {
                if !event.delta.0.stop_reason.is_empty() {
                    self.stop_reason = event.delta.0.stop_reason.to_string();
                }
                if let Some(usage) = event.usage.and_then(read::<Usage<'_>>) {
                    self.counts.update(&usage);
                }
            }
            "message_stop" if self.state == State::Running => self.stop(out),
            _ => {}
        }
    }

    /// Emits nothing: only `message_stop` ends an answer, and a stream without it is broken.
    fn finish(&mut self, _: &mut ChatOut<'_>) {}
}
