//! A stream.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use super::{
    error::failure,
    line::{Line, Logprobs, ToolCall},
    reply::Head,
};
use crate::{dialect::Events, sse};

/// Lines of Ollama's in, Chat's chunks out.
///
/// ```text
/// Begun ──line──▶ Running ──done──▶ Over
///   └────error───────┴──error────────┘
/// ```
pub(super) struct Stream {
    asked: Box<str>,
    state: State,
    /// How many tool calls there were.
    calls: usize,
}

enum State {
    /// Nothing was written.
    Begun,
    /// Holds what every chunk starts with, up to the choices.
    Running(Box<[u8]>),
    Over,
}

impl Stream {
    /// For a request to this model.
    pub(super) fn new(asked: Box<str>) -> Self {
        Self { asked, state: State::Begun, calls: 0 }
    }
}

impl Events for Stream {
    /// One line; it has no name.
    fn event(&mut self, _: Option<&[u8]>, data: &[u8], out: &mut BytesMut) {
        if matches!(self.state, State::Over) {
            return;
        }
        let Some(line) = Line::read(data) else { return };
        if let Some(error) = line.error() {
            sse::write_data(out, &failure(error).to_bytes());
            self.state = State::Over;
        } else if line.message.is_some() || line.is_done() {
            self.answer(&line, out);
        }
    }

    /// Nothing: the line that ends the answer also ends the stream, and without it the answer is not whole.
    fn finish(&mut self, _: &mut BytesMut) {}
}

impl Stream {
    fn answer(&mut self, line: &Line<'_>, out: &mut BytesMut) {
        if matches!(self.state, State::Begun) {
            self.state = State::Running(start(&Head::new("chat.completion.chunk", &line.model, &self.asked)));
            self.delta(Delta { role: Some("assistant"), content: Some(""), ..Delta::default() }, None, out);
        }
        let mut logprobs = line.logprobs();
        if let Some(message) = &line.message {
            let (thinking, content) = (&*message.thinking.0, &*message.content.0);
            if !thinking.is_empty() {
                // In a line with both, the probabilities are more likely to be asked for the answer.
                let logprobs = if content.is_empty() { logprobs.take() } else { None };
                self.delta(Delta { reasoning_content: Some(thinking), ..Delta::default() }, logprobs, out);
            }
            if !content.is_empty() {
                self.delta(Delta { content: Some(content), ..Delta::default() }, logprobs.take(), out);
            }
            let tool_calls = message.calls(Some(self.calls));
            if !tool_calls.is_empty() {
                self.calls += tool_calls.len();
                self.delta(Delta { tool_calls, ..Delta::default() }, logprobs.take(), out);
            }
        }
        if logprobs.is_some() {
            self.delta(Delta::default(), logprobs, out);
        }
        if line.is_done() {
            self.end(line, out);
        }
    }

    fn end(&mut self, line: &Line<'_>, out: &mut BytesMut) {
        let finish_reason = Some(line.finish_reason(self.calls > 0));
        self.choice(&Choice { index: 0, delta: Delta::default(), logprobs: None, finish_reason }, out);
        if let State::Running(start) = &self.state {
            out.extend_from_slice(start);
            out.extend_from_slice(b"],\"usage\":");
            write(&line.usage(), out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(sse::DONE);
        self.state = State::Over;
    }

    fn delta(&self, delta: Delta<'_>, logprobs: Option<Logprobs<'_>>, out: &mut BytesMut) {
        self.choice(&Choice { index: 0, delta, logprobs, finish_reason: None }, out);
    }

    fn choice(&self, choice: &Choice<'_>, out: &mut BytesMut) {
        if let State::Running(start) = &self.state {
            out.extend_from_slice(start);
            write(choice, out);
            out.extend_from_slice(b"],\"usage\":null}\n\n");
        }
    }
}

/// `data: {"id":…,"object":…,"created":…,"model":…,"choices":[`, which is the same in all chunks.
fn start(head: &Head<'_>) -> Box<[u8]> {
    let mut start = BytesMut::from(&b"data: "[..]);
    write(head, &mut start);
    start.truncate(start.len() - 1);
    start.extend_from_slice(b",\"choices\":[");
    start[..].into()
}

fn write(value: &impl Serialize, out: &mut BytesMut) {
    // A buffer takes everything, and these values always serialise.
    let _ = serde_json::to_writer(out.writer(), value);
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}
