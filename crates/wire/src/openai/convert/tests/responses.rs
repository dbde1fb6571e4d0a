//! The events of the Responses API.

use super::*;

pub(super) const RESPONSE: &str = r#"{"id":"resp_1","object":"response","created_at":1741476542.25,"status":"completed","completed_at":1741476543,"background":false,"error":null,"incomplete_details":null,"instructions":null,"model":"gpt-5","output":[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"Why"}],"encrypted_content":"gAAA"},{"id":"msg_1","type":"message","status":"completed","content":[{"type":"output_text","annotations":[{"type":"url_citation","start_index":0,"end_index":2,"url":"https:\/\/a.b","title":"T"}],"logprobs":[],"text":"Hi \u00e9"},{"type":"refusal","refusal":"No"}],"role":"assistant"},{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\"x\":1}","call_id":"call_1","name":"f"},{"id":"ctc_1","type":"custom_tool_call","status":"completed","call_id":"call_2","name":"g","input":"1+1"},{"id":"ws_1","type":"web_search_call","status":"completed","action":{"type":"search","query":"q"}}],"temperature":1.0,"tools":[],"usage":{"input_tokens":36,"output_tokens":87,"total_tokens":123,"input_tokens_details":{"cached_tokens":0}},"user":null,"metadata":{}}"#;

#[test]
fn a_response_is_told_in_events() {
    let events = to_events(&Endpoint::Responses, RESPONSE.as_bytes()).unwrap();
    let all = scan(&events).unwrap();
    let payloads = payloads(&events);
    for (number, (event, payload)) in all.iter().zip(&payloads).enumerate() {
        assert_eq!(payload["type"].as_str().map(str::as_bytes), event.event_name());
        assert_eq!(payload["sequence_number"], number);
    }
    let told: Vec<String> = payloads.iter().map(told).collect();
    let expected = [
        "created",
        "in_progress",
        "output_item.added 0",
        "reasoning_summary_part.added 0.0",
        "reasoning_summary_text.delta 0.0 Why",
        "reasoning_summary_text.done 0.0 Why",
        "reasoning_summary_part.done 0.0",
        "output_item.done 0",
        "output_item.added 1",
        "content_part.added 1.0",
        "output_text.delta 1.0 Hi é",
        "output_text.annotation.added 1.0",
        "output_text.done 1.0 Hi é",
        "content_part.done 1.0",
        "content_part.added 1.1",
        "refusal.delta 1.1 No",
        "refusal.done 1.1 No",
        "content_part.done 1.1",
        "output_item.done 1",
        "output_item.added 2",
        "function_call_arguments.delta 2 {\"x\":1}",
        "function_call_arguments.done 2 {\"x\":1}",
        "output_item.done 2",
        "output_item.added 3",
        "custom_tool_call_input.delta 3 1+1",
        "custom_tool_call_input.done 3 1+1",
        "output_item.done 3",
        "output_item.added 4",
        "output_item.done 4",
        "completed",
    ];
    assert_eq!(told, expected);
    let begun = &payloads[0]["response"];
    assert_eq!(
        (&begun["status"], &begun["output"], &begun["usage"], &begun["completed_at"]),
        (&json!("in_progress"), &json!([]), &Value::Null, &Value::Null)
    );
    assert_eq!(
        payloads[8]["item"],
        json!({"id": "msg_1", "type": "message", "status": "in_progress", "content": [], "role": "assistant"})
    );
    assert_eq!(payloads[9]["part"], json!({"type": "output_text", "annotations": [], "logprobs": [], "text": ""}));
    assert_eq!((&payloads[10]["item_id"], &payloads[10]["logprobs"]), (&json!("msg_1"), &json!([])));
    assert_eq!((&payloads[11]["annotation_index"], &payloads[11]["annotation"]["title"]), (&json!(0), &json!("T")));
    assert_eq!((&payloads[19]["item"]["arguments"], &payloads[21]["name"]), (&json!(""), &json!("f")));
    let whole: Value = serde_json::from_str(RESPONSE).unwrap();
    assert_eq!((&payloads[27]["item"], &payloads[28]["item"]), (&whole["output"][4], &whole["output"][4]));
    round_trip(&Endpoint::Responses, &whole);
}

/// A short form of an event: its name, its place, its text.
fn told(event: &Value) -> String {
    let name = event["type"].as_str().unwrap().strip_prefix("response.").unwrap();
    let index = |key: &str| event.get(key).map(Value::to_string);
    let place = [index("output_index"), index("content_index").or(index("summary_index"))];
    let text = ["delta", "text", "refusal", "arguments", "input"].iter().find_map(|key| event.get(*key)?.as_str());
    let place = place.into_iter().flatten().collect::<Vec<_>>().join(".");
    [name, &place, text.unwrap_or("")].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_response_survives_byte_for_byte() {
    let value: Value = serde_json::from_str(RESPONSE).unwrap();
    let events = to_events(&Endpoint::Responses, format!(" {RESPONSE}\n").as_bytes()).unwrap();
    assert_eq!(to_json(&Endpoint::Responses, &events).unwrap(), RESPONSE);
    let (relay, out) = relayed(&Endpoint::Responses, &events, false);
    assert_eq!((out, relay.usage().unwrap().prompt_tokens, relay.model()), (events, 36, Some("gpt-5")));
    // Line breaks cannot stand in an event of one line; between tokens they mean no more than a space.
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    let events =
        to_events(&Endpoint::Responses, pretty.replace('\n', "\r\n").replace("\": ", "\":\r").as_bytes()).unwrap();
    assert!(
        events
            .split(|byte| *byte == b'\n')
            .all(|line| line.is_empty() || line.starts_with(b"data: ") || line.starts_with(b"event: "))
    );
    assert_eq!(
        events.windows(6).filter(|six| six == b"data: ").count(),
        events.windows(7).filter(|seven| seven == b"event: ").count()
    );
    assert_eq!(serde_json::from_slice::<Value>(&to_json(&Endpoint::Responses, &events).unwrap()).unwrap(), value);
    // Visible reasoning, as gpt-oss has it, and an empty output.
    let open =
        RESPONSE.replace("\"encrypted_content\"", "\"content\":[{\"type\":\"reasoning_text\",\"text\":\"so\"}],\"x\"");
    let events = to_events(&Endpoint::Responses, open.as_bytes()).unwrap();
    let told: Vec<String> = payloads(&events)[7..11].iter().map(told).collect();
    assert_eq!(
        told,
        [
            "content_part.added 0.0",
            "reasoning_text.delta 0.0 so",
            "reasoning_text.done 0.0 so",
            "content_part.done 0.0"
        ]
    );
    let nothing = r#"{"id":"r","object":"response","status":"completed","output":[]}"#;
    let events = to_events(&Endpoint::Responses, nothing.as_bytes()).unwrap();
    assert_eq!(to_json(&Endpoint::Responses, &events).unwrap(), nothing);
}

#[test]
fn only_a_completed_response_is_one() {
    let event = |name: &str, status: &str| {
        format!(
            "event: {name}\ndata: {{\"type\":\"{name}\",\"response\":{{\"status\":\"{status}\",\"output\":[]}}}}\n\n"
        )
    };
    let done = event("response.completed", "completed");
    let bare = done.strip_prefix("event: response.completed\n").unwrap();
    for stream in [&done, bare, &format!("{}: x\n\n{done}", event("response.created", "in_progress"))] {
        assert_eq!(to_json(&Endpoint::Responses, stream.as_bytes()).unwrap(), r#"{"status":"completed","output":[]}"#);
    }
    for stream in [
        event("response.created", "in_progress"),
        event("response.incomplete", "incomplete"),
        event("response.completed", "incomplete"),
        format!("{}{done}", event("response.failed", "failed")),
        format!("event: error\ndata: {{}}\n\n{done}"),
        format!("data: {{\"type\":\"error\"}}\n\n{done}"),
        done[..done.len() - 9].to_owned(),
    ] {
        assert_eq!(to_json(&Endpoint::Responses, stream.as_bytes()), None, "{stream}");
    }
    for (from, to) in [
        (r#""status":"completed","completed_at""#, r#""status":"incomplete","completed_at""#),
        (r#""error":null"#, r#""error":{"code":"x"}"#),
        (r#""type":"message","#, ""),
        (r#""content":["#, r#""content":[7,"#),
        (r#""output":["#, r#""x":["#),
    ] {
        assert!(RESPONSE.contains(from));
        assert_eq!(to_events(&Endpoint::Responses, RESPONSE.replace(from, to).as_bytes()), None, "{to}");
    }
}
