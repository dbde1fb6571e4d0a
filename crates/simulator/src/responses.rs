//! `POST /v1/responses`, as one body and as the typed events of the Responses API. Nothing is stored.

use serde_json::{Value, json};

use super::answer::{self, Count, Heard};
use super::call::{Call, Reply, now};
use super::chat::{Format, service_tier};
use super::dialect::Dialect;
use super::errors::ApiError;
use super::fault::Event;
use super::tools::{self, Tool};

/// Answers a request of the Responses API.
pub(super) fn respond(call: &Call) -> Result<Reply, ApiError> {
    call.sampling()?;
    let max = call.integer("max_output_tokens", 1..=i64::MAX)?;
    let heard = hear(call)?;
    let format = match call.body.get("text").and_then(|text| text.get("format")) {
        Some(format) => Format::of(format, format.get("schema"), &heard, "text.format", "input")?,
        None => Format::Text,
    };
    let offered = Tool::list(call.get("tools"));
    let parallel = call.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true);
    let called = tools::called(&offered, call.get("tool_choice"), parallel, &heard);

    let seed = |k: usize| call.digest.wrapping_add(k as u64 + 1);
    let (items, spoken, cut) = if called.is_empty() {
        let said = call.faults.big.map_or_else(|| format.text(&heard, 0), answer::filler);
        let (text, spoken, cut) = answer::limit(&said, &[], max, call.piece());
        (vec![Item::Message { id: answer::id("msg_", seed(0)), text }], spoken, cut)
    } else {
        let item = |(k, tool): (usize, &&Tool)| Item::Call {
            id: answer::id(if tool.custom { "ctc_" } else { "fc_" }, seed(k)),
            call_id: answer::id("call_", seed(k)),
            name: tool.name.clone(),
            custom: tool.custom,
            arguments: tool.arguments(),
        };
        let items: Vec<Item> = called.iter().enumerate().map(item).collect();
        let spoken = items.iter().map(|item| answer::tokens(item.text().len())).sum();
        (items, spoken, false)
    };
    let count = Count::new(&call.model, heard.tokens(), call.faults.cached.unwrap_or(0), spoken, max);
    let frame = Frame { call, id: answer::id("resp_", call.digest), created: now(), cut };
    if !call.stream {
        let output = items.iter().map(|item| item.json(frame.status())).collect();
        return Ok(frame.response(frame.status(), output, Some(count)).into());
    }
    Ok(Reply::Events(frame.events(&items, count)))
}

fn hear(call: &Call) -> Result<Heard, ApiError> {
    let input = call.get("input").ok_or_else(|| ApiError::missing("input"))?;
    let mut heard = Heard::default();
    for text in ["instructions", "tools"].iter().filter_map(|field| call.get(field)) {
        heard.text(text.as_str().map_or_else(|| text.to_string(), str::to_owned).as_str());
    }
    match input {
        Value::String(text) => heard.message(&json!({"role": "user", "content": text})),
        Value::Array(items) => items.iter().for_each(|item| heard.message(item)),
        other => return Err(ApiError::wrong_type("input", "a string or an array", other)),
    }
    Ok(heard)
}

/// One item of the output.
enum Item {
    Message { id: String, text: String },
    Call { id: String, call_id: String, name: String, custom: bool, arguments: String },
}

impl Item {
    fn id(&self) -> &str {
        match self {
            Item::Message { id, .. } | Item::Call { id, .. } => id,
        }
    }

    fn text(&self) -> &str {
        match self {
            Item::Message { text, .. } => text,
            Item::Call { arguments, .. } => arguments,
        }
    }

    fn part(text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    /// The item with its content.
    fn json(&self, status: &str) -> Value {
        match self {
            Item::Message { id, text } => {
                json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": [Self::part(text)]})
            }
            Item::Call { arguments, .. } => self.call(status, arguments),
        }
    }

    /// The item as it is announced: without its content.
    fn announced(&self) -> Value {
        match self {
            Item::Message { id, .. } => {
                json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
            }
            Item::Call { .. } => self.call("in_progress", ""),
        }
    }

    fn call(&self, status: &str, arguments: &str) -> Value {
        match self {
            Item::Call { id, call_id, name, custom: true, .. } => {
                json!({"id": id, "type": "custom_tool_call", "status": status, "call_id": call_id, "name": name, "input": arguments})
            }
            Item::Call { id, call_id, name, .. } => {
                json!({"id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments})
            }
            Item::Message { .. } => Value::Null,
        }
    }
}

struct Frame<'a> {
    call: &'a Call,
    id: String,
    created: u64,
    cut: bool,
}

impl Frame<'_> {
    fn status(&self) -> &'static str {
        if self.cut { "incomplete" } else { "completed" }
    }

    fn response(&self, status: &str, output: Vec<Value>, count: Option<Count>) -> Value {
        let given = |field: &str, default: Value| self.call.get(field).cloned().unwrap_or(default);
        let usage = count.filter(|_| !self.call.faults.no_usage).map(|count| count.responses());
        json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "completed_at": (status == "completed").then_some(self.created),
            "background": false, "error": null,
            "incomplete_details": (status == "incomplete").then(|| json!({"reason": "max_output_tokens"})),
            "instructions": given("instructions", Value::Null),
            "max_output_tokens": given("max_output_tokens", Value::Null),
            "model": self.call.model, "output": output,
            "parallel_tool_calls": given("parallel_tool_calls", json!(true)),
            "previous_response_id": given("previous_response_id", Value::Null),
            "reasoning": given("reasoning", json!({"effort": null, "summary": null})),
            "service_tier": service_tier(self.call), "store": given("store", json!(true)),
            "temperature": given("temperature", json!(1.0)), "text": given("text", json!({"format": {"type": "text"}})),
            "tool_choice": given("tool_choice", json!("auto")), "tools": given("tools", json!([])),
            "top_p": given("top_p", json!(1.0)), "truncation": given("truncation", json!("disabled")),
            "usage": usage, "user": given("user", Value::Null), "metadata": given("metadata", json!({}))
        })
    }

    fn events(&self, items: &[Item], count: Count) -> Vec<Event> {
        let mut script = Script(Vec::new());
        let begun = self.response("in_progress", Vec::new(), None);
        script.add("response.created", json!({"response": begun}));
        script.add("response.in_progress", json!({"response": begun}));
        for (index, item) in items.iter().enumerate() {
            self.item(&mut script, index, item);
        }
        let last = if self.cut { "response.incomplete" } else { "response.completed" };
        let output = items.iter().map(|item| item.json(self.status())).collect();
        script.add(last, json!({"response": self.response(self.status(), output, Some(count))}));
        script.0
    }

    fn item(&self, script: &mut Script, index: usize, item: &Item) {
        script.add("response.output_item.added", json!({"output_index": index, "item": item.announced()}));
        let at = |more: Value| {
            let mut event = json!({"item_id": item.id(), "output_index": index});
            if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
                event.extend(more);
            }
            event
        };
        match item {
            Item::Message { text, .. } => {
                script.add("response.content_part.added", at(json!({"content_index": 0, "part": Item::part("")})));
                for piece in answer::pieces(text, self.call.piece()) {
                    let delta = json!({"content_index": 0, "delta": piece, "logprobs": []});
                    script.add("response.output_text.delta", at(delta));
                }
                script.add("response.output_text.done", at(json!({"content_index": 0, "text": text, "logprobs": []})));
                script.add("response.content_part.done", at(json!({"content_index": 0, "part": Item::part(text)})));
            }
            Item::Call { arguments, custom, name, .. } => {
                let (delta, done, field) = match custom {
                    true => ("response.custom_tool_call_input.delta", "response.custom_tool_call_input.done", "input"),
                    false => {
                        ("response.function_call_arguments.delta", "response.function_call_arguments.done", "arguments")
                    }
                };
                for piece in answer::pieces(arguments, 8) {
                    script.add(delta, at(json!({"delta": piece})));
                }
                script.add(done, at(json!({field: arguments, "name": name})));
            }
        }
        script.add("response.output_item.done", json!({"output_index": index, "item": item.json(self.status())}));
    }
}

/// The events so far; each contains its type and its sequence number.
struct Script(Vec<Event>);

impl Script {
    fn add(&mut self, kind: &'static str, fields: Value) {
        let mut data = json!({"type": kind, "sequence_number": self.0.len()});
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        self.0.push(Event::named(Dialect::OpenAi, kind, &data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Faults;

    fn run(body: Value) -> Reply {
        let stream = body["stream"] == true;
        let Value::Object(body) = body else { panic!("an object") };
        respond(&Call { body, model: "gpt-4o".into(), faults: Faults::default(), digest: 7, stream }).unwrap()
    }

    fn whole(body: Value) -> Value {
        let Reply::Json(json) = run(body) else { panic!("a stream") };
        serde_json::from_str(&json).unwrap()
    }

    fn events(body: Value) -> Vec<Value> {
        let Reply::Events(events) = run(body) else { panic!("not a stream") };
        events.iter().map(|e| serde_json::from_str(&e.data).unwrap()).collect()
    }

    #[test]
    fn text_whole_and_streamed_agree() {
        let reply = whole(json!({"input": "Count to 3."}));
        assert_eq!(reply["output"][0]["content"][0]["text"], "1, 2, 3");
        assert_eq!((&reply["status"], &reply["usage"]["output_tokens"]), (&json!("completed"), &json!(3)));

        let events = events(json!({"input": "Count to 3.", "stream": true}));
        let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!((kinds[0], *kinds.last().unwrap()), ("response.created", "response.completed"));
        let text: String = events
            .iter()
            .filter(|e| e["type"] == "response.output_text.delta")
            .filter_map(|e| e["delta"].as_str())
            .collect();
        assert_eq!(text, "1, 2, 3");
        assert_eq!(events.last().unwrap()["response"]["usage"], reply["usage"]);
        assert!(events.iter().enumerate().all(|(i, e)| e["sequence_number"] == json!(i)));
    }

    #[test]
    fn a_limit_makes_it_incomplete() {
        let reply = whole(
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Count to 9"}]}], "max_output_tokens": 2}),
        );
        assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(reply["output"][0]["content"][0]["text"], "1, 2,");
        let events = events(json!({"input": "Count to 9", "max_output_tokens": 2, "stream": true}));
        assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    }

    #[test]
    fn tools_are_called_and_their_output_is_heard() {
        let tools = json!([{"type":"function","name":"get_time","parameters":{"type":"object","properties":{"zone":{"type":"string"}},"required":["zone"]}}]);
        let reply = whole(json!({"input": "Call get_time", "tools": tools}));
        assert_eq!(reply["output"][0]["type"], "function_call");
        assert_eq!(reply["output"][0]["arguments"], r#"{"zone":"example zone"}"#);
        let reply = whole(json!({"tools": tools, "input": [
            {"role": "user", "content": "Call get_time"}, reply["output"][0],
            {"type": "function_call_output", "call_id": reply["output"][0]["call_id"], "output": "noon"}
        ]}));
        assert_eq!(reply["output"][0]["content"][0]["text"], "The tool answered: noon");
    }
}
