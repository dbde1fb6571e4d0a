//! Turns a Chat stream, as "OpenAI-compatible" providers send it, into chat events.

use super::event::{CallPiece, ChatEvent, ChatOut, ChatReader, Listed, Piece};
use super::wire::{Choice, Chunk, Content, Message, error_in, gave_up};
use crate::openai::ErrorBody;

/// Reads the chunks of one stream.
///
/// ```text
/// waiting ──chunk with a choice──▶ begun ── [DONE] | usage behind a finish_reason | clean end behind one ──▶ over (End)
///    └────────────error──────────────┴───────────────────────────────────────────────────────────────────▶ over (Error)
/// ```
#[derive(Default)]
pub struct ChunkReader {
    /// There was a chunk.
    heard: bool,
    begun: bool,
    /// There was a `finish_reason`.
    finished: bool,
    counted: bool,
    over: bool,
}

impl ChatReader for ChunkReader {
    fn event(&mut self, name: Option<&[u8]>, data: &[u8], out: &mut ChatOut<'_>) {
        if self.over {
            return;
        }
        let data = data.trim_ascii();
        if data.starts_with(b"[DONE]") {
            // In front of the first chunk the marker ends nothing.
            if self.heard {
                self.end(out);
            }
            return;
        }
        let mended;
        let mut chunk = Chunk::read(data);
        if chunk.is_none() {
            mended = without_lone_surrogates(data);
            chunk = mended.as_deref().and_then(Chunk::read);
        }
        if let Some(error) = error_in(name == Some(b"error"), data, chunk.as_ref()) {
            return self.fail(&error, out);
        }
        if let Some(chunk) = chunk {
            self.chunk(&chunk, data, out);
        }
    }

    fn finish(&mut self, out: &mut ChatOut<'_>) {
        if self.finished && !self.over {
            self.end(out);
        }
    }
}

impl ChunkReader {
    fn chunk(&mut self, chunk: &Chunk<'_>, json: &[u8], out: &mut ChatOut<'_>) {
        self.heard = true;
        out.tell(ChatEvent::Head(if self.begun { chunk.later_head() } else { chunk.head() }));
        if let Some(counted) = chunk.usage(json) {
            self.counted = true;
            out.tell(ChatEvent::Usage(counted));
        }
        let mut has_choice = false;
        for choice in chunk.answer() {
            has_choice = true;
            if !self.begun {
                self.begun = true;
                out.tell(ChatEvent::Begin);
            }
            // Some providers send the whole message instead of a last delta, or beside each one: only the deltas count.
            choice.tell(choice.delta.0.as_ref(), out);
            self.finished |= !choice.finish_reason.is_empty();
            if choice.is_broken() {
                return self.fail(&gave_up(), out);
            }
        }
        // By OpenAI's rules the chunk with only the counts is the last one; counts in other chunks may still grow.
        if !has_choice && self.finished && self.counted {
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut ChatOut<'_>) {
        self.over = true;
        out.tell(ChatEvent::End);
    }

    fn fail(&mut self, error: &ErrorBody, out: &mut ChatOut<'_>) {
        self.over = true;
        out.tell(ChatEvent::Error(error));
    }
}

impl Choice<'_> {
    /// Emits the content of a delta or a complete message, and why the answer ended.
    pub(in crate::dialect) fn tell(&self, message: Option<&Message<'_>>, out: &mut ChatOut<'_>) {
        if let Some(message) = message {
            message.tell(self, out);
        }
        if !self.finish_reason.is_empty() {
            out.tell(ChatEvent::Finish(&self.finish_reason));
        }
    }
}

impl Message<'_> {
    fn tell(&self, choice: &Choice<'_>, out: &mut ChatOut<'_>) {
        let reasoning = self.reasoning();
        add(Piece::Reasoning, reasoning, out);
        if let Some(blocks) = self.thinking_blocks {
            let blocks = Listed::Json(blocks);
            out.add(Piece::Thoughts { blocks, beside_reasoning: !reasoning.is_empty() });
        }
        match &self.content {
            Content::Nothing => {}
            Content::Text(text) if text.is_empty() => {}
            Content::Text(text) => {
                out.tell(ChatEvent::Delta { piece: Piece::Text(text), logprobs: choice.logprobs() });
            }
            Content::Parts(parts) => {
                for part in parts {
                    add(Piece::Reasoning, &part.thinking.text(), out);
                    add(Piece::Text, &part.text, out);
                    add(Piece::Refusal, &part.refusal, out);
                }
            }
        }
        add(Piece::Refusal, &self.refusal, out);
        if let Some(annotations) = self.annotations {
            out.add(Piece::Annotations(Listed::Json(annotations)));
        }
        for call in &self.tool_calls.0 {
            let function = call.function.0.as_ref();
            let arguments = function.map(|function| function.arguments()).unwrap_or_default();
            let name = function.map(|function| &*function.name);
            out.add(Piece::Calls(&[CallPiece { index: call.index.0, id: &call.id, name, arguments: &arguments }]));
        }
        if let Some(function) = self.function_call() {
            let (name, arguments) = (Some(&*function.name), &*function.arguments());
            out.add(Piece::Function(CallPiece { name, arguments, ..CallPiece::default() }));
        }
    }
}

fn add<'a>(piece: fn(&'a str) -> Piece<'a>, text: &'a str, out: &mut ChatOut<'_>) {
    if !text.is_empty() {
        out.add(piece(text));
    }
}

/// The JSON without the escapes that stand for half of a surrogate pair: some servers cut a text inside such a pair, and readers
/// of JSON refuse the halves. `None` where there are none.
fn without_lone_surrogates(json: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut out, mut at) = (Vec::with_capacity(json.len()), 0);
    while at < json.len() {
        let length = match (json[at], unit(at)) {
            (b'\\', Some(0xD800..=0xDBFF)) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            (b'\\', Some(0xD800..=0xDFFF)) => {
                at += 6;
                continue;
            }
            (b'\\', _) => 2.min(json.len() - at),
            _ => 1,
        };
        out.extend_from_slice(&json[at..at + length]);
        at += length;
    }
    (out.len() < json.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_are_left_out() {
        let mend =
            |json: &str| without_lone_surrogates(json.as_bytes()).map(|json| String::from_utf8(json).expect("text"));
        assert_eq!(mend(r#"{"a":"x\ud83d"}"#).as_deref(), Some(r#"{"a":"x"}"#));
        assert_eq!(
            mend(r#"{"a":"\ude00\u0041\ud83d\ude00\ud83d\ud83d"}"#).as_deref(),
            Some(r#"{"a":"\u0041\ud83d\ude00"}"#)
        );
        for whole in [r#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\\ud83d"}"#, r#"{"a":"\"#, r#"\u"#, ""] {
            assert_eq!(mend(whole), None, "{whole}");
        }
    }
}
