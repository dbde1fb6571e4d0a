//! How many tokens a prompt has, and which of them are written to the cache or read from it.

use serde_json::{Map, Value, json};

use super::super::answer::{self, IMAGE_TOKENS};
use super::super::call::{Call, World};
use super::reply::Answer;

/// Token counts of a call in Anthropic's convention: no count contains another, except that `thinking` is part of `output`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    input: u64,
    read: u64,
    written_5m: u64,
    written_1h: u64,
    output: u64,
    thinking: u64,
}

impl Usage {
    /// The `usage` of a complete message, or of its start with `output` tokens so far.
    pub(super) fn whole(&self, output: Option<u64>) -> Value {
        let mut usage = json!({
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.written_5m + self.written_1h,
            "cache_read_input_tokens": self.read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.written_5m, "ephemeral_1h_input_tokens": self.written_1h
            },
            "output_tokens": output.unwrap_or(self.output),
            "service_tier": "standard"
        });
        if self.thinking > 0 && output.is_none() {
            usage["output_tokens_details"] = json!({"thinking_tokens": self.thinking});
        }
        usage
    }

    /// The cumulative `usage` at the end of a stream.
    pub(super) fn delta(&self) -> Value {
        let mut usage = self.whole(None);
        if let Value::Object(usage) = &mut usage {
            usage.shift_remove("cache_creation");
            usage.shift_remove("service_tier");
        }
        usage
    }
}

/// All tokens of the prompt, cached or not.
pub(super) fn prompt_tokens(call: &Call) -> u64 {
    Prompt::read(call).tokens()
}

/// The usage of `answer`; adds the marked prefixes of its prompt to the cache.
pub(super) fn usage(world: &World, call: &Call, answer: &Answer) -> Usage {
    let prompt = Prompt::read(call);
    let total = prompt.tokens();
    let read = match call.faults.cached {
        Some(tokens) => tokens.min(total),
        None => match world.cache(prompt.marks.iter().map(|mark| mark.hash)) {
            0 => 0,
            known => prompt.marks[known - 1].tokens,
        },
    };
    let mut usage =
        Usage { read, output: answer.tokens, thinking: answer.thinking_tokens, input: total, ..Usage::default() };
    let mut paid = read;
    for mark in &prompt.marks {
        let new = mark.tokens.saturating_sub(paid);
        *(if mark.hour { &mut usage.written_1h } else { &mut usage.written_5m }) += new;
        paid += new;
    }
    usage.input -= paid;
    usage
}

/// A prompt, read in this order: tools, system, messages.
struct Prompt {
    hash: u64,
    bytes: usize,
    images: u64,
    marks: Vec<Mark>,
}

/// A `cache_control`: hash and tokens of the prompt up to it.
struct Mark {
    hash: u64,
    tokens: u64,
    hour: bool,
}

impl Prompt {
    fn read(call: &Call) -> Self {
        let seed = answer::hash(call.model.as_bytes());
        let mut prompt = Self { hash: seed, bytes: 0, images: 0, marks: Vec::new() };
        for tool in call.body.get("tools").and_then(Value::as_array).into_iter().flatten() {
            prompt.block(tool);
        }
        if let Some(system) = call.body.get("system") {
            prompt.content(system);
        }
        for message in call.body.get("messages").and_then(Value::as_array).into_iter().flatten() {
            let role = message.get("role").and_then(Value::as_str).unwrap_or("");
            prompt.hash = answer::hash_on(prompt.hash, role.as_bytes());
            prompt.content(message.get("content").unwrap_or(&Value::Null));
        }
        if let Some(control) = call.get("cache_control") {
            prompt.mark(control);
        }
        prompt
    }

    fn tokens(&self) -> u64 {
        answer::tokens(self.bytes) + IMAGE_TOKENS * self.images
    }

    fn content(&mut self, content: &Value) {
        match content {
            Value::String(text) => self.text(text),
            Value::Array(blocks) => blocks.iter().for_each(|block| self.block(block)),
            _ => {}
        }
    }

    /// Reads a string, which counts the same as a block with that text.
    fn text(&mut self, text: &str) {
        self.bytes += text.len();
        self.hash = answer::hash_on(answer::hash_on(self.hash, text.as_bytes()), b"\0");
    }

    fn block(&mut self, block: &Value) {
        match block.get("type").and_then(Value::as_str) {
            Some("text") => self.text(block.get("text").and_then(Value::as_str).unwrap_or("")),
            Some("tool_result") => {
                let id = block.get("tool_use_id").and_then(Value::as_str).unwrap_or("");
                self.hash = answer::hash_on(self.hash, id.as_bytes());
                self.content(block.get("content").unwrap_or(&Value::Null));
            }
            Some("image" | "document") => {
                self.images += 1;
                self.hash = answer::hash_on(self.hash, block.get("source").unwrap_or(block).to_string().as_bytes());
            }
            _ => {
                let bare: Map<String, Value> = block
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(key, _)| !matches!(key.as_str(), "cache_control" | "signature"))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                self.text(&Value::Object(bare).to_string());
            }
        }
        if let Some(control) = block.get("cache_control").filter(|control| !control.is_null()) {
            self.mark(control);
        }
    }

    fn mark(&mut self, control: &Value) {
        let hour = control.get("ttl").is_some_and(|ttl| ttl == "1h");
        self.marks.push(Mark { hash: self.hash, tokens: self.tokens(), hour });
    }
}
