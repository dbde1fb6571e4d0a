#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value;

use super::*;
use crate::openai::escape_json_string;

/// Each text on one line: role, kind, and the text itself.
fn shown(texts: &Texts) -> Vec<String> {
    texts.iter().map(|(role, kind, text)| format!("{role:?} {kind:?} {text}")).collect()
}

fn asked(endpoint: &Endpoint, body: &str) -> Vec<String> {
    shown(&Texts::of_request(endpoint, Bytes::copy_from_slice(body.as_bytes())).unwrap())
}

fn replied(body: &str) -> Vec<String> {
    shown(&Texts::of_reply(Bytes::copy_from_slice(body.as_bytes())).unwrap())
}

fn told(events: &str) -> Vec<String> {
    shown(&Texts::of_events(Bytes::copy_from_slice(events.as_bytes())).unwrap())
}

#[test]
fn requests_of_chat_completions() {
    let body = r#"{"model":"m","user":"no","metadata":{"note":"no"},"messages":[
        {"role":"system","content":"a"},{"content":"b\n\u00e9","role":"developer"},
        {"role":"user","name":"Ann","content":[{"type":"text","text":"c"},{"type":"image_url","image_url":{"url":"https://h/x","detail":"low"}},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD"}},{"type":"input_audio","input_audio":{"data":"QUJD","format":"wav"}}]},
        {"role":"assistant","content":null,"refusal":"never","reasoning_content":"hm","tool_calls":[{"id":"no","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},
        {"role":"tool","tool_call_id":"no","content":"r"},{"role":"function","name":"f","content":[{"type":"text","text":"s"}]}],
        "prediction":{"type":"content","content":"p"},"stop":["no"],
        "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}]}"#;
    let expected = [
        "System Prompt a",
        "Developer Prompt b\né",
        "User Other Ann",
        "User Prompt c",
        "User Other https://h/x",
        "Assistant Refusal never",
        "Assistant Reasoning hm",
        "Assistant Other f",
        "Assistant ToolArguments {\"x\":1}",
        "Tool ToolResult r",
        "Tool Other f",
        "Tool ToolResult s",
        "Assistant Prompt p",
        "Other Definition function",
        "Other Definition f",
        "Other Definition d",
        "Other Definition object",
    ];
    assert_eq!(asked(&Endpoint::ChatCompletions, body), expected);
}

#[test]
fn requests_of_the_other_endpoints_of_openai() {
    let legacy = r#"{"prompt":["a","b",[1,2]],"suffix":"c"}"#;
    assert_eq!(asked(&Endpoint::Completions, legacy), ["User Prompt a", "User Prompt b", "User Prompt c"]);
    for endpoint in [Endpoint::Embeddings, Endpoint::Moderations] {
        assert_eq!(asked(&endpoint, r#"{"input":"a"}"#), ["User Input a"]);
        let parts = r#"{"input":["a",[1],{"type":"text","text":"b"}]}"#;
        assert_eq!(asked(&endpoint, parts), ["User Input a", "User Input b"]);
    }
    let responses = r#"{"model":"m","instructions":"i","input":[
        {"role":"user","content":"a"},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"b"}]},
        {"type":"function_call","call_id":"no","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"no","output":"r"},
        {"type":"custom_tool_call_output","output":[{"type":"input_text","text":"s"}]},
        {"type":"reasoning","summary":[{"type":"summary_text","text":"why"}],"content":[{"type":"reasoning_text","text":"so"}],"encrypted_content":"no"},
        {"type":"local_shell_call","action":{"type":"exec","command":["ls","-l"]}},
        {"type":"item_reference","id":"no"},{"type":"brand_new","payload":{"words":"new"}}],
        "prompt":{"id":"no","variables":{"city":"Rome"}},"text":{"format":{"name":"n"}},"reasoning":{"effort":"no"}}"#;
    let expected = [
        "System Prompt i",
        "User Prompt a",
        "Assistant Prompt b",
        "User Other f",
        "Assistant ToolArguments {}",
        "Tool ToolResult r",
        "Tool ToolResult s",
        "User Reasoning why",
        "User Reasoning so",
        "Assistant ToolArguments exec",
        "Assistant ToolArguments ls",
        "Assistant ToolArguments -l",
        "User Other new",
        "User Prompt Rome",
        "Other Definition n",
    ];
    assert_eq!(asked(&Endpoint::Responses, responses), expected);
    assert_eq!(asked(&Endpoint::Responses, r#"{"input":"a"}"#), ["User Prompt a"]);
}

#[test]
fn requests_of_anthropics_messages() {
    let body = r#"{"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":[
        {"role":"user","content":"a"},
        {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"no"},{"type":"tool_use","id":"no","name":"f","input":{"role":"user","list":["x",{"deep":"y"}]}}]},
        {"role":"user","content":[{"content":[{"type":"text","text":"r"}],"type":"tool_result","tool_use_id":"no"},{"type":"text","text":"b"},
            {"type":"document","title":"t","source":{"data":"plain","media_type":"text/plain","type":"text"}},
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}]}]}"#;
    let expected = [
        "System Prompt s",
        "User Prompt a",
        "Assistant Reasoning hm",
        "Assistant Other f",
        "Assistant ToolArguments user",
        "Assistant ToolArguments x",
        "Assistant ToolArguments y",
        "Tool ToolResult r",
        "User Prompt b",
        "User Other t",
        "User Prompt plain",
    ];
    assert_eq!(asked(&Endpoint::Messages, body), expected);
    assert_eq!(asked(&Endpoint::CountTokens, body), expected);
    assert_eq!(asked(&Endpoint::Messages, r#"{"system":"s"}"#), ["System Prompt s"]);
}

#[test]
fn replies() {
    let chat = r#"{"id":"no","model":"no","choices":[{"message":{"role":"assistant","content":"a","refusal":"b","reasoning":"c","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},
        "logprobs":{"content":[{"token":"no"}]},"finish_reason":"no"},{"text":"d","finish_reason":"no"}]}"#;
    let expected = [
        "Assistant Reply a",
        "Assistant Refusal b",
        "Assistant Reasoning c",
        "Assistant Other f",
        "Assistant ToolArguments {}",
        "Assistant Reply d",
    ];
    assert_eq!(replied(chat), expected);
    let responses = r#"{"id":"no","instructions":"no","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"a"}]},
        {"type":"message","role":"assistant","content":[{"type":"output_text","text":"b","logprobs":[{"token":"no"}]},{"type":"refusal","refusal":"c"}]},
        {"type":"custom_tool_call","name":"f","input":"d"}],"text":{"format":{"type":"no"}}}"#;
    let expected = [
        "Assistant Reasoning a",
        "Assistant Reply b",
        "Assistant Refusal c",
        "Assistant Other f",
        "Assistant ToolArguments d",
    ];
    assert_eq!(replied(responses), expected);
    let messages = r#"{"type":"message","role":"assistant","content":[{"type":"thinking","thinking":"a"},{"type":"text","text":"b"},
        {"type":"tool_use","name":"f","input":{"x":"c"}}],"stop_reason":"no"}"#;
    let expected = ["Assistant Reasoning a", "Assistant Reply b", "Assistant Other f", "Assistant ToolArguments c"];
    assert_eq!(replied(messages), expected);
    for none in [r#"{"error":{"message":"no"}}"#, r#"{"data":[{"embedding":[0.5]}],"object":"no"}"#, "{}"] {
        assert_eq!(replied(none), [""; 0]);
    }
}

#[test]
fn events_of_all_dialects() {
    let chat = "data: {\"id\":\"no\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"a\"}}]}\n\n: no\n\ndata: {\"choices\":[{\"delta\":{\"reasoning_content\":\"b\",\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"c\"}}]}},{\"text\":\"d\"}]}\r\n\r\ndata: [DONE]\n\n";
    let expected = ["Assistant Reply a", "Assistant Reasoning b", "Assistant ToolArguments c", "Assistant Reply d"];
    assert_eq!(told(chat), expected);
    for (event, expected) in [
        (r#"{"type":"response.output_text.delta","item_id":"no","delta":"a","logprobs":[]}"#, "Assistant Reply a"),
        (r#"{"delta":"a","type":"response.reasoning_summary_text.delta"}"#, "Assistant Reasoning a"),
        (r#"{"type":"response.refusal.delta","delta":"a"}"#, "Assistant Refusal a"),
        (r#"{"type":"response.function_call_arguments.delta","delta":"a"}"#, "Assistant ToolArguments a"),
        (r#"{"type":"response.custom_tool_call_input.done","input":"a"}"#, "Assistant ToolArguments a"),
        (r#"{"type":"response.audio.transcript.delta","delta":"a"}"#, "Assistant Reply a"),
        (r#"{"type":"response.output_text.done","text":"a"}"#, "Assistant Reply a"),
        (r#"{"type":"response.content_part.done","part":{"type":"output_text","text":"a"}}"#, "Assistant Reply a"),
        (
            r#"{"type":"response.completed","response":{"id":"no","output":[{"content":[{"text":"a"}]}]}}"#,
            "Assistant Reply a",
        ),
        (r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#, "Assistant Reply a"),
        (r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"a"}}"#, "Assistant Reasoning a"),
        (
            r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"a"}}"#,
            "Assistant ToolArguments a",
        ),
        (r#"{"type":"content_block_start","content_block":{"type":"text","text":"a"}}"#, "Assistant Reply a"),
    ] {
        assert_eq!(told(&format!("event: x\ndata: {event}\n\n")), [expected], "{event}");
    }
    for none in [
        r#"{"type":"response.audio.delta","delta":"QUJD"}"#,
        r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"no"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"no"},"usage":{}}"#,
        r#"{"type":"error","error":{"message":"no"}}"#,
    ] {
        assert_eq!(told(&format!("data: {none}\n\n")), [""; 0], "{none}");
    }
}

#[test]
fn a_payload_over_several_lines_has_its_ranges_too() {
    let events = ": x\n\ndata: {\"choices\":\ndata:[{\"text\":\"a\"},\nid: 1\ndata: \ndata: {\"text\":\"b\\n\"}]}\n\ndata: {\"choices\":[{\"text\":\"c\"}]}";
    let texts = Texts::of_events(Bytes::from_static(events.as_bytes())).unwrap();
    let raw: Vec<_> = texts.list().iter().map(|text| &events[text.range()]).collect();
    assert_eq!(raw, ["a", "b\\n", "c"]);
    assert_eq!(shown(&texts), ["Assistant Reply a", "Assistant Reply b\n", "Assistant Reply c"]);
}

#[test]
fn nothing_hides_behind_a_repeated_or_escaped_key() {
    let body = r#"{"messages":[{"role":"user","content":"a","content":"b","c\u006fntent":"c","role":"system"}],"\u006dessages":[{"content":"d"}]}"#;
    let expected = ["System Prompt a", "System Prompt b", "System Prompt c", "Other Prompt d"];
    assert_eq!(asked(&Endpoint::ChatCompletions, body), expected);
    // A key with a lone surrogate, and the key of an image.
    let odd =
        r#"{"messages":[{"\ud800":"a","content":"data:image/png;base64,b","image_url":"data:image/png;base64,no"}]}"#;
    let expected = ["Other Other a", "Other Prompt data:image/png;base64,b"];
    assert_eq!(asked(&Endpoint::ChatCompletions, odd), expected);
    assert_eq!(
        asked(&Endpoint::ChatCompletions, r#"{"messages":[{"content":"\ud800x"}]}"#),
        ["Other Prompt \u{fffd}\u{fffd}\u{fffd}x"]
    );
}

#[test]
fn what_cannot_be_read_is_an_error() {
    for body in ["", "[]", "7", "\"a\"", "{", "{\"a\":1}x", "{\"messages\":[}"] {
        let bytes = || Bytes::copy_from_slice(body.as_bytes());
        assert_eq!(Texts::of_request(&Endpoint::ChatCompletions, bytes()), Err(Unreadable::NotJson), "{body}");
        assert_eq!(Texts::of_reply(bytes()), Err(Unreadable::NotJson), "{body}");
        if !body.is_empty() {
            assert!(Texts::of_events(format!("data: {body}\n\n").into()).is_err(), "{body}");
        }
    }
    assert_eq!(Texts::of_reply(Bytes::from_static(b"{\"content\":\"\xff\"}")), Err(Unreadable::NotJson));
    let deep = |key: &str, levels: usize| {
        let body = format!(r#"{{"{key}":{}"x"{}}}"#, "[".repeat(levels), "]".repeat(levels));
        Texts::of_request(&Endpoint::ChatCompletions, body.into()).map(|texts| texts.list().len())
    };
    assert_eq!(deep("messages", DEEPEST - 2), Ok(1));
    assert_eq!(deep("messages", 1_000_000), Err(Unreadable::TooDeep));
    assert_eq!(deep("elsewhere", 1_000_000), Ok(0));
}

/// Any JSON, including the names and words of the table.
fn anything() -> impl Strategy<Value = Value> {
    let names = || {
        select(vec![
            "messages",
            "system",
            "prompt",
            "input",
            "tools",
            "choices",
            "output",
            "content",
            "delta",
            "message",
            "text",
            "role",
            "type",
            "data",
            "arguments",
            "tool_calls",
            "function",
            "summary",
            "image_url",
            "response",
            "item",
            "id",
            "x",
            "source",
            "refusal",
            "logprobs",
            "é\"\\",
        ])
    };
    let words = select(vec![
        "",
        "user",
        "tool",
        "text",
        "tool_result",
        "reasoning",
        "response.audio.delta",
        "data:x;base64,y",
        "é\n\"\\",
        "z",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        words.prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((names(), inner), 0..5)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    anything().prop_map(|value| if value.is_object() { value } else { serde_json::json!({"messages": value}) })
}

/// Every string in a document, in order, keys left out.
fn strings(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| strings(value, all)),
        Value::Object(members) => members.values().for_each(|value| strings(value, all)),
        _ => {}
    }
}

/// Checks that the ranges are in order and are contents of strings in the body, and that replacing each of them changes nothing
/// else in the document.
fn check(texts: &Texts) -> Result<(), TestCaseError> {
    let body = texts.body().clone();
    let mut behind = 0;
    for text in texts.list() {
        let range = text.range();
        prop_assert!(range.start > behind && range.start < range.end && range.end < body.len());
        prop_assert!(body[range.start - 1] == b'"' && body[range.end] == b'"');
        behind = range.end;
        let quoted: String = serde_json::from_slice(&body[range.start - 1..=range.end]).unwrap();
        prop_assert_eq!(texts.decoded(text), quoted);
    }
    Ok(())
}

/// The body with another text in place of each text.
fn spliced(texts: &Texts, new: &str) -> String {
    let escaped = escape_json_string(new);
    let (mut out, mut at) = (String::new(), 0);
    for text in texts.list() {
        let range = text.range();
        out.push_str(std::str::from_utf8(&texts.body()[at..range.start]).unwrap());
        out.push_str(&escaped[1..escaped.len() - 1]);
        at = range.end;
    }
    out + std::str::from_utf8(&texts.body()[at..]).unwrap()
}

fn count(value: &Value, wanted: &str) -> usize {
    let mut all = Vec::new();
    strings(value, &mut all);
    all.iter().filter(|text| *text == wanted).count()
}

proptest! {
    #[test]
    fn texts_are_strings_of_the_document_and_can_be_replaced(value in object(), pretty in any::<bool>(), new in ".{1,8}") {
        let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let new = format!("new {new}");
        for texts in [
            Texts::of_request(&Endpoint::Responses, Bytes::from(body.clone())).unwrap(),
            Texts::of_reply(Bytes::from(body.clone())).unwrap(),
        ] {
            check(&texts)?;
            let changed: Value = serde_json::from_str(&spliced(&texts, &new)).unwrap();
            prop_assert_eq!(count(&changed, &new), texts.list().len());
        }
        // A `data` line for each line of the payload.
        let events: String = body.lines().map(|line| format!("data: {line}\n")).collect::<String>() + "\n";
        let texts = Texts::of_events(events.clone().repeat(2).into()).unwrap();
        check(&texts)?;
        let piece = spliced(&texts, &new);
        let mut scanner = Scanner::new();
        scanner.push(piece.into());
        let mut found = 0;
        while let Some(event) = scanner.next_event().unwrap() {
            found += count(&serde_json::from_slice(&event.data().unwrap()).unwrap(), &new);
        }
        prop_assert_eq!(found, texts.list().len());
    }

    #[test]
    fn no_string_of_a_message_is_left_out_but_what_the_table_skips(text in "[a-z]{1,8}", key in "z[a-z]{0,7}") {
        let body = serde_json::json!({"messages": [{(key.clone()): [{"content": text.clone()}, {(key): {"y": text.clone()}}]}]}).to_string();
        let listed = Texts::of_request(&Endpoint::ChatCompletions, body.into()).unwrap();
        prop_assert!(listed.iter().filter(|(_, _, shown)| *shown == text).count() == 2);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..64), junk in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,40}") {
        for body in [Bytes::from(bytes), Bytes::from(junk.clone()), format!("{{\"messages\":{junk}}}").into(), format!("data: {junk}\n\n").into()] {
            for texts in [
                Texts::of_request(&Endpoint::ChatCompletions, body.clone()),
                Texts::of_reply(body.clone()),
                Texts::of_events(body.clone()),
            ].into_iter().flatten() {
                check(&texts)?;
            }
        }
    }
}
