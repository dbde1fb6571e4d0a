//! For any input, nothing panics, and the output is valid for Anthropic and for OpenAI's clients.

use proptest::prelude::*;

use super::*;

/// Words that the translator knows, so that arbitrary JSON gets past the first check.
const WORDS: &[&str] = &[
    "",
    " ",
    "user",
    "assistant",
    "system",
    "tool",
    "function",
    "text",
    "image_url",
    "file",
    "refusal",
    "thinking",
    "a",
    "f",
    "auto",
    "none",
    "required",
    "json_schema",
    "object",
    "high",
    "{}",
    "{\"a\":1}",
    "data:image/png;base64,AA==",
    "https://x.test",
    "tool_use",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_start",
    "message_delta",
    "message_stop",
    "message",
    "error",
    "text_delta",
    "input_json_delta",
    "thinking_delta",
    "signature_delta",
    "redacted_thinking",
    "ephemeral",
];

const KEYS: &[&str] = &[
    "role",
    "content",
    "type",
    "text",
    "name",
    "id",
    "tool_calls",
    "tool_call_id",
    "function",
    "arguments",
    "function_call",
    "image_url",
    "url",
    "file",
    "file_data",
    "cache_control",
    "thinking_blocks",
    "signature",
    "thinking",
    "data",
    "tools",
    "parameters",
    "strict",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "json_schema",
    "schema",
    "properties",
    "items",
    "$ref",
    "$defs",
    "minimum",
    "reasoning_effort",
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "user",
    "stream",
    "functions",
    "web_search_options",
    "index",
    "delta",
    "content_block",
    "message",
    "usage",
    "input_tokens",
    "input",
    "partial_json",
    "citation",
    "stop_reason",
    "error",
    "model",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..3).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), any_object(inner),]
    })
}

fn any_object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop::sample::select(KEYS).prop_map(str::to_owned);
    prop::collection::vec((key, value), 0..5).prop_map(|members| Value::Object(members.into_iter().collect()))
}

/// Messages that are mostly valid, so that many are translated.
fn any_message() -> impl Strategy<Value = Vec<Value>> {
    let text = prop_oneof![8 => prop::sample::select(WORDS).prop_map(Value::from), 1 => any_json()];
    let mark = prop_oneof![3 => Just(Value::Null), 1 => Just(json!({"type": "ephemeral"}))];
    let said = (prop::sample::select(vec!["user", "assistant", "system", "developer"]), text, mark)
        .prop_map(|(role, content, mark)| vec![json!({"role": role, "content": content, "cache_control": mark})]);
    let id = prop::sample::select(vec!["a", "a.b", "", "call_1", "call_1_2"]);
    let called = (id, prop::sample::select(WORDS), any::<bool>()).prop_map(|(id, arguments, thought)| {
        let blocks =
            if thought { json!([{"type": "thinking", "thinking": "x", "signature": "s"}]) } else { Value::Null };
        vec![
            json!({"role": "assistant", "thinking_blocks": blocks, "tool_calls": [
                {"id": id, "function": {"name": "f", "arguments": arguments}},
                {"id": format!("{id}_2"), "function": {"name": "g", "arguments": arguments}},
            ]}),
            json!({"role": "tool", "tool_call_id": format!("{id}_2"), "content": "2"}),
            json!({"role": "tool", "tool_call_id": id, "content": "1"}),
        ]
    });
    prop_oneof![2 => said, 1 => called]
}

fn any_model() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "claude-3-haiku-20240307",
        "claude-3-7-sonnet-latest",
        "claude-sonnet-4",
        "claude-opus-4-5",
        "claude-sonnet-4-6",
        "claude-opus-4-8",
        "claude-sonnet-5",
        "claude-opus-5-5",
        "x",
    ])
}

/// Asserts rules that Anthropic enforces for every request.
fn check(body: &Value) {
    let messages = body["messages"].as_array().unwrap();
    assert!(messages.iter().any(|message| message["role"] == "user"));
    assert!(messages.windows(2).all(|pair| pair[0]["role"] != pair[1]["role"]));
    let blocks = |message: &Value| message["content"].as_array().cloned().unwrap_or_default();
    let ids = |message: &Value, key: &str| {
        let mut ids: Vec<_> =
            blocks(message).iter().filter_map(|block| Some(block.get(key)?.as_str()?.to_owned())).collect();
        ids.sort();
        ids
    };
    let none = json!({"content": []});
    for (index, message) in messages.iter().enumerate() {
        assert!(message["content"] != json!([]) && message["content"] != "");
        if message["role"] == "assistant" {
            let results = messages.get(index + 1).unwrap_or(&none);
            assert_eq!(ids(message, "id"), ids(results, "tool_use_id"));
        }
        let kinds: Vec<_> = blocks(message).iter().map(|block| block["type"].as_str().unwrap().to_owned()).collect();
        let results = kinds.iter().filter(|kind| *kind == "tool_result").count();
        assert!(kinds[..results].iter().all(|kind| kind == "tool_result"), "results are first");
    }
    let marked = |value: &Value| value.get("cache_control").is_some();
    let tools = body["tools"].as_array().into_iter().flatten().filter(|tool| marked(tool)).count();
    let said = format!("{}{}", body["system"], body["messages"]).matches("\"cache_control\":").count();
    assert!(tools + said + usize::from(marked(body)) <= 4);
    let system = blocks(&json!({"content": body["system"]}));
    for text in
        system.into_iter().chain(messages.iter().flat_map(blocks)).filter_map(|block| block.get("text").cloned())
    {
        assert!(!text.as_str().unwrap().trim().is_empty());
    }
    assert!(body["max_tokens"].as_u64().unwrap() > 0);
    if let Some(budget) = body["thinking"]["budget_tokens"].as_u64() {
        assert!(budget >= 1024 && budget < body["max_tokens"].as_u64().unwrap());
    }
    assert!(body.get("tool_choice").is_none() || body.get("tools").is_some());
}

/// Whether a stream has OpenAI's order: chunks or comments, and nothing behind an error or the end.
fn check_stream(stream: &str) {
    let mut ended = false;
    for event in stream.split_terminator("\n\n") {
        assert!(!ended, "{event}");
        let Some(data) = event.strip_prefix("data: ") else {
            assert_eq!(event, ": ping");
            continue;
        };
        ended = data == "[DONE]" || data.starts_with("{\"error\":");
        if data != "[DONE]" {
            serde_json::from_str::<Value>(data).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_request(chat in any_object(any_json()), name in any_model()) {
        let model = Model { name, max_output_tokens: None, default_max_tokens: None, context: None, prompt_caching: PromptCaching::Auto };
        if let Ok(step) = request(&chat, &model) {
            check(&step.body);
        }
    }

    #[test]
    fn any_conversation(
        messages in prop::collection::vec(any_message(), 0..6),
        rest in any_object(any_json()),
        effort in prop::sample::select(vec!["none", "low", "max"]),
        name in any_model(),
    ) {
        let mut chat = rest.as_object().cloned().unwrap_or_default();
        chat.insert("messages".into(), messages.concat().into());
        chat.insert("reasoning_effort".into(), effort.into());
        for param in [
            "functions", "function_call", "tools", "tool_choice", "parallel_tool_calls", "stop", "user", "thinking", "top_p", "max_tokens",
            "response_format",
        ] {
            if chat.get(param).is_some_and(Value::is_object) {
                chat.shift_remove(param);
            }
        }
        let model = Model { name, max_output_tokens: None, default_max_tokens: Some(3000), context: None, prompt_caching: PromptCaching::Auto };
        if let Ok(step) = request(&chat.into(), &model) {
            check(&step.body);
        }
    }

    #[test]
    fn any_schema(schema in any_object(any_json()), name in any_model()) {
        let chat = json!({"messages": hi(), "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            "tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": schema}}]});
        let model = Model { name, max_output_tokens: None, default_max_tokens: None, context: None, prompt_caching: PromptCaching::Auto };
        if let Ok(step) = request(&chat, &model) {
            check(&step.body);
        }
    }

    #[test]
    fn any_reply(mut body in any_object(any_json()), content in any_json(), raw in prop::collection::vec(any::<u8>(), 0..40)) {
        body["type"] = "message".into();
        body["content"] = content;
        for answers in [Answers::new("m", Some("f".into()), false), Answers::new("m", None, true)] {
            if let Some(reply) = answers.json(body.to_string().as_bytes()) {
                let reply: Value = serde_json::from_slice(&reply).unwrap();
                assert_eq!(&reply["object"], "chat.completion");
            }
            assert_eq!(answers.json(&raw), None);
        }
        read_error(400, body.to_string().as_bytes());
        read_error(529, &raw);
    }

    #[test]
    fn any_events(events in prop::collection::vec((any_object(any_json()), prop::sample::select(WORDS)), 0..12), tool in any::<bool>()) {
        let answers = Answers::new("m", tool.then(|| "f".into()), !tool);
        let (mut stream, mut out) = (Events::of(&answers), BytesMut::new());
        for (mut event, kind) in events {
            event["type"] = kind.into();
            stream.event(Some(b"x"), event.to_string().as_bytes(), &mut out);
            stream.event(None, kind.as_bytes(), &mut out);
        }
        stream.finish(&mut out);
        check_stream(std::str::from_utf8(&out).unwrap());
    }
}
