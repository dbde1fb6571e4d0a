//! Writes the content blocks of a stream one after the other, as Anthropic's grammar requires, although a chat stream may
//! interleave the pieces of several tool calls.
//!
//! ```text
//! blocks     0        1        2       3
//!         [closed] [closed] [ open ] [held]
//!                            current   │
//!    its pieces are written at once    └ its pieces wait until it is the current one
//! ```
//!
//! A block is closed as soon as it is complete and a next one exists. Text is always complete, a tool call when its JSON closes.

use bytes::BytesMut;
use serde_json::value::RawValue;

use super::write::{Block, Delta, Event};

/// All blocks of a stream.
#[derive(Default)]
pub(super) struct Blocks {
    all: Vec<HeldBlock>,
    /// Index of the first block that is not closed.
    current: usize,
    /// The current block is started.
    open: bool,
    /// The message's id without its prefix; used to make ids for tool calls that have none.
    pub(super) stem: String,
    /// One of the blocks is a tool call.
    pub(super) any_call: bool,
}

struct HeldBlock {
    kind: Kind,
    /// The part of the block that could not be written yet.
    rest: String,
}

enum Kind {
    Text,
    /// Thinking, with its signature once that has come, which ends the block.
    Thinking(Option<String>),
    /// Thinking that only Anthropic can read; it comes complete.
    Redacted(String),
    Call(Call),
}

#[derive(Default)]
struct Call {
    /// The provider's number for the call.
    given: Option<u64>,
    id: String,
    name: String,
    json: Nesting,
}

impl Blocks {
    /// Adds text of the answer.
    pub(super) fn text(&mut self, text: &str, out: &mut BytesMut) {
        let at = match self.all.last() {
            Some(HeldBlock { kind: Kind::Text, .. }) => self.all.len() - 1,
            _ => self.push(Kind::Text),
        };
        self.add(at, text, out);
    }

    /// Adds text of the thinking.
    pub(super) fn thinking(&mut self, text: &str, out: &mut BytesMut) {
        let at = match self.all.last() {
            Some(HeldBlock { kind: Kind::Thinking(None), .. }) => self.all.len() - 1,
            _ => self.push(Kind::Thinking(None)),
        };
        self.add(at, text, out);
    }

    /// Ends the thinking streamed so far with its signature; where none was streamed, the thinking is `text`.
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

    /// Adds thinking that only Anthropic can read.
    pub(super) fn redacted(&mut self, data: &str, out: &mut BytesMut) {
        self.push(Kind::Redacted(data.to_owned()));
        self.advance(false, out);
    }

    /// Adds a piece of a tool call.
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

    /// The call that an entry belongs to; `None` when the entry starts a call: when its id or its number is new, or without
    /// either when it names a function.
    fn find(&self, given: Option<u64>, id: &str, name: &str, arguments: &str) -> Option<usize> {
        let calls = || {
            self.all.iter().enumerate().rev().filter_map(|(at, held)| match &held.kind {
                Kind::Call(call) => Some((at, call)),
                _ => None,
            })
        };
        let mut same_number = calls().filter(|(_, call)| call.given == given);
        // Older Ollamas number every call 0, and send each call complete.
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

    /// Adds text to a block. Text for a closed block is ignored: it can only be garbage behind the JSON of a call.
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

    /// Starts and ends blocks as far as possible now; all of them when `end`.
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
    /// Whether the block can be started: a call only when its name is known.
    fn can_start(&self) -> bool {
        !matches!(self, Kind::Call(call) if call.name.is_empty())
    }

    /// Whether nothing more can be added.
    fn is_closed(&self) -> bool {
        matches!(self, Kind::Redacted(_) | Kind::Thinking(Some(_)))
    }

    /// Whether nothing more has to be added.
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

/// The id for the tool call in this block, for a provider that gives none. `stem` is the message's id without its prefix.
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
