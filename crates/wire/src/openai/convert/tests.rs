//! Replies as vendors send them, and the property that a reply survives the conversion to a stream and back.
#![allow(clippy::unwrap_used)]

mod responses;
mod survive;

use serde_json::{Value, json};

use super::*;
use crate::openai::{RelayOptions, StreamEnd, StreamKind, StreamRelay, StreamState, generated_text};

const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1741570283,"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"H\u00e9llo \"you\"\n\ud83d\ude00","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}"#;

fn payloads(events: &[u8]) -> Vec<Value> {
    let all = scan(events).unwrap();
    let datas = all.iter().map(|event| event.data().unwrap().into_owned());
    datas.filter(|data| data != b"[DONE]").map(|data| serde_json::from_slice(&data).unwrap()).collect()
}

fn sse(payloads: &[&str]) -> String {
    payloads.iter().map(|payload| format!("data: {payload}\n\n")).collect()
}

fn back(endpoint: &Endpoint, events: &str) -> Option<Value> {
    Some(serde_json::from_slice(&to_json(endpoint, events.as_bytes())?).unwrap())
}

/// Relays a stream, which must be complete, and returns what the client gets.
fn relayed(endpoint: &Endpoint, events: &Bytes, hide_usage: bool) -> (StreamRelay, Bytes) {
    let kind = if *endpoint == Endpoint::Responses { StreamKind::Responses } else { StreamKind::Chat };
    let options = RelayOptions { hide_usage, repair_tools: false };
    let mut relay = StreamRelay::new(kind, options).tallying(true);
    let out = relay.feed(events.clone());
    assert_eq!(relay.state(), StreamState::Complete, "{events:?}");
    assert_eq!((relay.held(), relay.finish(&StreamEnd::Clean)), (0, Bytes::new()));
    (relay, out)
}

/// Checks that a reply becomes events that the relay sees as complete, with usage shown and hidden, and becomes the reply again.
fn round_trip(endpoint: &Endpoint, reply: &Value) {
    let json = reply.to_string();
    let events = to_events(endpoint, json.as_bytes()).unwrap();
    let read = |bytes: &[u8]| -> Value { serde_json::from_slice(&to_json(endpoint, bytes).unwrap()).unwrap() };
    assert_eq!(&read(&events), reply);

    let (mut relay, shown) = relayed(endpoint, &events, false);
    assert_eq!(shown, events);
    let generated = relay.take_generated().len();
    let (relay, hidden) = relayed(endpoint, &events, true);
    if *endpoint == Endpoint::Responses {
        assert_eq!(hidden, events);
        return;
    }
    assert_eq!(generated, generated_text(json.as_bytes()).unwrap().len());
    let mut expected = reply.clone();
    let usage = expected.as_object_mut().unwrap().shift_remove("usage");
    assert_eq!(relay.usage().is_some(), usage.is_some());
    assert_eq!(read(&hidden), expected);
    for chunk in payloads(&hidden) {
        assert!(chunk.get("usage").is_none() && chunk["choices"].as_array().unwrap().len() == 1, "{chunk}");
    }
}

#[test]
fn a_chat_reply_is_streamed_as_openai_does() {
    let events = to_events(&Endpoint::ChatCompletions, CHAT.as_bytes()).unwrap();
    let head = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_1","choices":"#;
    let chunk = |delta: &str, reason: &str| {
        format!(r#"{head}[{{"index":0,"delta":{{{delta}}},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}"#)
    };
    let expected = sse(&[
        &chunk(r#""role":"assistant","content":"","refusal":null,"annotations":[]"#, "null"),
        &chunk(r#""content":"H\u00e9llo \"you\"\n\ud83d\ude00""#, "null"),
        &chunk("", r#""stop""#),
        &format!(
            r#"{head}[],"usage":{{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{{"cached_tokens":0}}}}}}"#
        ),
        "[DONE]",
    ]);
    assert_eq!(String::from_utf8(events.to_vec()).unwrap(), expected);
    round_trip(&Endpoint::ChatCompletions, &serde_json::from_str(CHAT).unwrap());
}

#[test]
fn calls_choices_and_unknown_members_survive() {
    let reply = json!({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "citations": ["https://a"], "provider": "X",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": null, "reasoning_content": "why", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":\"\\n\"}"}, "extra_content": {"google": {"thought_signature": "s"}}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "1"}},
                {"id": "call_3", "type": "function", "function": {"name": "f", "arguments": ""}},
            ]}, "logprobs": null, "finish_reason": "tool_calls", "content_filter_results": {}},
            {"index": 1, "message": {"role": "assistant", "content": "a", "annotations": [{"type": "url_citation"}], "reasoning_details": [{"text": "r"}], "n": 7},
             "logprobs": {"content": [{"token": "a", "logprob": -0.1}], "refusal": null}, "finish_reason": "stop"},
            {"index": 2, "message": {"role": "assistant", "content": null, "refusal": "no"},
             "logprobs": {"content": null, "refusal": [{"token": "no", "logprob": -1.5e-7}]}, "finish_reason": "content_filter"},
            {"index": 3, "message": {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}}, "finish_reason": "function_call"},
            {"index": 4, "message": {"role": "assistant", "content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "x"}]}, "logprobs": {"content": []}, "finish_reason": "length"},
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    });
    round_trip(&Endpoint::ChatCompletions, &reply);
    let events = to_events(&Endpoint::ChatCompletions, reply.to_string().as_bytes()).unwrap();
    let calls: Vec<Value> =
        payloads(&events).iter().filter_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls").cloned()).collect();
    assert_eq!(calls[0][0]["function"], json!({"name": "f", "arguments": ""}));
    assert_eq!(calls[1], json!([{"index": 0, "function": {"arguments": "{\"x\":\"\\n\"}"}}]));
    assert_eq!(calls[3], json!([{"index": 1, "custom": {"input": "1"}}]));
    assert_eq!(calls.len(), 5);
    // Written once, however many chunks there are.
    assert_eq!(payloads(&events).iter().filter(|chunk| chunk.get("citations").is_some()).count(), 1);
}

#[test]
fn absent_members_stay_absent_and_empty_calls_are_left_out() {
    let bare = json!({"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]});
    round_trip(&Endpoint::ChatCompletions, &bare);
    let sparse = r#"{"choices":[{"message":{"content":"x","tool_calls":[],"function_call":null,"audio":null},"finish_reason":"stop"}],"error":null,"usage":null}"#;
    let events = to_events(&Endpoint::ChatCompletions, sparse.as_bytes()).unwrap();
    let text = std::str::from_utf8(&events).unwrap();
    assert!(!text.contains("call") && !text.contains("usage") && text.contains(r#"{"role":"assistant","content":"","#));
    let expected = json!({"object": "chat.completion", "error": null, "choices": [{"index": 0, "message": {"role": "assistant", "content": "x", "audio": null}, "finish_reason": "stop"}]});
    assert_eq!(back(&Endpoint::ChatCompletions, text).unwrap(), expected);
}

#[test]
fn texts_of_values_are_not_touched() {
    let numbers = r#"[1.10,-0.30000000000000004,1e-7,12345678901234567890123,"\u0061\/"]"#;
    let chat = format!(
        r#"{{"id":"c","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"\u0061\ud83d"}},"logprobs":{{"content":{numbers}}},"finish_reason":"stop"}}],"usage":{{"x":{numbers}}},"y":{numbers}}}"#
    );
    let pretty = format!("\n{}\r\n", chat.replace(",\"", ",\r\n  \"").replace("{\"", "{ \n\"").replace("\":", "\" : "));
    for json in [&chat, &pretty] {
        let events = to_events(&Endpoint::ChatCompletions, json.as_bytes()).unwrap();
        // One line per event: many clients read no other streams.
        assert!(events.split(|byte| *byte == b'\n').all(|line| line.is_empty() || line.starts_with(b"data: ")));
        assert_eq!(events.iter().filter(|byte| **byte == b'\n').count(), 2 * (3 + 2));
        let json = to_json(&Endpoint::ChatCompletions, &events).unwrap();
        let json = std::str::from_utf8(&json).unwrap();
        assert_eq!(json.matches(numbers).count(), 3, "{json}");
        assert!(json.contains(r#""content":"\u0061\ud83d""#));
    }
}

#[test]
fn a_stream_of_openai_becomes_a_reply() {
    let stream = sse(&[
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"auto","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}],"refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"ab"}"#,
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a"}}]},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"c"}"#,
        r#"{"id":"c","choices":[{"index":1,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\":1}"}},{"index":1,"id":"call_2","type":"custom","custom":{"name":"g","input":""}}]},"finish_reason":null}]}"#,
        r#"{"id":"c","choices":[{"index":1,"delta":{"content":"x\ud83d"},"logprobs":{"content":[{"token":"x"}],"refusal":null}},{"index":0,"delta":{"tool_calls":[{"index":1,"custom":{"input":"y"}}]}}]}"#,
        r#"{"id":"c","choices":[{"index":1,"delta":{"content":"\ude00"},"logprobs":{"content":[{"token":"y"}],"refusal":null},"finish_reason":"length"}]}"#,
        r#"{"id":"c","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}"#,
        r#"{"id":"c","choices":[],"usage":{"total_tokens":5}}"#,
    ]);
    let expected = json!({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "service_tier": "default",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "y"}},
            ], "refusal": null}, "logprobs": null, "finish_reason": "tool_calls"},
            {"index": 1, "message": {"role": "assistant", "content": "x😀"}, "finish_reason": "length",
             "logprobs": {"content": [{"token": "x"}, {"token": "y"}], "refusal": null}},
        ],
        "usage": {"total_tokens": 5},
    });
    // With `[DONE]` or without; nothing behind it counts.
    for end in ["", "data: [DONE]\n\n", "data: [DONE]", "data: [DONE]\n\ndata: {\"error\":\"x\"}\n\n"] {
        assert_eq!(back(&Endpoint::ChatCompletions, &format!("{stream}{end}")).unwrap(), expected, "{end}");
    }
}

#[test]
fn streams_of_other_vendors_become_replies() {
    let message =
        |stream: &[&str]| back(&Endpoint::ChatCompletions, &sse(stream)).unwrap()["choices"][0]["message"].take();
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    // Azure: an empty chunk first. DeepSeek: reasoning, the role in every chunk. The count comes with the end.
    let azure = format!(
        ": keep-alive\n\n{}",
        sse(&[
            r#"{"id":"","created":0,"model":"","object":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
            r#"{"id":"c","created":3,"model":"m","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"wh"},"content_filter_results":{}}],"usage":null}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"y"}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a","reasoning_content":null}}],"usage":{"total_tokens":1}}"#,
            r#"{"id":"c","choices":[{"index":0,"finish_reason":"stop","content_filter_offsets":{"a":1}}],"usage":{"total_tokens":2}}"#,
        ])
    );
    let expected = json!({"id": "c", "created": 3, "model": "m", "object": "chat.completion", "prompt_filter_results": [{"prompt_index": 0}],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a", "reasoning_content": "why"}, "content_filter_results": {}, "finish_reason": "stop", "content_filter_offsets": {"a": 1}}],
        "usage": {"total_tokens": 2}});
    assert_eq!(back(&Endpoint::ChatCompletions, &azure).unwrap(), expected);
    // Gemini sends complete calls without numbers, old Ollamas number all of them 0, some providers repeat id and name.
    for (index, split) in [("", false), (r#""index":0,"#, false), (r#""index":0,"#, true)] {
        let call = |id: &str, text: &str| {
            format!(
                r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{{index}"id":"{id}","function":{{"name":"f","arguments":"{text}"}},"type":"function"}}]}}}}]}}"#
            )
        };
        let first = if split { [call("a", "1"), call("a", "2")] } else { [call("a", ""), call("a", "12")] };
        let calls = message(&[&first[0], &first[1], &call("b", "3"), stop])["tool_calls"].take();
        let call =
            |id: &str, text: &str| json!({"id": id, "function": {"name": "f", "arguments": text}, "type": "function"});
        assert_eq!(calls, json!([call("a", "12"), call("b", "3")]), "{index} {split}");
    }
    // Perplexity repeats the message so far; an empty message is still a message.
    let perplexity = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"ab"},"delta":{"role":"assistant","content":"b"},"finish_reason":null}]}"#;
    assert_eq!(message(&[perplexity, stop]), json!({"role": "assistant", "content": "b"}));
    assert_eq!(message(&[stop]), json!({"role": "assistant", "content": null}));
    // A keep-alive is not part of the reply.
    let ping =
        back(&Endpoint::ChatCompletions, &format!("event: ping\ndata: {{\"type\":\"ping\"}}\n\n{}", sse(&[stop])));
    assert_eq!(ping.unwrap().get("type"), None);
}

#[test]
fn what_is_not_whole_is_no_reply() {
    let text = r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#;
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let other = r#"{"choices":[{"index":1,"delta":{"content":"x"},"finish_reason":""}]}"#;
    for stream in [
        String::new(),
        sse(&["[DONE]"]),
        sse(&[text, "[DONE]"]),
        sse(&[text, other, stop, "[DONE]"]),
        sse(&[text, "[DONE]", stop]),
        sse(&[stop, r#"{"choices":[{"index":0,"#]),
        sse(&[stop, "hello", "[DONE]"]),
        sse(&[stop, r#"[{"error":{"message":"m"}}]"#]),
        sse(&[stop, r#"{"error":{"message":"m"}}"#]),
        sse(&[stop, r#"{"choices":[],"error":"m"}"#, "[DONE]"]),
        sse(&[stop, r#"{"object":"error","message":"m"}"#, "[DONE]"]),
        sse(&[r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}"#, "[DONE]"]),
        format!("{}event: error\ndata: {{\"message\":\"m\"}}\n\n", sse(&[stop])),
        sse(&[r#"{"choices":[{"index":0,"delta":{"audio":{"data":"AA"}}}]}"#, stop, "[DONE]"]),
        sse(&[text, r#"{"choices":[{"index":0,"delta":{"content":[{"type":"thinking"}]}}]}"#, stop, "[DONE]"]),
        sse(&[r#"{"choices":[{"index":"a","delta":{},"finish_reason":"stop"}]}"#, "[DONE]"]),
    ] {
        assert_eq!(to_json(&Endpoint::ChatCompletions, stream.as_bytes()), None, "{stream}");
        assert_eq!(to_json(&Endpoint::Responses, stream.as_bytes()), None, "{stream}");
    }
    assert_eq!(to_json(&Endpoint::ChatCompletions, b"data: {\"choices\":\"\xff\"}\n\n"), None);
    for json in [
        "",
        "7",
        "[]",
        "{}",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"error"}]}"#,
        r#"{"choices":[{"index":0,"message":"x","finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"message":{"audio":{"data":"AA"}},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"error":{"message":"m"}}"#,
        r#"{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]"#,
        r#"{"object":"error","message":"m"}"#,
    ] {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Responses] {
            assert_eq!(to_events(&endpoint, json.as_bytes()), None, "{json}");
        }
    }
    for endpoint in [Endpoint::Embeddings, Endpoint::Moderations, Endpoint::Models, Endpoint::Other] {
        assert_eq!(to_events(&endpoint, CHAT.as_bytes()), None);
        assert_eq!(to_json(&endpoint, sse(&[stop, "[DONE]"]).as_bytes()), None);
    }
}

#[test]
fn a_number_keeps_its_last_digit_also_through_a_value() {
    // Requests and tool schemas that are translated pass through one. Without serde_json's `float_roundtrip` this number ends in 1.
    // In a build of the whole workspace a dependency of tests turns that on for all; `-p chittycan-wire` tells the truth.
    let number = "-9.149122070943493";
    assert_eq!(serde_json::from_str::<Value>(number).unwrap().to_string(), number);
}

#[test]
fn depth_does_not_use_the_stack() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let json = format!(r#"{{"choices":[{{"message":{{"content":{deep}}},"finish_reason":"stop"}}],"x":{deep}}}"#);
    if let Some(events) = to_events(&Endpoint::ChatCompletions, json.as_bytes()) {
        let _ = to_json(&Endpoint::ChatCompletions, &events);
    }
}

#[test]
fn legacy_completions_merge_their_logprobs() {
    let stream = sse(&[
        r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"\n","index":0,"logprobs":{"tokens":["\n"],"token_logprobs":[-0.5],"top_logprobs":[{"\n":-0.5}],"text_offset":[3]},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"é","index":0,"logprobs":{"tokens":["é"],"token_logprobs":[-1.0],"top_logprobs":[{"é":-1.0}],"text_offset":[4]},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
        r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        "[DONE]",
    ]);
    let reply = json!({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [{"text": "\né", "index": 0,
        "logprobs": {"tokens": ["\n", "é"], "token_logprobs": [-0.5, -1.0], "top_logprobs": [{"\n": -0.5}, {"é": -1.0}], "text_offset": [3, 4]},
        "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    assert_eq!(back(&Endpoint::Completions, &stream).unwrap(), reply);
    round_trip(&Endpoint::Completions, &reply);
    let events = to_events(&Endpoint::Completions, reply.to_string().as_bytes()).unwrap();
    assert!(payloads(&events).iter().all(|chunk| chunk["object"] == "text_completion"));
}
