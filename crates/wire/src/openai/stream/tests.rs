//! The relay's rules, one test each, and the property that chunking does not matter.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const FIRST: &str = r#"{"id":"c","model":"m-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const TEXT: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const COUNT: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"service_tier":"flex"}"#;

fn sse(payloads: &[&str]) -> String {
    payloads.iter().map(|payload| format!("data: {payload}\n\n")).collect()
}

struct Run {
    relay: StreamRelay,
    text: String,
}

fn run(kind: StreamKind, hide_usage: bool, chunks: &[&[u8]], end: &StreamEnd) -> Run {
    run_with(kind, RelayOptions { hide_usage, ..RelayOptions::default() }, chunks, end)
}

fn run_with(kind: StreamKind, options: RelayOptions, chunks: &[&[u8]], end: &StreamEnd) -> Run {
    let mut relay = StreamRelay::new(kind, options);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&relay.feed(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&relay.finish(end));
    assert!(relay.finish(end).is_empty() && relay.feed(Bytes::from_static(b"data: late\n\n")).is_empty());
    Run { relay, text: String::from_utf8(out).unwrap() }
}

fn chat(stream: &str, hide_usage: bool) -> Run {
    run(StreamKind::Chat, hide_usage, &[stream.as_bytes()], &StreamEnd::Clean)
}

fn cut() -> StreamEnd {
    StreamEnd::Cut("the provider reset the connection".into())
}

/// Checks that the stream's last event is the gateway's error event: all four keys, `{"error":` directly behind `data: `.
fn assert_error_at_end(run: &Run, code: Option<&str>) -> String {
    let last = run.text.strip_suffix("\n\n").unwrap().rsplit("\n\n").next().unwrap();
    let json = last.strip_prefix("data: ").unwrap();
    assert!(json.starts_with(r#"{"error":{"message":""#), "{json}");
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    let keys: Vec<_> = value["error"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert_eq!(value["error"]["code"].as_str(), code);
    assert!(!run.text.contains("[DONE]"));
    assert_eq!(run.relay.state(), StreamState::Failed);
    assert_eq!(run.relay.error().unwrap().message, value["error"]["message"]);
    value["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_good_stream_passes_byte_for_byte_and_is_read() {
    let stream = format!(": hello\n\n{}", sse(&[FIRST, TEXT, STOP, COUNT, "[DONE]"]));
    let run = chat(&stream, false);
    assert_eq!(run.text, stream);
    assert_eq!(run.relay.state(), StreamState::Complete);
    let usage = run.relay.usage().unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 2));
    assert_eq!(run.relay.service_tier(), Some(ServiceTier::Flex));
    assert_eq!((run.relay.model(), run.relay.events(), run.relay.held()), (Some("m-1"), 5, 0));
}

#[test]
fn unchanged_chunks_are_not_copied() {
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions { hide_usage: true, repair_tools: true });
    let whole = Bytes::from(sse(&[FIRST, TEXT]));
    let out = relay.feed(whole.clone());
    assert_eq!((out.as_ptr(), out.len()), (whole.as_ptr(), whole.len()));
    // Complete events are sent, the part of the next one is held.
    let part = Bytes::from(format!("{}data: {{", sse(&[TEXT])));
    let out = relay.feed(part.clone());
    assert_eq!((out.as_ptr(), out.len()), (part.as_ptr(), part.len() - 7));
    assert_eq!(relay.held(), 7);
}

#[test]
fn each_event_leaves_with_its_last_byte() {
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default());
    let event = sse(&[TEXT]);
    let (head, tail) = event.split_at(event.len() - 1);
    assert!(relay.feed(Bytes::copy_from_slice(head.as_bytes())).is_empty());
    assert!(!relay.saw_first_token());
    assert_eq!(relay.feed(Bytes::copy_from_slice(tail.as_bytes())), event);
    assert!(relay.saw_first_token());
}

#[test]
fn the_first_token_is_content_of_any_kind() {
    for (delta, content) in [
        (r#"{"delta":{"role":"assistant","content":""}}"#, false),
        (r#"{"delta":{"content":null,"tool_calls":[]}}"#, false),
        (r#"{"delta":null}"#, false),
        (r#"{"content_filter_results":{}}"#, false),
        (r#"{"delta":{"content":"x"}}"#, true),
        (r#"{"delta":{"content":[{"type":"thinking"}]}}"#, true),
        (r#"{"delta":{"reasoning_content":"x"}}"#, true),
        (r#"{"delta":{"reasoning":"x"}}"#, true),
        (r#"{"delta":{"tool_calls":[{"id":"a"}]}}"#, true),
        (r#"{"text":"x"}"#, true),
        (r#"{"text":""}"#, false),
    ] {
        let run = chat(&sse(&[&format!(r#"{{"choices":[{delta}]}}"#)]), false);
        assert_eq!(run.relay.saw_first_token(), content, "{delta}");
    }
}

#[test]
fn hidden_usage_leaves_no_trace() {
    let filter = r#"{"id":"","choices" : [ ],"prompt_filter_results":[{"prompt_index":0}]}"#;
    let nulled = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}"#;
    let first = r#"{"usage" : null , "id":"c","choices":[{"index":0,"delta":{"content":"\"usage\":null"}}]}"#;
    let middle = r#"{"id":"c","usage":{"prompt_tokens":9,"d":{"x":"}"}},"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":9}}}"#;
    let alone = r#"{"usage":{"prompt_tokens":8,"completion_tokens":1}}"#;
    let run = chat(&sse(&[filter, FIRST, nulled, first, middle, alone, COUNT, "[DONE]"]), true);
    let expected = sse(&[
        FIRST,
        r#"{"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}"#,
        r#"{ "id":"c","choices":[{"index":0,"delta":{"content":"\"usage\":null"}}]}"#,
        r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"usage":{"prompt_tokens":9}}}"#,
        "[DONE]",
    ]);
    assert_eq!(run.text, expected);
    // The last count is reported, not the sum.
    assert_eq!(run.relay.usage().unwrap().prompt_tokens, 3);
    let shown = sse(&[filter, nulled, first, middle, alone, COUNT, "[DONE]"]);
    assert_eq!(chat(&shown, false).text, shown);
}

#[test]
fn text_and_nested_keys_fool_nobody() {
    let decoys = [
        r#"{"choices":[{"delta":{"content":"usage"}}]}"#,
        r#"{"choices":[{"delta":{"content":"error"}}]}"#,
        r#"{"choices":[{"delta":{"content":"\"error\":{\"message\":\"x\"},\"choices\":[],\"usage\":null"}}]}"#,
        r#"{"choices":[{"delta":{"content":"x","usage":{"prompt_tokens":1},"choices":[],"error":{"message":"m"}}}]}"#,
        r#"{"choices":[{"delta":{"content":"x"},"error":null}],"error":null}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"finish_reason\":\"stop\"}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"finish_reason":"stop"}}]}"#,
        r#"{"choices":[{"delta":{"content":"x"}}],"error":"","meta":{"error":"y"}}"#,
    ];
    for hide in [false, true] {
        let run = chat(&sse(&decoys), hide);
        assert!(run.text.starts_with(&sse(&decoys)), "{}", run.text);
        assert_eq!(run.relay.usage(), None);
        // None of them finished the answer, so the end is an interruption.
        assert_error_at_end(&run, Some("stream_interrupted"));
    }
}

#[test]
fn groqs_usage_is_found() {
    let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":4,"completion_tokens":5}}}"#;
    assert_eq!(chat(&sse(&[last]), true).relay.usage().unwrap().completion_tokens, 5);
}

#[test]
fn errors_become_one_error_event_and_the_end() {
    for (event, code, message) in [
        (sse(&[r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#]), Some("c"), "m"),
        (
            sse(&[
                r#" {"id":"g","choices":[{"delta":{},"finish_reason":"error"}],"error":{"code":502,"message":"m"}}"#,
            ]),
            Some("502"),
            "m",
        ),
        (sse(&[r#"{"id":"g","choices":[],"error":{"code":"x","message":"m"}}"#]), Some("x"), "m"),
        (sse(&[r#"[{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}]"#]), Some("503"), "m"),
        (sse(&[r#"{"code":"c","error":"m"}"#]), Some("c"), "m"),
        (sse(&[r#"{"object":"error","message":"m","type":"t","code":400}"#]), Some("400"), "m"),
        (sse(&[r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#]), None, "m"),
        (
            sse(&[r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#]),
            None,
            "The provider ended the stream with an error.",
        ),
        ("event: error\ndata: {\"message\":\"m\",\"code\":\"c\"}\n\n".into(), Some("c"), "m"),
        ("data: {\"message\":\"m\"}\r\nevent: error\r\n\r\n".into(), None, "m"),
        ("event: error\ndata: boom\n\n".into(), None, "boom"),
        ("event: error\ndata:\n\n".into(), None, "The provider ended the stream with an error."),
    ] {
        for hide in [false, true] {
            let stream = format!("{}{event}{}", sse(&[TEXT]), sse(&[TEXT, "[DONE]"]));
            let run = chat(&stream, hide);
            assert!(run.text.starts_with(&format!("{}data: {{\"error\"", sse(&[TEXT]))), "{event} gave {}", run.text);
            assert_eq!(assert_error_at_end(&run, code), message, "{event}");
        }
    }
}

#[test]
fn the_end_is_mended_or_named() {
    // Finished without [DONE].
    let run = chat(&sse(&[TEXT, STOP]), false);
    assert_eq!((run.text, run.relay.state()), (sse(&[TEXT, STOP, "[DONE]"]), StreamState::Complete));
    // Not finished; nothing at all.
    for stream in [sse(&[TEXT]), String::new(), ": wait\n\n".into()] {
        let run = chat(&stream, false);
        assert!(run.text.starts_with(&stream));
        assert_error_at_end(&run, Some("stream_interrupted"));
    }
    // A cut fails the stream even behind the `finish_reason`: usage may be lost.
    let stream = sse(&[TEXT, STOP]);
    let cut_run = run_cut(&stream);
    let message = assert_error_at_end(&cut_run, Some("stream_interrupted"));
    assert_eq!(message, "The stream was interrupted: the provider reset the connection.");
    // Anything behind [DONE] is ignored.
    let run = run_cut(&format!("{}junk", sse(&[STOP, "[DONE]", TEXT])));
    assert_eq!((run.text, run.relay.state()), (sse(&[STOP, "[DONE]"]), StreamState::Complete));
}

fn run_cut(stream: &str) -> Run {
    run(StreamKind::Chat, false, &[stream.as_bytes()], &cut())
}

#[test]
fn the_last_event_may_lack_its_empty_line() {
    for tail in ["", "\n", "\r\n"] {
        let run = chat(&format!("{}data: [DONE]{tail}", sse(&[STOP])), false);
        assert!(run.text.ends_with("\n\n") || run.text.ends_with("\r\n\n"), "{:?}", run.text);
        assert_eq!((run.text.matches("[DONE]").count(), run.relay.state()), (1, StreamState::Complete));
        let run = chat(&format!("data: {STOP}{tail}"), true);
        assert!(run.text.ends_with("\ndata: [DONE]\n\n"), "{:?}", run.text);
        assert_eq!(run.relay.state(), StreamState::Complete);
    }
    // Half a payload is dropped, also when it is cut inside a character.
    for end in [StreamEnd::Clean, cut()] {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"é";
        for bytes in [text.as_bytes(), &text.as_bytes()[..text.len() - 1]] {
            let first = sse(&[TEXT]);
            let run = run(StreamKind::Chat, false, &[first.as_bytes(), bytes], &end);
            assert!(run.text.starts_with(&format!("{first}data: {{\"error\"")), "{}", run.text);
            assert_error_at_end(&run, Some("stream_interrupted"));
        }
    }
}

#[test]
fn crlf_comments_and_payloads_in_several_lines() {
    let stream = format!(
        ": OPENROUTER PROCESSING\r\n\r\n\r\ndata:{TEXT}\r\n\r\nevent: message\r\nid: 4\r\ndata: {{\"choices\":[{{\"delta\":{{}},\r\ndata: \"finish_reason\":\"stop\"}}]}}\r\n\r\ndata:[DONE]\r\n\r\n"
    );
    let run = chat(&stream, true);
    assert_eq!((run.text.as_str(), run.relay.state()), (stream.as_str(), StreamState::Complete));
    let split = "data: {\"choices\":[{\"delta\":{}}],\ndata: \"usage\":null}\n\n";
    let run = chat(split, true);
    assert!(run.text.starts_with("data: {\"choices\":[{\"delta\":{}}]}\n\n"), "{}", run.text);
}

#[test]
fn a_tool_call_of_a_megabyte_passes_in_any_pieces() {
    let arguments = r#"\"usage\":null,"#.repeat(70_000);
    let call = format!(
        r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{arguments}"}}}}]}}}}],"usage":null}}"#
    );
    let stream = sse(&[&call, STOP, "[DONE]"]);
    let expected = sse(&[&call.replace(r#","usage":null}"#, "}"), STOP, "[DONE]"]);
    for size in [1_000, 16_384, stream.len()] {
        let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
        let run = run(StreamKind::Chat, true, &chunks, &StreamEnd::Clean);
        assert!(run.text == expected, "in pieces of {size}");
        assert!(run.relay.saw_first_token());
    }
}

#[test]
fn an_event_beyond_the_bound_ends_the_stream() {
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default());
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    let mut out = Vec::new();
    for _ in 0..20 {
        out.extend_from_slice(&relay.feed(piece.clone()));
    }
    assert!(out.starts_with(b"data: {\"error\":") && relay.state() == StreamState::Failed);
    assert_eq!(relay.held(), 0);
}

/// As Gemini streams two calls: no index, and `stop` at the end.
const CALLS: &str = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"b","function":{"name":"f"}}]}}],"usage":null}"#;

#[test]
fn tool_calls_are_repaired_where_that_is_asked_for() {
    let options = RelayOptions { hide_usage: false, repair_tools: true };
    let repaired = |stream: &str, options| run_with(StreamKind::Chat, options, &[stream.as_bytes()], &StreamEnd::Clean);
    let stream = sse(&[TEXT, CALLS, TEXT, STOP, COUNT, "[DONE]"]);
    let numbered =
        CALLS.replace(r#"{"id":"a""#, r#"{"index":0,"id":"a""#).replace(r#"{"id":"b""#, r#"{"index":1,"id":"b""#);
    let end = STOP.replace("stop", "tool_calls");
    let run = repaired(&stream, options);
    assert_eq!(run.text, sse(&[TEXT, &numbered, TEXT, &end, COUNT, "[DONE]"]));
    assert_eq!((run.relay.state(), run.relay.usage().unwrap().prompt_tokens), (StreamState::Complete, 3));
    // Together with hidden usage.
    let run = repaired(&stream, RelayOptions { hide_usage: true, ..options });
    let bare = numbered.replace(r#","usage":null"#, "");
    assert_eq!(run.text, sse(&[TEXT, &bare, TEXT, &end, "[DONE]"]));
    // Not without `repair_tools`, nor without calls, nor in another dialect.
    assert_eq!(chat(&stream, false).text, stream);
    let plain = sse(&[FIRST, TEXT, STOP, COUNT, "[DONE]"]);
    assert_eq!(repaired(&plain, options).text, plain);
    let run = run_with(StreamKind::Responses, options, &[sse(&[CALLS]).as_bytes()], &cut());
    assert!(run.text.starts_with(&sse(&[CALLS])));
}

#[test]
fn a_repaired_event_keeps_its_other_fields_and_line_ends() {
    let options = RelayOptions { hide_usage: true, repair_tools: true };
    let (call, numbered) = (
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"a"}]}}]"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]}}]"#,
    );
    for (came, leaves) in [
        (
            format!("id: 1\r\ndata:  {call},\"usage\":null}} \r\nretry: 5\r\n\r\n"),
            format!("id: 1\r\ndata:  {numbered}}} \r\nretry: 5\r\n\r\n"),
        ),
        (format!("data: {call}\ndata: }}\n\n"), format!("data: {numbered}\ndata: }}\n\n")),
        (format!("data: {call},\ndata: \"usage\":null}}\n\n"), format!("data: {numbered}}}\n\n")),
        (format!("data: {call}}}"), format!("data: {numbered}}}\n\n")),
    ] {
        let run = run_with(StreamKind::Chat, options, &[came.as_bytes()], &StreamEnd::Clean);
        assert!(run.text.starts_with(&leaves), "{came:?} gave {:?}", run.text);
    }
}

const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"model\":\"m-2\",\"service_tier\":\"auto\",\"usage\":null}}\n\n";
const DELTA: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":41,\"delta\":\"\\\"error\\\"\"}\n\n";
const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":42,\"response\":{\"service_tier\":\"priority\",\"tools\":[{\"usage\":{\"input_tokens\":1}}],\"usage\":{\"input_tokens\":5,\"output_tokens\":6}}}\n\n";

fn responses(stream: &str, end: &StreamEnd) -> Run {
    run(StreamKind::Responses, false, &[stream.as_bytes()], end)
}

#[test]
fn a_responses_stream_passes_and_its_end_is_read() {
    let stream = format!("{CREATED}{DELTA}{COMPLETED}");
    for (stream, end) in [
        (stream.clone(), StreamEnd::Clean),
        (stream.clone(), cut()),
        // Without event names the payload's type decides.
        (
            stream.lines().filter(|line| !line.starts_with("event")).map(|line| format!("{line}\n")).collect(),
            StreamEnd::Clean,
        ),
    ] {
        let run = responses(&stream, &end);
        assert_eq!((run.text, run.relay.state()), (stream, StreamState::Complete));
        let usage = run.relay.usage().unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 6));
        assert_eq!((run.relay.model(), run.relay.service_tier()), (Some("m-2"), Some(ServiceTier::Priority)));
        assert!(run.relay.saw_first_token());
    }
    for (name, state) in [
        ("response.incomplete", StreamState::Complete),
        ("response.cancelled", StreamState::Complete),
        ("response.failed", StreamState::Failed),
        ("error", StreamState::Failed),
    ] {
        let stream = format!("{CREATED}{}", COMPLETED.replace("response.completed", name));
        let run = responses(&stream, &StreamEnd::Clean);
        assert_eq!((run.text.as_str(), run.relay.state()), (stream.as_str(), state));
        assert_eq!(run.relay.usage().is_some(), name != "error");
    }
}

#[test]
fn a_cut_responses_stream_ends_with_its_error_event() {
    let stream = format!("{CREATED}{DELTA}");
    for (extra, end) in [("", cut()), ("event: response.completed\ndata: {\"type\":", StreamEnd::Clean)] {
        let run = responses(&format!("{stream}{extra}"), &end);
        let event = run.text.strip_prefix(&stream).unwrap();
        let json = event.strip_prefix("event: error\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(json.starts_with(r#"{"type":"error","code":"stream_interrupted","message":""#));
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((value["sequence_number"].as_u64(), &value["param"]), (Some(42), &serde_json::Value::Null));
        assert_eq!(value["error"]["type"], "server_error");
        assert_eq!(run.relay.state(), StreamState::Failed);
    }
    assert!(responses("", &cut()).text.contains("\"sequence_number\":0,"));
    // A last event without its empty line is complete all the same.
    for last in [COMPLETED.to_owned(), COMPLETED.replace("response.completed", "response.failed")] {
        assert_eq!(responses(last.trim_end(), &StreamEnd::Clean).text, last);
    }
}

/// What a tallying relay sent and kept.
fn tallied(kind: StreamKind, options: RelayOptions, chunks: &[&[u8]], end: &StreamEnd) -> (String, String) {
    let mut relay = StreamRelay::new(kind, options).tallying(true);
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&relay.feed(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&relay.finish(end));
    let pending = relay.generated_pending();
    let generated = relay.take_generated();
    assert_eq!((pending, relay.generated_pending()), (generated.len(), 0));
    (String::from_utf8(out).unwrap(), generated)
}

fn chat_tally(stream: &str, options: RelayOptions) -> String {
    tallied(StreamKind::Chat, options, &[stream.as_bytes()], &StreamEnd::Clean).1
}

#[test]
fn every_kind_of_generated_text_is_kept() {
    for (choice, text) in [
        (r#"{"index":0,"delta":{"role":"assistant","content":"a\n\u00e9\ud83d\ude00\"é"}}"#, "a\né😀\"é"),
        (r#"{"delta":{"content":null,"reasoning_content":"why"}}"#, "why"),
        (r#"{"delta":{"reasoning":"why","content":"so","refusal":"no"}}"#, "whysono"),
        // vLLM sends the reasoning twice.
        (r#"{"delta":{"reasoning":"why","reasoning_content":"why"}}"#, "why"),
        (r#"{"delta":{"reasoning":"why","reasoning_content":"not"}}"#, "whynot"),
        (
            r#"{"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":"{\"a\":"}},{"function":{"arguments":"1}"}}]}}"#,
            "f{\"a\":1}",
        ),
        (r#"{"delta":{"tool_calls":[{"custom":{"name":"f","input":"x"}}]}}"#, "fx"),
        (r#"{"delta":{"function_call":{"name":"f","arguments":"{}"}}}"#, "f{}"),
        (r#"{"text":"old","logprobs":{"tokens":["old"]}}"#, "old"),
        // Mistral.
        (
            r#"{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"\"so"}]}}"#,
            "hm\"so",
        ),
        // A character cut in two.
        (r#"{"delta":{"content":"a\ud83d"}}"#, "a\u{fffd}\u{fffd}\u{fffd}"),
        // No generated text.
        (r#"{"delta":{"content":7,"refusal":false,"tool_calls":"x","function_call":[1.5]},"text":{}}"#, ""),
        (r#"{"delta":{"content":"","role":"assistant","audio":{"data":"QUJD"}},"message":null}"#, ""),
        (r#"{"delta":"x","finish_reason":"stop","content":"x","usage":{"text":"x"}}"#, ""),
    ] {
        let stream = sse(&[&format!(r#"{{"id":"i","text":"t","choices":[{choice}],"content":"c"}}"#)]);
        assert_eq!(chat_tally(&stream, RelayOptions::default()), text, "{choice}");
        let reversed = stream.replace(r#"{"id":"i","#, r#"{"usage":null,"#);
        assert_eq!(chat_tally(&reversed, RelayOptions { hide_usage: true, repair_tools: true }), text, "{choice}");
    }
    let two = r#"{"choices":[{"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#;
    assert_eq!(chat_tally(&sse(&[two, TEXT]), RelayOptions::default()), "abHi");
}

#[test]
fn only_what_the_client_got_is_kept() {
    let hidden = r#"{"choices":[],"delta":{"content":"x"},"usage":null}"#;
    let options = RelayOptions { hide_usage: true, ..RelayOptions::default() };
    assert_eq!(chat_tally(&sse(&[FIRST, TEXT, hidden, STOP, "[DONE]", TEXT]), options), "Hi");
    // Text in a chunk with an error is not sent, nor is text behind the error, nor half an event.
    let failed = r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"error"}]}"#;
    assert_eq!(chat_tally(&sse(&[TEXT, failed, TEXT]), options), "Hi");
    assert_eq!(chat_tally(&format!("{}data: {}", sse(&[TEXT]), &TEXT[..60]), options), "Hi");
    // A whole last event that lacks its empty line is sent.
    assert_eq!(chat_tally(&format!("{}data: {TEXT}", sse(&[TEXT])), options), "HiHi");
    // Payloads that are not JSON, or only start like JSON.
    assert_eq!(chat_tally(&sse(&["hello", "[]", "{", "\"x\"", r#"[{"choices":[{"text":"x"}]}]"#]), options), "");
    let mut relay = StreamRelay::new(StreamKind::Chat, options);
    relay.feed(Bytes::from(sse(&[TEXT])));
    assert_eq!((relay.generated_pending(), relay.take_generated().as_str()), (0, ""));
}

#[test]
fn the_kept_text_is_taken_bit_by_bit() {
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default()).tallying(true);
    relay.feed(Bytes::from(sse(&[TEXT, TEXT])));
    assert_eq!((relay.generated_pending(), relay.take_generated().as_str()), (4, "HiHi"));
    assert_eq!((relay.generated_pending(), relay.take_generated().capacity()), (0, 0));
    relay.feed(Bytes::from(sse(&[TEXT])));
    relay.finish(&cut());
    assert_eq!(relay.take_generated(), "Hi");
}

#[test]
fn the_deltas_of_a_responses_stream_are_kept() {
    let event = |kind: &str, rest: &str| {
        format!("event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",{rest},\"sequence_number\":7}}\n\n")
    };
    let stream: String = [
        CREATED.to_owned(),
        event("output_item.added", r#""item":{"type":"message","content":[{"text":"no"}]}"#),
        event("output_text.delta", r#""item_id":"i","delta":"Hi \"é\u00e9","logprobs":[{"token":"no"}]"#),
        event("output_text.done", r#""text":"Hi""#),
        event("refusal.delta", r#""delta":" no""#),
        event("function_call_arguments.delta", r#""delta":"{}""#),
        event("reasoning_summary_text.delta", r#""delta":"why""#),
        event("audio.delta", r#""delta":"QUJD""#),
        event("audio.transcript.delta", r#""delta":"hear""#),
        event("reasoning_summary.delta", r#""delta":{"text":"sum"}"#),
        event("x.delta", r#""delta":null"#),
        COMPLETED.to_owned(),
    ]
    .concat();
    let unnamed: String =
        stream.lines().filter(|line| !line.starts_with("event")).map(|line| format!("{line}\n")).collect();
    for stream in [stream, unnamed] {
        let chunks = [stream.as_bytes()];
        let (sent, generated) = tallied(StreamKind::Responses, RelayOptions::default(), &chunks, &StreamEnd::Clean);
        assert_eq!((sent, generated.as_str()), (stream, "Hi \"éé no{}whyhearsum"));
    }
}

#[test]
fn a_stopped_stream_ends_with_our_error() {
    let error = || ErrorBody::new("The budget is used up.", "insufficient_quota", Some("budget_exceeded"));
    for kind in [StreamKind::Chat, StreamKind::Responses] {
        let event = if kind == StreamKind::Chat { sse(&[TEXT]) } else { DELTA.to_owned() };
        let mut relay = StreamRelay::new(kind, RelayOptions::default()).tallying(true);
        let mut text = String::from_utf8(relay.feed(Bytes::from(format!("{event}data: {{"))).to_vec()).unwrap();
        assert_eq!(relay.held(), 7);
        let last = String::from_utf8(relay.stop(error()).to_vec()).unwrap();
        text.push_str(&last);
        assert_eq!((relay.state(), relay.error(), relay.held()), (StreamState::Failed, Some(&error()), 0));
        assert!(relay.stop(error()).is_empty() && relay.feed(Bytes::from(event.clone())).is_empty());
        assert!(relay.finish(&StreamEnd::Clean).is_empty());
        assert_eq!(relay.take_generated(), if kind == StreamKind::Chat { "Hi" } else { "\"error\"" });
        assert_eq!(text, format!("{event}{last}"));
        if kind == StreamKind::Chat {
            assert_error_at_end(&Run { relay, text }, Some("budget_exceeded"));
        } else {
            assert!(last.starts_with("event: error\ndata: {\"type\":\"error\",\"code\":\"budget_exceeded\""), "{last}");
            assert!(last.contains("\"sequence_number\":42,"), "{last}");
        }
    }
    // After the end of the answer, [`StreamRelay::stop`] does nothing.
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default());
    relay.feed(Bytes::from(sse(&[STOP, "[DONE]"])));
    assert_eq!((relay.stop(error()), relay.state(), relay.error()), (Bytes::new(), StreamState::Complete, None));
    let mut relay = StreamRelay::new(StreamKind::Responses, RelayOptions::default());
    relay.feed(Bytes::from(COMPLETED));
    assert_eq!((relay.stop(error()), relay.state()), (Bytes::new(), StreamState::Complete));
}

proptest! {
    #[test]
    fn chunking_does_not_matter(
        parts in prop::collection::vec(prop::sample::select(vec![
            FIRST, TEXT, STOP, COUNT, "[DONE]", "data: ", "data:", "\n\n", "\r\n\r\n", "\n", "\r", ": c\n\n", "event: error\n",
            r#"{"choices":[{"delta":{"content":"é"}}],"usage":null}"#, r#"{"error":"x"}"#, CALLS, CREATED, DELTA, COMPLETED,
        ]), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        (hide_usage, repair_tools) in any::<(bool, bool)>(),
        kind in prop::sample::select(vec![StreamKind::Chat, StreamKind::Responses]),
        end in prop::sample::select(vec![StreamEnd::Clean, cut()]),
    ) {
        // A payload mostly comes as an event, sometimes in meaningless pieces.
        let stream: String = parts.iter().map(|part| if part.starts_with(['{', '[']) { format!("data: {part}\n\n") } else { (*part).into() }).collect();
        let stream = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        let options = RelayOptions { hide_usage, repair_tools };
        let whole = run_with(kind, options, &[stream], &end);
        let split = run_with(kind, options, &chunks, &end);
        prop_assert_eq!(&split.text, &whole.text);
        prop_assert_eq!(split.relay.usage(), whole.relay.usage());
        prop_assert_eq!(split.relay.state(), whole.relay.state());
        prop_assert_ne!(split.relay.state(), StreamState::Open);
        prop_assert_eq!(split.relay.events(), whole.relay.events());
        // Keeping the text does not change what is sent, and the cuts do not change the text.
        let kept = tallied(kind, options, &[stream], &end);
        prop_assert_eq!(&kept.0, &whole.text);
        prop_assert_eq!(tallied(kind, options, &chunks, &end), kept);
    }
}

/// Events that are nearly alike: a template with other texts, or with something changed.
fn nearly_alike() -> impl Strategy<Value = String> {
    let template = prop::sample::select(vec![
        r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"<>"},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"c","choices":[{"delta":{"content":"<>"}}],"obfuscation":"<2>"}"#,
        r#"{"id":"c","usage":null,"choices":[{"delta":{"content":"<>","refusal":null}}],"obfuscation":"<2>"}"#,
        r#"{"id":"c","choices":[{"delta":{"role":"assistant","content":"<>"},"finish_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
        r#"{"x":{"delta":{"content":"<>"}},"choices":[{"delta":{"content":"<2>"}}]}"#,
        r#"{"choices":[{"delta":{"content":"<>","tool_calls":[{"function":{"arguments":"<2>"}}]}}]}"#,
    ]);
    let word = prop::sample::select(vec![
        "",
        "a",
        "Hi",
        " there",
        "é",
        "error",
        "usage",
        "audio",
        "a\\n",
        "\\u0041",
        "\"",
        "\t",
        "[DONE]",
        "\",\"refusal\":\"no",
        "null",
    ]);
    (template, prop::collection::vec((word.clone(), word), 1..12), any::<bool>()).prop_map(|(template, words, crlf)| {
        let end = if crlf { "\r\n\r\n" } else { "\n\n" };
        let event = |(one, two): &(&str, &str)| {
            let payload = template.replace("<>", one).replace("<2>", two);
            format!("data: {payload}{end}")
        };
        words.iter().map(event).collect()
    })
}

proptest! {
    #[test]
    fn an_event_like_another_is_relayed_as_if_it_were_read(
        streams in prop::collection::vec(nearly_alike(), 1..4),
        (hide_usage, tallies, watch) in any::<(bool, bool, bool)>(),
        size in 1..300_usize,
    ) {
        let stream = format!("{}{}", sse(&[FIRST, TEXT]), streams.concat());
        let relay = || {
            let options = RelayOptions { hide_usage, ..RelayOptions::default() };
            StreamRelay::new(StreamKind::Chat, options).tallying(tallies).watching(watch)
        };
        let (mut quick, mut full) = (relay(), relay().reading_all());
        for chunk in stream.as_bytes().chunks(size) {
            prop_assert_eq!(quick.feed(Bytes::copy_from_slice(chunk)), full.feed(Bytes::copy_from_slice(chunk)));
        }
        prop_assert_eq!(quick.generated_bytes(), full.generated_bytes());
        prop_assert_eq!(quick.take_generated(), full.take_generated());
        prop_assert_eq!((quick.usage(), quick.usage_so_far()), (full.usage(), full.usage_so_far()));
        prop_assert_eq!((quick.events(), quick.media_bytes()), (full.events(), full.media_bytes()));
        prop_assert_eq!((quick.state(), quick.error()), (full.state(), full.error()));
        prop_assert_eq!((quick.model(), quick.service_tier()), (full.model(), full.service_tier()));
        prop_assert_eq!(quick.take_watched(), full.take_watched());
        prop_assert_eq!(quick.finish(&StreamEnd::Clean), full.finish(&StreamEnd::Clean));
    }
}

#[test]
fn most_of_a_stream_is_not_read_again() {
    let text = |text: &str| TEXT.replace("Hi", text);
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default()).tallying(true);
    relay.feed(Bytes::from(sse(&[FIRST, TEXT, &text("a")])));
    let learnt = relay.alike.as_mut().unwrap();
    let next = sse(&[&text(" more")]);
    assert!(learnt.matches(next.as_bytes()).is_some() && learnt.matches(sse(&[STOP]).as_bytes()).is_none());
    let raw = Bytes::from(next);
    assert_eq!(relay.feed(raw.clone()).as_ptr(), raw.as_ptr(), "not copied either");
    assert_eq!((relay.take_generated().as_str(), relay.events()), ("Hia more", 4));
}
