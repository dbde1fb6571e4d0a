//! Anthropic's event stream as chunks.
//!
//! ```text
//! Waiting ──message_start──▶ Running ──message_stop──▶ Ended
//!    └──────────── error ───────┴─────── error ──────────▲
//! ```

use std::sync::Arc;

use bytes::BytesMut;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::Events;
use super::chunk::{
    Annotations, Content, Delta, Event, Function, FunctionCall, Head, Reasoning, Said, Start, ThinkingBlocks, Thought,
    ThoughtBlock, ToolCall, ToolCalls, write,
};
use super::error;
use super::finish::{Called, finish_reason};
use super::reply::{Annotation, Facts};
use super::usage::{Counts, Usage};
use super::wire::{Block, Citation, arguments, completion_id, now, read};
use crate::sse::{DONE, write_data};

/// The stream of one answer.
pub(super) struct Stream {
    facts: Arc<Facts>,
    state: State,
    /// What stands in front of the choices of every chunk.
    head: Vec<u8>,
    /// Blocks that have begun and not ended, by Anthropic's index.
    open: Vec<(u64, Open)>,
    /// Whole thinking blocks that are not sent yet: what comes at once goes out at once, before anything else begins.
    thoughts: Vec<ThoughtBlock>,
    /// Thinking blocks that are sent.
    thought: usize,
    /// What the text cites; goes out in one list at the end.
    annotations: Vec<Annotation>,
    /// Calls so far.
    calls: usize,
    /// Characters of text so far.
    chars: usize,
    /// Text that is dropped if the answer comes as a tool's input.
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
    /// Text that begins at this character, and the pages it cites.
    Text(usize, Vec<Annotation>),
    /// A call for the client.
    Tool(Input, usize),
    /// The tool whose input is the answer's text.
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
    /// What the block began with, for a provider that sends it at once.
    initial: String,
    /// Parts of it came.
    came: bool,
}

impl Stream {
    pub(super) fn new(facts: Arc<Facts>) -> Self {
        Self {
            facts,
            state: State::Waiting,
            head: Vec::new(),
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

    fn start(&mut self, message: Option<&RawValue>, out: &mut BytesMut) {
        let message: Start<'_> = message.and_then(read).unwrap_or_default();
        let usage = &message.usage.0;
        self.counts.update(usage);
        if self.state != State::Waiting {
            return;
        }
        let head = Head {
            id: completion_id(message.id.get()),
            object: "chat.completion.chunk",
            created: now(),
            model: if message.model.is_empty() { &self.facts.model } else { message.model.get() },
            service_tier: usage.service_tier(),
        };
        self.head.extend_from_slice(b"data: ");
        // Texts and numbers always serialise.
        let _ = serde_json::to_writer(&mut self.head, &head);
        self.head.pop();
        self.head.extend_from_slice(b",\"choices\":[");
        self.state = State::Running;
        self.delta(&Said { role: "assistant", content: "" }, out);
    }

    fn block_start(&mut self, index: u64, raw: Option<&RawValue>, out: &mut BytesMut) {
        let Some(raw) = raw else { return };
        let Some(block) = read::<Block<'_>>(raw) else { return };
        self.block_stop(index, out);
        if !matches!(block.r#type.get(), "thinking" | "redacted_thinking") {
            self.send_thoughts(out);
        }
        let open = match block.r#type.get() {
            "text" => {
                let open = Open::Text(self.chars, Vec::new());
                self.text(block.text.get(), out);
                open
            }
            "thinking" => {
                self.reasoning(block.thinking.get(), out);
                let text = block.thinking.get().to_owned();
                Open::Thinking { text, signature: block.signature.get().to_owned() }
            }
            "redacted_thinking" => Open::Redacted(block.data.get().to_owned()),
            "tool_use" if self.facts.json_tool.as_deref() == Some(block.name.get()) => {
                // One answer is enough.
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
            // Tools that run at Anthropic are none of the client's business.
            _ => return,
        };
        self.open.push((index, open));
    }

    fn call(&mut self, block: &Block<'_>, out: &mut BytesMut) -> Option<Open> {
        let index = self.calls;
        self.calls += 1;
        let function = Function { name: Some(block.name.get()), arguments: "" };
        if !self.facts.functions {
            let made;
            let id = if block.id.is_empty() {
                made = format!("call_{index}");
                &made
            } else {
                block.id.get()
            };
            let call = ToolCall { index, id: Some(id), r#type: Some("function"), function };
            self.delta(&ToolCalls { tool_calls: [call] }, out);
        } else if index == 0 {
            self.delta(&FunctionCall { function_call: function }, out);
        } else {
            // The deprecated form has room for one.
            return None;
        }
        Some(Open::Tool(Input { initial: arguments(block.input), came: false }, index))
    }

    fn block_delta(&mut self, index: u64, delta: &Delta<'_>, out: &mut BytesMut) {
        match delta.r#type.get() {
            "text_delta" => self.text(delta.text.get(), out),
            "input_json_delta" => self.input(index, delta.partial_json.get(), out),
            "thinking_delta" => {
                self.reasoning(delta.thinking.get(), out);
                if let Some(Open::Thinking { text, .. }) = self.find(index) {
                    text.push_str(delta.thinking.get());
                }
            }
            "signature_delta" => {
                if let Some(Open::Thinking { signature, .. }) = self.find(index) {
                    signature.push_str(delta.signature.get());
                }
            }
            "citations_delta" => {
                if let Some(page) = delta.citation.and_then(Citation::of_page)
                    && let Some(Open::Text(start, pages)) = self.find(index)
                {
                    pages.push(Annotation::new(&page, *start, *start));
                }
            }
            _ => {}
        }
    }

    fn block_stop(&mut self, index: u64, out: &mut BytesMut) {
        let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else { return };
        let (_, block) = self.open.swap_remove(at);
        self.close(block, out);
    }

    fn close(&mut self, block: Open, out: &mut BytesMut) {
        match block {
            // Beside the answer in its form no other text counts, nor what it cites.
            Open::Text(_, pages) if pages.is_empty() || self.facts.json_tool.is_some() => {}
            Open::Text(_, pages) => {
                let chars = self.chars;
                self.annotations.extend(pages.into_iter().map(|page| page.until(chars)));
            }
            // A call without any arguments would be no JSON.
            Open::Tool(input, call) if !input.came => self.arguments(call, &input.initial, out),
            Open::Json(input) if !input.came => self.delta(&Content { content: &input.initial }, out),
            Open::Thinking { text, signature } if !signature.is_empty() => {
                self.thoughts.push(ThoughtBlock::Thinking { thinking: text, signature });
            }
            Open::Redacted(data) => self.thoughts.push(ThoughtBlock::RedactedThinking { data }),
            Open::Tool(..) | Open::Json(_) | Open::Thinking { .. } => {}
        }
    }

    fn send_thoughts(&mut self, out: &mut BytesMut) {
        if self.thoughts.is_empty() {
            return;
        }
        let before = self.thought;
        let blocks = std::mem::take(&mut self.thoughts).into_iter().enumerate();
        let place = |at| (before > 0).then_some(before + at);
        let thinking_blocks: Vec<_> = blocks.map(|(at, block)| Thought { index: place(at), block }).collect();
        self.thought += thinking_blocks.len();
        self.delta(&ThinkingBlocks { thinking_blocks }, out);
    }

    fn text(&mut self, text: &str, out: &mut BytesMut) {
        if text.is_empty() {
            return;
        }
        if self.facts.json_tool.is_some() {
            self.held.push_str(text);
            return;
        }
        self.chars += text.chars().count();
        self.delta(&Content { content: text }, out);
    }

    fn reasoning(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() {
            self.delta(&Reasoning { reasoning_content: text }, out);
        }
    }

    fn input(&mut self, index: u64, part: &str, out: &mut BytesMut) {
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
                self.delta(&Content { content: part }, out);
            }
            _ => {}
        }
    }

    fn arguments(&mut self, call: usize, part: &str, out: &mut BytesMut) {
        let function = Function { name: None, arguments: part };
        if self.facts.functions {
            self.delta(&FunctionCall { function_call: function }, out);
        } else {
            self.delta(&ToolCalls { tool_calls: [ToolCall { index: call, id: None, r#type: None, function }] }, out);
        }
    }

    fn find(&mut self, index: u64) -> Option<&mut Open> {
        self.open.iter_mut().rfind(|(open, _)| *open == index).map(|(_, block)| block)
    }

    fn stop(&mut self, out: &mut BytesMut) {
        for (_, block) in std::mem::take(&mut self.open) {
            self.close(block, out);
        }
        self.send_thoughts(out);
        let annotations = std::mem::take(&mut self.annotations);
        if !annotations.is_empty() {
            self.delta(&Annotations { annotations }, out);
        }
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() && !self.has_json {
            self.delta(&Content { content: &held }, out);
        }
        let called = match self.calls {
            0 => Called::Nothing,
            _ if self.facts.functions => Called::Function,
            _ => Called::Tools,
        };
        let reason = finish_reason(&self.stop_reason, called);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"");
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\"}],\"usage\":null}\n\n");
        if let Some(counts) = self.counts.known() {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            write(counts, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(DONE);
        self.state = State::Ended;
    }

    fn delta(&self, delta: &impl Serialize, out: &mut BytesMut) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":0,\"delta\":");
        write(delta, out);
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n");
    }
}

impl Events for Stream {
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        if self.state == State::Ended {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else { return };
        let index = event.index.0.unwrap_or(0);
        let kind = match event.r#type.get() {
            "" => name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("error"),
            kind => kind,
        };
        match kind {
            "message_start" => self.start(event.message, out),
            "ping" => out.extend_from_slice(b": ping\n\n"),
            "error" if event.error.is_some() => {
                write_data(out, &error::of_event(data).to_bytes());
                self.state = State::Ended;
            }
            "content_block_start" | "content_block_delta" | "content_block_stop" => {
                // A relay on the way may have lost the beginning; the chunks need theirs.
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
                    self.stop_reason = event.delta.0.stop_reason.get().to_owned();
                }
                if let Some(usage) = event.usage.and_then(read::<Usage<'_>>) {
                    self.counts.update(&usage);
                }
            }
            "message_stop" if self.state == State::Running => self.stop(out),
            _ => {}
        }
    }

    /// Only `message_stop` ends an answer: without it the stream is broken.
    fn finish(&mut self, _out: &mut BytesMut) {}
}
