//! The answer as content blocks, as one body and as the events of a stream.

use serde_json::{Value, json};

use super::super::answer::{self, Heard};
use super::super::call::Call;
use super::super::dialect::Dialect;
use super::super::fault::Event;
use super::super::schema;
use super::super::tools::Tool;
use super::cache::Usage;
use super::check::Asked;
use super::{REDACT, REFUSE, SIGNATURE, sign};

/// The content of an answer.
pub(super) struct Answer {
    blocks: Vec<Block>,
    stop_reason: &'static str,
    stop_sequence: Option<String>,
    /// All tokens of the answer.
    pub(super) tokens: u64,
    /// The tokens of the answer's thinking.
    pub(super) thinking_tokens: u64,
}

enum Block {
    Thinking { shown: String, signature: String },
    Redacted(String),
    Text(String),
    Call { id: String, name: String, input: String },
}

impl Answer {
    /// Builds the answer: thinking if asked for, then calls or text.
    pub(super) fn new(call: &Call, asked: &Asked, heard: &Heard, called: &[&Tool]) -> Self {
        let mut answer =
            Self { blocks: Vec::new(), stop_reason: "end_turn", stop_sequence: None, tokens: 0, thinking_tokens: 0 };
        let cut = asked.thinking && answer.think(asked, heard);
        if cut {
            answer.stop_reason = "max_tokens";
        } else if heard.last_user.contains(REFUSE) && heard.tool_result.is_none() {
            answer.stop_reason = "refusal";
        } else if called.is_empty() {
            answer.speak(call, asked, heard);
        } else {
            answer.call(call, called);
        }
        answer
    }

    /// Adds the thinking; returns whether the limit leaves no tokens for anything else.
    fn think(&mut self, asked: &Asked, heard: &Heard) -> bool {
        let thought = match &heard.tool_result {
            Some(result) => format!("The tool has answered \"{}\". I will say so.", answer::excerpt(result, 48)),
            None => format!("The user says \"{}\". I will answer.", answer::excerpt(&heard.last_user, 48)),
        };
        let (thought, tokens, cut) = answer::limit(&thought, &[], Some(asked.max_tokens), answer::PIECE);
        (self.tokens, self.thinking_tokens) = (tokens, tokens);
        let signature = sign(&thought);
        self.blocks.push(if heard.last_user.contains(REDACT) {
            Block::Redacted(format!("{SIGNATURE}redacted_{}", &signature[SIGNATURE.len()..]))
        } else {
            Block::Thinking { shown: if asked.omitted { String::new() } else { thought }, signature }
        });
        cut || tokens >= asked.max_tokens
    }

    fn speak(&mut self, call: &Call, asked: &Asked, heard: &Heard) {
        let said = match (call.faults.big, &asked.schema) {
            (Some(kib), _) => answer::filler(kib),
            (None, Some(schema)) => schema::example(schema, "").to_string(),
            (None, None) => answer::say(heard, 0),
        };
        let left = asked.max_tokens - self.tokens;
        let (text, tokens, cut) = answer::limit(&said, &asked.stops, Some(left), call.piece());
        self.tokens += tokens;
        if cut {
            self.stop_reason = "max_tokens";
        } else if text.len() < said.len() {
            // The stop sequence is what follows the text.
            let stop = asked.stops.iter().find(|stop| said[text.len()..].starts_with(stop.as_str()));
            (self.stop_reason, self.stop_sequence) = ("stop_sequence", stop.cloned());
        }
        if !text.is_empty() {
            self.blocks.push(Block::Text(text));
        }
    }

    fn call(&mut self, call: &Call, called: &[&Tool]) {
        self.stop_reason = "tool_use";
        for (k, tool) in called.iter().enumerate() {
            let input = tool.arguments();
            self.tokens += answer::tokens(tool.name.len() + input.len());
            let id = answer::id("toolu_", call.digest.wrapping_add(k as u64 + 1));
            self.blocks.push(Block::Call { id, name: tool.name.clone(), input });
        }
    }
}

impl Block {
    fn json(&self) -> Value {
        match self {
            Block::Thinking { shown, signature } => {
                json!({"type": "thinking", "thinking": shown, "signature": signature})
            }
            Block::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Call { id, name, input } => {
                // Arguments are JSON that was made here.
                let input: Value = serde_json::from_str(input).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    /// The block as its start event has it: without the content of its deltas.
    fn start(&self) -> Value {
        match self {
            Block::Thinking { .. } => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Block::Redacted(_) => self.json(),
            Block::Text(_) => json!({"type": "text", "text": ""}),
            Block::Call { id, name, .. } => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
        }
    }

    fn deltas(&self, piece: usize) -> Vec<Value> {
        let each = |text: &str, piece: usize, delta: fn(&str) -> Value| -> Vec<Value> {
            answer::pieces(text, piece).into_iter().map(delta).collect()
        };
        match self {
            Block::Thinking { shown, signature } => {
                let mut deltas = each(shown, answer::PIECE, |text| json!({"type": "thinking_delta", "thinking": text}));
                deltas.push(json!({"type": "signature_delta", "signature": signature}));
                deltas
            }
            Block::Redacted(_) => Vec::new(),
            Block::Text(text) => each(text, piece, |text| json!({"type": "text_delta", "text": text})),
            Block::Call { input, .. } => {
                let part = |text: &str| json!({"type": "input_json_delta", "partial_json": text});
                let mut deltas = vec![part("")];
                // A call without arguments sends nothing but the empty piece.
                deltas.extend(each(if input == "{}" { "" } else { input }, 8, part));
                deltas
            }
        }
    }
}

/// An answer with the values that its message needs.
pub(super) struct Frame<'a> {
    call: &'a Call,
    answer: Answer,
    usage: Usage,
}

impl<'a> Frame<'a> {
    pub(super) fn new(call: &'a Call, answer: Answer, usage: Usage) -> Self {
        Self { call, answer, usage }
    }

    /// The message as one JSON body.
    pub(super) fn whole(&self) -> Value {
        let content = self.answer.blocks.iter().map(Block::json).collect();
        let stop = (json!(self.answer.stop_reason), json!(self.answer.stop_sequence));
        self.message(content, stop, self.usage.whole(None))
    }

    /// The message as events, in Anthropic's grammar.
    pub(super) fn events(&self) -> Vec<Event> {
        let event = |name: &'static str, data: Value| Event::named(Dialect::Anthropic, name, &data);
        let begun = self.message(Vec::new(), (Value::Null, Value::Null), self.usage.whole(Some(1)));
        let mut events = vec![event("message_start", json!({"type": "message_start", "message": begun}))];
        for (index, block) in self.answer.blocks.iter().enumerate() {
            let start = json!({"type": "content_block_start", "index": index, "content_block": block.start()});
            events.push(event("content_block_start", start));
            if index == 0 {
                events.push(event("ping", json!({"type": "ping"})));
            }
            for delta in block.deltas(self.call.piece()) {
                let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
                events.push(event("content_block_delta", delta));
            }
            events.push(event("content_block_stop", json!({"type": "content_block_stop", "index": index})));
        }
        let mut end = json!({"type": "message_delta", "delta": {
            "stop_reason": self.answer.stop_reason, "stop_sequence": self.answer.stop_sequence
        }});
        if !self.call.faults.no_usage {
            end["usage"] = self.usage.delta();
        }
        events.push(event("message_delta", end));
        events.push(event("message_stop", json!({"type": "message_stop"})));
        events
    }

    fn message(&self, content: Vec<Value>, stop: (Value, Value), usage: Value) -> Value {
        let mut message = json!({
            "id": answer::id("msg_", self.call.digest), "type": "message", "role": "assistant",
            "model": self.call.model, "content": content, "stop_reason": stop.0, "stop_sequence": stop.1
        });
        if !self.call.faults.no_usage {
            message["usage"] = usage;
        }
        message
    }
}
