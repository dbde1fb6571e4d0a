//! The golden cases, and properties of the complete step.
//!
//! A request's `in` and `out` leave out the common parts: the user's "Hi", and the members that every body has. A stream's `out`
//! lists deltas, or the other content of an event.

mod properties;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::super::{Events, Model, Replies, Step};
use super::reply::Answers;
use super::{read_error, request};
use crate::sse::{RawEvent, Scanner};
use crate::types::PromptCaching;

const MODEL: &str = "claude-sonnet-4-5";

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn translate(case: &Value) -> Result<Step, super::super::Refusal> {
    let mut chat = case["in"].clone();
    if let Some(chat) = chat.as_object_mut() {
        chat.entry("messages").or_insert_with(hi);
    }
    let model = Model {
        name: case["model"].as_str().unwrap_or(MODEL),
        max_output_tokens: case["max_output_tokens"].as_u64(),
        default_max_tokens: case["default_max_tokens"].as_u64(),
        context: None,
        prompt_caching: serde_json::from_value(case["prompt_caching"].clone()).unwrap_or_default(),
    };
    request(&chat, &model)
}

fn hi() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

#[test]
fn requests() {
    let mut names = Vec::new();
    for case in cases(include_str!("golden/requests.json")) {
        let name = case["name"].as_str().unwrap().to_owned();
        match translate(&case) {
            Err(refusal) => {
                assert_eq!(json!({"param": refusal.param}), case["refused"], "{name}: {}", refusal.message);
                assert!(refusal.message.ends_with('.'), "{name}: {}", refusal.message);
            }
            Ok(step) => {
                let mut out = case["out"].clone();
                let expected = out.as_object_mut().unwrap_or_else(|| panic!("{name} is not refused: {}", step.body));
                expected.entry("model").or_insert_with(|| case["model"].as_str().unwrap_or(MODEL).into());
                expected.entry("max_tokens").or_insert(64_000.into());
                expected.entry("messages").or_insert_with(hi);
                expected.entry("stream").or_insert(false.into());
                assert_eq!(step.body, out, "{name}: {}", step.body);
                assert_eq!(json!(step.dropped), *case.get("lost").unwrap_or(&json!([])), "{name}");
            }
        }
        assert!(!names.contains(&name), "{name} comes twice");
        names.push(name);
    }
}

fn answers(case: &Value) -> Answers {
    let tool = case["json_tool"].as_str().map(str::to_owned);
    Answers::new("asked", tool, case["functions"].as_bool() == Some(true))
}

#[test]
fn replies() {
    for case in cases(include_str!("golden/replies.json")) {
        let name = &case["name"];
        let body = case["in"].as_str().map_or_else(|| case["in"].to_string(), str::to_owned);
        let reply = answers(&case).json(body.as_bytes());
        let reply = reply.map_or(Value::Null, |reply| serde_json::from_slice(&reply).unwrap());
        assert_eq!(without_time(reply), case["out"], "{name}");
    }
}

/// Removes `created`, after checking that it is the current time.
fn without_time(mut reply: Value) -> Value {
    if let Some(reply) = reply.as_object_mut() {
        let created = reply.shift_remove("created").and_then(|created| created.as_u64()).unwrap();
        assert!(super::wire::now() - created < 60);
    }
    reply
}

#[test]
fn streams() {
    for case in cases(include_str!("golden/streams.json")) {
        let name = &case["name"];
        let mut stream = String::new();
        for event in case["in"].as_array().unwrap() {
            let text = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
            let kind = event["type"].as_str().map(|kind| format!("event: {kind}\n")).unwrap_or_default();
            stream += &format!("{kind}data: {text}\n\n");
        }
        let whole = relay(&answers(&case), &[stream.as_bytes()]);
        assert_eq!(json!(digest(&whole)), case["out"], "{name}");
        // Equal events give equal chunks, so it is enough to check that no cut changes an event, and to translate the finest cut.
        let events = scan(&[stream.as_bytes()]);
        for cut in 0..stream.len() {
            let (left, right) = stream.as_bytes().split_at(cut);
            assert!(scan(&[left, right]) == events, "{name} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(same_time(&relay(&answers(&case), &bytes)), same_time(&whole), "{name} byte by byte");
    }
}

/// The events of a stream that comes in these pieces.
fn scan(pieces: &[&[u8]]) -> Vec<RawEvent> {
    let (mut scanner, mut all) = (Scanner::new(), Vec::new());
    for piece in pieces {
        scanner.push(Bytes::copy_from_slice(piece));
        while let Some(event) = scanner.next_event().unwrap() {
            all.push(event);
        }
    }
    all.extend(scanner.finish());
    all
}

/// The translation of a stream that comes in these pieces.
fn relay(answers: &Answers, pieces: &[&[u8]]) -> String {
    let (mut events, mut out) = (Events::of(answers), BytesMut::new());
    for event in scan(pieces) {
        if let Some(data) = event.data() {
            events.event(event.event_name(), &data, &mut out);
        }
    }
    events.finish(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

/// The stream without the values that differ from run to run.
fn same_time(stream: &str) -> String {
    let mut out = String::new();
    for line in stream.split("\"created\":") {
        out += line.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

/// A short form of a stream; checks the members that every chunk must have.
fn digest(stream: &str) -> Vec<Value> {
    let mut head = None;
    let mut all = Vec::new();
    for event in stream.split_terminator("\n\n") {
        let Some(data) = event.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
            all.push(event.trim_start_matches("data: ").into());
            continue;
        };
        let mut chunk: Map<String, Value> = serde_json::from_str(data).unwrap();
        if chunk.contains_key("error") {
            all.push(chunk.into());
            continue;
        }
        let (choices, usage) = (chunk.shift_remove("choices").unwrap(), chunk.shift_remove("usage").unwrap());
        let mut chunk = without_time(chunk.into());
        assert_eq!(chunk["object"], "chat.completion.chunk");
        chunk.as_object_mut().unwrap().shift_remove("object");
        if head.is_none() {
            all.push(chunk.clone());
        }
        assert_eq!(*head.get_or_insert(chunk.clone()), chunk, "every chunk has the same head");
        let choices = choices.as_array().unwrap();
        let Some(choice) = choices.first() else {
            all.push(json!({"usage": usage}));
            continue;
        };
        assert_eq!(
            (choices.len(), &usage, &choice["index"], &choice["logprobs"]),
            (1, &Value::Null, &json!(0), &Value::Null)
        );
        if choice["finish_reason"].is_null() {
            all.push(choice["delta"].clone());
        } else {
            assert_eq!(choice["delta"], json!({}));
            all.push(json!({"finish_reason": choice["finish_reason"]}));
        }
    }
    all
}

#[test]
fn a_stream_that_lost_its_beginning_gets_one() {
    let (mut events, mut out) = (Events::of(&Answers::new("asked", None, false)), BytesMut::new());
    for data in [
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#,
        r#"{"type":"message_stop"}"#,
    ] {
        events.event(None, data.as_bytes(), &mut out);
    }
    let said = digest(std::str::from_utf8(&out).unwrap());
    assert_eq!(
        said[1..],
        [
            json!({"role": "assistant", "content": ""}),
            json!({"content": "Hi"}),
            json!({"finish_reason": "stop"}),
            "[DONE]".into()
        ]
    );
    assert!(said[0]["id"].as_str().unwrap().len() > "chatcmpl-".len());
}

#[test]
fn the_name_of_an_event_counts_where_it_has_no_type() {
    let (mut events, mut out) = (Events::of(&Answers::new("m", None, false)), BytesMut::new());
    events.event(Some(b"ping"), b"{}", &mut out);
    events.event(Some(b"error"), br#"{"error":{"type":"timeout_error","message":"late"}}"#, &mut out);
    assert_eq!(&out[..], b": ping\n\ndata: {\"error\":{\"message\":\"late\",\"type\":\"server_error\",\"param\":null,\"code\":\"timeout\"}}\n\n");
}

#[test]
fn errors() {
    for (status, kind, message, to) in [
        (400, "invalid_request_error", "bad", (400, "invalid_request_error", None, None)),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 9 > 8",
            (400, "invalid_request_error", Some("messages"), Some("context_length_exceeded")),
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to go on",
            (429, "insufficient_quota", None, Some("insufficient_quota")),
        ),
        (401, "authentication_error", "no", (401, "invalid_request_error", None, Some("invalid_api_key"))),
        (402, "billing_error", "no", (429, "insufficient_quota", None, Some("insufficient_quota"))),
        (403, "permission_error", "no", (403, "invalid_request_error", None, Some("permission_denied"))),
        (404, "not_found_error", "no", (404, "invalid_request_error", None, Some("model_not_found"))),
        (413, "request_too_large", "no", (413, "invalid_request_error", None, Some("request_too_large"))),
        (429, "rate_limit_error", "no", (429, "rate_limit_error", None, Some("rate_limit_exceeded"))),
        (500, "api_error", "no", (500, "server_error", None, None)),
        (504, "timeout_error", "no", (504, "server_error", None, Some("timeout"))),
        (529, "overloaded_error", "no", (503, "server_error", None, Some("overloaded"))),
    ] {
        let body =
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}).to_string();
        let (status, error) = read_error(status, body.as_bytes());
        let got = (status, error.r#type.as_str(), error.param.as_deref(), error.code.as_deref());
        assert_eq!((got, error.message.as_str()), (to, message), "{kind}");
    }
    let (status, error) = read_error(529, b"");
    assert_eq!((status, error.r#type.as_str(), error.code.as_deref()), (503, "server_error", Some("overloaded")));
    let (status, error) = read_error(402, b"{\"error\":\"pay\"}");
    assert_eq!((status, error.message.as_str(), error.code.as_deref()), (429, "pay", Some("insufficient_quota")));
    let html = format!("<html>{}</html>", "x".repeat(9000));
    let (status, error) = read_error(502, html.as_bytes());
    assert!(status == 502 && error.r#type == "server_error" && error.message.len() < 1000, "{}", error.message);
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    let model = Model {
        name: MODEL,
        max_output_tokens: None,
        default_max_tokens: None,
        context: None,
        prompt_caching: PromptCaching::Auto,
    };
    assert!(request(&json!([]), &model).is_err());
}
