//! Merges the chunks of a chat or legacy completion into the complete reply.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::parts::{Object, Parts, elements, is_empty, is_text};
use crate::sse::RawEvent;

/// Which kind of completion the chunks belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompletionKind {
    /// Chat completions: a choice has a `delta`.
    Chat,
    /// Legacy completions: a choice has a `text`.
    Legacy,
}

impl CompletionKind {
    /// The JSON text of a complete reply's `object` member.
    fn object(self) -> &'static str {
        match self {
            Self::Chat => "\"chat.completion\"",
            Self::Legacy => "\"text_completion\"",
        }
    }
}

/// The complete reply. `None` unless all of the stream is understood and every choice has its `finish_reason`.
pub(super) fn to_json(kind: CompletionKind, events: &[RawEvent]) -> Option<Bytes> {
    let mut reply = Reply { kind, parts: Parts::default(), choices: BTreeMap::new() };
    for event in events {
        let fields = event.fields();
        let Some(data) = &fields.data else { continue };
        let payload = std::str::from_utf8(data).ok()?.trim();
        if payload.starts_with("[DONE]") {
            break;
        }
        if fields.event == Some(b"error") {
            return None;
        }
        if !payload.is_empty() {
            reply.chunk(&Object::read(payload)?)?;
        }
    }
    reply.finish()
}

struct Reply {
    kind: CompletionKind,
    parts: Parts,
    choices: BTreeMap<u64, MergedChoice>,
}

#[derive(Default)]
struct MergedChoice {
    parts: Parts,
    calls: Calls,
}

impl Reply {
    fn chunk(&mut self, chunk: &Object<'_>) -> Option<()> {
        if chunk.is_error() {
            return None;
        }
        // Anything else between the chunks, such as a keep-alive, says nothing about the reply.
        if chunk.get("choices").or_else(|| chunk.get("usage")).is_none() {
            return Some(());
        }
        for (name, value) in chunk.iter() {
            match name {
                "choices" => {
                    // Reserves the place of `choices` among the members.
                    self.parts.list(name);
                    let choices = if is_empty(value) { Vec::new() } else { elements(value)? };
                    for (position, choice) in choices.into_iter().enumerate() {
                        self.choice(position as u64, &Object::read(choice)?)?;
                    }
                }
                "object" => self.parts.set(name, self.kind.object()),
                // Azure's first chunk leaves these members empty.
                "id" | "created" | "model" => self.parts.keep(name, value),
                "usage" if value == "null" => (),
                "obfuscation" => (),
                _ => self.parts.set(name, value),
            }
        }
        Some(())
    }

    fn choice(&mut self, position: u64, choice: &Object<'_>) -> Option<()> {
        let index = choice.get("index").map_or(Some(position), |index| index.parse().ok())?;
        let MergedChoice { parts, calls } = self.choices.entry(index).or_default();
        for (name, value) in choice.iter() {
            match (name, self.kind) {
                // Perplexity repeats the message so far beside each delta.
                ("message", CompletionKind::Chat) => (),
                ("delta", CompletionKind::Chat) => {
                    let message = parts.object("message");
                    if value != "null" {
                        delta(message, calls, &Object::read(value)?)?;
                    }
                }
                ("text", CompletionKind::Legacy) => parts.grow(name, value),
                ("logprobs", _) if value != "null" => {
                    let logprobs = parts.object(name);
                    Object::read(value)?.iter().for_each(|(name, value)| logprobs.grow(name, value));
                }
                ("finish_reason", _) if value == "\"error\"" => return None,
                ("finish_reason", _) if value == "\"\"" => (),
                _ => parts.set(name, value),
            }
        }
        Some(())
    }

    fn finish(self) -> Option<Bytes> {
        let Self { kind, parts: mut reply, choices } = self;
        if choices.is_empty() {
            return None;
        }
        reply.set("object", kind.object());
        let list = reply.list("choices");
        for (index, MergedChoice { mut parts, .. }) in choices {
            parts.get("finish_reason").filter(|reason| is_text(reason))?;
            parts.set("index", &index.to_string());
            match kind {
                CompletionKind::Chat => {
                    let message = parts.object("message");
                    message.keep("role", "\"assistant\"");
                    message.set("content", "null");
                }
                CompletionKind::Legacy => parts.keep("text", "\"\""),
            }
            list.push(parts);
        }
        let mut out = String::new();
        reply.write(&mut out);
        Some(Bytes::from(out))
    }
}

/// Adds one delta to a message.
fn delta(message: &mut Parts, calls: &mut Calls, delta: &Object<'_>) -> Option<()> {
    for (name, value) in delta.iter() {
        match name {
            "role" => message.keep(name, value),
            "content" => content(message, value)?,
            // Streamed audio has another encoding.
            "audio" if !is_empty(value) => return None,
            "tool_calls" if is_empty(value) => (),
            "tool_calls" => {
                for entry in elements(value)? {
                    calls.add(message.list(name), &Object::read(entry)?);
                }
            }
            "function_call" if value.starts_with('{') => function(message.object(name), &Object::read(value)?),
            _ => message.grow(name, value),
        }
    }
    Some(())
}

/// Mistral streams parts where others stream text. How parts are joined is not known, so only one piece is accepted.
fn content(message: &mut Parts, value: &str) -> Option<()> {
    match message.get("content").filter(|old| !is_empty(old)) {
        Some(_) if is_empty(value) => (),
        Some(old) if !(old.starts_with('"') && value.starts_with('"')) => return None,
        _ => message.grow("content", value),
    }
    Some(())
}

/// Adds to a function or a custom tool: its name comes once, or in every delta; its arguments or input in pieces.
fn function(parts: &mut Parts, delta: &Object<'_>) {
    for (name, value) in delta.iter() {
        match name {
            "arguments" | "input" => parts.grow(name, value),
            "name" if parts.get(name) == Some(value) => (),
            "name" => parts.grow(name, value),
            _ => parts.set(name, value),
        }
    }
}

/// Which entry belongs to which tool call of a choice.
#[derive(Default)]
struct Calls {
    by_id: HashMap<Box<str>, usize>,
    /// The provider's number → the place of the newest call that had it.
    by_given: HashMap<u64, usize>,
}

impl Calls {
    /// Adds an entry. It starts a call when its id or its number is new; without either, when it names a function.
    fn add(&mut self, calls: &mut Vec<Parts>, entry: &Object<'_>) {
        let id = entry.get("id").filter(|id| is_text(id));
        let given = entry.get("index").and_then(|index| index.parse().ok());
        let known = match (id, given) {
            (Some(_), Some(given)) if !self.by_given.contains_key(&given) => None,
            (Some(id), _) => self.by_id.get(id).copied(),
            (None, Some(given)) => self.by_given.get(&given).copied(),
            (None, None) if names_function(entry) => None,
            (None, None) => calls.len().checked_sub(1),
        };
        let at = known.unwrap_or_else(|| {
            calls.push(Parts::default());
            calls.len() - 1
        });
        if let Some(given) = given {
            self.by_given.insert(given, at);
        }
        if let Some(id) = id {
            self.by_id.insert(id.into(), at);
        }
        for (name, value) in entry.iter() {
            match name {
                "index" => (),
                "id" | "type" => calls[at].keep(name, value),
                "function" | "custom" => match Object::read(value) {
                    Some(delta) => function(calls[at].object(name), &delta),
                    None => calls[at].set(name, value),
                },
                _ => calls[at].set(name, value),
            }
        }
    }
}

fn names_function(entry: &Object<'_>) -> bool {
    let function = entry.get("function").or_else(|| entry.get("custom")).and_then(Object::read);
    function.and_then(|function| function.get("name")).is_some_and(is_text)
}
