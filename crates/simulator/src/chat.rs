//! `POST /v1/chat/completions`, as one body and streamed.

use serde_json::{Value, json};

use super::answer::{self, Count, Heard};
use super::call::{Call, Reply, now};
use super::errors::ApiError;
use super::fault::Event;
use super::schema;
use super::tools::{self, Tool};

/// Answers a chat completion.
pub(super) fn complete(call: &Call) -> Result<Reply, ApiError> {
    let heard = hear(call)?;
    let include_usage = call.include_usage()?;
    let max = limits(call)?;
    let n = call.integer("n", 1..=128)?.unwrap_or(1);
    let stops = call.stops()?;
    let format = Format::read(call, &heard)?;
    let legacy = call.get("tools").is_none();
    let offered = Tool::list(call.get("tools").or_else(|| call.get("functions")));
    let choice = call.get("tool_choice").or_else(|| call.get("function_call"));
    let parallel = !legacy && call.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true);
    let called = tools::called(&offered, choice, parallel, &heard);

    let choices: Vec<SimulatedChoice> = (0..n)
        .map(|index| {
            if called.is_empty() {
                let text = match call.faults.big {
                    Some(kib) => answer::filler(kib),
                    None => format.text(&heard, index),
                };
                SimulatedChoice::speech(&text, &stops, max, call.piece())
            } else {
                SimulatedChoice::calls(call, &called, index, legacy)
            }
        })
        .collect();
    let spoken = choices.iter().map(|choice| choice.tokens).sum();
    let count = Count::new(&call.model, heard.tokens(), call.faults.cached.unwrap_or(0), spoken, max.map(|m| m * n));
    let frame = Frame { call, id: answer::id("chatcmpl-", call.digest), created: now(), include_usage };
    Ok(if call.stream { Reply::Events(frame.events(&choices, count)) } else { frame.whole(&choices, count).into() })
}

fn hear(call: &Call) -> Result<Heard, ApiError> {
    let messages = call.get("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let list = messages.as_array().ok_or_else(|| ApiError::wrong_type("messages", "an array of objects", messages))?;
    if list.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.".to_owned();
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    let mut heard = Heard::default();
    for (i, message) in list.iter().enumerate() {
        if !message.is_object() {
            return Err(ApiError::wrong_type(&format!("messages[{i}]"), "an object", message));
        }
        let role = message.get("role").ok_or_else(|| ApiError::missing(&format!("messages[{i}].role")))?;
        if !matches!(role.as_str(), Some("system" | "developer" | "user" | "assistant" | "tool" | "function")) {
            let message = format!(
                "Invalid value: {role}. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
            );
            return Err(ApiError::invalid(&format!("messages[{i}].role"), "invalid_value", message));
        }
        heard.message(message);
    }
    for definitions in ["tools", "functions"] {
        if let Some(definitions) = call.get(definitions) {
            heard.bytes += definitions.to_string().len();
        }
    }
    Ok(heard)
}

/// The output limit; refuses the parameters that a reasoning model does not accept.
fn limits(call: &Call) -> Result<Option<u64>, ApiError> {
    call.sampling()?;
    let old = call.integer("max_tokens", 1..=i64::MAX)?;
    let new = call.integer("max_completion_tokens", 1..=i64::MAX)?;
    if answer::reasons(&call.model) {
        if old.is_some() {
            let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
            return Err(ApiError::invalid("max_tokens", "unsupported_parameter", message.to_owned()));
        }
        if let Some(temperature) = call.get("temperature").filter(|t| t.as_f64() != Some(1.0)) {
            let message = format!(
                "Unsupported value: 'temperature' does not support {temperature} with this model. Only the default (1) value is supported."
            );
            return Err(ApiError::invalid("temperature", "unsupported_value", message));
        }
    }
    Ok(new.or(old))
}

/// What `response_format` asks for.
pub(super) enum Format {
    Text,
    Object,
    Schema(Value),
}

impl Format {
    fn read(call: &Call, heard: &Heard) -> Result<Self, ApiError> {
        let Some(format) = call.get("response_format") else { return Ok(Format::Text) };
        Self::of(format, format.pointer("/json_schema/schema"), heard, "response_format", "messages")
    }

    /// Reads a format object whose schema is at `schema`; `field` and `input` name the parameters in refusals.
    pub(super) fn of(
        format: &Value,
        schema: Option<&Value>,
        heard: &Heard,
        field: &str,
        input: &str,
    ) -> Result<Self, ApiError> {
        match format.get("type").and_then(Value::as_str) {
            Some("text") => Ok(Format::Text),
            Some("json_object") if heard.mentions_json => Ok(Format::Object),
            Some("json_object") => {
                let message = format!(
                    "'{input}' must contain the word 'json' in some form, to use '{field}' of type 'json_object'."
                );
                Err(ApiError::invalid(input, "invalid_value", message))
            }
            Some("json_schema") => match schema {
                Some(schema) if schema.is_object() => Ok(Format::Schema(schema.clone())),
                _ => Err(ApiError::missing(&format!("{field}.json_schema"))),
            },
            _ => {
                let message =
                    "Invalid value. Supported values are: 'json_object', 'json_schema', and 'text'.".to_owned();
                Err(ApiError::invalid(&format!("{field}.type"), "invalid_value", message))
            }
        }
    }

    /// The text of the answer in this format.
    pub(super) fn text(&self, heard: &Heard, variant: u64) -> String {
        match self {
            Format::Text => answer::say(heard, variant),
            Format::Object => json!({"answer": answer::say(heard, variant)}).to_string(),
            Format::Schema(schema) => schema::example(schema, "").to_string(),
        }
    }
}

/// One choice before it is put into a message or chunks.
struct SimulatedChoice {
    text: String,
    calls: Vec<Value>,
    /// Set when `calls` holds the one call of the legacy `functions` API.
    legacy: bool,
    tokens: u64,
    finish: &'static str,
}

impl SimulatedChoice {
    fn speech(text: &str, stops: &[String], max: Option<u64>, piece: usize) -> Self {
        let (text, tokens, cut) = answer::limit(text, stops, max, piece);
        Self { text, calls: Vec::new(), legacy: false, tokens, finish: if cut { "length" } else { "stop" } }
    }

    fn calls(call: &Call, called: &[&Tool], index: u64, legacy: bool) -> Self {
        let mut tokens = 0;
        let calls = called.iter().enumerate().map(|(k, tool)| {
            let arguments = tool.arguments();
            tokens += answer::tokens(tool.name.len() + arguments.len());
            let id = answer::id("call_", call.digest.wrapping_add(index << 32).wrapping_add(k as u64 + 1));
            match (legacy, tool.custom) {
                (true, _) => json!({"name": tool.name, "arguments": arguments}),
                (_, true) => json!({"id": id, "type": "custom", "custom": {"name": tool.name, "input": arguments}}),
                _ => json!({"id": id, "type": "function", "function": {"name": tool.name, "arguments": arguments}}),
            }
        });
        let calls = calls.collect();
        Self { text: String::new(), calls, legacy, tokens, finish: if legacy { "function_call" } else { "tool_calls" } }
    }

    fn message(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.text, "refusal": null, "annotations": []});
        if !self.calls.is_empty() {
            message["content"] = Value::Null;
            if self.legacy {
                message["function_call"] = self.calls[0].clone();
            } else {
                message["tool_calls"] = Value::Array(self.calls.clone());
            }
        }
        message
    }

    /// The deltas of a stream, without the first (role) and the last (empty).
    fn deltas(&self, piece: usize) -> Vec<Value> {
        if self.calls.is_empty() {
            return answer::pieces(&self.text, piece).into_iter().map(|text| json!({"content": text})).collect();
        }
        let mut deltas = Vec::new();
        for (k, called) in self.calls.iter().enumerate() {
            let (holder, field) =
                if called.get("custom").is_some() { ("custom", "input") } else { ("function", "arguments") };
            let inner = if self.legacy { called } else { &called[holder] };
            let text = inner[field].as_str().unwrap_or("").to_owned();
            let mut head = called.clone();
            if self.legacy {
                head[field] = json!("");
                deltas.push(json!({"function_call": head}));
            } else {
                head[holder][field] = json!("");
                head["index"] = json!(k);
                deltas.push(json!({"tool_calls": [head]}));
            }
            for part in answer::pieces(&text, 8) {
                deltas.push(match self.legacy {
                    true => json!({"function_call": {field: part}}),
                    false => json!({"tool_calls": [{"index": k, holder: {field: part}}]}),
                });
            }
        }
        deltas
    }
}

/// The values that all bodies and chunks of one reply share.
struct Frame<'a> {
    call: &'a Call,
    id: String,
    created: u64,
    include_usage: bool,
}

impl Frame<'_> {
    fn base(&self, object: &str) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.call.model,
            "service_tier": service_tier(self.call), "system_fingerprint": "fp_simulated"
        })
    }

    fn whole(&self, choices: &[SimulatedChoice], count: Count) -> Value {
        let mut body = self.base("chat.completion");
        let list = choices
            .iter()
            .enumerate()
            .map(|(i, c)| json!({"index": i, "message": c.message(), "logprobs": null, "finish_reason": c.finish}));
        body["choices"] = list.collect();
        if !self.call.faults.no_usage {
            body["usage"] = count.chat();
        }
        body
    }

    fn events(&self, choices: &[SimulatedChoice], count: Count) -> Vec<Event> {
        let base = self.base("chat.completion.chunk");
        let chunk = |list: Value, usage: Value| {
            let mut chunk = base.clone();
            chunk["choices"] = list;
            if self.include_usage {
                chunk["usage"] = usage;
            }
            Event::data(&chunk)
        };
        let one = |i: usize, delta: Value, finish: Option<&str>| {
            chunk(json!([{"index": i, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
        };
        let mut events = Vec::new();
        for (i, choice) in choices.iter().enumerate() {
            let content = if choice.calls.is_empty() { json!("") } else { Value::Null };
            events.push(one(i, json!({"role": "assistant", "content": content, "refusal": null}), None));
        }
        for (i, choice) in choices.iter().enumerate() {
            events.extend(choice.deltas(self.call.piece()).into_iter().map(|delta| one(i, delta, None)));
            events.push(one(i, json!({}), Some(choice.finish)));
        }
        if self.include_usage {
            events.push(chunk(json!([]), count.chat()));
        }
        events.push(Event::done());
        events
    }
}

/// The service tier of the reply: `flex` or `priority` where asked for, otherwise `default`.
pub(super) fn service_tier(call: &Call) -> &str {
    match call.get("service_tier").and_then(Value::as_str) {
        Some(tier @ ("flex" | "priority")) => tier,
        _ => "default",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Faults;

    fn call(body: Value) -> Call {
        let Value::Object(body) = body else { panic!("an object") };
        let model = body.get("model").and_then(Value::as_str).unwrap_or("gpt-4o").to_owned();
        let stream = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        Call { body, model, faults: Faults::default(), digest: 7, stream }
    }

    fn whole(body: Value) -> Value {
        match complete(&call(body)).unwrap() {
            Reply::Json(json) => serde_json::from_str(&json).unwrap(),
            Reply::Events(_) => panic!("a stream"),
        }
    }

    fn chunks(body: Value) -> Vec<Value> {
        match complete(&call(body)).unwrap() {
            Reply::Json(json) => panic!("not a stream: {json}"),
            Reply::Events(events) => {
                assert_eq!(events.last(), Some(&Event::done()));
                events[..events.len() - 1].iter().map(|e| serde_json::from_str(&e.data).unwrap()).collect()
            }
        }
    }

    fn refused(body: Value) -> (u16, Option<String>, Option<&'static str>) {
        let Err(error) = complete(&call(body)) else { panic!("accepted") };
        (error.status, error.param, error.code)
    }

    fn user(text: &str) -> Value {
        json!([{"role": "user", "content": text}])
    }

    fn weather() -> Value {
        json!([
            {"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},
            {"type":"function","function":{"name":"get_time"}}
        ])
    }

    #[test]
    fn a_whole_reply_has_the_shape_of_the_playbook() {
        let reply = whole(json!({"messages": user("Say hello in 3 words."), "temperature": 0}));
        assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(reply["object"], "chat.completion");
        assert_eq!(reply["choices"].as_array().unwrap().len(), 1);
        assert_eq!(reply["choices"][0]["message"]["content"], "Hello there, friend!");
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        let usage = &reply["usage"];
        assert_eq!(usage["total_tokens"].as_u64(), Some(usage["prompt_tokens"].as_u64().unwrap() + 3));
    }

    #[test]
    fn a_stream_says_the_same_as_the_whole() {
        let chunks = chunks(json!({"messages": user("Count to 3."), "stream": true}));
        assert!(chunks.iter().all(|c| c["choices"].as_array().unwrap().len() == 1 && c.get("usage").is_none()));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, "1, 2, 3");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }

    #[test]
    fn usage_comes_only_when_asked_for() {
        let chunks =
            chunks(json!({"messages": user("Count to 3."), "stream": true, "stream_options": {"include_usage": true}}));
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
        assert!(others.iter().all(|c| c.get("usage") == Some(&Value::Null)));
        let refusal = refused(json!({"messages": user("x"), "stream_options": {"include_usage": true}}));
        assert_eq!(refusal.1.as_deref(), Some("stream_options"));
    }

    #[test]
    fn limits_stop_and_choices() {
        let reply = whole(json!({"messages": user("Count to 9."), "max_tokens": 2, "n": 3}));
        assert_eq!(reply["choices"].as_array().unwrap().len(), 3);
        assert_eq!(reply["choices"][2]["finish_reason"], "length");
        assert_eq!(reply["usage"]["completion_tokens"], 6);
        let reply = whole(json!({"messages": user("Count to 9."), "stop": [" 3"]}));
        assert_eq!(reply["choices"][0]["message"]["content"], "1, 2,");
    }

    #[test]
    fn tool_calls_whole_and_streamed_agree() {
        let body = json!({"messages": user("Call get_weather and get_time."), "tools": weather()});
        let reply = whole(body.clone());
        let calls = reply["choices"][0]["message"]["tool_calls"].clone();
        assert_eq!(calls.as_array().unwrap().len(), 2);
        assert_eq!(calls[0]["function"]["arguments"], r#"{"city":"example city"}"#);
        assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
        assert!(reply["choices"][0]["message"]["content"].is_null());

        let mut body = body;
        body["stream"] = json!(true);
        let mut arguments = [String::new(), String::new()];
        for chunk in chunks(body) {
            for delta in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let index = delta["index"].as_u64().unwrap() as usize;
                arguments[index].push_str(delta["function"]["arguments"].as_str().unwrap());
            }
        }
        assert_eq!(arguments, [r#"{"city":"example city"}"#, "{}"]);
    }

    #[test]
    fn legacy_functions() {
        let body = json!({"messages": user("x"), "functions": [{"name": "f", "parameters": {"type": "object"}}], "function_call": {"name": "f"}});
        let reply = whole(body);
        assert_eq!(reply["choices"][0]["message"]["function_call"], json!({"name": "f", "arguments": "{}"}));
        assert_eq!(reply["choices"][0]["finish_reason"], "function_call");
    }

    #[test]
    fn structured_answers() {
        let schema = json!({"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]});
        let reply = whole(
            json!({"messages": user("x"), "response_format": {"type":"json_schema","json_schema":{"name":"n","schema":schema}}}),
        );
        assert_eq!(reply["choices"][0]["message"]["content"], r#"{"n":1}"#);
        let reply = whole(json!({"messages": user("as JSON please"), "response_format": {"type":"json_object"}}));
        assert!(
            serde_json::from_str::<Value>(reply["choices"][0]["message"]["content"].as_str().unwrap())
                .unwrap()
                .is_object()
        );
        assert_eq!(refused(json!({"messages": user("x"), "response_format": {"type":"json_object"}})).0, 400);
    }

    #[test]
    fn refusals_name_the_parameter() {
        let cases = [
            (json!({}), "messages", "missing_required_parameter"),
            (json!({"messages": "x"}), "messages", "invalid_type"),
            (json!({"messages": []}), "messages", "empty_array"),
            (json!({"messages": [{"role": "robot"}]}), "messages[0].role", "invalid_value"),
            (json!({"messages": user("x"), "temperature": 3}), "temperature", "decimal_above_max_value"),
            (json!({"messages": user("x"), "max_tokens": 0}), "max_tokens", "integer_below_min_value"),
            (json!({"messages": user("x"), "n": 129}), "n", "integer_above_max_value"),
            (
                json!({"messages": user("x"), "model": "o3-mini", "max_tokens": 5}),
                "max_tokens",
                "unsupported_parameter",
            ),
            (json!({"messages": user("x"), "model": "gpt-5", "temperature": 0}), "temperature", "unsupported_value"),
        ];
        for (body, param, code) in cases {
            assert_eq!(refused(body), (400, Some(param.to_owned()), Some(code)));
        }
    }
}
