mod order;
mod properties;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};

use super::reply::{Memory, Source};
use super::request::translate;
use super::*;
use crate::dialect::{Disposition, Events, Model, Refusal, Step};
use crate::sse::Scanner;
use crate::types::PromptCaching;
use order::{check, read};

const MODEL: Model<'static> = Model {
    name: "m",
    max_output_tokens: None,
    default_max_tokens: None,
    context: None,
    prompt_caching: PromptCaching::Auto,
};

/// A translation with a fixed time and fixed ids.
fn step(body: &Value) -> Result<Step, Refusal> {
    translate(body, &MODEL, Memory::default(), Source { now: || 1_700_000_009, id: || "made".to_owned() })
}

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// The request of a case, with a default input if the case has none.
fn asked(request: &Value) -> Value {
    let mut request = request.clone();
    if request.is_null() {
        request = json!({});
    }
    if request.get("input").is_none() {
        request["input"] = "Hi".into();
    }
    request
}

/// Whether a value has all members of a golden object with their values; it may have others.
fn says(made: &Value, golden: &Value) -> bool {
    match golden {
        Value::Object(golden) => golden.iter().all(|(name, value)| made.get(name) == Some(value)),
        _ => made == golden,
    }
}

#[test]
fn requests() {
    for case in cases(include_str!("golden/requests.json")) {
        let name = &case["name"];
        let untouched = case["in"].get("no_input").is_some();
        let made = step(&if untouched { json!({}) } else { asked(&case["in"]) });
        if let Some(refused) = case.get("refused") {
            let refusal = made.err().unwrap_or_else(|| panic!("{name} is accepted"));
            assert_eq!(refusal.param, refused["param"], "{name}");
            assert!(refusal.message.ends_with('.') && refusal.message.len() > 20, "{name}: {}", refusal.message);
            continue;
        }
        let made = made.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        let mut expected = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": false});
        expected.as_object_mut().unwrap().extend(case["out"].as_object().unwrap().clone());
        assert_eq!(made.body, expected, "{name}");
        assert_eq!(json!(made.dropped), case["lost"], "{name}");
    }
}

#[test]
fn a_body_must_be_an_object() {
    assert_eq!(step(&json!([])).err().map(|refusal| refusal.param), Some("body".into()));
}

#[test]
fn many_unknown_members_cost_little() {
    let mut message: Value = (0..100_000).map(|n| (format!("x{n}"), 1.into())).collect::<Map<_, _>>().into();
    (message["role"], message["content"]) = ("user".into(), "Hi".into());
    let dropped = step(&json!({"input": [message]})).map(|step| step.dropped).unwrap_or_default();
    assert_eq!(dropped.last().map(|path| &**path), Some("and more"));
}

#[test]
fn the_table_is_sound() {
    for (at, rule) in TABLE.iter().enumerate() {
        assert!(TABLE[..at].iter().all(|other| other.param != rule.param), "{} twice", rule.param);
        assert!(rule.note.ends_with('.') && !rule.note.contains('\n'), "{}", rule.param);
        assert!(rule.disposition != Disposition::Translated || rule.neutral.is_empty(), "{}", rule.param);
        for neutral in rule.neutral {
            let value: Value = serde_json::from_str(neutral).unwrap();
            assert_eq!(value.to_string(), *neutral, "{}", rule.param);
        }
    }
}

#[test]
fn replies() {
    for case in cases(include_str!("golden/replies.json")) {
        let name = &case["name"];
        let made = step(&asked(&case["request"])).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        let body = case["in"].as_str().map_or_else(|| case["in"].to_string(), str::to_owned);
        let made = made.replies.json(body.as_bytes());
        let made = made.map_or(Value::Null, |made| serde_json::from_slice(&made).unwrap());
        assert!(says(&made, &case["out"]), "{name}:\n{made}\nis not\n{}", case["out"]);
    }
}

/// A provider's stream from a golden case: a text as raw bytes, an object as a payload, `{"event","data"}` with a name.
fn provider(events: &Value) -> Bytes {
    let mut out = String::new();
    for event in events.as_array().unwrap() {
        match (event, event.get("event"), event.get("data")) {
            (Value::String(text), ..) => out.push_str(text),
            (_, Some(Value::String(name)), Some(data)) => out.push_str(&format!("event: {name}\ndata: {data}\n\n")),
            _ => out.push_str(&format!("data: {event}\n\n")),
        }
    }
    Bytes::from(out)
}

/// Names and payloads of the events that the scanner finds in these pieces.
fn scanned(pieces: &[Bytes]) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let (mut scanner, mut all) = (Scanner::new(), Vec::new());
    let mut take = |event: crate::sse::RawEvent| {
        let fields = event.fields();
        if let Some(data) = fields.data {
            all.push((fields.event.map(<[u8]>::to_vec), data.into_owned()));
        }
    };
    for piece in pieces {
        scanner.push(piece.clone());
        while let Some(event) = scanner.next_event().unwrap() {
            take(event);
        }
    }
    if let Some(event) = scanner.finish() {
        take(event);
    }
    all
}

/// The complete translation of a stream of these events.
fn streamed(step: &Step, events: &[(Option<Vec<u8>>, Vec<u8>)]) -> Bytes {
    let (mut stream, mut out) = (Events::of(&*step.replies), BytesMut::new());
    for (name, data) in events {
        stream.event(name.as_deref(), data, &mut out);
    }
    stream.finish(&mut out);
    out.freeze()
}

#[test]
fn streams() {
    for case in cases(include_str!("golden/streams.json")) {
        let name = &case["name"];
        let step = step(&asked(&case["request"])).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        let bytes = provider(&case["in"]);
        let events = scanned(std::slice::from_ref(&bytes));
        let made = streamed(&step, &events);
        let all = read(&made);
        check(&all).unwrap_or_else(|fault| panic!("{name}: {fault}\n{all:#?}"));

        let expected = case["out"].as_array().unwrap();
        for (at, golden) in expected.iter().enumerate() {
            let mut made = all.get(at).cloned().unwrap_or_default();
            let response = made.as_object_mut().and_then(|event| event.remove("response")).unwrap_or_default();
            let mut golden = golden.clone();
            let of_response = golden.as_object_mut().and_then(|event| event.remove("response")).unwrap_or_default();
            golden["sequence_number"] = at.into();
            assert_eq!(made, golden, "{name}, event {at}");
            assert!(says(&response, &of_response), "{name}, event {at}:\n{response}\nis not\n{of_response}");
        }
        assert_eq!(all.len(), expected.len(), "{name}: {:#?}", &all[expected.len().min(all.len())..]);

        // However the bytes are cut, the events are the same, so their translation is the same.
        for cut in 0..=bytes.len() {
            assert_eq!(scanned(&[bytes.slice(..cut), bytes.slice(cut..)]), events, "{name} cut at {cut}");
        }
        let single: Vec<_> = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        assert_eq!(streamed(&step, &scanned(&single)), made, "{name} byte by byte");
    }
}

/// A complete reply and its stream give the same response.
#[test]
fn both_forms_agree() {
    let step = step(&json!({"input": "Hi", "include": ["reasoning.encrypted_content"]})).unwrap_or_else(|_| panic!());
    let message = json!({
        "role": "assistant", "reasoning_content": "Hm.", "content": "Hello",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
        "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}],
    });
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12});
    let head = json!({"id": "chatcmpl-1", "created": 1_700_000_000, "model": "x", "usage": usage});
    let with = |name: &str| {
        let mut chunk = head.clone();
        chunk["choices"] = json!([{"index": 0, name: message, "finish_reason": "tool_calls"}]);
        chunk.to_string().into_bytes()
    };
    let whole: Value = serde_json::from_slice(&step.replies.json(&with("message")).unwrap()).unwrap();
    let events = read(&streamed(&step, &[(None, with("delta")), (None, b"[DONE]".to_vec())]));
    assert_eq!(events.last().unwrap()["response"], whole);
    // Output that a client sends back becomes the provider's message again.
    let mut items = vec![json!({"role": "user", "content": "Hi"})];
    items.extend(whole["output"].as_array().unwrap().clone());
    items.push(json!({"type": "function_call_output", "call_id": "call_1", "output": "2"}));
    let again = self::step(&json!({"input": items})).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let said = &again.body["messages"][1];
    assert_eq!((&said["content"], &said["thinking_blocks"]), (&message["content"], &message["thinking_blocks"]));
    assert_eq!(said["tool_calls"][0]["function"], message["tool_calls"][0]["function"]);
    assert!(again.dropped.is_empty(), "{:?}", again.dropped);
}
