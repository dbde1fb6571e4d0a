//! The content blocks of a stream, one after the other as Anthropic's grammar wants them, while a chat stream may mix
//! the pieces of several tool calls.
//!
//! ```text
//! blocks     0        1        2       3
//!         [closed] [closed] [ open ] [held]
//!                            current   │
//!          pieces of it go out at once └ pieces wait until it is their turn
//! ```
//!
//! A block gives way to the next one as soon as that exists and it is complete itself: text always is, a tool call when
//! its JSON closes.

use bytes::BytesMut;
use serde_json::value::RawValue;

use super::write::{Block, Delta, Event};

/// All blocks of a stream.
#[derive(Default)]
pub(super) struct Blocks {
    all: Vec<HeldBlock>,
    /// The first that is not closed.
    current: usize,
    /// It is started.
    open: bool,
    /// Of the message's id; ids of tool calls that have none are made of it.
    pub(super) stem: String,
    /// One of them is a tool call.
    pub(super) any_call: bool,
}

struct HeldBlock {
    kind: Kind,
    /// What of it could not be written yet.
    rest: String,
}

enum Kind {
    Text,
    /// With its signature, once that ends it.
    Thinking(Option<String>),
    /// It comes whole.
    Redacted(String),
    Call(Call),
}

#[derive(Default)]
struct Call {
    /// The provider's number for it.
    given: Option<u64>,
    id: String,
    name: String,
    json: Nesting,
}

impl Blocks {
    /// Text of the answer.
    pub(super) fn text(&mut self, text: &str, out: &mut BytesMut) {
        let at = match self.all.last() {
            Some(HeldBlock { kind: Kind::Text, .. }) => self.all.len() - 1,
            _ => self.push(Kind::Text),
        };
        self.add(at, text, out);
    }

    /// Text of the thinking.
    pub(super) fn thinking(&mut self, text: &str, out: &mut BytesMut) {
        let at = match self.all.last() {
            Some(HeldBlock { kind: Kind::Thinking(None), .. }) => self.all.len() - 1,
            _ => self.push(Kind::Thinking(None)),
        };
        self.add(at, text, out);
    }

    /// The signature that ends the thinking streamed so far; where there is none, it is of `text`.
    pub(super) fn sign(&mut self, text: &str, signature: &str, out: &mut BytesMut) {
        match self.all.last_mut() {
            Some(HeldBlock { kind: Kind::Thinking(slot @ None), .. }) => *slot = Some(signature.to_owned()),
            _ => {
                let at = self.push(Kind::Thinking(Some(signature.to_owned())));
                text.clone_into(&mut self.all[at].rest);
            }
        }
        self.advance(false, out);
    }

    /// Thinking that only Anthropic can read.
    pub(super) fn redacted(&mut self, data: &str, out: &mut BytesMut) {
        self.push(Kind::Redacted(data.to_owned()));
        self.advance(false, out);
    }

    /// A piece of a tool call.
    pub(super) fn call(&mut self, given: Option<u64>, id: &str, name: &str, arguments: &str, out: &mut BytesMut) {
        let at = match self.find(given, id, name, arguments) {
            Some(at) => at,
            None if id.is_empty() && name.is_empty() && arguments.is_empty() => return,
            None => {
                self.any_call = true;
                self.push(Kind::Call(Call { given, ..Call::default() }))
            }
        };
        let Kind::Call(call) = &mut self.all[at].kind else { return };
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        call.json.read(arguments);
        self.add(at, arguments, out);
    }

    /// Writes all that is held, and the end of the last block.
    pub(super) fn finish(&mut self, out: &mut BytesMut) {
        self.advance(true, out);
    }

    /// The call that an entry belongs to. It starts one when its id is new or its number is; without either, when it names
    /// a function.
    fn find(&self, given: Option<u64>, id: &str, name: &str, arguments: &str) -> Option<usize> {
        let calls = || {
            self.all.iter().enumerate().rev().filter_map(|(at, held)| match &held.kind {
                Kind::Call(call) => Some((at, call)),
                _ => None,
            })
        };
        let mut same_number = calls().filter(|(_, call)| call.given == given);
        // Older Ollamas number every call 0, and send it whole.
        let is_another = |call: &Call| call.json.closed() && !name.is_empty() && !arguments.is_empty();
        let found = match (id.is_empty(), given) {
            (true, Some(_)) => same_number.next().filter(|(_, call)| !is_another(call)),
            (true, None) if !name.is_empty() => None,
            (true, None) => calls().next(),
            (false, None) => calls().find(|(_, call)| call.id == id),
            // The id may come behind the first piece.
            (false, Some(_)) => same_number.find(|(_, call)| call.id == id || call.id.is_empty()),
        };
        found.map(|(at, _)| at)
    }

    fn push(&mut self, kind: Kind) -> usize {
        self.all.push(HeldBlock { kind, rest: String::new() });
        self.all.len() - 1
    }

    /// Adds to a block. What comes for one that is closed can only be garbage behind the JSON of a call.
    fn add(&mut self, at: usize, text: &str, out: &mut BytesMut) {
        if at == self.current && self.open {
            if !text.is_empty() {
                self.delta(text, out);
            }
        } else if at >= self.current {
            self.all[at].rest.push_str(text);
        }
        self.advance(false, out);
    }

    /// Starts and ends blocks as far as that can be done now.
    fn advance(&mut self, end: bool, out: &mut BytesMut) {
        while let Some(held) = self.all.get_mut(self.current) {
            if !self.open {
                if !end && !held.kind.can_start() {
                    return;
                }
                held.kind.start(self.current, &self.stem, out);
                self.open = true;
                let rest = std::mem::take(&mut held.rest);
                if !rest.is_empty() {
                    self.delta(&rest, out);
                }
            }
            let followed = self.current + 1 < self.all.len();
            let kind = &self.all[self.current].kind;
            if !(end || kind.is_closed() || (followed && kind.is_complete())) {
                return;
            }
            if let Kind::Thinking(Some(signature)) = kind {
                event(Event::ContentBlockDelta { index: self.current, delta: Delta::Signature { signature } }, out);
            }
            event(Event::ContentBlockStop { index: self.current }, out);
            self.open = false;
            self.current += 1;
        }
    }

    /// Writes a piece of the open block.
    fn delta(&self, text: &str, out: &mut BytesMut) {
        let Some(held) = self.all.get(self.current) else { return };
        let delta = match held.kind {
            Kind::Text => Delta::Text { text },
            Kind::Thinking(_) => Delta::Thinking { thinking: text },
            Kind::Call(_) => Delta::InputJson { partial_json: text },
            Kind::Redacted(_) => return,
        };
        event(Event::ContentBlockDelta { index: self.current, delta }, out);
    }
}

impl Kind {
    /// A call can when its name is known.
    fn can_start(&self) -> bool {
        !matches!(self, Kind::Call(call) if call.name.is_empty())
    }

    /// Nothing can be added to it.
    fn is_closed(&self) -> bool {
        matches!(self, Kind::Redacted(_) | Kind::Thinking(Some(_)))
    }

    /// Nothing needs to be added to it.
    fn is_complete(&self) -> bool {
        !matches!(self, Kind::Call(call) if !call.json.closed())
    }

    fn start(&self, index: usize, stem: &str, out: &mut BytesMut) {
        let made;
        let content_block = match self {
            Kind::Text => Block::Text { text: "" },
            Kind::Thinking(_) => Block::Thinking { thinking: "", signature: "" },
            Kind::Redacted(data) => Block::RedactedThinking { data },
            Kind::Call(Call { id, name, .. }) => {
                let id = if id.is_empty() {
                    made = tool_id(stem, index);
                    &made
                } else {
                    id
                };
                Block::ToolUse { id, name, input: no_input() }
            }
        };
        event(Event::ContentBlockStart { index, content_block }, out);
    }
}

/// The id of the tool call in this block, for a provider that gives none. `stem` is of the message's id.
pub(super) fn tool_id(stem: &str, index: usize) -> String {
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
    format!("toolu_{stem}_{index}")
}

/// `{}`.
pub(super) fn no_input() -> &'static RawValue {
    // The text is JSON.
    serde_json::from_str("{}").unwrap_or(RawValue::NULL)
}

fn event(event: Event<'_>, out: &mut BytesMut) {
    event.write(out);
}

/// Watches the text of an object or array for its end.
#[derive(Clone, Copy, Default)]
struct Nesting {
    depth: u32,
    begun: bool,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.begun = true;
                    self.depth = self.depth.saturating_add(1);
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn closed(self) -> bool {
        self.begun && self.depth == 0
    }
}
