//! Finds a member of a JSON text by its key with a substring search, without parsing the text around it.
//!
//! Why that is sound: inside a JSON string every quote is escaped, so `"key"` followed by a colon and not preceded by a
//! backslash is a key. Its depth is found by counting brackets on the shorter side of the hit.
//! All functions assume valid JSON; on anything else their results are harmless but mean nothing.

use memchr::memmem::Finder;

/// A key found in a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Offset of the key's opening quote.
    pub key_at: usize,
    /// Offset of the value's first byte; the text does not end before it.
    pub value_at: usize,
}

/// Every occurrence of a key, at any depth. `finder` looks for the key with its quotes.
pub(crate) fn hits<'a>(json: &'a [u8], finder: &'a Finder<'static>) -> impl Iterator<Item = Hit> + 'a {
    let key_len = finder.needle().len();
    finder.find_iter(json).filter_map(move |key_at| {
        if key_at > 0 && json[key_at - 1] == b'\\' {
            return None;
        }
        let colon = skip_space(json, key_at + key_len);
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let value_at = skip_space(json, colon + 1);
        (value_at < json.len()).then_some(Hit { key_at, value_at })
    })
}

/// Tells how many objects and arrays enclose an offset. Offsets must be asked for in ascending order; all of them together cost
/// one pass over the text.
pub(crate) struct Depths<'a> {
    json: &'a [u8],
    at: usize,
    depth: i64,
    broken: bool,
}

impl<'a> Depths<'a> {
    pub(crate) fn of(json: &'a [u8]) -> Self {
        Self { json, at: 0, depth: 0, broken: false }
    }

    /// The depth at `at`, which must be outside of strings and not before the last one asked for. 1 is the top-level
    /// object. `None` once a string does not end.
    pub(crate) fn at(&mut self, at: usize) -> Option<u32> {
        if self.broken {
            return None;
        }
        let depth = if at - self.at <= self.json.len() - at {
            balance(&self.json[self.at..at]).map(|change| self.depth + change)
        } else {
            balance(&self.json[at..]).map(|rest| -rest)
        };
        self.broken = depth.is_none();
        (self.at, self.depth) = (at, depth?);
        u32::try_from(self.depth).ok()
    }
}

/// The first occurrence of the key in the top-level object.
pub(crate) fn top_level(json: &[u8], finder: &Finder<'static>) -> Option<Hit> {
    let mut depths = Depths::of(json);
    hits(json, finder).find(|hit| depths.at(hit.key_at) == Some(1))
}

/// Offset behind the value that starts at `at`; `None` when the text ends inside it.
pub(crate) fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at),
        b'{' | b'[' => {
            let (mut at, mut depth) = (at, 0_u32);
            loop {
                match json.get(at)? {
                    b'"' => {
                        at = string_end(json, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.checked_sub(1)?,
                    _ => (),
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => json[at..]
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'))
            .map(|length| at + length),
    }
}

/// The byte range to cut so that the member disappears with one comma.
pub(crate) fn member_cut(json: &[u8], hit: Hit) -> Option<(usize, usize)> {
    let end = value_end(json, hit.value_at)?;
    let next = skip_space(json, end);
    if json.get(next) == Some(&b',') {
        return Some((hit.key_at, next + 1));
    }
    let before = json[..hit.key_at].iter().rposition(|byte| !is_space(*byte))?;
    Some((if json[before] == b',' { before } else { hit.key_at }, end))
}

/// Whether `text` is one complete JSON value.
pub(crate) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

pub(crate) fn skip_space(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < text.len() && is_space(text[at]) {
        at += 1;
    }
    at
}

/// Opening minus closing brackets outside of strings; `None` when a string does not end.
fn balance(text: &[u8]) -> Option<i64> {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = string_end(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => (),
        }
        at += 1;
    }
    Some(depth)
}

/// Offset behind the closing quote of the string that opens at `at`.
pub(super) fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn top(json: &str) -> Option<&str> {
        let hit = top_level(json.as_bytes(), &Finder::new("\"k\""))?;
        Some(&json[hit.value_at..value_end(json.as_bytes(), hit.value_at)?])
    }

    #[test]
    fn only_a_real_top_level_key_counts() {
        assert_eq!(top(r#"{"k":1}"#), Some("1"));
        assert_eq!(top(r#"{"a":{"k":1},"k" : [2,"]"] , "b":3}"#), Some(r#"[2,"]"]"#));
        assert_eq!(top(r#"{"a":"\"k\":1","b":"k","k":"\\\"}"}"#), Some(r#""\\\"}""#));
        for decoy in [
            r#"{"a":{"k":1}}"#,
            r#"[{"k":1}]"#,
            r#"{"a":"\"k\":1"}"#,
            r#"{"a":"k"}"#,
            r#"{"x\"k":1}"#,
            r#"{"k""#,
            r#"{"k":"#,
        ] {
            assert_eq!(top(decoy), None, "{decoy}");
        }
    }

    #[test]
    fn both_sides_count_the_same_depth() {
        let json = br#"{"a":[{"b":"x{\"[","c":{}}],"d":{"e":[1,2,{"f":"]"}]},"g":1}"#;
        let (mut deepest, mut depths) = (0, Depths::of(json));
        for at in (0..json.len()).filter(|at| json[*at] == b',' || json[*at] == b':') {
            // A separator inside a string would not be structural; this text has none.
            let head = balance(&json[..at]).unwrap();
            assert_eq!(Some(head), balance(&json[at..]).map(|tail| -tail), "{at}");
            assert_eq!(depths.at(at).map(i64::from), Some(head));
            deepest = deepest.max(head);
        }
        assert_eq!(deepest, 4);
    }

    #[test]
    fn a_cut_member_takes_one_comma_along() {
        let finder = Finder::new("\"k\"");
        for (json, rest) in [
            (r#"{"k":null}"#, "{}"),
            (r#"{"k":{"x":"}"},"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1, "k" : 1.5e3 }"#, r#"{"a":1 }"#),
            (r#"{"a":1,"k":true,"b":2}"#, r#"{"a":1,"b":2}"#),
        ] {
            let hit = top_level(json.as_bytes(), &finder).unwrap();
            let (start, end) = member_cut(json.as_bytes(), hit).unwrap();
            assert_eq!(format!("{}{}", &json[..start], &json[end..]), rest);
        }
    }
}
