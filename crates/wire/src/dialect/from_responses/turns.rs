//! Groups items into turns: what the assistant said, thought and called together is one chat message.

use serde_json::{Value, json};

use super::content::{collapse, is_plain, text_part};
use super::read::Object;
use crate::dialect::{Dropped, note_dropped};

/// The messages so far.
#[derive(Default)]
pub(super) struct Turns {
    done: Vec<Value>,
    /// The assistant's turn that is not finished yet.
    turn: Option<Turn>,
    /// Content of tool outputs that cannot stand in a tool message. It is added behind the run of outputs, because a user's
    /// message may not interrupt that.
    behind: Vec<Value>,
}

#[derive(Default)]
struct Turn {
    thinking: Vec<Value>,
    content: Vec<Value>,
    calls: Vec<Value>,
    marks: Object,
}

impl Turns {
    /// Adds a message of the system or the user.
    pub(super) fn message(&mut self, message: Value, dropped: &mut Vec<Dropped>) {
        self.settle(dropped);
        self.done.push(message);
    }

    /// Adds what the assistant said. Text behind calls joins their message, because only their outputs may follow that.
    pub(super) fn say(&mut self, mut parts: Vec<Value>, mut marks: Object, dropped: &mut Vec<Dropped>) {
        if self.turn.as_ref().is_some_and(|turn| turn.calls.is_empty() && !turn.content.is_empty()) {
            self.settle(dropped);
        }
        let turn = self.turn(dropped);
        if !turn.content.is_empty() {
            turn.content.push(text_part("\n\n"));
        } else if parts.is_empty() {
            parts.push(text_part(""));
        }
        turn.content.append(&mut parts);
        turn.marks.append(&mut marks);
    }

    /// Adds what the assistant thought before the text or the calls that follow.
    pub(super) fn think(&mut self, mut blocks: Vec<Value>, dropped: &mut Vec<Dropped>) {
        if self.turn.as_ref().is_some_and(|turn| turn.calls.is_empty() && !turn.content.is_empty()) {
            self.settle(dropped);
        }
        self.turn(dropped).thinking.append(&mut blocks);
    }

    /// Adds a call that the assistant made.
    pub(super) fn call(&mut self, call: Value, dropped: &mut Vec<Dropped>) {
        self.turn(dropped).calls.push(call);
    }

    /// Adds a tool's output, and the part of it that must stand in a user's message.
    pub(super) fn output(&mut self, message: Value, mut elsewhere: Vec<Value>, dropped: &mut Vec<Dropped>) {
        self.end_turn(dropped);
        self.done.push(message);
        self.behind.append(&mut elsewhere);
    }

    /// All messages.
    pub(super) fn finish(mut self, dropped: &mut Vec<Dropped>) -> Vec<Value> {
        self.settle(dropped);
        self.done
    }

    /// The unfinished turn, or a new one.
    fn turn(&mut self, dropped: &mut Vec<Dropped>) -> &mut Turn {
        if self.turn.is_none() {
            self.settle(dropped);
        }
        self.turn.get_or_insert_default()
    }

    fn settle(&mut self, dropped: &mut Vec<Dropped>) {
        self.end_turn(dropped);
        if !self.behind.is_empty() {
            self.done.push(json!({"role": "user", "content": std::mem::take(&mut self.behind)}));
        }
    }

    fn end_turn(&mut self, dropped: &mut Vec<Dropped>) {
        let Some(turn) = self.turn.take() else { return };
        if turn.content.is_empty() && turn.calls.is_empty() {
            // Thinking without text or calls behind it.
            note_dropped(dropped, "input[].reasoning");
            return;
        }
        let mut message = Object::new();
        message.insert("role".into(), "assistant".into());
        let silent = turn.content.is_empty();
        message.insert("content".into(), if silent { Value::Null } else { collapse(joined(turn.content)) });
        if !turn.thinking.is_empty() {
            message.insert("thinking_blocks".into(), turn.thinking.into());
        }
        if !turn.calls.is_empty() {
            message.insert("tool_calls".into(), turn.calls.into());
        }
        message.extend(turn.marks);
        self.done.push(message.into());
    }
}

/// The parts with adjacent plain texts joined: the parts of a response's message are pieces of one text.
fn joined(parts: Vec<Value>) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::with_capacity(parts.len());
    for part in parts {
        match (all.last_mut().and_then(plain_text), part.get("text").and_then(Value::as_str)) {
            (Some(before), Some(text)) if is_plain(&part) => before.push_str(text),
            _ => all.push(part),
        }
    }
    all
}

fn plain_text(part: &mut Value) -> Option<&mut String> {
    if !is_plain(part) {
        return None;
    }
    match part.get_mut("text") {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}
