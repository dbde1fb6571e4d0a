//! Tool calls in a conversation, and which results belong to them.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value, json};

use super::super::at::At;
use super::super::{Dropped, Refusal, note_dropped};
use super::must_be;

/// The calls of a conversation as far as it has been read.
#[derive(Default)]
pub(super) struct Calls {
    /// The ids sent to Anthropic for calls that have no result yet.
    open: HashMap<Key, VecDeque<String>>,
    /// Index of the message that made the open calls.
    maker: usize,
    /// All ids sent to Anthropic, with how often each was requested: Anthropic refuses an id that occurs twice.
    ids: HashMap<String, usize>,
    names: Vec<String>,
    named: HashSet<String>,
    functions: usize,
}

/// How a client identifies a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Id(String),
    /// The name of a deprecated function, whose calls have no id.
    Function(String),
}

impl Calls {
    /// The calls in an assistant's message, as blocks.
    ///
    /// # Errors
    /// A call without id or name, with a name that Anthropic does not take, or of a custom tool.
    pub(super) fn made(
        &mut self,
        index: usize,
        at: &At<'_>,
        message: &Map<String, Value>,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Vec<Value>, Refusal> {
        self.maker = index;
        let mut blocks = Vec::new();
        match message.get("tool_calls") {
            None | Some(Value::Null) => {}
            Some(Value::Array(calls)) => {
                for (index, call) in calls.iter().enumerate() {
                    let calls = at.member("tool_calls");
                    let at = calls.item(index);
                    if !matches!(call.get("type").and_then(Value::as_str), None | Some("function")) {
                        let message = "Only calls of type `function` can be had: describe the tool as a function.";
                        return Err(Refusal::new(at, message));
                    }
                    let Some(key) = call.get("id").and_then(Value::as_str) else {
                        return Err(must_be(format!("{at}.id"), "a text"));
                    };
                    let id = self.add(Key::Id(key.to_owned()), acceptable(key));
                    let function = call.get("function").unwrap_or(&Value::Null);
                    blocks.push(self.block(id, function, &at.member("function"), dropped)?);
                }
            }
            Some(_) => return Err(must_be(format!("{at}.tool_calls"), "a list of calls")),
        }
        if let Some(call) = message.get("function_call").filter(|call| !call.is_null()) {
            let at = at.member("function_call");
            let name = name(call, &at)?.to_owned();
            self.functions += 1;
            let id = self.add(Key::Function(name), format!("call_{}", self.functions));
            blocks.push(self.block(id, call, &at, dropped)?);
        }
        Ok(blocks)
    }

    /// Anthropic's id of the open call with this client id; closes the call.
    pub(super) fn answered(&mut self, id: &str) -> Option<String> {
        self.close(Key::Id(id.to_owned()))
    }

    /// Anthropic's id of the open call of the deprecated function of this name; closes the call.
    pub(super) fn function_answered(&mut self, name: &str) -> Option<String> {
        self.close(Key::Function(name.to_owned()))
    }

    /// Checks that every call has its result.
    ///
    /// # Errors
    /// A call without a result directly behind it.
    pub(super) fn expect_none_open(&self) -> Result<(), Refusal> {
        match self.open.keys().min() {
            None => Ok(()),
            Some(key) => {
                let (field, key) = match key {
                    Key::Id(id) => ("tool_calls", id),
                    Key::Function(name) => ("function_call", name),
                };
                let message = format!("The call {key:?} has no result: a message with it must follow at once.");
                Err(Refusal::new(format!("messages[{}].{field}", self.maker), message))
            }
        }
    }

    /// The names of all tools that were called, in order of their first call.
    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }

    fn close(&mut self, key: Key) -> Option<String> {
        let ids = self.open.get_mut(&key)?;
        let id = ids.pop_front();
        if ids.is_empty() {
            self.open.remove(&key);
        }
        id
    }

    /// Opens a call under an unused id; some providers count their ids from 0 in each answer.
    fn add(&mut self, key: Key, wish: String) -> String {
        let mut id = wish.clone();
        while self.ids.contains_key(&id) {
            let count = self.ids.entry(wish.clone()).or_insert(1);
            *count += 1;
            id = format!("{wish}_{count}");
        }
        self.ids.insert(id.clone(), 1);
        self.open.entry(key).or_default().push_back(id.clone());
        id
    }

    fn block(
        &mut self,
        id: String,
        function: &Value,
        at: &At<'_>,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Value, Refusal> {
        let name = name(function, at)?;
        if self.named.insert(name.to_owned()) {
            self.names.push(name.to_owned());
        }
        let input = input(function.get("arguments"), at, dropped)?;
        Ok(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
    }
}

/// The name of a function.
///
/// # Errors
/// A name that Anthropic does not accept.
pub(super) fn name<'a>(function: &'a Value, at: &At<'_>) -> Result<&'a str, Refusal> {
    function
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| name.len() <= 128 && is_word(name))
        .ok_or_else(|| must_be(format!("{at}.name"), "1 to 128 letters, digits, underscores and hyphens"))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The id itself, or an id derived from it if it contains characters that Anthropic refuses.
fn acceptable(id: &str) -> String {
    if is_word(id) {
        return id.to_owned();
    }
    let plain: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect();
    let digest = blake3::hash(id.as_bytes()).to_hex();
    format!("{plain}_{}", &digest[..8])
}

/// Arguments as the object that Anthropic requires. Arguments that are not an object are kept as text under one key: the model
/// should see what it wrote, and a client that replays the conversation must not get stuck.
fn input(arguments: Option<&Value>, at: &At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let text = match arguments {
        None | Some(Value::Null) => return Ok(json!({})),
        Some(object @ Value::Object(_)) => return Ok(object.clone()),
        Some(Value::String(text)) => text,
        Some(_) => return Err(must_be(format!("{at}.arguments"), "JSON in a text")),
    };
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(Value::Null) => Ok(json!({})),
        _ => {
            note_dropped(dropped, "messages[].tool_calls[].function.arguments (not a JSON object)");
            Ok(json!({"INVALID_JSON": text}))
        }
    }
}
