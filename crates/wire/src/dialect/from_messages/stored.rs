//! Turns a stored Messages reply from a document into the equivalent event stream, and back.
//!
//! Values that need not be understood are copied as raw JSON text, so numbers and members of later API versions stay unchanged.

use bytes::{Bytes, BytesMut};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::write::Delta;
use crate::sse::{Scanner, write_data};

/// The members of a message that `message_delta` has at the end of a stream.
const AT_THE_END: [&str; 4] = ["stop_reason", "stop_sequence", "stop_details", "container"];

/// Whether this document is a complete message, which may be stored and given again to an equal request: not refused, not
/// paused, no error.
pub fn is_good(json: &[u8]) -> bool {
    let Some(message) = Message::read(json) else { return false };
    !matches!(&*message.stop_reason, "refusal" | "pause_turn")
}

/// The complete event stream of this message. `None` for a document that is not a finished message.
pub fn to_events(json: &[u8]) -> Option<Bytes> {
    let Message { document: message, blocks, .. } = Message::read(json)?;
    let usage = message.get("usage").and_then(Members::read).unwrap_or_default();
    let mut out = BytesMut::with_capacity(json.len() * 2 + 1024);

    let mut start = message.clone();
    start.set("content", &[(); 0])?;
    for name in AT_THE_END.into_iter().chain(["context_management"]).filter(|name| message.get(name).is_some()) {
        start.set(name, &())?;
    }
    let mut counted = usage.clone();
    if counted.get("output_tokens").is_some() {
        counted.set("output_tokens", &0)?;
    }
    start.set("usage", &counted)?;
    write(&mut out, "message_start", &[("message", &start)])?;

    for (index, block) in blocks.into_iter().enumerate() {
        write_block(index, block, &mut out)?;
    }

    let mut delta = Members::default();
    for name in AT_THE_END {
        if let Some(value) = message.get(name) {
            delta.set(name, value)?;
        }
    }
    let mut end = Members::default();
    end.set("delta", &delta)?;
    end.set("usage", &usage)?;
    if let Some(value) = message.get("context_management") {
        end.set("context_management", value)?;
    }
    let end: Vec<(&str, &RawValue)> = end.0.iter().map(|(name, value)| (&**name, &**value)).collect();
    write(&mut out, "message_delta", &end)?;
    write::<()>(&mut out, "message_stop", &[])?;
    Some(out.freeze())
}

/// The message of this complete event stream. `None` where the stream is incomplete, is not understood, or reports an error.
pub fn to_json(events: &[u8]) -> Option<Bytes> {
    let mut scanner = Scanner::new();
    scanner.push(Bytes::copy_from_slice(events));
    let mut growing = Growing::default();
    loop {
        let (event, last) = match scanner.next_event().ok()? {
            Some(event) => (event, false),
            None => (scanner.finish()?, true),
        };
        if let Some(data) = event.data()
            && !data.trim_ascii().is_empty()
            && growing.event(serde_json::from_slice(&data).ok()?)?
        {
            return growing.finish();
        }
        if last {
            return None;
        }
    }
}

/// A finished message.
struct Message {
    document: Members,
    blocks: Vec<Members>,
    stop_reason: String,
}

impl Message {
    fn read(json: &[u8]) -> Option<Self> {
        let document: Members = serde_json::from_slice(json).ok()?;
        if document.text("type")? != "message" || document.get("error").is_some_and(|error| error.get() != "null") {
            return None;
        }
        let blocks = serde_json::from_str(document.get("content")?.get()).ok()?;
        Some(Self { stop_reason: document.text("stop_reason")?, document, blocks })
    }
}

/// Writes a block: text, thinking and the input of tools as one delta each, everything else in the start event.
fn write_block(index: usize, mut block: Members, out: &mut BytesMut) -> Option<()> {
    let kind = block.text("type")?;
    let mut citations: Vec<Box<RawValue>> = Vec::new();
    let (mut text, mut thinking, mut signature, mut input) = Default::default();
    match &*kind {
        "text" => {
            text = block.move_text("text")?;
            if let Some(all) = block.get("citations").and_then(|all| serde_json::from_str(all.get()).ok()) {
                citations = all;
                block.set("citations", &[(); 0])?;
            }
        }
        "thinking" => {
            thinking = block.move_text("thinking")?;
            signature = block.move_text("signature").unwrap_or_default();
        }
        // Includes `server_tool_use` and `mcp_tool_use`.
        _ if kind.ends_with("tool_use") => {
            let whole = block.get("input").filter(|input| Members::read(input).is_none_or(|input| !input.0.is_empty()));
            if let Some(whole) = whole {
                input = whole.get().to_owned();
                block.set("input", &Members::default())?;
            }
        }
        _ => {}
    }
    let at = to_raw_value(&index).ok()?;
    write(out, "content_block_start", &[("index", &at), ("content_block", &to_raw_value(&block).ok()?)])?;
    let mut delta =
        |delta: Delta<'_>| write(out, "content_block_delta", &[("index", &at), ("delta", &to_raw_value(&delta).ok()?)]);
    for citation in &citations {
        delta(Delta::Citation { citation })?;
    }
    if !text.is_empty() {
        delta(Delta::Text { text: &text })?;
    }
    if !thinking.is_empty() {
        delta(Delta::Thinking { thinking: &thinking })?;
    }
    if !signature.is_empty() {
        delta(Delta::Signature { signature: &signature })?;
    }
    if !input.is_empty() {
        delta(Delta::InputJson { partial_json: &input })?;
    }
    write(out, "content_block_stop", &[("index", &at)])
}

/// Appends an event; its values may have line ends between their tokens.
fn write<T: Serialize>(out: &mut BytesMut, name: &str, members: &[(&str, T)]) -> Option<()> {
    let mut payload = Members::default();
    payload.set("type", name)?;
    for (name, value) in members {
        payload.set(name, value)?;
    }
    for part in ["event: ", name, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_data(out, &serde_json::to_vec(&payload).ok()?);
    Some(())
}

/// The message so far, built from the events of a stream.
#[derive(Default)]
struct Growing {
    message: Option<Members>,
    usage: Members,
    blocks: Vec<GrowingBlock>,
}

#[derive(Default)]
struct GrowingBlock {
    block: Members,
    text: String,
    thinking: String,
    input: String,
    citations: Vec<Box<RawValue>>,
    closed: bool,
}

/// An event of any type.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct AnyEvent {
    r#type: String,
    index: Option<usize>,
    message: Option<Members>,
    content_block: Option<Members>,
    delta: Option<Members>,
    usage: Option<Members>,
    context_management: Option<Box<RawValue>>,
}

impl Growing {
    /// Applies an event; true for the last one. `None` for an event that makes the stream unusable.
    fn event(&mut self, event: AnyEvent) -> Option<bool> {
        match &*event.r#type {
            "" | "error" => return None,
            "message_start" => {
                let message = event.message.filter(|_| self.message.is_none())?;
                self.usage = message.get("usage").and_then(Members::read).unwrap_or_default();
                self.message = Some(message);
            }
            "content_block_start" => {
                if self.message.is_none() || event.index != Some(self.blocks.len()) {
                    return None;
                }
                self.blocks.push(GrowingBlock { block: event.content_block?, ..GrowingBlock::default() });
            }
            "content_block_delta" => self.open_block(event.index)?.delta(&event.delta?)?,
            "content_block_stop" => self.open_block(event.index)?.closed = true,
            "message_delta" => {
                let message = self.message.as_mut()?;
                for (name, value) in event.delta?.0 {
                    message.set(&name, &value)?;
                }
                if let Some(value) = event.context_management {
                    message.set("context_management", &value)?;
                }
                // Counts are cumulative, and a count that is absent stays as it was.
                for (name, value) in event.usage.unwrap_or_default().0 {
                    if value.get() != "null" || self.usage.get(&name).is_none() {
                        self.usage.set(&name, &value)?;
                    }
                }
            }
            "message_stop" => return Some(true),
            // `ping`, and unknown events.
            _ => {}
        }
        Some(false)
    }

    fn open_block(&mut self, index: Option<usize>) -> Option<&mut GrowingBlock> {
        self.blocks.get_mut(index?).filter(|block| !block.closed)
    }

    fn finish(self) -> Option<Bytes> {
        let mut message = self.message?;
        message.text("stop_reason")?;
        let blocks = self.blocks.into_iter().map(GrowingBlock::finish).collect::<Option<Vec<_>>>()?;
        message.set("content", &blocks)?;
        if !self.usage.0.is_empty() {
            message.set("usage", &self.usage)?;
        }
        serde_json::to_vec(&message).ok().map(Bytes::from)
    }
}

impl GrowingBlock {
    fn delta(&mut self, delta: &Members) -> Option<()> {
        match &*delta.text("type")? {
            "text_delta" => self.text.push_str(&delta.text("text")?),
            "thinking_delta" => self.thinking.push_str(&delta.text("thinking")?),
            "input_json_delta" => self.input.push_str(&delta.text("partial_json")?),
            "citations_delta" => self.citations.push(delta.get("citation")?.to_owned()),
            "signature_delta" => self.block.set("signature", &delta.get("signature")?)?,
            // This delta has the complete content.
            "compaction_delta" => {
                for (name, value) in delta.0.iter().filter(|(name, _)| name != "type") {
                    self.block.set(name, value)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn finish(mut self) -> Option<Members> {
        if !self.closed {
            return None;
        }
        for (name, more) in [("text", &self.text), ("thinking", &self.thinking)] {
            if !more.is_empty() {
                let whole = self.block.text(name).unwrap_or_default() + more;
                self.block.set(name, &whole)?;
            }
        }
        if !self.citations.is_empty() {
            let given = self.block.get("citations").and_then(|all| serde_json::from_str(all.get()).ok());
            let mut all: Vec<Box<RawValue>> = given.unwrap_or_default();
            all.append(&mut self.citations);
            self.block.set("citations", &all)?;
        }
        if !self.input.is_empty() {
            self.block.set("input", &RawValue::from_string(self.input).ok()?)?;
        }
        Some(self.block)
    }
}

/// The members of an object in their order, each value as its raw text.
#[derive(Clone, Debug, Default)]
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// `None` for a value that is not an object.
    fn read(value: &RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|member| member.0 == name).map(|member| &*member.1)
    }

    /// A member's value, if it is a string.
    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Like [`Self::text`], and leaves an empty string in the member.
    fn move_text(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        self.set(name, "")?;
        Some(text)
    }

    /// Replaces a member's value, or adds a member.
    fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Option<()> {
        let value = to_raw_value(value).ok()?;
        match self.0.iter_mut().rev().find(|member| member.0 == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Some(())
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
