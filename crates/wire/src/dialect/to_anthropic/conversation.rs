//! Turns Chat's messages into Anthropic's `system` and `messages`.

use serde_json::{Map, Value, json};

use super::super::at::At;
use super::super::{Dropped, Refusal, note_dropped};
use super::calls::Calls;
use super::content::{Place, blocks, breakpoint, text_block, thinking_block};
use super::must_be;

/// Number of dropped parameters from which on unknown keys of messages are named only as `messages[]`.
const MAX_NAMED: usize = 64;

/// The conversation in Anthropic's form.
pub(super) struct Conversation {
    /// Text blocks of system messages: leading ones first, then those from the middle of the conversation.
    pub(super) system: Vec<Value>,
    /// Messages of alternating roles.
    pub(super) messages: Vec<Value>,
    /// The tools that the conversation calls, in order of their first call.
    pub(super) called: Vec<String>,
    /// The conversation ends with results of calls that the model made without thinking, or whose thinking was not sent back.
    pub(super) open_without_thinking: bool,
}

impl Conversation {
    /// Reads `messages`. `thinks` tells whether the model accepts thinking blocks.
    ///
    /// A conversation may begin with the assistant: Anthropic accepts that (since the end of 2024; Bedrock did not then), and the
    /// model would read an invented user's message in front of it.
    ///
    /// # Errors
    /// Unsupported content, and calls and results that do not match, which Anthropic would refuse with a less helpful message.
    pub(super) fn read(messages: Option<&Value>, thinks: bool, dropped: &mut Vec<Dropped>) -> Result<Self, Refusal> {
        let Some(Value::Array(messages)) = messages else {
            return Err(must_be("messages", "a list of messages"));
        };
        let mut reader = Reader {
            thinks,
            dropped,
            system: Vec::new(),
            late: Vec::new(),
            turns: Vec::new(),
            calls: Calls::default(),
        };
        for (index, message) in messages.iter().enumerate() {
            let at = At::Item(&At::Param("messages"), index);
            let Some(message) = message.as_object() else {
                return Err(must_be(at, "an object with a `role`"));
            };
            reader.message(index, &at, message)?;
        }
        reader.finish()
    }

    /// Removes the thinking from an answer that the model is to continue: with thinking off, Anthropic refuses it there.
    pub(super) fn unthink_last(&mut self, dropped: &mut Vec<Dropped>) {
        let Some(last) = self.messages.last_mut().filter(|last| last["role"] == "assistant") else { return };
        if let Some(blocks) = last["content"].as_array_mut() {
            let count = blocks.len();
            blocks.retain(|block| !is_thinking(block));
            if blocks.len() < count {
                note_dropped(dropped, "messages[].thinking_blocks");
            }
            if blocks.is_empty() {
                self.messages.pop();
            }
        }
    }
}

struct Reader<'a> {
    thinks: bool,
    dropped: &'a mut Vec<Dropped>,
    system: Vec<Value>,
    late: Vec<Value>,
    turns: Vec<Turn>,
    calls: Calls,
}

/// Adjacent messages of the assistant, or of everybody else.
struct Turn {
    assistant: bool,
    /// Results of tools, which come before all other blocks.
    results: Vec<Value>,
    blocks: Vec<Value>,
}

impl Reader<'_> {
    fn message(&mut self, index: usize, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        let role = message.get("role").and_then(Value::as_str).unwrap_or("");
        if matches!(role, "user" | "assistant") {
            self.calls.expect_none_open()?;
        }
        match role {
            "system" | "developer" => self.system(at, message)?,
            "user" => self.user(at, message)?,
            "assistant" => self.assistant(index, at, message)?,
            "tool" => self.result(at, message)?,
            "function" => self.function_result(at, message)?,
            _ => {
                return Err(must_be(format!("{at}.role"), "`system`, `developer`, `user`, `assistant` or `tool`"));
            }
        }
        for (key, _) in message.iter().filter(|(_, value)| !is_nothing(value)) {
            if !is_read(role, key) {
                // A body full of unknown keys must not fill the header that names the dropped ones.
                let few = self.dropped.len() < MAX_NAMED;
                note_dropped(
                    self.dropped,
                    if few { format!("messages[].{key}").into() } else { Dropped::Borrowed("messages[]") },
                );
            }
        }
        Ok(())
    }

    fn system(&mut self, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        let mut blocks = self.blocks(at, message, Place::System)?;
        mark_last(&mut blocks, message, self.dropped);
        if self.turns.is_empty() {
            self.system.append(&mut blocks);
        } else if !blocks.is_empty() {
            note_dropped(self.dropped, "messages[].role (system in mid-conversation)");
            self.late.append(&mut blocks);
        }
        Ok(())
    }

    fn user(&mut self, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        if message.get("content").is_none_or(Value::is_null) {
            return Err(must_be(format!("{at}.content"), "a text or a list of parts"));
        }
        let mut blocks = self.blocks(at, message, Place::User)?;
        mark_last(&mut blocks, message, self.dropped);
        self.turn(false).blocks.append(&mut blocks);
        Ok(())
    }

    fn assistant(&mut self, index: usize, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        if message.get("audio").is_some_and(|audio| !audio.is_null()) {
            let message = "Audio of an earlier answer is not supported here: send its transcript as `content`.";
            return Err(Refusal::new(format!("{at}.audio"), message));
        }
        let mut all = self.thinking(message);
        all.append(&mut self.blocks(at, message, Place::Assistant)?);
        all.extend(message.get("refusal").and_then(Value::as_str).and_then(text_block));
        all.append(&mut self.calls.made(index, at, message, self.dropped)?);
        mark_last(&mut all, message, self.dropped);
        self.turn(true).blocks.append(&mut all);
        Ok(())
    }

    /// The thinking that the model gets back, at the start of its message.
    fn thinking(&mut self, message: &Map<String, Value>) -> Vec<Value> {
        let given = match message.get("thinking_blocks") {
            Some(Value::Array(blocks)) => blocks.as_slice(),
            _ => &[],
        };
        let kept: Vec<_> = given.iter().filter(|_| self.thinks).filter_map(thinking_block).collect();
        if kept.len() < given.len() {
            note_dropped(self.dropped, "messages[].thinking_blocks");
        }
        let said = message.get("reasoning_content").is_some_and(|text| !is_nothing(text));
        if said && kept.is_empty() && given.is_empty() {
            note_dropped(self.dropped, "messages[].reasoning_content");
        }
        kept
    }

    fn result(&mut self, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        let id = message.get("tool_call_id").and_then(Value::as_str);
        let Some(id) = id.and_then(|id| self.calls.answered(id)) else {
            let what = "the id of a call in the assistant's message before that has no result yet";
            return Err(must_be(format!("{at}.tool_call_id"), what));
        };
        self.push_result(at, message, id)
    }

    fn function_result(&mut self, at: &At<'_>, message: &Map<String, Value>) -> Result<(), Refusal> {
        let name = message.get("name").and_then(Value::as_str);
        let Some(id) = name.and_then(|name| self.calls.function_answered(name)) else {
            return Err(must_be(
                format!("{at}.name"),
                "the name of the function that the assistant's message before calls",
            ));
        };
        self.push_result(at, message, id)
    }

    fn push_result(&mut self, at: &At<'_>, message: &Map<String, Value>, id: String) -> Result<(), Refusal> {
        let blocks = self.blocks(at, message, Place::Tool)?;
        let mut result = json!({"type": "tool_result", "tool_use_id": id});
        if !blocks.is_empty() {
            result["content"] = compact(blocks);
        }
        if let Some(mark) = breakpoint(message, self.dropped) {
            result["cache_control"] = mark;
        }
        self.turn(false).results.push(result);
        Ok(())
    }

    fn blocks(&mut self, at: &At<'_>, message: &Map<String, Value>, place: Place) -> Result<Vec<Value>, Refusal> {
        blocks(message.get("content").unwrap_or(&Value::Null), &at.member("content"), place, self.dropped)
    }

    /// The turn that a message belongs to.
    fn turn(&mut self, assistant: bool) -> &mut Turn {
        let at = self.turns.len();
        match self.turns.last() {
            Some(last) if last.assistant == assistant => &mut self.turns[at - 1],
            _ => {
                self.turns.push(Turn { assistant, results: Vec::new(), blocks: Vec::new() });
                &mut self.turns[at]
            }
        }
    }

    fn finish(mut self) -> Result<Conversation, Refusal> {
        self.calls.expect_none_open()?;
        self.system.append(&mut self.late);
        if let Some(last) = self.turns.last_mut().filter(|turn| turn.assistant) {
            trim_end(&mut last.blocks);
        }
        let mut turns: Vec<Turn> = Vec::with_capacity(self.turns.len());
        for mut turn in self.turns.into_iter().filter(|turn| !turn.blocks.is_empty() || !turn.results.is_empty()) {
            // Where an empty message was left out, its neighbours may be of the same side.
            match turns.last_mut().filter(|last| last.assistant == turn.assistant) {
                Some(last) => {
                    last.results.append(&mut turn.results);
                    last.blocks.append(&mut turn.blocks);
                }
                None => turns.push(turn),
            }
        }
        if !turns.iter().any(|turn| !turn.assistant) {
            return Err(Refusal::new("messages", "At least one message of a user that is not blank is required."));
        }
        Ok(Conversation {
            open_without_thinking: is_open_without_thinking(&turns),
            system: self.system,
            called: self.calls.into_names(),
            messages: turns.into_iter().map(Turn::into_message).collect(),
        })
    }
}

impl Turn {
    fn into_message(mut self) -> Value {
        self.results.append(&mut self.blocks);
        json!({"role": if self.assistant { "assistant" } else { "user" }, "content": compact(self.results)})
    }
}

/// Blocks as `content`: a single plain text becomes a string.
pub(super) fn compact(mut blocks: Vec<Value>) -> Value {
    match blocks.as_mut_slice() {
        [Value::Object(block)] if block.len() == 2 && block.contains_key("text") => block["text"].take(),
        _ => Value::Array(blocks),
    }
}

fn is_thinking(block: &Value) -> bool {
    matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))
}

/// Whether the model is in the middle of calling tools, in a turn that does not begin with its thinking.
fn is_open_without_thinking(turns: &[Turn]) -> bool {
    let Some((last, before)) = turns.split_last() else { return false };
    // Also where the user adds text to the results: Anthropic looks at the blocks.
    let open = !last.assistant && !last.results.is_empty();
    // The model's turn goes back to what the user last said before.
    let begin = before.iter().rposition(|turn| !turn.assistant && !turn.blocks.is_empty()).map_or(0, |said| said + 1);
    open && turns.get(begin).and_then(|turn| turn.blocks.first()).is_some_and(|first| !is_thinking(first))
}

/// Whether a message of this role has a field of this name, which is then read elsewhere.
fn is_read(role: &str, key: &str) -> bool {
    match key {
        "role" | "content" | "cache_control" | "prompt_cache_breakpoint" => true,
        "name" => role == "function",
        "tool_call_id" => role == "tool",
        "tool_calls" | "function_call" | "refusal" | "audio" | "reasoning_content" | "thinking_blocks" => {
            role == "assistant"
        }
        _ => false,
    }
}

/// Whether a field's value asks for nothing, as in many fields of replayed replies.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        _ => false,
    }
}

/// Puts a message's own breakpoint on its last block that may have one.
fn mark_last(blocks: &mut [Value], message: &Map<String, Value>, dropped: &mut Vec<Dropped>) {
    let Some(mark) = breakpoint(message, dropped) else { return };
    if let Some(block) = blocks.iter_mut().rfind(|block| !is_thinking(block)) {
        block["cache_control"] = mark;
    }
}

/// Trims the text that the model is to continue, which must not end in white space.
fn trim_end(blocks: &mut [Value]) {
    if let Some(Value::String(text)) = blocks.last_mut().and_then(|last| last.get_mut("text")) {
        text.truncate(text.trim_end().len());
    }
}
