//! Golden cases in `golden/`, and properties that hold for any input.

mod golden;
mod properties;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::reply::ChatReplies;
use super::*;
use crate::dialect::{Disposition, Events, Model, Replies};
use crate::sse::{RawEvent, Scanner};
use crate::types::PromptCaching;

/// The model of replies that do not name one.
const ASKED: &str = "asked";

fn replies(case: &Value) -> ChatReplies {
    ChatReplies { model: ASKED.into(), omit_thinking: case["omit_thinking"] == true }
}

/// The name and payload of each event of a stream that arrives in these chunks.
fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let (mut scanner, mut all) = (Scanner::new(), Vec::new());
    for chunk in chunks {
        scanner.push(Bytes::copy_from_slice(chunk));
        while let Some(event) = scanner.next_event().unwrap() {
            all.push(event);
        }
    }
    all.extend(scanner.finish());
    let fields = all.iter().map(RawEvent::fields);
    fields.filter_map(|fields| Some((fields.event.map(<[u8]>::to_vec), fields.data?.into_owned()))).collect()
}

/// The translation of a chat stream.
fn translate(replies: &ChatReplies, stream: &[u8]) -> Bytes {
    let (mut events, mut out) = (Events::of(replies), BytesMut::new());
    for (name, data) in scan([stream]) {
        events.event(name.as_deref(), &data, &mut out);
    }
    events.finish(&mut out);
    out.freeze()
}

/// The payloads of a Messages stream, each with an event name that equals its own type.
fn payloads(stream: &[u8]) -> Vec<Value> {
    assert!(stream.is_empty() || stream.ends_with(b"\n\n"), "the last event lacks its end");
    let events = scan([stream]).into_iter().map(|(name, data)| {
        let payload: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(payload["type"].as_str().map(str::as_bytes), name.as_deref());
        payload
    });
    events.collect()
}

/// Checks `message_start (content_block_start content_block_delta* content_block_stop)* message_delta message_stop`,
/// or a beginning of it, possibly followed by an error. True for the complete grammar.
fn check_grammar(events: &[Value]) -> bool {
    let (mut next, mut open, mut phase) = (0, false, "before");
    for event in events {
        let index = event["index"].as_u64();
        phase = match (phase, event["type"].as_str().unwrap()) {
            ("before", "message_start") => "message",
            ("message", "content_block_start") if !open && index == Some(next) => {
                open = true;
                phase
            }
            ("message", "content_block_delta") if open && index == Some(next) => phase,
            ("message", "content_block_stop") if open && index == Some(next) => {
                open = false;
                next += 1;
                phase
            }
            ("message", "message_delta") if !open => "ending",
            ("ending", "message_stop") => "whole",
            ("before" | "message", "error") => "failed",
            (phase, kind) => panic!("{kind} while {phase}: {events:?}"),
        };
    }
    phase == "whole"
}

#[test]
fn the_table_names_each_parameter_once() {
    for (n, rule) in TABLE.iter().enumerate() {
        assert!(TABLE[..n].iter().all(|other| other.param != rule.param), "{}", rule.param);
        assert!(rule.note.ends_with('.') && !rule.note.contains('\n'), "{}", rule.param);
        assert!(rule.disposition != Disposition::Translated || rule.neutral.is_empty(), "{}", rule.param);
    }
}

#[test]
fn only_what_came_to_its_own_end_is_good() {
    let good = |json: &str| is_good(json.as_bytes());
    for reason in ["end_turn", "max_tokens", "stop_sequence", "tool_use"] {
        assert!(good(&format!(r#"{{"type":"message","content":[],"stop_reason":"{reason}"}}"#)), "{reason}");
    }
    for bad in [
        r#"{"type":"message","content":[],"stop_reason":"refusal"}"#,
        r#"{"type":"message","content":[],"stop_reason":"pause_turn"}"#,
        r#"{"type":"message","content":[],"stop_reason":null}"#,
        r#"{"type":"message","content":[]}"#,
        r#"{"type":"message","content":"x","stop_reason":"end_turn"}"#,
        r#"{"type":"message","content":[],"stop_reason":"end_turn","error":{}}"#,
        r#"{"type":"error","error":{"type":"api_error","message":"m"}}"#,
        r#"{"type":"message","content":[],"stop_reason":"end_turn""#,
        "[]",
    ] {
        assert!(!good(bad), "{bad}");
        assert_eq!(to_events(bad.as_bytes()).is_some(), bad.contains("refusal") || bad.contains("pause"), "{bad}");
    }
}
