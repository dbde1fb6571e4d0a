use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    dialect::{Disposition, Events, Model, Refusal, Step},
    sse::Scanner,
    types::PromptCaching,
};

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

fn model(name: &str, context: Option<u64>) -> Model<'_> {
    Model { name, max_output_tokens: None, default_max_tokens: None, context, prompt_caching: PromptCaching::Auto }
}

fn translate(chat: &Value) -> Result<Step, Refusal> {
    request(chat, &model("m", None))
}

/// Ids and times replaced by fixed words.
fn settled(mut value: Value) -> Value {
    fn settle(value: &mut Value) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(settle),
            Value::Object(object) => {
                for (name, value) in object {
                    match (name.as_str(), value.as_str()) {
                        ("id", Some(id)) if id.starts_with("chatcmpl-") && id.len() == 41 => *value = "ID".into(),
                        ("id", Some(id)) if id.starts_with("call_") && id.len() == 37 => *value = "CALL".into(),
                        ("created", _) if value.as_u64() > Some(1_700_000_000) => *value = 0.into(),
                        _ => settle(value),
                    }
                }
            }
            _ => {}
        }
    }
    settle(&mut value);
    value
}

#[test]
fn requests() {
    for case in cases(include_str!("golden/requests.json")) {
        let name = &case["name"];
        let mut chat = case["in"].clone();
        let asked = case["model"].as_str().unwrap_or("m");
        let mut expected = json!({ "model": asked, "stream": false, "truncate": false, "shift": false });
        if chat.get("messages").is_none() {
            chat["messages"] = json!([{ "role": "user", "content": "Hi" }]);
            expected["messages"] = chat["messages"].clone();
        }
        let made = request(&chat, &model(asked, case["context"].as_u64()));
        if let Some(refused) = case.get("refused") {
            let refusal = made.err().unwrap_or_else(|| panic!("{name} is accepted"));
            assert_eq!(refusal.param, refused["param"], "{name}");
            assert!(refusal.message.ends_with('.') && refusal.message.len() > 20, "{name}: {}", refusal.message);
            continue;
        }
        let made = made.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        expected.as_object_mut().unwrap().extend(case["out"].as_object().unwrap().clone());
        assert_eq!(made.body, expected, "{name}");
        assert_eq!(json!(made.dropped), case["lost"], "{name}");
    }
}

#[test]
fn the_body_has_a_fixed_order() {
    let chat = &cases(include_str!("golden/requests.json"))[0];
    let body = request(&chat["in"], &model("m", Some(8192))).unwrap_or_else(|refusal| panic!("{refusal:?}")).body;
    assert_eq!(body.to_string(), chat["out"].to_string());
}

#[test]
fn a_body_must_be_an_object() {
    assert_eq!(translate(&json!([])).err().map(|refusal| refusal.param), Some("body".into()));
}

#[test]
fn a_hundred_thousand_unknown_members_cost_little() {
    let message: Map<String, Value> = (0..100_000).map(|n| (format!("x{n}"), 1.into())).collect();
    let mut message = Value::from(message);
    (message["role"], message["content"]) = ("user".into(), "Hi".into());
    let dropped = translate(&json!({ "messages": [message] })).map(|step| step.dropped).unwrap_or_default();
    assert_eq!((dropped.len(), &*dropped[63]), (64, "and more"));
}

#[test]
fn the_table_is_sound() {
    for (at, rule) in TABLE.iter().enumerate() {
        assert!(TABLE[..at].iter().all(|other| other.param != rule.param), "{} twice", rule.param);
        assert!(rule.note.ends_with('.') && !rule.note.contains('\n'), "{}", rule.param);
        for neutral in rule.neutral {
            let value: Value = serde_json::from_str(neutral).unwrap();
            assert_eq!(value.to_string(), *neutral, "{}", rule.param);
        }
        assert!(rule.disposition != Disposition::Translated || rule.neutral.is_empty(), "{}", rule.param);
    }
}

#[test]
fn replies() {
    let replies =
        translate(&json!({ "messages": [{ "role": "user", "content": "Hi" }] })).unwrap_or_else(|_| panic!()).replies;
    let golden = include_str!("golden/replies.json");
    // Compared as text, because numbers and white space in arguments must pass unchanged.
    let raw: Vec<std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>> =
        serde_json::from_str(golden).unwrap();
    for (case, raw) in cases(golden).iter().zip(raw) {
        let name = &case["name"];
        let made = replies.json(raw["in"].get().as_bytes());
        let made = made.map_or(Value::Null, |made| settled(serde_json::from_slice(&made).unwrap()));
        assert_eq!(made, case["out"], "{name}");
    }
    for body in ["", "x", "{", "{\"message\":{\"content\":\"\u{fffd}"] {
        assert_eq!(replies.json(body.as_bytes()), None, "{body}");
    }
}

/// The complete translation of a stream of these lines.
fn stream<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let step = translate(&json!({ "messages": [{ "role": "user", "content": "Hi" }], "stream": true }));
    let mut events = Events::of(&*step.unwrap_or_else(|_| panic!()).replies);
    let mut out = BytesMut::new();
    for line in lines {
        events.event(None, line, &mut out);
    }
    events.finish(&mut out);
    out.freeze()
}

/// The payloads of the events of a stream that comes in these pieces.
fn payloads(pieces: &[Bytes]) -> Vec<String> {
    let (mut scanner, mut all) = (Scanner::new(), Vec::new());
    for piece in pieces {
        scanner.push(piece.clone());
        while let Some(event) = scanner.next_event().unwrap() {
            assert!(event.is_terminated());
            all.push(String::from_utf8(event.data().expect("a payload").into_owned()).unwrap());
        }
    }
    assert_eq!(scanner.held(), 0);
    all
}

#[test]
fn streams() {
    for case in cases(include_str!("golden/streams.json")) {
        let name = &case["name"];
        let lines: Vec<String> = case["in"].as_array().unwrap().iter().map(Value::to_string).collect();
        let made = stream(lines.iter().map(|line| line.as_bytes()));
        let expected: Vec<Value> =
            case["out"].as_array().unwrap().iter().map(|out| chunk(out, &case["model"])).collect();
        let payloads_whole = payloads(std::slice::from_ref(&made));
        let chunks: Vec<Value> = payloads_whole
            .iter()
            .map(|text| serde_json::from_str(text).map_or_else(|_| text.as_str().into(), settled))
            .collect();
        assert_eq!(chunks, expected, "{name}");
        let ids: Vec<_> =
            payloads_whole.iter().filter_map(|text| text.split_once(",\"object\"")).map(|(id, _)| id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{name}: one id");

        // Clients may get the stream in any pieces.
        for cut in 0..=made.len() {
            assert_eq!(payloads(&[made.slice(..cut), made.slice(cut..)]), payloads_whole, "{name} cut at {cut}");
        }
        let bytes: Vec<Bytes> = (0..made.len()).map(|at| made.slice(at..=at)).collect();
        assert_eq!(payloads(&bytes), payloads_whole, "{name} byte by byte");
    }
}

/// The complete event for a golden event.
fn chunk(short: &Value, model: &Value) -> Value {
    let whole = |choices: Value, usage: &Value| json!({ "id": "ID", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices, "usage": usage });
    if let Some(usage) = short.get("usage") {
        return whole(json!([]), usage);
    }
    match short.get("delta") {
        Some(delta) => {
            let (logprobs, finish_reason) = (&short["logprobs"], &short["finish_reason"]);
            let choice = json!({ "index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason });
            whole(json!([choice]), &Value::Null)
        }
        None => short.clone(),
    }
}

#[test]
fn lines_may_have_blanks_around_and_be_no_json() {
    let whole = br#"{"message":{"content":"Hi"},"done":true}"#;
    let plain = payloads(&[stream([&whole[..]])]).len();
    assert_eq!(plain, 5);
    let odd = [b" \r\n".as_slice(), b"", b"\xff\xfe", b"{\"message\":{\"content\":\"\xff\"}}", b"{\"mess", b"<html>"];
    let padded = [b"  ".as_slice(), whole, b"\r\n"].concat();
    assert_eq!(payloads(&[stream(odd.into_iter().chain([&padded[..]]))]).len(), plain);
}

#[test]
fn every_call_without_an_id_gets_its_own() {
    let line = br#"{"message":{"tool_calls":[{"function":{"name":"f"}},{"function":{"name":"f"}}]},"done":true}"#;
    let text = payloads(&[stream([&line[..]])]).remove(1);
    let chunk: Value = serde_json::from_str(&text).unwrap();
    let calls = &chunk["choices"][0]["delta"]["tool_calls"];
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[test]
fn errors() {
    for case in cases(include_str!("golden/errors.json")) {
        let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
        let (status, error) = read_error(status, case["in"].to_string().as_bytes());
        assert_eq!(
            json!([status, error.message, error.r#type, error.param, error.code]),
            case["out"],
            "{}",
            case["name"]
        );
    }
    let (status, error) = read_error(502, b"<html>Bad gateway</html>");
    assert_eq!((status, &*error.r#type), (502, "server_error"));
    assert!(error.message.contains("Bad gateway"), "{}", error.message);
    assert_eq!(read_error(500, b"").0, 500);
}

/// Words that the translator knows, so that arbitrary JSON reaches its rare branches.
const WORDS: &[&str] = &[
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "url",
    "detail",
    "file",
    "file_data",
    "filename",
    "tool_calls",
    "tool_call_id",
    "function",
    "name",
    "arguments",
    "parameters",
    "tools",
    "tool_choice",
    "allowed_tools",
    "mode",
    "functions",
    "function_call",
    "reasoning_content",
    "thinking_blocks",
    "thinking",
    "refusal",
    "stop",
    "stream",
    "response_format",
    "json_schema",
    "schema",
    "max_tokens",
    "seed",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "keep_alive",
    "user",
    "system",
    "developer",
    "assistant",
    "tool",
    "auto",
    "none",
    "required",
    "data:image/png;base64,AA",
    "data:text/plain;base64,SGk=",
    "data:",
    "message",
    "done",
    "done_reason",
    "error",
    "id",
    "index",
    "prompt_eval_count",
    "eval_count",
    "token",
    "logprob",
    "bytes",
    "",
    "é😀\n",
];

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(WORDS).prop_map(Value::from);
    let leaf = prop_oneof![
        4 => word,
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(WORDS), inner), 0..5)
                .prop_map(|all| Value::Object(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

/// A value that is often a message, a part or a call.
fn any_message() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["user", "system", "assistant", "tool", "function"]);
    let kind = prop::sample::select(vec!["text", "image_url", "file", "function", "refusal"]);
    (role, kind, any_json(), any_json(), any_json()).prop_map(|(role, kind, a, b, c)| {
        let part =
            json!({ "type": kind, "text": "t", "image_url": { "url": a }, "file": { "file_data": b }, "refusal": "r" });
        let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": c } });
        json!({ "role": role, "content": [part, { "type": "text", "text": "x" }, part], "tool_calls": [call] })
    })
}

/// A value that is often a line of a stream.
fn any_line() -> impl Strategy<Value = Value> {
    let line = (any_json(), any_json(), any_json(), any::<bool>(), 0..6_u8);
    prop_oneof![
        1 => any_json(),
        3 => line.prop_map(|(a, b, c, done, form)| match form {
            0 => json!({ "message": { "content": a, "thinking": b, "tool_calls": [{ "id": c, "function": { "name": "f", "arguments": a } }] }, "done": done }),
            1 => json!({ "error": a }),
            2 => json!({ "message": a, "done": done, "done_reason": b, "eval_count": c }),
            3 => json!({ "message": { "content": "x" }, "logprobs": [{ "token": a, "logprob": b, "top_logprobs": c }] }),
            _ => json!({ "model": a, "message": { "content": "x", "thinking": "y" }, "done": false }),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_request_is_translated_or_refused(chat in any_json(), message in any_message(), name in prop::sample::select(WORDS), value in any_json()) {
        let _ = translate(&chat);
        let mut whole = json!({ "messages": [message, { "role": "user", "content": chat }] });
        whole[name] = value;
        if let Ok(step) = translate(&whole) {
            prop_assert_eq!(&step.body["truncate"], &json!(false));
            for message in step.body["messages"].as_array().unwrap() {
                prop_assert!(message["content"].is_string() && message["role"].is_string());
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    prop_assert!(call["function"]["arguments"].is_object());
                }
            }
        }
    }

    #[test]
    fn any_reply_is_json_or_nothing(body in any_line(), bytes in any::<Vec<u8>>()) {
        let step = translate(&json!({ "messages": [{ "role": "user", "content": "Hi" }] }));
        let replies = step.unwrap_or_else(|_| panic!()).replies;
        if let Some(made) = replies.json(body.to_string().as_bytes()) {
            let made: Value = serde_json::from_slice(&made).unwrap();
            prop_assert!(made["choices"][0]["finish_reason"].is_string());
        }
        prop_assert_eq!(replies.json(&bytes), None);
        let _ = read_error(500, body.to_string().as_bytes());
        let _ = read_error(500, &bytes);
    }

    #[test]
    fn any_stream_is_in_order(lines in prop::collection::vec(any_line(), 0..6)) {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let all = payloads(&[stream(lines.iter().map(|line| line.as_bytes()))]);
        let done = all.iter().position(|text| text == "[DONE]");
        prop_assert!(done.is_none_or(|at| at + 1 == all.len() && at >= 3));
        let chunks: Vec<Value> = all[..done.unwrap_or(all.len())].iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let error = chunks.iter().position(|chunk| chunk.get("error").is_some());
        prop_assert!(error.is_none_or(|at| at + 1 == all.len()));
        let mut indices = 0;
        for (at, chunk) in chunks[..error.unwrap_or(chunks.len())].iter().enumerate() {
            let delta = &chunk["choices"][0]["delta"];
            prop_assert_eq!(delta.get("role").is_some(), at == 0);
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                prop_assert_eq!(&call["index"], &json!(indices));
                prop_assert!(call["function"]["arguments"].is_string());
                indices += 1;
            }
            let ends = done.is_some() && at + 2 == chunks.len();
            prop_assert_eq!(chunk["choices"][0]["finish_reason"].is_string(), ends);
            prop_assert_eq!(chunk["usage"].is_object(), done.is_some() && at + 1 == chunks.len());
        }
    }
}
