//! Labels: the members of a request that say who asks and why, and that do not influence the answer.
//!
//! Providers repeat them in their replies (the Responses API in the reply and in every event that holds it), so a reply
//! that is stored for other callers contains no labels, and each caller gets its own labels back.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::convert::one_line;
use super::members::walk;
use crate::sse::{RawEvent, Scanner, write_data};

/// The labels, and the value of each in the reply to a request without it.
const LABELS: [(&str, &str); 5] = [
    // The provider's dashboard and API list stored replies by `metadata`.
    ("metadata", "{}"),
    // The end user, for the provider's abuse checks; `user` is the older name of `safety_identifier`.
    ("user", "null"),
    ("safety_identifier", "null"),
    // Which requests are likely to share a prefix, and how long the provider caches that prefix.
    ("prompt_cache_key", "null"),
    ("prompt_cache_retention", "null"),
];

/// The labels' names in quotes, and the beginning of an escape that could hide a name.
static MARKS: LazyLock<[Finder<'static>; LABELS.len() + 1]> = LazyLock::new(|| {
    let [a, b, c, d, e] = LABELS.map(|(name, _)| Finder::new(&format!("\"{name}\"")).into_owned());
    [a, b, c, d, e, Finder::new("\\u")]
});

/// The member of a Responses event that holds the reply so far; also the value of that reply's `object`.
const INNER: &str = "response";

static RESPONSE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"response\""));

/// The labels of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels([Option<Box<str>>; LABELS.len()]);

/// Whether a top-level member of a request is a label.
pub fn is_label(name: &str) -> bool {
    position(name).is_some()
}

fn position(name: &str) -> Option<usize> {
    LABELS.iter().position(|label| label.0 == name)
}

/// Whether a text may contain a label: a search that is much cheaper than a walk.
fn may_hold_one(text: &[u8]) -> bool {
    MARKS.iter().any(|mark| mark.find(text).is_some())
}

impl Labels {
    /// The labels of a request body. `null` counts as absent.
    pub fn of(body: &[u8]) -> Self {
        let mut labels = Self::default();
        if may_hold_one(body) {
            // A body that is not a JSON object has no labels.
            let _ = walk(std::str::from_utf8(body).unwrap_or_default(), |member| {
                if let Some(at) = position(&member.key()) {
                    labels.0[at] =
                        Some(member.value).filter(|value| *value != "null").map(|value| one_line(value).into());
                }
            });
        }
        labels
    }

    /// Whether the request has no labels.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The length of all labels together, in bytes of JSON.
    pub fn length(&self) -> usize {
        self.0.iter().flatten().map(|label| label.len()).sum()
    }

    /// Whether a text may contain labels to replace, or a reply to put these labels into.
    fn concern(&self, text: &[u8]) -> bool {
        may_hold_one(text) || !self.is_empty() && RESPONSE.find(text).is_some()
    }

    /// A JSON reply with these labels in place of its own; a label that the request does not have gets its default value. A
    /// Response also gets the labels that it left out.
    ///
    /// `None` for a text that may contain labels but is not a JSON object.
    pub fn put_into(&self, json: &Bytes) -> Option<Bytes> {
        if !self.concern(json) {
            return Some(json.clone());
        }
        Some(match self.edit(std::str::from_utf8(json).ok()?)? {
            Cow::Borrowed(_) => json.clone(),
            Cow::Owned(text) => text.into(),
        })
    }

    /// Like [`Self::put_into`], for whole events of a stream. An event that may contain labels but whose payload is not a JSON
    /// object is left out.
    pub fn put_into_events(&self, events: &Bytes) -> Bytes {
        if !self.concern(events) {
            return events.clone();
        }
        let mut scanner = Scanner::with_max(usize::MAX);
        scanner.push(events.clone());
        let mut out = BytesMut::with_capacity(events.len());
        // Without a bound no event is too large.
        while let Ok(Some(event)) = scanner.next_event() {
            self.write_event(&event, &mut out);
        }
        if let Some(rest) = scanner.finish() {
            self.write_event(&rest, &mut out);
        }
        out.freeze()
    }

    fn write_event(&self, event: &RawEvent, out: &mut BytesMut) {
        let fields = event.fields();
        let Some(data) = &fields.data else { return out.extend_from_slice(&event.raw) };
        // Most events hold neither a label nor a reply to put one into.
        let plain = !self.concern(&event.raw);
        let edited = match plain {
            true => None,
            false => match std::str::from_utf8(data).ok().and_then(|text| self.edit(text)) {
                Some(Cow::Borrowed(_)) => None,
                Some(Cow::Owned(text)) => Some(text),
                None if may_hold_one(&event.raw) => return,
                None => None,
            },
        };
        let Some(text) = edited else { return out.extend_from_slice(&event.raw) };
        match fields.data_at {
            Some(at) => {
                out.extend_from_slice(&event.raw[..at]);
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(&event.raw[at + data.len()..]);
            }
            None => {
                if let Some(name) = fields.event {
                    for part in [b"event: ", name, b"\n"] {
                        out.extend_from_slice(part);
                    }
                }
                write_data(out, text.as_bytes());
            }
        }
    }

    /// The object with these labels, put into the nested reply too if it is an event; `None` for a text that is not an object.
    fn edit<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let mut out = String::new();
        let mut copied = 0;
        let mut there = [false; LABELS.len()];
        let mut is_response = false;
        walk(text, |member| {
            let new = match &*member.key() {
                INNER if member.value.starts_with('{') => match self.edit(member.value) {
                    Some(Cow::Owned(new)) => Cow::Owned(new),
                    _ => return,
                },
                "object" => {
                    is_response |= member.value == "\"response\"";
                    return;
                }
                name => match position(name) {
                    Some(at) => {
                        there[at] = true;
                        Cow::Borrowed(self.0[at].as_deref().unwrap_or(LABELS[at].1))
                    }
                    None => return,
                },
            };
            if new != member.value {
                out.push_str(&text[copied..member.value_at]);
                out.push_str(&new);
                copied = member.value_end();
            }
        })
        .ok()?;
        // A Response always has another member, `object`, so a comma is needed.
        let end = text.rfind('}')?;
        for (((name, _), own), there) in LABELS.iter().zip(&self.0).zip(there) {
            if let Some(value) = own.as_deref().filter(|_| is_response && !there) {
                out.push_str(&text[copied..end]);
                copied = end;
                for part in [",\"", name, "\":", value] {
                    out.push_str(part);
                }
            }
        }
        if copied == 0 {
            return Some(Cow::Borrowed(text));
        }
        out.push_str(&text[copied..]);
        Some(Cow::Owned(out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn put(labels: &str, json: &str) -> String {
        let out = Labels::of(labels.as_bytes()).put_into(&Bytes::copy_from_slice(json.as_bytes())).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn put_events(labels: &str, events: &str) -> String {
        let out = Labels::of(labels.as_bytes()).put_into_events(&Bytes::copy_from_slice(events.as_bytes()));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_request_has_what_it_says_at_its_top() {
        for none in ["{}", r#"{"metadata":null,"user":null}"#, r#"{"a":{"user":"u"}}"#, r#"{"User":"u"}"#, "[", ""] {
            assert!(Labels::of(none.as_bytes()).is_empty(), "{none}");
        }
        for some in
            [r#"{"user":"u"}"#, r#"{"\u0075ser":"u"}"#, "{\"metadata\":\n{}}", r#"{"prompt_cache_retention":"24h"}"#]
        {
            assert!(!Labels::of(some.as_bytes()).is_empty(), "{some}");
        }
    }

    #[test]
    fn a_reply_keeps_no_label_and_gets_the_callers() {
        let reply = r#"{"id":"r","metadata":{"a":"1"},"x":{"user":"inner"},"user": "u","safety_identifier":null}"#;
        let bare = r#"{"id":"r","metadata":{},"x":{"user":"inner"},"user": null,"safety_identifier":null}"#;
        assert_eq!(put("{}", reply), bare);
        let own = "{\"metadata\": {\n \"b\": \"2\"\n}, \"safety_identifier\":\"s\"}";
        let owned = r#"{"id":"r","metadata":{"b":"2"},"x":{"user":"inner"},"user": null,"safety_identifier":"s"}"#;
        assert_eq!(put(own, bare), owned);
        assert_eq!(put(own, reply), owned);
        assert_eq!(put("{}", r#"{"id":"r","\u0075ser":"u"}"#), r#"{"id":"r","\u0075ser":null}"#);
        // A chat completion repeats nothing.
        let chat = r#"{"object":"chat.completion","choices":[{"message":{"content":"\"user\":\"x\""}}]}"#;
        assert_eq!(put(own, chat), chat);
        // A Response gets the request's labels even where the provider leaves out members that are null.
        let response = r#"{"object":"response","id":"r" }"#;
        assert_eq!(
            put(own, response),
            r#"{"object":"response","id":"r" ,"metadata":{"b":"2"},"safety_identifier":"s"}"#
        );
        assert_eq!(put("{}", response), response);
        assert!(Labels::default().put_into(&Bytes::from_static(b"{\"user\":")).is_none());
        assert!(Labels::default().put_into(&Bytes::from_static(b"anything else")).is_some());
    }

    #[test]
    fn the_reply_inside_an_event_too() {
        let events = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"object\":\"response\",\"user\":\"u\",\"output\":[]}}\n\n\
                      : ping\n\nevent: response.output_text.delta\ndata: {\"delta\":\"\\\"user\\\"\"}\n\n\
                      event: x\ndata: {\"response\":\ndata: {\"metadata\":{\"a\":\"1\"}}}\n\ndata: not json \"user\"\n\ndata: [DONE]\n\n";
        let bare = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"object\":\"response\",\"user\":null,\"output\":[]}}\n\n\
                    : ping\n\nevent: response.output_text.delta\ndata: {\"delta\":\"\\\"user\\\"\"}\n\n\
                    event: x\ndata: {\"response\":\ndata: {\"metadata\":{}}}\n\ndata: [DONE]\n\n";
        assert_eq!(put_events("{}", events), bare);
        let owned = bare.replace("\"user\":null", "\"user\":\"me\"");
        assert_eq!(put_events(r#"{"user":"me"}"#, bare), owned);
        // The result is the same when events are edited one by one.
        let halves =
            bare.split_inclusive("\n\n").map(|event| put_events(r#"{"user":"me"}"#, event)).collect::<String>();
        assert_eq!(halves, owned);
    }

    fn labels() -> impl Strategy<Value = Map<String, Value>> {
        let text = || prop_oneof![Just(Value::Null), "[a-z\"\\\\é\n]{1,12}".prop_map(Value::from)];
        let metadata = prop_oneof![
            Just(Value::Null),
            prop::collection::btree_map("[a-z]{1,4}", "[a-z\"{}:,]{0,8}", 0..3).prop_map(|map| json!(map))
        ];
        (metadata, text(), text(), text(), text()).prop_map(|(a, b, c, d, e)| {
            LABELS.iter().zip([a, b, c, d, e]).map(|(label, value)| (label.0.to_owned(), value)).collect()
        })
    }

    proptest! {
        #[test]
        fn one_caller_gets_nothing_of_another(one in labels(), other in labels(), pretty in any::<bool>()) {
            let said = |labels: &Map<String, Value>| {
                let mut reply = Map::from_iter([("object".to_owned(), json!("response")), ("output".to_owned(), json!([{"text": "\"user\":\"x\""}]))]);
                for (name, blank) in LABELS {
                    let value = labels.get(name).filter(|value| !value.is_null()).cloned();
                    reply.insert(name.into(), value.unwrap_or_else(|| serde_json::from_str(blank).unwrap()));
                }
                Value::Object(reply)
            };
            let write = |value: &Value| if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.unwrap();
            let kept = Labels::default().put_into(&write(&said(&one)).into()).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), said(&Map::new()));
            let own = Labels::of(write(&Value::Object(other.clone())).as_bytes());
            let got = own.put_into(&kept).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&got).unwrap(), said(&other));
            // Labels in an event, whose payload is on one line.
            let event = format!("data: {}\n\n", json!({"type": "response.completed", "response": said(&one)}));
            let kept = Labels::default().put_into_events(&event.into());
            let got = own.put_into_events(&kept);
            let got = std::str::from_utf8(&got).unwrap().strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            prop_assert!(!got.contains(['\n', '\r']));
            prop_assert_eq!(&serde_json::from_str::<Value>(got).unwrap()["response"], &said(&other));
        }

        #[test]
        fn anything_else_comes_out_as_it_went_in(text in ".{0,60}") {
            let bytes = Bytes::from(text.clone());
            if let Some(out) = Labels::default().put_into(&bytes) && !may_hold_one(&bytes) {
                prop_assert_eq!(out, bytes);
            }
            // Never a panic, whatever the bytes are.
            let _ = Labels::of(br#"{"user":"u"}"#).put_into_events(&text.into());
        }
    }
}
