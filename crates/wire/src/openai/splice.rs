//! Changes named members of a request body in its raw bytes; every other byte stays as the client sent it.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::members::walk;
use super::peek::{Field, Peek, Place};

/// One change of the top-level object. Values are raw JSON and must be valid; use [`escape_json_string`] for text.
///
/// Of several edits that touch the same member, the last one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Gives the field this value, adding it when it is absent.
    Set(Field, String),
    /// Removes the field when it is there.
    Remove(Field),
    /// Gives the field another key and keeps its value; a member that had that key before is removed.
    Rename(Field, &'static str),
    /// Gives any other key this value, adding it when it is absent. Costs a second pass over the body.
    Insert(&'static str, String),
    /// Removes every member with this key. Costs a second pass over the body.
    RemoveKey(&'static str),
}

/// Applies `edits` to the `body` that `peek` was parsed from.
///
/// When no edit changes anything, the result is the same buffer, not a copy. New members go to the front of the
/// object, in the order of the edits.
pub fn splice(body: &Bytes, peek: &Peek, edits: &[Edit]) -> Bytes {
    if edits.is_empty() {
        return body.clone();
    }
    let mut plan = Plan { members: peek.members as usize, ..Plan::default() };
    // Renames and arbitrary keys may concern members that the peek did not record.
    if edits.iter().all(|edit| matches!(edit, Edit::Set(..) | Edit::Remove(_))) {
        for field in Field::ALL {
            if let Some(place) = peek.place(field) {
                plan.targets.push(Target { key: field.name(), place, action: Action::Keep });
            }
        }
    } else {
        plan.find(body, edits);
    }
    for edit in edits {
        plan.apply(edit);
    }
    plan.write(body)
}

/// The edit that makes `stream_options.include_usage` true and keeps the object's other members byte for byte.
/// `None` when it is true already.
pub fn include_usage_edit(body: &Bytes, peek: &Peek) -> Option<Edit> {
    const KEY: &str = "include_usage";
    if peek.include_usage {
        return None;
    }
    let options = peek.place(Field::StreamOptions).map(|place| body.slice(range(place.value_at, place.value_end)));
    let raw = match options {
        Some(options) if options.first() == Some(&b'{') => {
            let edit = Edit::Insert(KEY, "true".into());
            let mut plan = Plan::default();
            plan.find(&options, std::slice::from_ref(&edit));
            plan.apply(&edit);
            String::from_utf8_lossy(&plan.write(&options)).into_owned()
        }
        _ => format!("{{\"{KEY}\":true}}"),
    };
    Some(Edit::Set(Field::StreamOptions, raw))
}

/// `text` as a JSON string, quotes included.
pub fn escape_json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// What to do with one member.
#[derive(Clone, Debug, PartialEq)]
enum Action<'e> {
    Keep,
    Remove,
    Value(&'e str),
    Key(&'static str),
}

#[derive(Debug)]
struct Target<'e> {
    key: &'static str,
    place: Place,
    action: Action<'e>,
}

/// The members that an edit may change, and the new members.
#[derive(Debug, Default)]
struct Plan<'e> {
    members: usize,
    targets: Vec<Target<'e>>,
    added: Vec<(&'static str, &'e str)>,
}

impl<'e> Plan<'e> {
    /// Finds every member that one of the edits names.
    fn find(&mut self, object: &[u8], edits: &[Edit]) {
        let names: Vec<&'static str> = edits
            .iter()
            .flat_map(|edit| match edit {
                Edit::Set(field, _) | Edit::Remove(field) => [field.name(), field.name()],
                Edit::Rename(field, key) => [field.name(), key],
                Edit::Insert(key, _) | Edit::RemoveKey(key) => [*key, *key],
            })
            .collect();
        self.members = 0;
        let targets = &mut self.targets;
        let members = &mut self.members;
        // The peek has validated the text, so neither step can fail.
        let _ = walk(std::str::from_utf8(object).unwrap_or_default(), |member| {
            *members += 1;
            let key = member.key();
            if let Some(&key) = names.iter().find(|name| **name == key)
                && let Some(place) = Place::of(&member)
            {
                targets.push(Target { key, place, action: Action::Keep });
            }
        });
    }

    fn apply(&mut self, edit: &'e Edit) {
        match edit {
            Edit::Set(field, raw) => self.set(field.name(), raw),
            Edit::Insert(key, raw) => self.set(key, raw),
            Edit::Remove(field) => self.remove(field.name()),
            Edit::RemoveKey(key) => self.remove(key),
            Edit::Rename(field, key) => {
                if *key == field.name() || !self.targets.iter().any(|target| target.key == field.name()) {
                    return;
                }
                self.remove(key);
                self.act(field.name(), &Action::Key(key));
            }
        }
    }

    fn set(&mut self, key: &'static str, raw: &'e str) {
        self.added.retain(|(added, _)| *added != key);
        if !self.act(key, &Action::Value(raw)) {
            self.added.push((key, raw));
        }
    }

    fn remove(&mut self, key: &'static str) {
        self.added.retain(|(added, _)| *added != key);
        self.act(key, &Action::Remove);
    }

    /// Applies an action to every member with this key; returns whether there is one.
    fn act(&mut self, key: &str, action: &Action<'e>) -> bool {
        let mut found = false;
        for target in self.targets.iter_mut().filter(|target| target.key == key) {
            target.action = action.clone();
            found = true;
        }
        found
    }

    fn write(mut self, object: &Bytes) -> Bytes {
        self.targets.retain(|target| target.action != Action::Keep);
        if self.targets.is_empty() && self.added.is_empty() {
            return object.clone();
        }
        self.targets.sort_unstable_by_key(|target| target.place.key_at);
        let removed = self.targets.iter().filter(|target| target.action == Action::Remove).count();
        let cuts = self.cuts(object);

        let extra: usize = self.added.iter().map(|(key, raw)| key.len() + raw.len() + 4).sum::<usize>()
            + self.targets.iter().map(|target| target.action.len() + 2).sum::<usize>();
        let mut out = BytesMut::with_capacity(object.len() + extra);
        // Behind the opening brace: white space before it stays where it is.
        let mut at = skip_space(object, 0) + 1;
        out.extend_from_slice(&object[..at]);
        for (index, (key, raw)) in self.added.iter().enumerate() {
            out.extend_from_slice(b"\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(raw.as_bytes());
            if index + 1 < self.added.len() || self.members > removed {
                out.extend_from_slice(b",");
            }
        }
        for (target, cut) in self.targets.iter().zip(cuts) {
            out.extend_from_slice(&object[at..cut.0]);
            match target.action {
                Action::Value(raw) => out.extend_from_slice(raw.as_bytes()),
                Action::Key(key) => {
                    out.extend_from_slice(b"\"");
                    out.extend_from_slice(key.as_bytes());
                    out.extend_from_slice(b"\"");
                }
                Action::Remove | Action::Keep => (),
            }
            at = cut.1;
        }
        out.extend_from_slice(&object[at..]);
        out.freeze()
    }

    /// For each target (sorted by place) the byte range that its edit replaces.
    ///
    /// A removed member takes the comma behind it along, unless no kept member follows: then it takes the comma before it.
    fn cuts(&self, object: &[u8]) -> Vec<(usize, usize)> {
        let mut cuts = vec![(0, 0); self.targets.len()];
        // Where the run of removed members at the object's end starts.
        let mut tail = None;
        for (index, target) in self.targets.iter().enumerate().rev() {
            let place = target.place;
            let key_at = place.key_at as usize;
            cuts[index] = match target.action {
                Action::Value(_) | Action::Keep => (place.value_at as usize, place.value_end as usize),
                Action::Key(_) => (key_at, place.key_end as usize),
                Action::Remove => {
                    let next = skip_space(object, place.value_end as usize);
                    let comma = object.get(next) == Some(&b',');
                    if comma && tail != Some(skip_space(object, next + 1)) {
                        (key_at, next + 1)
                    } else {
                        tail = Some(key_at);
                        let before = object[..key_at].iter().rposition(|byte| !is_space(*byte)).unwrap_or(0);
                        let start = if object.get(before) == Some(&b',') { before } else { key_at };
                        (start, place.value_end as usize)
                    }
                }
            };
        }
        cuts
    }
}

impl Action<'_> {
    fn len(&self) -> usize {
        match self {
            Action::Value(raw) => raw.len(),
            Action::Key(key) => key.len(),
            Action::Keep | Action::Remove => 0,
        }
    }
}

fn range(start: u32, end: u32) -> std::ops::Range<usize> {
    start as usize..end as usize
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn skip_space(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|byte| !is_space(*byte)).map_or(text.len(), |offset| from + offset)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn edited(body: &str, edits: &[Edit]) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let peek = Peek::parse(&body).unwrap();
        String::from_utf8(splice(&body, &peek, edits).to_vec()).unwrap()
    }

    fn set(field: Field, raw: &str) -> Edit {
        Edit::Set(field, raw.into())
    }

    #[test]
    fn no_change_is_no_copy() {
        let body = Bytes::from_static(b"{\"model\":\"m\"}");
        let peek = Peek::parse(&body).unwrap();
        for edits in [vec![], vec![Edit::Remove(Field::Seed)], vec![Edit::Rename(Field::N, "k")]] {
            assert_eq!(splice(&body, &peek, &edits).as_ptr(), body.as_ptr());
        }
    }

    #[test]
    fn only_the_named_members_change() {
        let body = " { \"a\" : 1.0 , \"mod\\u0065l\" : \"x\" , \"seed\":7,\"b\":[ ] }\n";
        assert_eq!(
            edited(body, &[set(Field::Model, "\"y\"")]),
            " { \"a\" : 1.0 , \"mod\\u0065l\" : \"y\" , \"seed\":7,\"b\":[ ] }\n"
        );
        assert_eq!(
            edited(body, &[Edit::Rename(Field::Seed, "random_seed")]),
            " { \"a\" : 1.0 , \"mod\\u0065l\" : \"x\" , \"random_seed\":7,\"b\":[ ] }\n"
        );
        assert_eq!(edited("{\"n\":1}", &[Edit::Remove(Field::N)]), "{}");
        assert_eq!(edited("{\"n\":1,\"x\":2}", &[Edit::Remove(Field::N)]), "{\"x\":2}");
        assert_eq!(edited("{\"x\":2 , \"n\":1 }", &[Edit::Remove(Field::N)]), "{\"x\":2  }");
        let both = [Edit::Remove(Field::N), Edit::Remove(Field::Seed)];
        assert_eq!(edited("{\"x\":2,\"n\":1,\"seed\":1}", &both), "{\"x\":2}");
        assert_eq!(edited("{\"n\":1, \"x\":2, \"seed\":1}", &both), "{ \"x\":2}");
        assert_eq!(
            edited("{\"n\":1,\"seed\":1}", &[both[0].clone(), both[1].clone(), set(Field::User, "1")]),
            "{\"user\":1}"
        );
    }

    #[test]
    fn members_are_added_at_the_front() {
        assert_eq!(edited(" { }", &[set(Field::Stream, "true")]), " {\"stream\":true }");
        assert_eq!(
            edited("{\"x\":1}", &[set(Field::Stream, "true"), Edit::Insert("k", "[]".into())]),
            "{\"stream\":true,\"k\":[],\"x\":1}"
        );
    }

    #[test]
    fn free_keys_and_renames_leave_no_duplicate() {
        assert_eq!(edited("{\"k\":1,\"a\":2,\"\\u006b\":3}", &[Edit::RemoveKey("k")]), "{\"a\":2}");
        assert_eq!(edited("{\"k\":1}", &[Edit::Insert("k", "2".into())]), "{\"k\":2}");
        assert_eq!(
            edited(
                "{\"max_tokens\":1,\"max_completion_tokens\":2}",
                &[Edit::Rename(Field::MaxCompletionTokens, "max_tokens")]
            ),
            "{\"max_tokens\":2}"
        );
        // The last edit of a member counts.
        assert_eq!(edited("{\"n\":1}", &[Edit::Remove(Field::N), set(Field::N, "3")]), "{\"n\":3}");
        assert_eq!(edited("{}", &[set(Field::N, "3"), Edit::Remove(Field::N)]), "{}");
    }

    #[test]
    fn usage_is_asked_for_once() {
        let ask = |body: &str| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let peek = Peek::parse(&body).unwrap();
            let edit = include_usage_edit(&body, &peek)?;
            Some(String::from_utf8(splice(&body, &peek, &[edit]).to_vec()).unwrap())
        };
        assert_eq!(ask(r#"{"stream_options":{"include_usage":true}}"#), None);
        assert_eq!(ask(r#"{"a":1}"#).unwrap(), r#"{"stream_options":{"include_usage":true},"a":1}"#);
        assert_eq!(ask(r#"{"stream_options": null }"#).unwrap(), r#"{"stream_options": {"include_usage":true} }"#);
        assert_eq!(ask(r#"{"stream_options":{ }}"#).unwrap(), r#"{"stream_options":{"include_usage":true }}"#);
        assert_eq!(
            ask(r#"{"stream_options":{ "x" :"é", "include_usage" : false}}"#).unwrap(),
            r#"{"stream_options":{ "x" :"é", "include_usage" : true}}"#
        );
        assert_eq!(
            ask(r#"{"stream_options":{"include_obfuscation":false}}"#).unwrap(),
            r#"{"stream_options":{"include_usage":true,"include_obfuscation":false}}"#
        );
    }

    fn space() -> impl Strategy<Value = String> {
        "[ \t\r\n]{0,3}"
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("\\PC{0,4}", inner), 0..4)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    /// A value that suits the field, so that the peek accepts the body.
    fn suiting(field: Field, number: u32) -> Value {
        match field {
            Field::Model | Field::User | Field::ServiceTier => format!("m\"{number}").into(),
            Field::Stream | Field::Store => number.is_multiple_of(2).into(),
            Field::StreamOptions => serde_json::json!({"include_usage": false, "x": [number]}),
            _ => number.into(),
        }
    }

    /// Key and raw key (perhaps with an escape), and its value, in random order and with random white space.
    fn object() -> impl Strategy<Value = (Vec<(String, Value)>, String)> {
        let fields = prop::sample::subsequence(Field::ALL.to_vec(), 0..=Field::ALL.len());
        let others = prop::collection::btree_map("x[a-z]{0,3}", json(), 0..5);
        (fields, others, any::<u32>()).prop_flat_map(|(fields, others, number)| {
            let mut all: Vec<(String, Value)> =
                fields.into_iter().map(|field| (field.name().to_owned(), suiting(field, number))).collect();
            all.extend(others);
            let count = all.len();
            (
                Just(all).prop_shuffle(),
                prop::collection::vec((space(), space(), space(), space(), any::<bool>()), count),
                space(),
            )
                .prop_map(|(all, looks, end)| {
                    let mut text = format!("{end}{{");
                    for (index, ((key, value), (a, b, c, d, escape))) in all.iter().zip(looks).enumerate() {
                        let comma = if index == 0 { "" } else { "," };
                        let key =
                            if escape { format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..]) } else { key.clone() };
                        text.push_str(&format!("{comma}{a}\"{key}\"{b}:{c}{value}{d}"));
                    }
                    text.push_str(&format!("{end}}}{end}"));
                    (all, text)
                })
        })
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let field = prop::sample::select(Field::ALL.to_vec());
        prop_oneof![
            4 => (field.clone(), any::<u32>()).prop_map(|(field, n)| Edit::Set(field, suiting(field, n).to_string())),
            3 => field.clone().prop_map(Edit::Remove),
            1 => field.prop_map(|field| Edit::Rename(field, "xrenamed")),
            1 => (prop::sample::select(vec!["x", "xa", "xq"]), json()).prop_map(|(key, v)| Edit::Insert(key, v.to_string())),
            1 => prop::sample::select(vec!["x", "xa", "xb"]).prop_map(Edit::RemoveKey),
        ]
    }

    proptest! {
        #[test]
        fn a_spliced_object_is_the_edited_object((all, text) in object(), edits in prop::collection::vec(edit(), 0..5)) {
            // One rename at most: two fields cannot share a new key.
            let mut renamed = false;
            let edits: Vec<Edit> = edits.into_iter().filter(|edit| !matches!(edit, Edit::Rename(..)) || !std::mem::replace(&mut renamed, true)).collect();
            // Edits of one member after its rename would need an order of events; the rename goes last.
            let (renames, mut edits): (Vec<_>, Vec<_>) = edits.into_iter().partition(|edit| matches!(edit, Edit::Rename(..)));
            edits.retain(|edit| !renames.iter().any(|rename| matches!((rename, edit), (Edit::Rename(a, _), Edit::Set(b, _) | Edit::Remove(b)) if a == b)));
            edits.extend(renames);

            let mut expected: Map<String, Value> = all.into_iter().collect();
            for edit in &edits {
                match edit {
                    Edit::Set(field, raw) => drop(expected.insert(field.name().into(), serde_json::from_str(raw).unwrap())),
                    Edit::Insert(key, raw) => drop(expected.insert((*key).into(), serde_json::from_str(raw).unwrap())),
                    Edit::Remove(field) => drop(expected.shift_remove(field.name())),
                    Edit::RemoveKey(key) => drop(expected.shift_remove(*key)),
                    Edit::Rename(field, key) => if let Some(value) = expected.shift_remove(field.name()) {
                        expected.insert((*key).into(), value);
                    },
                }
            }

            let body = Bytes::from(text.clone());
            let peek = Peek::parse(&body).unwrap();
            let out = splice(&body, &peek, &edits);
            let again = Peek::parse(&out).unwrap();
            prop_assert_eq!(again.members as usize, expected.len());
            let got: Map<String, Value> = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&got, &expected);
            for field in Field::ALL {
                prop_assert_eq!(again.has(field), expected.contains_key(field.name()));
            }
            // Untouched members keep their bytes: every raw `value` of the input that no edit names is in the output.
            let touched = |key: &str| edits.iter().any(|edit| match edit {
                Edit::Set(field, _) | Edit::Remove(field) | Edit::Rename(field, _) => field.name() == key,
                Edit::Insert(other, _) | Edit::RemoveKey(other) => *other == key,
            });
            let result = std::str::from_utf8(&out).unwrap();
            let mut at = 0;
            walk(&text, |member| if !touched(&member.key()) {
                let raw = &text[member.key_at..member.value_end()];
                let found = result[at..].find(raw);
                assert!(found.is_some(), "{raw:?} changed in {result:?}");
                at += found.unwrap_or(0) + raw.len();
            }).unwrap();
        }

        #[test]
        fn escaped_text_reads_back(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&escape_json_string(&text)).unwrap(), text);
        }
    }
}
