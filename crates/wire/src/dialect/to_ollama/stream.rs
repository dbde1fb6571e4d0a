//! Translates a stream.

use super::{
    error::failure,
    line::{Line, ToolCall},
    reply::{completion_id, model, now},
};
use crate::dialect::chat::{CallPiece, ChatEvent, ChatOut, ChatReader, Head, Listed, Piece};

/// Reads the lines of an answer.
///
/// ```text
/// Begun ──line──▶ Running ──done──▶ Over
///   └────error───────┴──error────────┘
/// ```
pub(super) struct Stream {
    asked: Box<str>,
    state: State,
    /// Number of tool calls so far.
    calls: usize,
}

enum State {
    /// No line has come.
    Begun,
    Running,
    Over,
}

impl Stream {
    /// A reader of the stream for a request to this model.
    pub(super) fn new(asked: Box<str>) -> Self {
        Self { asked, state: State::Begun, calls: 0 }
    }
}

impl ChatReader for Stream {
    /// Reads one line; lines have no name.
    fn event(&mut self, _: Option<&[u8]>, data: &[u8], out: &mut ChatOut<'_>) {
        if matches!(self.state, State::Over) {
            return;
        }
        let Some(line) = Line::read(data) else { return };
        if let Some(error) = line.error() {
            out.tell(ChatEvent::Error(&failure(error)));
            self.state = State::Over;
        } else if line.message.is_some() || line.is_done() {
            self.answer(&line, out);
        }
    }

    /// Emits nothing: the line that ends the answer also ends the stream, and without it the answer is incomplete.
    fn finish(&mut self, _: &mut ChatOut<'_>) {}
}

impl Stream {
    fn answer(&mut self, line: &Line<'_>, out: &mut ChatOut<'_>) {
        if matches!(self.state, State::Begun) {
            self.state = State::Running;
            let (id, model) = (&*completion_id(), model(&line.model, &self.asked));
            out.tell(ChatEvent::Head(Head { id, created: Some(now()), model, service_tier: "" }));
            out.tell(ChatEvent::Begin);
        }
        let logprobs = line.logprobs();
        let mut logprobs = logprobs.as_ref().map(|logprobs| Listed::Made(&logprobs.content));
        if let Some(message) = &line.message {
            let (thinking, content) = (&*message.thinking, &*message.content);
            if !thinking.is_empty() {
                // In a line with thinking and text, the log probabilities are taken for those of the text.
                let logprobs = if content.is_empty() { logprobs.take() } else { None };
                out.tell(ChatEvent::Delta { piece: Piece::Reasoning(thinking), logprobs });
            }
            if !content.is_empty() {
                out.tell(ChatEvent::Delta { piece: Piece::Text(content), logprobs: logprobs.take() });
            }
            let calls = message.calls(Some(self.calls));
            if !calls.is_empty() {
                self.calls += calls.len();
                let calls: Vec<CallPiece<'_>> = calls.iter().map(ToolCall::piece).collect();
                out.tell(ChatEvent::Delta { piece: Piece::Calls(&calls), logprobs: logprobs.take() });
            }
        }
        if logprobs.is_some() {
            out.tell(ChatEvent::Delta { piece: Piece::Nothing, logprobs });
        }
        if line.is_done() {
            out.tell(ChatEvent::Finish(line.finish_reason(self.calls > 0)));
            out.tell(ChatEvent::Usage(line.usage()));
            out.tell(ChatEvent::End);
            self.state = State::Over;
        }
    }
}
