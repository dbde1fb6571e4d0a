//! Messages over real sockets: every refusal once, answers, streams, faults.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::rfc3339;
use crate::{Simulated, SimulatedConfig};

async fn provider() -> Simulated {
    Simulated::bind(([127, 0, 0, 1], 0).into(), SimulatedConfig::instant()).await.unwrap()
}

/// A request with valid headers.
fn post(provider: &Simulated, path: &str, body: &Value) -> RequestBuilder {
    let request = Client::new().post(format!("{}{path}", provider.base_url())).timeout(Duration::from_secs(20));
    request.header("x-api-key", "k").header("anthropic-version", "2023-06-01").json(body)
}

/// The smallest request, with the fields of `patch` applied; a field that is [`gone`] is removed.
fn body(patch: Value) -> Value {
    let mut body = json!({
        "model": "claude-sonnet-4-5", "max_tokens": 2000, "messages": [{"role": "user", "content": "Count to 3."}]
    });
    let Value::Object(patch) = patch else { panic!("an object") };
    for (key, value) in patch {
        match value == gone() {
            true => drop(body.as_object_mut().unwrap().remove(&key)),
            false => body[key] = value,
        }
    }
    body
}

fn gone() -> Value {
    json!("(gone)")
}

async fn ask(provider: &Simulated, patch: Value) -> Value {
    let reply = post(provider, "/messages", &body(patch)).send().await.unwrap();
    let status = reply.status();
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(status, 200, "{reply}");
    reply
}

/// The events of a stream as pairs of name and data.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let (name, data) = block.split_once("\ndata: ").unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), serde_json::from_str(data).unwrap())
    };
    text.trim_end().split("\n\n").map(event).collect()
}

async fn stream(provider: &Simulated, faults: &str, patch: Value) -> String {
    let mut body = body(patch);
    body["stream"] = json!(true);
    let reply = post(provider, "/messages", &body).header("x-simulate", faults).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["content-type"], "text/event-stream; charset=utf-8");
    reply.text().await.unwrap()
}

/// Rebuilds the message from the events, and checks their grammar on the way.
fn assemble(events: &[(String, Value)]) -> Value {
    let (mut message, mut open, mut json) = (Value::Null, None, String::new());
    for (i, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["type"], name.as_str());
        let add = |place: &mut Value, text: &Value| {
            *place = json!(place.as_str().unwrap().to_owned() + text.as_str().unwrap());
        };
        match name.as_str() {
            "message_start" => {
                assert_eq!(i, 0);
                message = event["message"].clone();
                assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
            }
            "content_block_start" => {
                assert_eq!((open, &event["index"]), (None, &json!(message["content"].as_array().unwrap().len())));
                open = event["index"].as_u64();
                json.clear();
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                let delta = &event["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" => add(&mut block["text"], &delta["text"]),
                    "thinking_delta" => add(&mut block["thinking"], &delta["thinking"]),
                    "signature_delta" => block["signature"] = delta["signature"].clone(),
                    "input_json_delta" => json.push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(event["index"].as_u64(), open.take());
                if !json.is_empty() {
                    message["content"].as_array_mut().unwrap().last_mut().unwrap()["input"] =
                        serde_json::from_str(&json).unwrap();
                }
            }
            "message_delta" => {
                for key in ["stop_reason", "stop_sequence"] {
                    message[key] = event["delta"][key].clone();
                }
                for (key, value) in event["usage"].as_object().unwrap() {
                    message["usage"][key] = value.clone();
                }
            }
            "ping" => {}
            "message_stop" => assert_eq!((i, open), (events.len() - 1, None)),
            other => panic!("{other}"),
        }
    }
    message
}

fn tools() -> Value {
    json!([
        {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
        {"name": "get_time", "description": "The time.", "input_schema": {"type": "object", "properties": {}}}
    ])
}

fn user(content: Value) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: Value) -> Value {
    json!({"role": "assistant", "content": content})
}

fn called(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "get_time", "input": {}})
}

fn result(id: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": "noon"})
}

/// A request with one block in the first message.
fn block(block: Value) -> Value {
    json!({"messages": [user(json!([block]))]})
}

/// A request with one block in a message of the assistant.
fn said(block: Value) -> Value {
    json!({"messages": [user(json!("x")), assistant(json!([block])), user(json!("y"))], "tools": tools()})
}

fn schema(schema: Value) -> Value {
    json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}})
}

fn tool(tool: Value) -> Value {
    json!({"tools": [tool]})
}

fn image(source: Value) -> Value {
    block(json!({"type": "image", "source": source}))
}

fn document(source: Value) -> Value {
    block(json!({"type": "document", "source": source}))
}

fn closed(property: Value) -> Value {
    json!({"type": "object", "properties": {"p": property}, "additionalProperties": false})
}

/// Requests that are refused with 400, each with the beginning of the message.
fn refusals() -> Vec<(Value, &'static str)> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let object = || json!({"type": "object"});
    let marked = |ttl: &str| json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": ttl}});
    let thinking = |patch: Value| {
        let mut thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
        thinking.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        thinking
    };
    let adaptive = json!({"type": "adaptive"});
    vec![
        // The request.
        (json!({"model": gone()}), "model: Field required"),
        (json!({"model": 7}), "model: Input should be a valid string"),
        (json!({"stream": "yes"}), "stream: Input should be a valid boolean"),
        (json!({"foo": 1}), "foo: Extra inputs are not permitted"),
        (json!({"stop": "x"}), "stop: Extra inputs are not permitted"),
        (json!({"context_management": {}}), "context_management: Extra inputs are not permitted"),
        (json!({"max_tokens": gone()}), "max_tokens: Field required"),
        (json!({"max_tokens": null}), "max_tokens: Input should be a valid integer"),
        (json!({"max_tokens": "1"}), "max_tokens: Input should be a valid integer"),
        (json!({"max_tokens": 0}), "max_tokens: Input should be greater than or equal to 1"),
        (json!({"temperature": 1.5}), "temperature: Input should be less than or equal to 1"),
        (json!({"temperature": -1}), "temperature: Input should be greater than or equal to 0"),
        (json!({"temperature": null}), "temperature: Input should be a valid number"),
        (json!({"top_p": 1.1}), "top_p: Input should be less than or equal to 1"),
        (json!({"top_k": -1}), "top_k: Input should be greater than or equal to 0"),
        (json!({"temperature": 1, "top_p": 1}), "`temperature` and `top_p` cannot both be specified"),
        (json!({"stop_sequences": "x"}), "stop_sequences: Input should be a valid list"),
        (json!({"stop_sequences": [1]}), "stop_sequences.0: Input should be a valid string"),
        (json!({"stop_sequences": ["x", "\n"]}), "stop_sequences: each stop sequence must contain non-whitespace"),
        (json!({"metadata": {"a": "b"}}), "metadata.a: Extra inputs are not permitted"),
        (json!({"metadata": {"user_id": 1}}), "metadata.user_id: Input should be a valid string"),
        (json!({"metadata": {"user_id": "x".repeat(257)}}), "metadata.user_id: String should have at most 256"),
        (json!({"metadata": {"user_id": "a@b.example"}}), "metadata.user_id: user_id appears to contain an email"),
        (json!({"metadata": {"user_id": "+49 170 1234567"}}), "metadata.user_id: user_id appears to contain a phone"),
        (json!({"service_tier": "default"}), "service_tier: Input should be 'auto' or 'standard_only'"),
        // Messages.
        (json!({"messages": gone()}), "messages: Field required"),
        (json!({"messages": "x"}), "messages: Input should be a valid list"),
        (json!({"messages": []}), "messages: at least one message is required"),
        (json!({"messages": ["x"]}), "messages.0: Input should be a valid dictionary"),
        (json!({"messages": [{"content": "x"}]}), "messages.0.role: Field required"),
        (json!({"messages": [{"role": "user"}]}), "messages.0.content: Field required"),
        (
            json!({"messages": [{"role": "system", "content": "x"}]}),
            "messages.0.role: Input should be 'user' or 'assist",
        ),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages.0.role: Input should be 'user' or 'assist"),
        (json!({"messages": [{"role": "user", "content": "x", "name": "n"}]}), "messages.0.name: Extra inputs are not"),
        (json!({"messages": [user(json!(7))]}), "messages.0.content: Input should be a valid list"),
        (json!({"messages": [user(json!(""))]}), "messages.0: all messages must have non-empty content"),
        (json!({"messages": [user(json!([]))]}), "messages.0: all messages must have non-empty content"),
        (json!({"messages": [user(json!(" \n"))]}), "messages.0: text content blocks must contain non-whitespace text"),
        (
            json!({"messages": [user(json!("x")), assistant(json!("Well, "))]}),
            "messages: final assistant content cannot end with trailing whitespace",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([text("Well,\n")]))]}),
            "messages: final assistant content cannot end with trailing whitespace",
        ),
        // Blocks.
        (block(json!("x")), "messages.0.content.0: Input should be a valid dictionary"),
        (block(json!({"text": "x"})), "messages.0.content.0: Unable to extract tag using discriminator 'type'"),
        (
            block(json!({"type": "image_url"})),
            "messages.0.content.0: Input tag 'image_url' found using 'type' does not",
        ),
        (
            json!({"messages": [user(json!([text("x"), text("")]))]}),
            "messages.0.content.1.text: text content blocks must",
        ),
        (block(text(" \t")), "messages.0.content.0.text: text content blocks must contain non-whitespace text"),
        (block(json!({"type": "text"})), "messages.0.content.0.text.text: Field required"),
        (block(json!({"type": "text", "text": "x", "a": 1})), "messages.0.content.0.text.a: Extra inputs are not"),
        (block(called("a")), "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages"),
        (
            block(json!({"type": "thinking", "thinking": "x", "signature": "sig_x"})),
            "messages.0.content.0: `thinking` blocks can only be in `assistant` messages",
        ),
        (said(result("a")), "messages.1.content.0: `tool_result` blocks can only be in `user` messages"),
        (
            said(json!({"type": "image", "source": {"type": "url", "url": "https://a.example/"}})),
            "messages.1.content.0: `image` blocks can only be in `user` messages",
        ),
        (said(json!({"type": "thinking", "thinking": "x"})), "messages.1.content.0.thinking.signature: Field required"),
        (
            said(json!({"type": "thinking", "thinking": "x", "signature": ""})),
            "messages.1.content.0: Invalid `signature` in `thinking` block",
        ),
        (
            said(json!({"type": "thinking", "thinking": "x", "signature": "abc"})),
            "messages.1.content.0: Invalid `signature` in `thinking` block",
        ),
        (
            said(json!({"type": "thinking", "thinking": "x", "signature": "sig_0123456789abcdef"})),
            "messages.1.content.0: Invalid `signature` in `thinking` block",
        ),
        (
            said(
                json!({"type": "thinking", "thinking": "x", "signature": "sig_x", "cache_control": {"type": "ephemeral"}}),
            ),
            "messages.1.content.0.thinking.cache_control: Extra inputs are not permitted",
        ),
        (
            said(json!({"type": "redacted_thinking", "data": "abc"})),
            "messages.1.content.0: Invalid `data` in `redacted_thinking` block",
        ),
        (said(json!({"type": "redacted_thinking"})), "messages.1.content.0.redacted_thinking.data: Field required"),
        (
            block(json!({"type": "search_result", "source": "s", "content": [text("x")]})),
            "messages.0.content.0.search_result.title: Field required",
        ),
        (
            block(json!({"type": "search_result", "source": "s", "title": "t", "content": []})),
            "messages.0.content.0.search_result.content: List should have at least 1 item",
        ),
        (block(json!({"type": "container_upload"})), "messages.0.content.0.container_upload.file_id: Field required"),
        (
            block(json!({"type": "text", "text": "x", "citations": [1]})),
            "messages.0.content.0.text.citations.0: Input should be a valid dictionary",
        ),
        (
            said(json!({"type": "web_search_tool_result", "tool_use_id": "a"})),
            "messages.1.content.0.web_search_tool_result.content: Field required",
        ),
        // Images and documents.
        (block(json!({"type": "image"})), "messages.0.content.0.image.source: Field required"),
        (image(json!({"type": "file", "file_id": "x"})), "messages.0.content.0.image.source: Input tag 'file' found"),
        (image(json!({"type": "url"})), "messages.0.content.0.image.source.url.url: Field required"),
        (
            image(json!({"type": "url", "url": "data:image/png;base64,AAAA"})),
            "messages.0.content.0.image.source.url.url: Only HTTP and HTTPS URLs are supported",
        ),
        (
            image(json!({"type": "base64", "media_type": "image/jpg", "data": "AAAA"})),
            "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or",
        ),
        (
            image(json!({"type": "base64", "media_type": "image/png", "data": "A,"})),
            "messages.0.content.0.image.source.base64.data: invalid base64 data",
        ),
        (
            image(json!({"type": "base64", "media_type": "image/png", "data": ""})),
            "messages.0.content.0.image.source.base64.data: String should have at least 1 character",
        ),
        (
            image(json!({"type": "base64", "media_type": "image/png", "data": "R0lGODlh"})),
            "messages.0.content.0.image.source.base64: Image does not match the provided media type image/png",
        ),
        (
            image(json!({"type": "url", "url": "https://a.example/", "detail": "low"})),
            "messages.0.content.0.image.source.url.detail: Extra inputs are not permitted",
        ),
        (
            document(json!({"type": "base64", "media_type": "image/png", "data": "AAAA"})),
            "messages.0.content.0.document.source.base64.media_type: Input should be 'application/pdf'",
        ),
        (
            document(json!({"type": "text", "media_type": "text/html", "data": "x"})),
            "messages.0.content.0.document.source.text.media_type: Input should be 'text/plain'",
        ),
        (
            document(json!({"type": "text", "media_type": "text/plain", "data": ""})),
            "messages.0.content.0.document.source.text.data: String should have at least 1 character",
        ),
        (
            document(json!({"type": "content", "content": [called("a")]})),
            "messages.0.content.0.document.source.content.content.0: Input tag 'tool_use' found using 'type'",
        ),
        (
            block(json!({"type": "document", "filename": "x", "source": {"type": "url", "url": "https://a.example/"}})),
            "messages.0.content.0.document.filename: Extra inputs are not permitted",
        ),
        // Calls and results.
        (
            said(json!({"type": "tool_use", "id": "a.b", "name": "f", "input": {}})),
            "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        ),
        (
            said(json!({"type": "tool_use", "id": "a", "name": "f", "input": "{}"})),
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (
            said(json!({"type": "tool_use", "id": "a", "name": "f"})),
            "messages.1.content.0.tool_use.input: Field required",
        ),
        (
            said(json!({"type": "tool_use", "id": "a", "name": "", "input": {}})),
            "messages.1.content.0.tool_use.name: String should have at least 1 character",
        ),
        (
            said(json!({"type": "tool_use", "id": "a", "name": "f".repeat(201), "input": {}})),
            "messages.1.content.0.tool_use.name: String should have at most 200 characters",
        ),
        (said(called("a")), "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: a."),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a")]))], "tools": tools()}),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: a.",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a"), called("b")])), user(json!([result("a")]))],
                "tools": tools()}),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: b.",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a")])), user(json!([text("y"), result("a")]))],
                "tools": tools()}),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: a.",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a"), called("a")])), user(json!([result("a")]))],
                "tools": tools()}),
            "messages.1.content: `tool_use` ids must be unique",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a")])), user(json!([result("a"), result("a")]))],
                "tools": tools()}),
            "messages.2.content.1: each tool_use must have a single result. Found multiple `tool_result` blocks with id: a",
        ),
        (
            json!({"messages": [user(json!([result("a")]))], "tools": tools()}),
            "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: a.",
        ),
        (
            json!({"messages": [user(json!([{"type": "tool_result", "content": "x"}]))], "tools": tools()}),
            "messages.0.content.0.tool_result.tool_use_id: Field required",
        ),
        (
            block(json!({"type": "tool_result", "tool_use_id": "a", "is_error": "no"})),
            "messages.0.content.0.tool_result.is_error: Input should be a valid boolean",
        ),
        (
            block(json!({"type": "tool_result", "tool_use_id": "a", "content": [text("")]})),
            "messages.0.content.0.tool_result.content.0.text: text content blocks must be non-empty",
        ),
        (
            json!({"messages": [user(json!("x")), assistant(json!([called("a")])), user(json!([result("a")]))]}),
            "Requests which include `tool_use` or `tool_result` blocks must define tools",
        ),
        // System and cache.
        (json!({"system": []}), "system: List should have at least 1 item"),
        (json!({"system": null}), "system: Input should be a valid list"),
        (json!({"system": [text("")]}), "system.0.text: text content blocks must be non-empty"),
        (json!({"system": [{"type": "image"}]}), "system.0: Input tag 'image' found using 'type'"),
        (json!({"system": [marked("10m")]}), "system.0.text.cache_control.ephemeral.ttl: Input should be '5m' or '1h'"),
        (
            json!({"system": [{"type": "text", "text": "x", "cache_control": {"type": "persistent"}}]}),
            "system.0.text.cache_control: Input tag 'persistent' found",
        ),
        (
            json!({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "a": 1}}]}),
            "system.0.text.cache_control.ephemeral.a: Extra inputs are not permitted",
        ),
        (
            json!({"system": vec![marked("5m"); 5]}),
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            json!({"system": [marked("5m"), marked("1h")]}),
            "system.1.text.cache_control.ephemeral: a ttl='1h' cache_control block must not come after a ttl='5m'",
        ),
        (json!({"cache_control": {"ttl": "5m"}}), "cache_control: Unable to extract tag"),
        // Tools.
        (json!({"tools": {}}), "tools: Input should be a valid list"),
        (
            tool(json!({"type": "function", "function": {}})),
            "tools.0: Input tag 'function' found using 'type' does not",
        ),
        (tool(json!({"input_schema": object()})), "tools.0.custom.name: Field required"),
        (
            tool(json!({"name": "a b", "input_schema": object()})),
            "tools.0.custom.name: String should match pattern '^[a-zA",
        ),
        (tool(json!({"name": "a".repeat(129), "input_schema": object()})), "tools.0.custom.name: String should match"),
        (tool(json!({"name": "a"})), "tools.0.custom.input_schema: Field required"),
        (tool(json!({"name": "a", "input_schema": {}})), "tools.0.custom.input_schema.type: Field required"),
        (
            tool(json!({"name": "a", "input_schema": {"type": "array"}})),
            "tools.0.custom.input_schema.type: Input should be 'object'",
        ),
        (
            tool(json!({"name": "a", "input_schema": {"type": "object", "anyOf": []}})),
            "tools.0.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level",
        ),
        (
            tool(json!({"name": "a", "input_schema": {"type": "object", "properties": {"a b": {}}}})),
            "tools.0.custom.input_schema.properties: Property keys should match pattern",
        ),
        (
            tool(json!({"name": "a", "input_schema": object(), "parameters": {}})),
            "tools.0.custom.parameters: Extra inputs are not permitted",
        ),
        (
            tool(json!({"name": "a", "input_schema": object(), "strict": true})),
            "tools.0.custom.input_schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
        ),
        (
            tool(json!({"type": "web_search_20250305", "name": "search"})),
            "tools.0.web_search_20250305.name: Input should be 'web_search'",
        ),
        (
            tool(json!({"type": "bash_20250124", "name": "bash", "max_uses": 1})),
            "tools.0.bash_20250124.max_uses: Extra inputs are not permitted",
        ),
        (
            json!({"tools": [{"name": "a", "input_schema": object()}, {"name": "a", "input_schema": object()}]}),
            "tools: Tool names must be unique.",
        ),
        (json!({"tool_choice": {"type": "auto"}}), "tool_choice: may only be specified while providing tools"),
        (json!({"tool_choice": "auto", "tools": tools()}), "tool_choice: Input should be a valid dictionary"),
        (json!({"tool_choice": {"type": "required"}, "tools": tools()}), "tool_choice: Input tag 'required' found"),
        (json!({"tool_choice": {"type": "tool"}, "tools": tools()}), "tool_choice.tool.name: Field required"),
        (
            json!({"tool_choice": {"type": "tool", "name": "nope"}, "tools": tools()}),
            "Tool 'nope' not found in provided tools",
        ),
        (
            json!({"tool_choice": {"type": "none", "disable_parallel_tool_use": true}, "tools": tools()}),
            "tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted",
        ),
        (
            json!({"tool_choice": {"type": "auto", "name": "x"}, "tools": tools()}),
            "tool_choice.auto.name: Extra inputs are not permitted",
        ),
        // Thinking.
        (json!({"thinking": true}), "thinking: Input should be a valid dictionary"),
        (json!({"thinking": {"type": "on"}}), "thinking: Input tag 'on' found"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.enabled.budget_tokens: Field required"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1023}}),
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}),
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
        ),
        (
            json!({"thinking": {"type": "disabled", "budget_tokens": 2000}}),
            "thinking.disabled.budget_tokens: Extra inputs are not permitted",
        ),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "all"}}),
            "thinking.enabled.display: Input should be 'summarized' or 'omitted'",
        ),
        (thinking(json!({"temperature": 0.5})), "`temperature` may only be set to 1 when thinking is enabled."),
        (thinking(json!({"top_k": 5})), "`top_k` must be unset when thinking is enabled."),
        (thinking(json!({"top_p": 0.5})), "`top_p` must be greater than or equal to 0.95 or unset when thinking"),
        (
            thinking(json!({"tools": tools(), "tool_choice": {"type": "any"}})),
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
        (thinking(json!({"model": "claude-3-5-haiku-latest"})), "thinking: thinking is not supported on this model"),
        (json!({"thinking": adaptive}), "adaptive thinking is not supported on this model"),
        (
            json!({"model": "claude-opus-4-6", "thinking": {"type": "adaptive", "budget_tokens": 1024}}),
            "thinking.adaptive.budget_tokens: Extra inputs are not permitted",
        ),
        (
            thinking(json!({"tools": tools(),
                "messages": [user(json!("x")), assistant(json!([called("a")])), user(json!([result("a")]))]})),
            "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
        ),
        (
            thinking(json!({"messages": [user(json!("x")), assistant(json!("Well"))]})),
            "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`.",
        ),
        // Output.
        (json!({"output_config": {"verbosity": "low"}}), "output_config.verbosity: Extra inputs are not permitted"),
        (
            json!({"output_config": {"effort": "minimal"}}),
            "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
        ),
        (json!({"output_config": {"effort": "low"}}), "This model does not support the effort parameter."),
        (
            json!({"output_config": {"format": {"type": "json_object"}}}),
            "output_config.format.type: Input should be 'json_schema'",
        ),
        (json!({"output_config": {"format": {"type": "json_schema"}}}), "output_config.format.schema: Field required"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": {}, "name": "x"}}}),
            "output_config.format.name: Extra inputs are not permitted",
        ),
        (
            json!({"model": "claude-sonnet-4", "output_config": {"format": {"type": "json_schema", "schema": closed(json!({}))}}}),
            "'claude-sonnet-4' does not support output format.",
        ),
        (
            schema(json!({"type": "object", "properties": {}})),
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
        ),
        (
            schema(closed(json!({"type": "array", "items": {"type": ["object", "null"]}}))),
            "output_config.format.schema.properties.p.items: For 'object' type, 'additionalProperties' must be",
        ),
        (
            schema(closed(json!({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]}))),
            "output_config.format.schema.properties.p.anyOf.1: For 'integer' type, property 'minimum' is not supported",
        ),
        (
            schema(closed(json!({"type": "array", "minItems": 2}))),
            "output_config.format.schema.properties.p.minItems: For 'array' type, 'minItems' values other than 0 or 1",
        ),
    ]
}

#[tokio::test]
async fn everything_that_is_refused() {
    let provider = provider().await;
    for (patch, message) in refusals() {
        let reply = post(&provider, "/messages", &body(patch.clone())).send().await.unwrap();
        let (status, id) = (reply.status(), reply.headers()["request-id"].to_str().unwrap().to_owned());
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(status, 400, "{message}: {reply}");
        let said = reply["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{said}\n{message}");
        let shape =
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": said}, "request_id": id});
        assert_eq!(reply, shape);
    }
}

#[tokio::test]
async fn unsupported_keywords_are_refused_one_by_one() {
    let provider = provider().await;
    for keyword in [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "maxItems",
    ] {
        let patch = schema(closed(json!({"type": "string", keyword: 1})));
        let reply: Value = post(&provider, "/messages", &body(patch)).send().await.unwrap().json().await.unwrap();
        let said = reply["error"]["message"].as_str().unwrap();
        assert!(said.ends_with(&format!("property '{keyword}' is not supported")), "{said}");
    }
}

#[tokio::test]
async fn everything_that_is_allowed() {
    let provider = provider().await;
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let allowed = [
        json!({"system": "", "top_k": 5, "temperature": 0, "service_tier": "auto", "stop_sequences": []}),
        json!({"model": "claude-3-5-sonnet-latest", "temperature": 1, "top_p": 0.5}),
        json!({"metadata": {"user_id": "user_0123456789abcdef_account_7_session_01234567-89ab-cdef-0123-456789abcdef"}}),
        json!({"metadata": {"user_id": null}, "cache_control": null}),
        json!({"tools": []}),
        json!({"tools": tools(), "tool_choice": {"type": "none"}}),
        json!({"system": [{"type": "text", "text": "x", "cache_control": mark}], "cache_control": {"type": "ephemeral"}}),
        json!({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
            {"type": "custom", "name": "f", "input_schema": {"type": "object", "properties": null}, "cache_control": mark}]}),
        json!({"messages": [user(json!("a")), user(json!("b")), assistant(json!("")) ]}),
        json!({"messages": [user(json!([
            {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}},
            {"type": "image", "source": {"type": "url", "url": "http://a.example/x.png"}},
            {"type": "document", "title": "t", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
            {"type": "document", "context": "c", "citations": {"enabled": true}, "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            {"type": "document", "source": {"type": "url", "url": "https://a.example/x.pdf"}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            {"type": "text", "text": "hello"}]))]}),
        json!({"tools": tools(), "messages": [user(json!("x")),
            assistant(json!([{"type": "redacted_thinking", "data": "sig_x"}, called("a"), called("b")])),
            user(json!([{"type": "tool_result", "tool_use_id": "b"}, result("a"), {"type": "text", "text": "hello"}]))]}),
        json!({"model": "claude-opus-4-5", "output_config": {"effort": "low"}}),
        json!({"model": "claude-opus-4-7", "thinking": {"type": "adaptive", "display": "omitted"}, "max_tokens": 5, "tools": tools(),
            "messages": [user(json!("x")), assistant(json!([called("a")])), user(json!([result("a")]))]}),
        // The thinking of an earlier turn is not required.
        json!({"thinking": {"type": "enabled", "budget_tokens": 1999},
            "messages": [user(json!("x")), assistant(json!("y")), user(json!("z"))]}),
        schema(
            json!({"type": "object", "additionalProperties": false, "$defs": {"n": closed(json!({"type": "integer"}))},
            "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": "array", "minItems": 1, "items": {"enum": ["x"]}}}}),
        ),
    ];
    for patch in allowed {
        ask(&provider, patch).await;
    }
    let beta = json!({"context_management": {"edits": []}, "thinking": {"type": "enabled", "budget_tokens": 5000}});
    let reply = post(&provider, "/messages?beta=true", &body(beta))
        .header("anthropic-beta", "oauth-2025-04-20,context-management-2025-06-27, interleaved-thinking-2025-05-14");
    assert_eq!(reply.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn headers_and_other_statuses() {
    let provider = provider().await;
    let url = |path: &str| format!("{}{path}", provider.base_url());
    let (client, good) = (Client::new(), body(json!({})));
    let bare = || client.post(url("/messages")).json(&good);
    let versioned = || bare().header("anthropic-version", "2023-06-01");
    let long = client.post(url("/messages")).header("x-api-key", "k").header("anthropic-version", "2023-06-01");
    let cases = [
        (versioned(), 401, "authentication_error", "x-api-key header is required"),
        (versioned().header("authorization", "Basic x"), 401, "authentication_error", "x-api-key header is required"),
        (versioned().header("x-api-key", "sk-invalid"), 401, "authentication_error", "invalid x-api-key"),
        (versioned().bearer_auth("sk-invalid"), 401, "authentication_error", "invalid x-api-key"),
        (bare().header("x-api-key", "k"), 400, "invalid_request_error", "anthropic-version: header is required"),
        (
            bare().bearer_auth("k").header("anthropic-version", "1"),
            400,
            "invalid_request_error",
            "anthropic-version: \"1\" is not a valid version",
        ),
        (long.body("{"), 400, "invalid_request_error", "The request body is not valid JSON"),
        (post(&provider, "/messages", &body(json!({"model": "claude"}))), 404, "not_found_error", "model: claude"),
        (post(&provider, "/messages", &body(json!({"model": "gpt-4o"}))), 404, "not_found_error", "model: gpt-4o"),
        (post(&provider, "/messages/nowhere", &good), 404, "not_found_error", "Invalid URL"),
        (client.get(url("/messages")), 405, "invalid_request_error", "Not allowed to GET"),
        (
            post(&provider, "/messages", &good).header("x-simulate", "tpyo"),
            400,
            "invalid_request_error",
            "Unknown or mal",
        ),
    ];
    for (request, status, kind, message) in cases {
        let reply = request.send().await.unwrap();
        assert_eq!(reply.status(), status, "{message}");
        let id = reply.headers()["request-id"].to_str().unwrap().to_owned();
        assert!(id.starts_with("req_") && !reply.headers().contains_key("x-request-id"));
        let reply: Value = reply.json().await.unwrap();
        assert_eq!((&reply["type"], &reply["error"]["type"]), (&json!("error"), &json!(kind)), "{reply}");
        assert_eq!(reply["request_id"], id);
        assert!(reply["error"]["message"].as_str().unwrap().starts_with(message), "{reply}");
    }

    let reply = versioned().bearer_auth("token").send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let header = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
    assert!(!header("anthropic-organization-id").is_empty());
    for what in ["requests", "tokens", "input-tokens", "output-tokens"] {
        let number = |end: &str| header(&format!("anthropic-ratelimit-{what}-{end}")).parse::<u64>().unwrap();
        assert!(number("limit") > number("remaining"));
        let reset = header(&format!("anthropic-ratelimit-{what}-reset"));
        assert!(reset.len() == 20 && reset.starts_with("20") && reset.ends_with('Z'), "{reset}");
    }
}

#[tokio::test]
async fn text_whole_and_streamed_agree() {
    let provider = provider().await;
    let whole = ask(&provider, json!({})).await;
    assert_eq!(whole["content"], json!([{"type": "text", "text": "1, 2, 3"}]));
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert!(whole["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(whole, ask(&provider, json!({})).await);
    let usage = json!({
        "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 3, "service_tier": "standard"
    });
    assert_eq!(whole["usage"], usage);

    let events = events(&stream(&provider, "", json!({})).await);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    assert_eq!(names, ["message_start", start, "ping", delta, delta, delta, stop, "message_delta", "message_stop"]);
    assert_eq!(events[0].1["message"]["usage"]["output_tokens"], 1);
    let mut streamed = assemble(&events);
    // The id is made from the request's bytes, which contain `stream`.
    streamed["id"] = whole["id"].clone();
    assert_eq!(streamed, whole);
}

#[tokio::test]
async fn limits_and_stops() {
    let provider = provider().await;
    let cases = [
        (json!({"max_tokens": 2}), json!([{"type": "text", "text": "1, 2,"}]), "max_tokens", Value::Null),
        (json!({"stop_sequences": ["3", "2"]}), json!([{"type": "text", "text": "1, "}]), "stop_sequence", json!("2")),
        (json!({"stop_sequences": ["1"]}), json!([]), "stop_sequence", json!("1")),
        (json!({"messages": [user(json!(super::REFUSE))]}), json!([]), "refusal", Value::Null),
    ];
    for (patch, content, reason, sequence) in cases {
        let reply = ask(&provider, patch.clone()).await;
        assert_eq!((&reply["content"], &reply["stop_reason"]), (&content, &json!(reason)));
        assert_eq!(reply["stop_sequence"], sequence);
        let streamed = assemble(&events(&stream(&provider, "", patch).await));
        assert_eq!((&streamed["content"], &streamed["stop_sequence"]), (&content, &sequence));
    }
}

#[tokio::test]
async fn one_call_parallel_calls_and_their_results() {
    let provider = provider().await;
    let ask_for =
        |text: &str, choice: Value| json!({"tools": tools(), "tool_choice": choice, "messages": [user(json!(text))]});
    let both = "call get_weather and get_time";
    let auto = json!({"type": "auto"});
    let single = json!({"type": "auto", "disable_parallel_tool_use": true});
    let cases = [
        (ask_for(both, auto.clone()), vec!["get_weather", "get_time"]),
        (ask_for(both, single), vec!["get_weather"]),
        (ask_for("use the tool", auto), vec!["get_weather"]),
        (ask_for("x", json!({"type": "any"})), vec!["get_weather"]),
        (ask_for("x", json!({"type": "tool", "name": "get_time"})), vec!["get_time"]),
        (ask_for(both, json!({"type": "none"})), vec![]),
    ];
    for (patch, wanted) in cases {
        let reply = ask(&provider, patch.clone()).await;
        let names: Vec<&str> =
            reply["content"].as_array().unwrap().iter().filter_map(|block| block["name"].as_str()).collect();
        assert_eq!(names, wanted);
        assert_eq!(reply["stop_reason"], if wanted.is_empty() { "end_turn" } else { "tool_use" });
        let mut streamed = assemble(&events(&stream(&provider, "", patch).await));
        for (block, same) in
            streamed["content"].as_array_mut().unwrap().iter_mut().zip(reply["content"].as_array().unwrap())
        {
            if let Some(id) = same.get("id") {
                assert!(block["id"].as_str().unwrap().starts_with("toolu_"));
                block["id"] = id.clone();
            }
        }
        assert_eq!(streamed["content"], reply["content"]);
    }

    let events = events(&stream(&provider, "", json!({"tools": tools(), "messages": [user(json!(both))]})).await);
    let pieces = |index: u64| -> Vec<&str> {
        let of = events.iter().filter(|(name, event)| name == "content_block_delta" && event["index"] == index);
        of.map(|(_, event)| event["delta"]["partial_json"].as_str().unwrap()).collect()
    };
    assert!(pieces(0).len() > 3 && pieces(0)[0].is_empty(), "{:?}", pieces(0));
    assert_eq!(pieces(1), [""], "no arguments");

    let reply = ask(&provider, json!({"tools": tools(), "messages": [user(json!(both))]})).await;
    let results: Vec<Value> =
        reply["content"].as_array().unwrap().iter().map(|call| result(call["id"].as_str().unwrap())).collect();
    let mut messages = json!([user(json!(both)), assistant(reply["content"].clone()), user(json!(results))]);
    let reply = ask(&provider, json!({"tools": tools(), "messages": messages})).await;
    assert_eq!(reply["content"][0]["text"], "The tool answered: noon noon");
    messages[2]["content"].as_array_mut().unwrap().push(json!({"type": "text", "text": "Say hello"}));
    let reply = ask(&provider, json!({"tools": tools(), "messages": messages})).await;
    assert_eq!(reply["content"][0]["text"], "Hello there, friend!");
}

#[tokio::test]
async fn thinking_comes_first_and_goes_back() {
    let provider = provider().await;
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    let patch = json!({"thinking": thinking, "tools": tools(), "messages": [user(json!("call get_time"))]});
    let reply = ask(&provider, patch.clone()).await;
    let thought = &reply["content"][0];
    assert_eq!((&thought["type"], &reply["content"][1]["type"]), (&json!("thinking"), &json!("tool_use")));
    assert!(thought["thinking"].as_str().unwrap().contains("call get_time"));
    assert!(thought["signature"].as_str().unwrap().starts_with("sig_"));
    let spent = &reply["usage"]["output_tokens_details"]["thinking_tokens"];
    assert!(spent.as_u64().unwrap() > 0 && reply["usage"]["output_tokens"].as_u64() > spent.as_u64());
    let streamed = assemble(&events(&stream(&provider, "", patch).await));
    assert_eq!(&streamed["content"][0], thought);

    let id = reply["content"][1]["id"].as_str().unwrap();
    let next = |content: Value| {
        json!({"thinking": thinking, "tools": tools(),
            "messages": [user(json!("call get_time")), assistant(content), user(json!([result(id)]))]})
    };
    let answer = ask(&provider, next(reply["content"].clone())).await;
    assert_eq!(answer["content"][1]["text"], "The tool answered: noon");
    // Another text under the same signature.
    let mut forged = reply["content"].clone();
    forged[0]["thinking"] = json!("Something else.");
    let refused = post(&provider, "/messages", &body(next(forged))).send().await.unwrap();
    assert_eq!(refused.status(), 400);

    let omitted = json!({"type": "adaptive", "display": "omitted"});
    let reply = ask(&provider, json!({"model": "claude-opus-4-6", "thinking": omitted})).await;
    assert_eq!(reply["content"][0]["thinking"], "");
    let back = json!([user(json!("x")), assistant(reply["content"].clone()), user(json!("y"))]);
    ask(&provider, json!({"messages": back})).await;

    let redacted = json!({"thinking": thinking, "messages": [user(json!(super::REDACT))]});
    let reply = ask(&provider, redacted.clone()).await;
    assert_eq!(reply["content"][0]["type"], "redacted_thinking");
    let streamed = assemble(&events(&stream(&provider, "", redacted).await));
    assert_eq!(streamed["content"], reply["content"]);
    let back = json!([user(json!("x")), assistant(reply["content"].clone()), user(json!("y"))]);
    ask(&provider, json!({"messages": back})).await;

    let short = json!({"model": "claude-opus-4-6", "thinking": {"type": "adaptive"}, "max_tokens": 2});
    let reply = ask(&provider, short).await;
    assert_eq!((reply["content"].as_array().unwrap().len(), &reply["stop_reason"]), (1, &json!("max_tokens")));
}

#[tokio::test]
async fn structured_output_is_an_example_of_its_schema() {
    let provider = provider().await;
    let wanted = json!({"type": "object", "properties": {"city": {"type": "string"}, "ok": {"type": "boolean"}},
        "required": ["city", "ok"], "additionalProperties": false});
    let reply = ask(&provider, schema(wanted)).await;
    assert_eq!(reply["content"][0]["text"], r#"{"city":"example city","ok":true}"#);
}

#[tokio::test]
async fn a_marked_prompt_is_written_once_and_read_afterwards() {
    let provider = provider().await;
    let mark = |ttl: &str| json!({"type": "ephemeral", "ttl": ttl});
    let long = "x".repeat(400);
    let prompt = |question: &str| {
        json!({
            "system": [{"type": "text", "text": long, "cache_control": mark("1h")}],
            "messages": [user(json!([{"type": "text", "text": "y".repeat(40), "cache_control": mark("5m")}])), user(json!(question))]
        })
    };
    let count = |reply: &Value| {
        let usage = &reply["usage"];
        let written = &usage["cache_creation"];
        let number = |value: &Value| value.as_u64().unwrap();
        assert_eq!(
            number(&usage["cache_creation_input_tokens"]),
            number(&written["ephemeral_5m_input_tokens"]) + number(&written["ephemeral_1h_input_tokens"])
        );
        [
            number(&usage["input_tokens"]),
            number(&usage["cache_read_input_tokens"]),
            number(&written["ephemeral_5m_input_tokens"]),
            number(&written["ephemeral_1h_input_tokens"]),
        ]
    };
    assert_eq!(count(&ask(&provider, prompt("12345678")).await), [2, 0, 10, 100]);
    assert_eq!(count(&ask(&provider, prompt("12345678")).await), [2, 110, 0, 0]);
    let streamed = assemble(&events(&stream(&provider, "", prompt("123456789")).await));
    assert_eq!(count(&streamed), [3, 110, 0, 0]);
    // Without the second mark only the system prompt is read; a mark at the end writes the rest.
    let mut other = prompt("1234");
    other["messages"] = json!([user(json!("1234"))]);
    assert_eq!(count(&ask(&provider, other.clone()).await), [1, 100, 0, 0]);
    other["cache_control"] = mark("5m");
    assert_eq!(count(&ask(&provider, other.clone()).await), [0, 100, 1, 0]);
    // Another model has another cache, and a directive decides before either.
    other["model"] = json!("claude-opus-4-5");
    assert_eq!(count(&ask(&provider, other.clone()).await), [0, 0, 1, 100]);
    other["model"] = json!("claude-opus-4-5@cached=50");
    assert_eq!(count(&ask(&provider, other.clone()).await), [0, 50, 1, 50]);
    assert_eq!(count(&ask(&provider, json!({"model": "claude-opus-4-5@cached=2"})).await), [1, 2, 0, 0]);

    let mut counted = body(other);
    counted.as_object_mut().unwrap().remove("max_tokens");
    let reply = post(&provider, "/messages/count_tokens", &counted).send().await.unwrap();
    assert_eq!(reply.json::<Value>().await.unwrap(), json!({"input_tokens": 101}));
}

#[tokio::test]
async fn counting_refuses_what_only_creating_takes() {
    let provider = provider().await;
    for (patch, message) in [
        (json!({}), "max_tokens: Extra inputs are not permitted"),
        (json!({"max_tokens": gone(), "temperature": 1}), "temperature: Extra inputs are not permitted"),
        (json!({"max_tokens": gone(), "stream": true}), "stream: Extra inputs are not permitted"),
        (json!({"max_tokens": gone(), "messages": []}), "messages: at least one message is required"),
    ] {
        let reply = post(&provider, "/messages/count_tokens", &body(patch)).send().await.unwrap();
        assert_eq!(reply.status(), 400);
        assert_eq!(reply.json::<Value>().await.unwrap()["error"]["message"], message);
    }
    let thinking = json!({"max_tokens": gone(), "thinking": {"type": "enabled", "budget_tokens": 50_000}});
    let reply = post(&provider, "/messages/count_tokens", &body(thinking)).send().await.unwrap();
    assert_eq!(reply.json::<Value>().await.unwrap(), json!({"input_tokens": 3}));
}

async fn faulty(provider: &Simulated, faults: &str, patch: Value) -> Response {
    post(provider, "/messages", &body(patch)).header("x-simulate", faults).send().await.unwrap()
}

#[tokio::test]
async fn statuses_on_demand_have_anthropic_shapes() {
    let provider = provider().await;
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ] {
        let reply = faulty(&provider, &format!("{status},retry-after=3"), json!({})).await;
        assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (status, &"3".parse().unwrap()));
        let remaining = reply.headers()["anthropic-ratelimit-requests-remaining"].to_str().unwrap() == "0";
        assert_eq!(remaining, status == 429);
        let id = reply.headers()["request-id"].to_str().unwrap().to_owned();
        let reply: Value = reply.json().await.unwrap();
        assert_eq!((&reply["error"]["type"], &reply["request_id"]), (&json!(kind), &json!(id)));
    }
    let by_name = faulty(&provider, "", json!({"model": "claude-opus-4-5@529"})).await;
    assert_eq!(by_name.json::<Value>().await.unwrap()["error"]["message"], "Overloaded");
    let page = faulty(&provider, "502,html", json!({})).await;
    assert!(page.text().await.unwrap().starts_with("<html>"));
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(faulty(&provider, "fail-first=2,529,key=m", json!({})).await.status().as_u16());
    }
    assert_eq!(seen, [529, 529, 200]);
    let started = Instant::now();
    assert_eq!(faulty(&provider, "latency=60ms", json!({})).await.status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(60));
    // A request without valid credentials is refused as such, whatever fault was asked for.
    let request = Client::new().post(format!("{}/messages", provider.base_url())).header("x-simulate", "529");
    assert_eq!(request.json(&body(json!({}))).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn broken_streams() {
    let provider = provider().await;
    let text = stream(&provider, "error=4", json!({})).await;
    let last = events(&text).pop().unwrap();
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    assert_eq!(last, ("error".to_owned(), error));
    assert_eq!(events(&text).len(), 5);
    let text = stream(&provider, "error=99", json!({})).await;
    assert!(!text.contains("message_stop") && text.contains("event: error\n"));
    let text = stream(&provider, "no-done", json!({})).await;
    assert_eq!(events(&text).pop().unwrap().0, "message_delta");
    let text = stream(&provider, "crlf,comments,no-space,split=7", json!({})).await;
    assert!(text.starts_with(": SIMULATED PROCESSING\r\n\r\nevent:message_start\r\ndata:{"), "{text}");
    let text = stream(&provider, "big=3,no-usage", json!({})).await;
    assert_eq!((text.matches("text_delta").count(), text.contains("usage")), (3, false));

    let mut body = body(json!({}));
    body["stream"] = json!(true);
    let reply = post(&provider, "/messages", &body).header("x-simulate", "cut=3").send().await.unwrap();
    let mut pieces = reply.bytes_stream();
    let (mut got, mut well) = (Vec::new(), true);
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => {
                well = false;
                break;
            }
        }
    }
    assert_eq!((events(str::from_utf8(&got).unwrap()).len(), well), (3, false));
}

#[test]
fn moments() {
    let cases = [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_704_067_199, "2023-12-31T23:59:59Z"),
        (1_735_689_600, "2025-01-01T00:00:00Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ];
    for (seconds, text) in cases {
        assert_eq!(rfc3339(seconds), text);
    }
}
