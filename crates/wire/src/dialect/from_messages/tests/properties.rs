//! Properties that hold for any input.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Any JSON, including the names and words that the translation acts on.
fn anything() -> impl Strategy<Value = Value> {
    let words = select(vec![
        "",
        "text",
        "image",
        "document",
        "tool_use",
        "tool_result",
        "thinking",
        "user",
        "assistant",
        "system",
        "base64",
        "auto",
        "any",
        "enabled",
        "json_schema",
        "stop",
        "tool_calls",
        "error",
        "{",
        "{\"a\":1}",
        "}",
        "\"",
        "é\n",
        "x",
        "message",
        "end_turn",
        "message_start",
        "message_stop",
        "content_block_start",
        "text_delta",
    ]);
    let names = select(vec![
        "type",
        "role",
        "content",
        "text",
        "source",
        "id",
        "name",
        "input",
        "tool_use_id",
        "data",
        "media_type",
        "url",
        "title",
        "index",
        "delta",
        "message",
        "tool_calls",
        "function",
        "arguments",
        "reasoning_content",
        "usage",
        "thinking_blocks",
        "signature",
        "thinking",
        "finish_reason",
        "choices",
        "error",
        "refusal",
        "function_call",
        "prompt_tokens",
        "stop_reason",
        "content_block",
        "input_schema",
        "format",
        "effort",
        "cache_control",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..4).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        Just(json!(1.5)),
        words.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((names.clone(), inner), 0..6).prop_map(|all| all.into_iter().map(|(n, v)| (n.to_owned(), v)).collect()),
        ]
    })
}

/// A request of valid outline with arbitrary content.
fn requests() -> impl Strategy<Value = Value> {
    let names = select(TABLE.iter().map(|rule| rule.param).collect::<Vec<_>>());
    let block = (select(vec!["text", "image", "document", "tool_use", "tool_result", "search_result"]), anything());
    let block = block.prop_map(|(kind, mut value)| {
        if let Some(block) = value.as_object_mut() {
            block.insert("type".into(), kind.into());
        }
        value
    });
    let message = (select(vec!["user", "assistant", "system"]), vec(block, 0..3));
    let message = message.prop_map(|(role, content)| json!({"role": role, "content": content}));
    (vec(message, 0..3), vec((names, anything()), 0..4)).prop_map(|(messages, more)| {
        let mut body = json!({"max_tokens": 1, "messages": messages});
        for (name, value) in more {
            body[name] = value;
        }
        body
    })
}

/// Chunks of all kinds of pieces.
fn chunks() -> impl Strategy<Value = Value> {
    let text =
        select(vec![json!(""), json!("a"), json!("{"), json!("}"), json!("\"\\"), Value::Null, json!([{"text": "b"}])]);
    let call = (
        select(vec![json!(0), json!(1), Value::Null]),
        select(vec!["", "c1", "c2"]),
        select(vec!["", "x"]),
        text.clone(),
    );
    let call = call.prop_map(|(index, id, name, arguments)| {
        json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
    });
    let blocks = select(vec![
        json!([]),
        json!([{"type": "thinking", "thinking": "t", "signature": "s"}]),
        json!([{"type": "redacted_thinking", "data": "d"}]),
    ]);
    let finish = select(vec![Value::Null, Value::Null, Value::Null, Value::Null, json!("stop"), json!("length")]);
    let delta = (text.clone(), text, blocks, vec(call, 0..3), finish);
    delta.prop_map(|(content, reasoning, blocks, calls, finish)| {
        let delta =
            json!({"content": content, "reasoning_content": reasoning, "thinking_blocks": blocks, "tool_calls": calls});
        json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    })
}

fn is_good_or_refused(message: &[u8]) -> bool {
    let value: Value = serde_json::from_slice(message).unwrap();
    is_good(message) != (value["stop_reason"] == "refusal")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_request_panics(body in prop_oneof![anything(), requests()], model in select(vec!["gpt-4o", "o3", ""])) {
        let target = Model { name: model, max_output_tokens: Some(10), default_max_tokens: None, context: None, prompt_caching: PromptCaching::Auto };
        match request(&body, &target) {
            Ok(step) => prop_assert!(step.body["messages"].is_array() && step.body["max_completion_tokens"].is_u64()),
            Err(refusal) => prop_assert!(!refusal.message.is_empty()),
        }
    }

    #[test]
    fn any_reply_is_a_message_or_nothing(reply in anything(), message in anything()) {
        let reply = match message {
            Value::Object(_) => json!({"choices": [{"message": message}], "usage": reply}),
            _ => reply,
        };
        if let Some(json) = replies(&Value::Null).json(reply.to_string().as_bytes()) {
            prop_assert!(is_good_or_refused(&json));
            let again = to_json(&to_events(&json).unwrap()).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&again).unwrap(), serde_json::from_slice::<Value>(&json).unwrap());
        }
    }

    #[test]
    fn any_stream_keeps_the_grammar(
        all in vec(prop_oneof![
            9 => chunks(),
            1 => Just(json!({"choices": [], "usage": {"prompt_tokens": 1}})),
            1 => anything(),
        ], 0..12),
        done: bool,
    ) {
        let mut stream: String = all.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        if done {
            stream.push_str("data: [DONE]\n\n");
        }
        let out = translate(&replies(&Value::Null), stream.as_bytes());
        // Broken arguments give no document.
        if check_grammar(&payloads(&out)) && let Some(json) = to_json(&out) {
            prop_assert!(is_good_or_refused(&json));
        }
    }

    #[test]
    fn no_text_is_lost(all in vec(chunks(), 1..12)) {
        let stream: String = all.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        let stream = stream + "data: [DONE]\n\n";
        let events = payloads(&translate(&replies(&Value::Null), stream.as_bytes()));
        prop_assert!(check_grammar(&events));
        let got: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        let said = |chunk: &Value| match &chunk["choices"][0]["delta"]["content"] {
            Value::Array(parts) => parts[0]["text"].as_str().unwrap().to_owned(),
            content => content.as_str().unwrap_or_default().to_owned(),
        };
        prop_assert_eq!(got, all.iter().map(said).collect::<String>());
    }

    #[test]
    fn bytes_never_panic(bytes in vec(any::<u8>(), 0..200), value in anything()) {
        let replies = replies(&Value::Null);
        for input in [&bytes[..], value.to_string().as_bytes()] {
            let _ = (replies.json(input), to_events(input), to_json(input), is_good(input));
            check_grammar(&payloads(&translate(&replies, input)));
            let (mut events, mut out) = (Events::of(&replies), BytesMut::new());
            events.event(None, input, &mut out);
            events.event(Some(b"error"), input, &mut out);
            events.event(None, input, &mut out);
            events.finish(&mut out);
            check_grammar(&payloads(&out));
        }
    }

    #[test]
    fn any_order_of_stored_events_is_survived(all in vec(anything(), 0..6)) {
        let stream: String = all.iter().map(|event| format!("data: {event}\n\n")).collect();
        let _ = to_json(stream.as_bytes());
    }
}
