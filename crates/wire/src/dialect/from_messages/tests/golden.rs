//! The golden cases.

use super::*;

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// The object with the members of another applied; null removes a member.
fn with(mut object: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
            value => drop(object.as_object_mut().unwrap().insert(name.clone(), value.clone())),
        }
    }
    object
}

/// The defaults of a case: the smallest request, and its translation.
fn least(model: &str) -> (Value, Value) {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    (
        json!({"model": "claude-x", "max_tokens": 100, "messages": messages}),
        json!({"model": model, "messages": messages, "max_completion_tokens": 100}),
    )
}

#[test]
fn requests() {
    for case in cases(include_str!("../golden/requests.json")) {
        let name = &case["name"];
        let model = case["model"].as_str().unwrap_or("gpt-4o");
        let target = Model {
            name: model,
            max_output_tokens: case["max_output_tokens"].as_u64(),
            default_max_tokens: None,
            context: None,
            prompt_caching: PromptCaching::Auto,
        };
        let (body, chat) = least(model);
        let body = if case["in"].is_null() { Value::Null } else { with(body, &case["in"]) };
        match request(&body, &target) {
            Ok(step) => {
                assert!(case.get("refused").is_none(), "{name} is not refused but {}", step.body);
                assert_eq!(step.body, with(chat, &case["out"]), "{name}");
                assert_eq!(json!(step.dropped), case["lost"], "{name}");
            }
            Err(refusal) => {
                assert_eq!(json!(refusal.param), case["refused"], "{name}: {}", refusal.message);
                assert!(refusal.message.len() > 10, "{name}");
                if let Some(message) = case["message"].as_str() {
                    assert_eq!(refusal.message, message, "{name}");
                }
            }
        }
    }
}

/// Checks the form of a new id and replaces it.
fn settle_id(message: &mut Value, expected: &Value) {
    if expected["id"] == "@any" {
        let id = message["id"].as_str().unwrap().strip_prefix("msg_").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        message["id"] = "@any".into();
    }
}

#[test]
fn whole_replies() {
    for case in cases(include_str!("../golden/replies.json")) {
        let (name, expected) = (&case["name"], &case["out"]);
        let json = replies(&case).json(case["in"].to_string().as_bytes());
        let mut got = json.map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap());
        if expected.is_object() {
            settle_id(&mut got, expected);
        }
        // Compared as texts, because the order of members matters.
        assert_eq!(got.to_string(), expected.to_string(), "{name}");
    }
}

/// The bytes of a chat stream: a string is a payload, an object a chunk, or an event with a name.
fn stream(events: &Value) -> Vec<u8> {
    let mut out = b": a comment\n\n".to_vec();
    for event in events.as_array().unwrap() {
        let (name, data) = match (event, event.get("event")) {
            (Value::String(data), _) => (None, data.clone()),
            (_, Some(name)) => (name.as_str(), event["data"].to_string()),
            _ => (None, event.to_string()),
        };
        out.extend(name.map(|name| format!("event: {name}\n")).unwrap_or_default().bytes());
        out.extend(format!("data: {data}\n\n").bytes());
    }
    out
}

#[test]
fn streams() {
    for case in cases(include_str!("../golden/streams.json")) {
        let name = &case["name"];
        let replies = replies(&case);
        let stream = stream(&case["in"]);
        let whole = translate(&replies, &stream);

        let (mut got, expected) = (payloads(&whole), case["out"].as_array().unwrap());
        check_grammar(&got);
        let made_id = expected.first().is_some_and(|start| start["message"]["id"] == "@any");
        if made_id {
            settle_id(&mut got[0]["message"], &expected[0]["message"]);
        }
        for (got, expected) in got.iter().zip(expected) {
            assert_eq!(got.to_string(), expected.to_string(), "{name}");
        }
        assert_eq!(got.len(), expected.len(), "{name}: {got:?}");
        // However the stream is cut, the same events arrive, so their translation is the same.
        let events = scan([&stream[..]]);
        for cut in 1..stream.len() {
            assert_eq!(scan([&stream[..cut], &stream[cut..]]), events, "{name}, cut at {cut}");
        }
        assert_eq!(scan(stream.chunks(1)), events, "{name}, byte by byte");
        // Line ends and missing spaces as other servers send them.
        let text = String::from_utf8(stream).unwrap().replace("data: ", "data:").replace('\n', "\r\n");
        if !made_id {
            assert_eq!(translate(&replies, text.as_bytes()), whole, "{name}, with CRLF");
        }
    }
}

#[test]
fn stored_replies_in_both_forms() {
    for case in cases(include_str!("../golden/stored.json")) {
        let name = &case["name"];
        let json = case["json"].to_string();
        let events = to_events(json.as_bytes()).unwrap();
        let got = payloads(&events);
        assert!(check_grammar(&got), "{name}");
        assert_eq!(json!(got).to_string(), case["events"].to_string(), "{name}");
        assert_eq!(to_json(&events).unwrap(), json, "{name}");

        // A document that is written over several lines gives the same stream.
        let pretty = serde_json::to_string_pretty(&case["json"]).unwrap();
        let again = to_json(&to_events(pretty.as_bytes()).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&again).unwrap(), case["json"], "{name}");

        // Without one of its events the stream is incomplete or has other content.
        let cut = events.len() - b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".len();
        assert_eq!(to_json(&events[..cut]), None, "{name}");
    }
}

#[test]
fn numbers_and_unknown_members_survive_in_store() {
    let json = r#"{"type":"message","x":1e999,"content":[{"type":"tool_use","id":"t","name":"n","input":{"big":12345678901234567890123,"f":1.10}},{"type":"hologram","y":[1.0]}],"stop_reason":"tool_use","usage":{"output_tokens":1}}"#;
    assert_eq!(to_json(&to_events(json.as_bytes()).unwrap()).unwrap(), json);
}

#[test]
fn streams_of_anthropic_itself() {
    let start = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":9,"cache_read_input_tokens":3,"output_tokens":1}}}"#;
    let block = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"A"}}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"b"}}"#;
    let stop = r#"{"type":"content_block_stop","index":0}"#;
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":null,"output_tokens":5}}"#;
    let over = r#"{"type":"message_stop"}"#;
    let ping = r#"{"type":"ping"}"#;
    let join = |events: &[&str]| {
        let stream: String = events.iter().map(|data| format!("data: {data}\n\n")).collect();
        to_json(stream.as_bytes()).map(|json| String::from_utf8(json.to_vec()).unwrap())
    };
    let whole = r#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"Ab"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"cache_read_input_tokens":3,"output_tokens":5}}"#;
    assert_eq!(join(&[start, ping, block, delta, stop, end, over, "behind the end"]).as_deref(), Some(whole));
    let unheard_of = r#"{"type":"something_new","x":1}"#;
    assert_eq!(join(&[start, block, unheard_of, delta, stop, end, end, over]).as_deref(), Some(whole));
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
    let another = r#"{"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}"#;
    let new_delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"new_delta"}}"#;
    let half = r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{"}}"#;
    for broken in [
        &[][..],
        &[over],
        &[block, delta, stop, end, over],
        &[start, start, block, stop, end, over],
        &[start, block, delta, stop, end],
        &[start, block, delta, end, over],
        &[start, block, delta, stop, over],
        &[start, delta, stop, end, over],
        &[start, block, stop, delta, end, over],
        &[start, another, stop, end, over],
        &[start, block, new_delta, stop, end, over],
        &[start, block, half, stop, end, over],
        &[start, block, delta, error, stop, end, over],
        &[start, "{", block, stop, end, over],
        &[start, "{}", block, stop, end, over],
    ] {
        assert_eq!(join(broken), None, "{broken:?}");
    }
}
