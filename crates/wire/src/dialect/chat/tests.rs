//! The second step of a translation writes the same whether it gets typed events or the text of Chat's chunks, and what
//! compatible providers send is read in the same way for every client dialect.

use bytes::BytesMut;
use serde_json::{Value, json};

use super::{CallPiece, ChatEvent, ChatOut, ChatReader, ChatWriter, ChunkReader, Piece};
use crate::dialect::{Events, Model, Replies, from_messages, from_responses, to_anthropic, to_ollama};
use crate::sse::Scanner;
use crate::types::PromptCaching;

const MODEL: Model<'static> = Model {
    name: "claude-sonnet-4-5",
    max_output_tokens: Some(64_000),
    default_max_tokens: None,
    context: None,
    prompt_caching: PromptCaching::Auto,
};

fn hi() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

fn provider_step(name: &str) -> Box<dyn Replies> {
    let chat = json!({"messages": hi(), "stream": true});
    let step =
        if name == "anthropic" { to_anthropic::request(&chat, &MODEL) } else { to_ollama::request(&chat, &MODEL) };
    step.expect("a plain request").replies
}

fn door_step(name: &str) -> Box<dyn Replies> {
    let tools = json!([{"type": "custom", "name": "c"}, {"type": "function", "name": "f", "parameters": {}}]);
    let include = json!(["reasoning.encrypted_content", "message.output_text.logprobs"]);
    let step = match name {
        "messages" => from_messages::request(&json!({"max_tokens": 100, "messages": hi(), "stream": true}), &MODEL),
        _ => {
            let body = json!({"input": "Hi", "stream": true, "tools": tools, "include": include});
            from_responses::request(&body, &MODEL, from_responses::Memory::default())
        }
    };
    step.expect("a plain request").replies
}

/// The client's stream for a provider's events.
fn translated(mut events: Events, all: &[Value]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for event in all {
        let data = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
        events.event(event["type"].as_str().map(str::as_bytes), data.as_bytes(), &mut out);
    }
    events.finish(&mut out);
    out.to_vec()
}

/// The client's stream for a provider's events, translated through the text of Chat's chunks.
fn by_text(provider: &dyn Replies, door: &dyn Replies, all: &[Value]) -> Vec<u8> {
    let (mut scanner, mut events, mut out) = (Scanner::new(), Events::of(door), BytesMut::new());
    scanner.push(translated(Events::of(provider), all).into());
    while let Some(event) = scanner.next_event().expect("small events") {
        let fields = event.fields();
        if let Some(data) = fields.data.as_deref() {
            events.event(fields.event, data, &mut out);
        }
    }
    events.finish(&mut out);
    out.to_vec()
}

/// The stream without times, and without ids of 32 hexadecimal digits, which are random.
fn settled(stream: &[u8]) -> String {
    let stream = std::str::from_utf8(stream).expect("text");
    let mut out = String::with_capacity(stream.len());
    for word in stream.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let run = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        match run.len() {
            32 => out.push_str("ID"),
            10 if run.starts_with('1') => out.push_str("TIME"),
            _ => out.push_str(run),
        }
        out.push_str(&word[run.len()..]);
    }
    out
}

#[test]
fn typed_events_say_what_their_text_says() {
    let anthropic = include_str!("../to_anthropic/golden/streams.json");
    let ollama = include_str!("../to_ollama/golden/streams.json");
    let mut compared = 0;
    for (name, golden) in [("anthropic", anthropic), ("ollama", ollama)] {
        let cases: Vec<Value> = serde_json::from_str(golden).expect("cases");
        for case in &cases {
            let all = case["in"].as_array().expect("events");
            for door in ["messages", "responses"] {
                // Also a stream that is cut off behind any of its events.
                for end in 0..=all.len() {
                    let steps = [provider_step(name), door_step(door)];
                    let typed = translated(Events::new(&steps), &all[..end]);
                    let text = by_text(&*steps[0], &*steps[1], &all[..end]);
                    assert_eq!(settled(&typed), settled(&text), "{name} to {door}: {}, {end} events", case["name"]);
                    compared += usize::from(!typed.is_empty());
                }
            }
        }
    }
    assert!(compared > 400, "{compared}");
}

/// Keeps one word for each event that it gets.
#[derive(Default)]
struct Told(Vec<String>);

impl ChatWriter for Told {
    fn event(&mut self, event: ChatEvent<'_>, _: &mut BytesMut) {
        let call = |call: &CallPiece<'_>| {
            format!("{:?} {} {} {}", call.index, call.id, call.name.unwrap_or("-"), call.arguments)
        };
        self.0.push(match event {
            ChatEvent::Head(_) | ChatEvent::Begin => return,
            ChatEvent::Delta { piece, .. } => match piece {
                Piece::Nothing => "nothing".to_owned(),
                Piece::Text(text) => format!("text {text}"),
                Piece::Reasoning(text) => format!("thinks {text}"),
                Piece::Refusal(text) => format!("refuses {text}"),
                Piece::Thoughts { blocks, .. } => format!("thoughts {}", blocks.blocks().len()),
                Piece::Annotations(all) => format!("annotations {}", all.values().len()),
                Piece::Calls(calls) => calls.iter().map(call).collect(),
                Piece::Function(function) => format!("function {}", call(&function)),
            },
            ChatEvent::Finish(word) => format!("finish {word}"),
            ChatEvent::Usage(counted) => format!("usage {}", counted.usage.completion_tokens),
            ChatEvent::Error(error) => format!("error {}", error.message),
            ChatEvent::Ping => "ping".to_owned(),
            ChatEvent::End => "end".to_owned(),
        });
    }
}

#[test]
fn what_compatible_providers_send_is_read_for_all_clients_alike() {
    const CUT: &str = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
    let cases: [(&str, &[&str], &[&str]); 18] = [
        ("a whole stream", &[CUT, "[DONE]"], &["text a", "finish stop", "end"]),
        ("no mark of the end", &[CUT], &["text a", "finish stop", "end"]),
        ("cut off", &[r#"{"choices":[{"delta":{"content":"a"}}]}"#], &["text a"]),
        (
            "counts behind the finish are the last chunk",
            &[CUT, r#"{"choices":[],"usage":{"completion_tokens":3}}"#, r#"{"choices":[{"delta":{"content":"b"}}]}"#],
            &["text a", "finish stop", "usage 3", "end"],
        ),
        ("[DONE] in front of everything", &["[DONE]", CUT], &["text a", "finish stop", "end"]),
        ("nothing follows the end", &[CUT, "[DONE]", CUT], &["text a", "finish stop", "end"]),
        (
            "an index of an odd type is the first answer's",
            &[r#"{"choices":[{"index":"x","delta":{"content":"a"}}]}"#],
            &["text a"],
        ),
        (
            "another answer",
            &[r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"delta":{"content":"a"}}]}"#],
            &["text a"],
        ),
        ("choices that are no list", &[r#"{"choices":{"0":1},"usage":{"completion_tokens":1}}"#], &["usage 1"]),
        ("a content of an odd type", &[r#"{"choices":[{"delta":{"content":7,"refusal":"no"}}]}"#], &["refuses no"]),
        (
            "a list of parts",
            &[
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"text":"h"}]},{"text":"a"},3,{"refusal":"n"}]}}]}"#,
            ],
            &["thinks h", "text a", "refuses n"],
        ),
        (
            "thinking under both names is said once",
            &[r#"{"choices":[{"delta":{"reasoning":"h","reasoning_content":"h"}}]}"#],
            &["thinks h"],
        ),
        (
            "a function call that repeats a tool call",
            &[
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}],"function_call":{"name":"f","arguments":"{}"}}}]}"#,
            ],
            &["Some(0) c f {}"],
        ),
        (
            "arguments as an object",
            &[r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":{"a":1}}}}]}"#],
            &[r#"function None  f {"a":1}"#],
        ),
        ("half a character", &[r#"{"choices":[{"delta":{"content":"a\ud83d","tool_calls":[]}}]}"#], &["text a"]),
        ("Gemini's error", &[r#"[{"error":{"code":503,"message":"busy"}}]"#, CUT], &["error busy"]),
        (
            "OpenRouter's",
            &[r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"error"}]}"#, CUT],
            &["text a", "finish error", "error The provider ended the stream with an error."],
        ),
        ("no JSON at all", &["<html>", CUT], &["text a", "finish stop", "end"]),
    ];
    for (name, events, expected) in cases {
        let (mut reader, mut told, mut text) = (ChunkReader::default(), Told::default(), BytesMut::new());
        let mut out = ChatOut { writer: &mut told, text: &mut text };
        for event in events {
            reader.event(None, event.as_bytes(), &mut out);
        }
        reader.finish(&mut out);
        assert_eq!(told.0, expected, "{name}");
    }
}
