//! Writes the chunks of a stored completion that is replayed as a stream.

use std::borrow::Cow;

use bytes::Bytes;

use super::parts::{Object, elements, is_text, member, one_line};
use crate::sse::DONE;

/// The stream of a reply whose choices `write` turns into chunks; `object` is the JSON text of a chunk's `object` member.
pub(super) fn events(
    json: &str,
    object: &str,
    mut write: impl FnMut(&mut Chunks, &mut ChunkChoice<'_>) -> Option<()>,
) -> Option<Bytes> {
    let text = one_line(json);
    let reply = Object::read(&text)?;
    let choices = elements(reply.get("choices")?)?;
    if choices.is_empty() || reply.is_error() {
        return None;
    }
    let usage = reply.get("usage").filter(|usage| *usage != "null");
    let mut chunks = Chunks::new(&reply, object, usage.is_some(), text.len());
    for (position, choice) in choices.into_iter().enumerate() {
        write(&mut chunks, &mut ChunkChoice::read(position, choice)?)?;
    }
    Some(chunks.finish(usage))
}

/// One choice of a reply that is being written.
pub(super) struct ChunkChoice<'a> {
    pub(super) object: Object<'a>,
    index: Cow<'a, str>,
    finish_reason: &'a str,
    /// The choice has a `logprobs` member, so every chunk gets one.
    has_logprobs: bool,
    /// The log probabilities that are still to be written.
    pub(super) logprobs: Option<&'a str>,
}

impl<'a> ChunkChoice<'a> {
    /// `None` for a choice that did not finish, or failed.
    fn read(position: usize, text: &'a str) -> Option<Self> {
        let object = Object::read(text)?;
        let finish_reason = object.get("finish_reason").filter(|reason| is_text(reason) && *reason != "\"error\"")?;
        let index = object.get("index").map_or_else(|| Cow::Owned(position.to_string()), Cow::Borrowed);
        index.parse::<u64>().ok()?;
        let logprobs = object.get("logprobs");
        Some(Self {
            index,
            finish_reason,
            has_logprobs: logprobs.is_some(),
            logprobs: logprobs.filter(|logprobs| *logprobs != "null"),
            object,
        })
    }
}

/// The stream as far as it has been written.
pub(super) struct Chunks {
    out: String,
    /// The members of every chunk in front of its `choices`.
    head: String,
    /// Further members of the next chunk only: unknown lists and objects are written once.
    once: String,
    /// Every chunk has `"usage": null`, because the count comes at the end.
    counted: bool,
}

impl Chunks {
    fn new(reply: &Object<'_>, object: &str, counted: bool, size: usize) -> Self {
        let (mut head, mut once) = (String::from("{"), String::new());
        for (name, value) in reply.iter() {
            match name {
                "choices" | "usage" => (),
                "object" => member(&mut head, name, object),
                _ if value.starts_with(['{', '[']) => {
                    once.push(',');
                    member(&mut once, name, value);
                }
                _ => member(&mut head, name, value),
            }
        }
        if reply.get("object").is_none() {
            member(&mut head, "object", object);
        }
        Self { out: String::with_capacity(2 * size + 1024), head, once, counted }
    }

    /// Writes a chunk with one choice.
    fn chunk(&mut self, write: impl FnOnce(&mut String)) {
        let out = &mut self.out;
        for part in ["data: ", &self.head, &self.once, ",\"choices\":[{"] {
            out.push_str(part);
        }
        self.once.clear();
        write(out);
        out.push_str(if self.counted { "}],\"usage\":null}\n\n" } else { "}]}\n\n" });
    }

    pub(super) fn delta(&mut self, choice: &ChunkChoice<'_>, delta: &str) {
        self.delta_with(choice, delta, None);
    }

    pub(super) fn delta_with(&mut self, choice: &ChunkChoice<'_>, delta: &str, logprobs: Option<&str>) {
        self.part(choice, "delta", &format!("{{{delta}}}"), logprobs);
    }

    /// Writes a chunk that adds `value` to a choice.
    pub(super) fn part(&mut self, choice: &ChunkChoice<'_>, name: &str, value: &str, logprobs: Option<&str>) {
        self.chunk(|out| {
            member(out, "index", &choice.index);
            member(out, name, value);
            if choice.has_logprobs {
                member(out, "logprobs", logprobs.unwrap_or("null"));
            }
            member(out, "finish_reason", "null");
        });
    }

    /// Writes the chunk that ends a choice, with the members of the choice that are not written yet.
    pub(super) fn end(&mut self, choice: &mut ChunkChoice<'_>, name: &str, value: &str) {
        self.chunk(|out| {
            member(out, "index", &choice.index);
            member(out, name, value);
            if choice.has_logprobs {
                member(out, "logprobs", choice.logprobs.take().unwrap_or("null"));
            }
            member(out, "finish_reason", choice.finish_reason);
            for (name, value) in choice.object.iter() {
                if !matches!(name, "index" | "message" | "text" | "delta" | "logprobs" | "finish_reason") {
                    member(out, name, value);
                }
            }
        });
    }

    /// Writes the count, if there is one, and the end of the stream.
    fn finish(mut self, usage: Option<&str>) -> Bytes {
        if let Some(usage) = usage {
            for part in ["data: ", &self.head, ",\"choices\":[],\"usage\":", usage, "}\n\n"] {
                self.out.push_str(part);
            }
        }
        let mut out = self.out.into_bytes();
        out.extend_from_slice(DONE);
        Bytes::from(out)
    }
}
