//! Numbers streamed tool calls, for vendors that do not number them.
//!
//! SDKs put a streamed answer together by `tool_calls[].index` and run the tools when `finish_reason` says so. Gemini
//! sends complete calls without an index, older Ollamas number all of them 0, and both may end with `stop`. Only index and
//! `finish_reason` change, in place: thought signatures and whatever else a call carries stay as they came.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::openai::members::{Member, walk};

static TOOL_CALLS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"tool_calls\""));
static STOP: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"stop\""));

/// The tool calls of one stream, by the index of their choice.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    choices: HashMap<u64, Calls>,
}

impl ToolCalls {
    /// The payload with its tool calls numbered and their `stop` replaced by `tool_calls`; `None` when nothing has to change or
    /// the payload cannot be read. A payload without calls and `stop` costs one search for each.
    pub(super) fn repair(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let has_calls = TOOL_CALLS.find(payload).is_some();
        if !has_calls && (self.choices.is_empty() || STOP.find(payload).is_none()) {
            return None;
        }
        let text = std::str::from_utf8(payload).ok()?;
        let chunk: Chunk<'_> = serde_json::from_str(text).ok()?;
        let mut edits = Vec::new();
        for (position, choice) in chunk.choices.iter().flatten().enumerate() {
            let index = choice.index.and_then(|raw| raw.get().parse().ok()).unwrap_or(position as u64);
            for call in choice.delta.iter().filter_map(|delta| delta.tool_calls.as_ref()).flatten() {
                let Some(entry) = Entry::read(call.get()) else { continue };
                let number = self.choices.entry(index).or_default().number(&entry);
                edits.extend(entry.numbered(offset(text, call.get()), number));
            }
            if let Some(reason) = choice.finish_reason.map(RawValue::get)
                && reason == "\"stop\""
                && self.choices.contains_key(&index)
            {
                edits.push(Edit { at: offset(text, reason), length: reason.len(), new: "\"tool_calls\"".into() });
            }
        }
        if edits.is_empty() { None } else { Some(apply(text, edits)) }
    }
}

/// The calls of one choice. The gateway's numbers go up by one and are never used twice.
#[derive(Debug, Default)]
struct Calls {
    by_id: HashMap<Box<str>, u64>,
    /// The provider's number → the gateway's, for the newest call that had it.
    by_given: HashMap<u64, u64>,
    last: Option<u64>,
    next: u64,
}

impl Calls {
    /// The number of the call that an entry starts or continues.
    ///
    /// An entry starts a call when its id or its number is new; without either, when it names a function.
    fn number(&mut self, entry: &Entry) -> u64 {
        let known = match (entry.id.as_deref(), entry.given) {
            (Some(_), Some(given)) if !self.by_given.contains_key(&given) => None,
            (Some(id), _) => self.by_id.get(id).copied(),
            (None, Some(given)) => self.by_given.get(&given).copied(),
            (None, None) if entry.names_function => None,
            (None, None) => self.last,
        };
        let number = known.unwrap_or_else(|| entry.given.unwrap_or(self.next).max(self.next));
        self.next = self.next.max(number + 1);
        self.last = Some(number);
        if let Some(given) = entry.given {
            self.by_given.insert(given, number);
        }
        if let Some(id) = &entry.id {
            self.by_id.insert(id.as_str().into(), number);
        }
        number
    }
}

/// What an entry of `tool_calls` says about which call it belongs to.
#[derive(Debug, Default)]
struct Entry {
    /// The entry's own number. A number too large for any provider counts as absent.
    given: Option<u64>,
    /// Offset and length of the value of `index` in the entry, whatever the value is.
    given_at: Option<(usize, usize)>,
    /// The call's id, if it is not empty.
    id: Option<String>,
    names_function: bool,
    is_empty: bool,
}

impl Entry {
    /// `None` for anything but an object.
    fn read(text: &str) -> Option<Self> {
        let mut entry = Self { is_empty: true, ..Self::default() };
        let read = |member: Member<'_>| {
            entry.is_empty = false;
            match member.key().as_ref() {
                "index" => {
                    entry.given = member.value.parse::<u32>().ok().map(u64::from);
                    entry.given_at = Some((member.value_at, member.value.len()));
                }
                "id" => entry.id = serde_json::from_str(member.value).ok().filter(|id: &String| !id.is_empty()),
                "function" => {
                    entry.names_function = serde_json::from_str(member.value).is_ok_and(|function: Function<'_>| {
                        !matches!(function.name.map(RawValue::get), None | Some("\"\""))
                    });
                }
                _ => (),
            }
        };
        walk(text, read).ok()?;
        Some(entry)
    }

    /// The edit that gives this number to the entry, which starts at `at`; `None` when the entry has the number already.
    fn numbered(&self, at: usize, number: u64) -> Option<Edit> {
        match self.given_at {
            _ if self.given == Some(number) => None,
            Some((value_at, length)) => Some(Edit { at: at + value_at, length, new: number.to_string() }),
            None => {
                let comma = if self.is_empty { "" } else { "," };
                Some(Edit { at: at + 1, length: 0, new: format!("\"index\":{number}{comma}") })
            }
        }
    }
}

/// Replaces `length` bytes at `at`.
#[derive(Debug)]
struct Edit {
    at: usize,
    length: usize,
    new: String,
}

fn apply(text: &str, mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_unstable_by_key(|edit| edit.at);
    let mut out = Vec::with_capacity(text.len() + edits.iter().map(|edit| edit.new.len()).sum::<usize>());
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(&text.as_bytes()[at..edit.at]);
        out.extend_from_slice(edit.new.as_bytes());
        at = edit.at + edit.length;
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out
}

/// Where `part` is in the text it was borrowed from.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<CallingChoice<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CallingChoice<'a> {
    #[serde(borrow)]
    index: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    tool_calls: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A chunk of choice 0 with these entries.
    fn calls(entries: &str) -> String {
        format!(r#"{{"id":"c","choices":[{{"delta":{{"tool_calls":[{entries}]}},"finish_reason":null,"index":0}}]}}"#)
    }

    /// Each payload as it leaves.
    fn repaired(payloads: &[String]) -> Vec<String> {
        let mut tools = ToolCalls::default();
        let repair = |payload: &String| match tools.repair(payload.as_bytes()) {
            Some(new) => {
                assert_ne!(new, payload.as_bytes(), "no edit, no copy");
                String::from_utf8(new).unwrap()
            }
            None => payload.clone(),
        };
        payloads.iter().map(repair).collect()
    }

    /// The entries of chunks of choice 0, as they came and as they should leave.
    fn assert_numbered(cases: &[(&str, &str)]) {
        let came: Vec<_> = cases.iter().map(|case| calls(case.0)).collect();
        let expected: Vec<_> = cases.iter().map(|case| calls(case.1)).collect();
        assert_eq!(repaired(&came), expected);
    }

    #[test]
    fn geminis_whole_calls_get_numbers() {
        let a = r#"{"id":"a","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}"#;
        let b = r#"{ "function" : {"arguments":"{\"index\":7}","name":"f"} , "id":"b" }"#;
        let numbered = |entry: &str, n: u8| entry.replacen('{', &format!("{{\"index\":{n},"), 1);
        assert_numbered(&[
            (&format!("{a} , {b}"), &format!("{} , {}", numbered(a, 0), numbered(b, 1))),
            (r#"{"id":"c","function":{"name":"g"}}"#, r#"{"index":2,"id":"c","function":{"name":"g"}}"#),
            // An entry with a known id continues its call.
            (r#"{"id":"a","function":{"arguments":""}}"#, r#"{"index":0,"id":"a","function":{"arguments":""}}"#),
        ]);
    }

    #[test]
    fn without_an_id_a_name_starts_a_call_and_the_rest_goes_on() {
        assert_numbered(&[
            (r#"{"id":"","function":{"name":"f"}}"#, r#"{"index":0,"id":"","function":{"name":"f"}}"#),
            (r#"{"function":{"arguments":"x"}}"#, r#"{"index":0,"function":{"arguments":"x"}}"#),
            (r#"{"id":null,"function":{"name":"f"}}"#, r#"{"index":1,"id":null,"function":{"name":"f"}}"#),
            (r#"{"function":{"name":"","arguments":"x"}}"#, r#"{"index":1,"function":{"name":"","arguments":"x"}}"#),
            (r#"{"function":{"name":null}},{}"#, r#"{"index":1,"function":{"name":null}},{"index":1}"#),
        ]);
        assert_numbered(&[("{ }", "{\"index\":0 }")]);
    }

    #[test]
    fn ollamas_zeros_become_numbers() {
        assert_numbered(&[
            (
                r#"{"id":"a","index":0,"function":{"name":"f"}},{"id":"b","index":0,"function":{"name":"f"}}"#,
                r#"{"id":"a","index":0,"function":{"name":"f"}},{"id":"b","index":1,"function":{"name":"f"}}"#,
            ),
            (r#"{"index": 0 ,"id":"c"}"#, r#"{"index": 2 ,"id":"c"}"#),
            // No id: the newest call that the provider numbered so.
            (r#"{"index":0,"function":{"arguments":"x"}}"#, r#"{"index":2,"function":{"arguments":"x"}}"#),
            (r#"{"index":0,"id":"a"}"#, r#"{"index":0,"id":"a"}"#),
        ]);
        assert_numbered(&[(
            r#"{"index":null,"id":"a"},{"index":"0","id":"b"}"#,
            r#"{"index":0,"id":"a"},{"index":1,"id":"b"}"#,
        )]);
    }

    #[test]
    fn right_numbers_stay() {
        let right = [
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#,
            r#"{"index":0,"function":{"arguments":"{"}}"#,
            r#"{"index":1,"id":"b","function":{"name":"f","arguments":""}},{"index":0,"function":{"arguments":"}"}}"#,
            r#"{"index":1,"id":"b"},{"index":4,"id":"b"},{"index":4,"id":"b"},{"index":1,"function":{}}"#,
        ];
        assert_numbered(&right.map(|entries| (entries, entries)));
    }

    #[test]
    fn stop_behind_calls_is_tool_calls() {
        let stop =
            |choice: u8| format!(r#"{{"choices":[{{"finish_reason" : "stop","index":{choice},"delta":{{}}}}]}}"#);
        let text =
            r#"{"choices":[{"index":0,"delta":{"content":"\"stop\""},"finish_reason":null}],"x":"stop"}"#.to_owned();
        let call = calls(r#"{"index":0,"id":"a"}"#);
        let came = [stop(0), call.clone(), text.clone(), stop(1), stop(0)];
        let tools = stop(0).replace("stop", "tool_calls");
        assert_eq!(repaired(&came), [stop(0), call.clone(), text, stop(1), tools]);
        // In the chunk of the call, whatever comes first; other reasons stay.
        let both =
            r#"{"choices":[{"finish_reason":"stop","delta":{"tool_calls":[{"id":"a"}]}},{"finish_reason":"stop"}]}"#;
        let expected = r#"{"choices":[{"finish_reason":"tool_calls","delta":{"tool_calls":[{"index":0,"id":"a"}]}},{"finish_reason":"stop"}]}"#;
        assert_eq!(repaired(&[both.to_owned()]), [expected]);
        let length = stop(0).replace("stop", "length");
        assert_eq!(repaired(&[call.clone(), length.clone()]), [call, length]);
    }

    #[test]
    fn choices_count_for_themselves() {
        let call = |choice: &str| format!(r#"{{"choices":[{{{choice}"delta":{{"tool_calls":[{{"id":"a"}}]}}}}]}}"#);
        for choice in ["\"index\":0,", "\"index\":1,", "\"index\":2,"] {
            let mut tools = ToolCalls::default();
            tools.repair(calls(r#"{"id":"b"}"#).as_bytes()).unwrap();
            let out = String::from_utf8(tools.repair(call(choice).as_bytes()).unwrap()).unwrap();
            let number = u8::from(choice == "\"index\":0,");
            assert!(out.contains(&format!("{{\"index\":{number},\"id\":\"a\"}}")), "{out}");
        }
    }

    #[test]
    fn what_cannot_be_read_passes() {
        let mut tools = ToolCalls::default();
        for payload in [
            "\"tool_calls\"",
            r#"{"choices":[{"delta":{"tool_calls":"x"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":["x",null,7,[]]},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":null},"finish_reason":"stop"}]}"#,
            r#"{"choices":{"tool_calls":[{}]}}"#,
            r#"{"choices":null,"tool_calls":[{}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{}]"#,
        ] {
            assert_eq!(tools.repair(payload.as_bytes()), None, "{payload}");
        }
        assert_eq!(tools.repair(b"{\"tool_calls\":\"\xff\"}"), None);
        assert!(tools.choices.is_empty());
    }

    /// An entry that says as much or as little as one can.
    fn entry() -> impl Strategy<Value = Value> {
        let index =
            prop::option::of(prop::sample::select(vec![json!(null), json!(0), json!(1), json!(3), json!(u64::MAX)]));
        let id =
            prop::option::of(prop::sample::select(vec![json!(null), json!(""), json!("a"), json!("b"), json!("c")]));
        let name = prop::option::of(prop::sample::select(vec![json!("f"), json!("")]));
        (index, id, name).prop_map(|(index, id, name)| {
            let mut entry = json!({"function": {"arguments": "{}"}});
            for (key, value) in [("index", index), ("id", id)] {
                entry.as_object_mut().unwrap().extend(value.map(|value| (key.to_owned(), value)));
            }
            entry["function"].as_object_mut().unwrap().extend(name.map(|name| ("name".to_owned(), name)));
            entry
        })
    }

    proptest! {
        #[test]
        fn every_entry_gets_a_number_that_no_other_id_has(
            chunks in prop::collection::vec(prop::collection::vec(entry(), 0..4), 0..6),
        ) {
            let came: Vec<_> = chunks
                .iter()
                .map(|entries| json!({"choices": [{"index": 0, "delta": {"tool_calls": entries}, "finish_reason": "stop"}]}).to_string())
                .collect();
            let left = repaired(&came);
            let mut owners: HashMap<u64, Value> = HashMap::new();
            let mut called = false;
            for (text, entries) in left.iter().zip(&chunks) {
                let chunk: Value = serde_json::from_str(text).unwrap();
                let choice = &chunk["choices"][0];
                called |= !entries.is_empty();
                prop_assert_eq!(&choice["finish_reason"], if called { "tool_calls" } else { "stop" });
                for (numbered, entry) in choice["delta"]["tool_calls"].as_array().unwrap().iter().zip(entries) {
                    let number = numbered["index"].as_u64().unwrap();
                    if entry["id"].as_str().is_some_and(|id| !id.is_empty()) {
                        prop_assert_eq!(owners.entry(number).or_insert_with(|| entry["id"].clone()), &entry["id"]);
                    }
                    let without_index = |value: &Value| {
                        let mut value = value.clone();
                        value.as_object_mut().unwrap().remove("index");
                        value
                    };
                    prop_assert_eq!(without_index(numbered), without_index(entry));
                }
            }
            prop_assert_eq!(repaired(&left), left);
        }
    }
}
