//! Recognises chunks that differ from an earlier one in their text alone: nearly all chunks of a stream.
//!
//! ```text
//! data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}],"obfuscation":"x2"}\n\n
//! ╰───────────────────── head ───────────────────────────╯   ╰────────────── middle ─────────────────╯  ╰ tail ╯
//! ```
//!
//! The result of parsing one such event holds for each event with the same head, middle and tail: a JSON
//! reader sees the same members, and one or two strings with another value. Comparing takes a twentieth of the time of parsing.

use std::ops::Range;

use memchr::{memchr2, memmem};

/// Precedes the text of a chunk that contains nothing but text.
const TEXT: &[u8] = b"\"delta\":{\"content\":\"";

/// Precedes OpenAI's random padding, which hides the size of the text from observers of the traffic.
const PADDING: &[u8] = b"\"obfuscation\":\"";

/// Most bytes of an event that is learnt; longer events are parsed, because a learnt copy stays for as long as the stream is
/// open.
const LONGEST: usize = 2 << 10;

/// After this many events in a row that did not match the learnt one, no more are learnt.
const PATIENCE: u8 = 8;

/// One event that was parsed, without the values that later events may differ in.
#[derive(Debug, Default)]
pub(super) struct Alike {
    head: Vec<u8>,
    middle: Vec<u8>,
    /// The bytes behind the padding; `None` without padding, when `middle` reaches to the end of the event.
    tail: Option<Vec<u8>>,
    /// The byte range that is cut out of the event before it is sent, counted from the end of the text.
    cut: Option<Range<usize>>,
    unlike: u8,
}

/// The byte range of an event's text, and the byte range that is cut out before sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Like {
    pub(super) text: Range<usize>,
    pub(super) cut: Option<Range<usize>>,
}

impl Alike {
    /// A value that learns nothing.
    #[cfg(any(test, fuzzing))]
    pub(super) fn learnt_out() -> Self {
        Self { unlike: PATIENCE, ..Self::default() }
    }

    /// Whether another event may be learnt.
    pub(super) fn learns(&self) -> bool {
        self.unlike < PATIENCE
    }

    /// Compares an event with the learnt one; `None` when they differ in more than text and padding.
    pub(super) fn matches(&mut self, raw: &[u8]) -> Option<Like> {
        let like = self.compare(raw);
        self.unlike = match like {
            Some(_) => 0,
            None => self.unlike.saturating_add(1),
        };
        like
    }

    fn compare(&self, raw: &[u8]) -> Option<Like> {
        if self.head.is_empty() {
            return None;
        }
        let start = self.head.len();
        let text = plain(raw.strip_prefix(&self.head[..])?)?;
        let end = start + text;
        let rest = raw[end..].strip_prefix(&self.middle[..])?;
        let same = match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest[plain(rest)?..] == tail[..],
        };
        let cut = self.cut.as_ref().map(|cut| end + cut.start..end + cut.end);
        same.then_some(Like { text: start..end, cut })
    }

    /// Learns an event that was parsed. `read` returns all the text that an event generates; `cut` is the range of this event
    /// that is not sent.
    pub(super) fn learn(&mut self, raw: &[u8], read: impl Fn(&[u8]) -> Option<String>, cut: Option<&Range<usize>>) {
        self.head.clear();
        let Some(parts) = parts(raw) else { return };
        // Replacing the text in this place must replace all that the event generates: no text stands anywhere else.
        let is_all = |text: &[u8]| {
            let other = [&raw[..parts.text.start], text, &raw[parts.text.end..]].concat();
            read(&other).is_some_and(|read| read.as_bytes() == text)
        };
        if !is_all(b"") || !is_all(b"other") {
            return;
        }
        let from_text = |cut: &Range<usize>| Some(cut.start.checked_sub(parts.text.end)?..cut.end - parts.text.end);
        // The cut range must be behind the text and before the padding, whose length changes.
        let cut = match cut.map(from_text) {
            None => None,
            Some(Some(cut))
                if parts.padding.as_ref().is_none_or(|padding| parts.text.end + cut.end <= padding.start) =>
            {
                Some(cut)
            }
            Some(_) => return,
        };
        self.cut = cut;
        self.head.extend_from_slice(&raw[..parts.text.start]);
        self.middle.clear();
        let middle = parts.padding.as_ref().map_or(raw.len(), |padding| padding.start);
        self.middle.extend_from_slice(&raw[parts.text.end..middle]);
        self.tail = parts.padding.map(|padding| raw[padding.end..].to_vec());
    }
}

struct Parts {
    text: Range<usize>,
    padding: Option<Range<usize>>,
}

fn parts(raw: &[u8]) -> Option<Parts> {
    if raw.len() > LONGEST {
        return None;
    }
    let start = memmem::find(raw, TEXT)? + TEXT.len();
    let text = start..start + plain(&raw[start..])?;
    let padding = match memmem::find(&raw[text.end..], PADDING) {
        None => None,
        Some(at) => {
            let start = text.end + at + PADDING.len();
            Some(start..start + plain(&raw[start..])?)
        }
    };
    Some(Parts { text, padding })
}

/// The length of the rest of a JSON string that needs no decoding: valid and without escapes; `None` for any other.
fn plain(rest: &[u8]) -> Option<usize> {
    let end = memchr2(b'"', b'\\', rest)?;
    let text = &rest[..end];
    // These words are searched for in quotes elsewhere and would be found here by mistake.
    let is_word = matches!(text, b"error" | b"usage" | b"audio" | b"choices" | b"finish_reason" | b"service_tier");
    let whole = rest[end] == b'"' && !is_word && !text.iter().any(|byte| *byte < b' ');
    (whole && std::str::from_utf8(text).is_ok()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::generated::append_chunk;

    fn event(text: &str, rest: &str) -> Vec<u8> {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{rest}}}\n\n").into_bytes()
    }

    fn read(raw: &[u8]) -> Option<String> {
        let mut text = String::new();
        append_chunk(raw.strip_prefix(b"data: ")?, &mut text);
        Some(text)
    }

    fn learnt(raw: &[u8], cut: Option<&Range<usize>>) -> Alike {
        let mut alike = Alike::default();
        alike.learn(raw, read, cut);
        alike
    }

    #[test]
    fn only_the_text_and_the_padding_may_differ() {
        let mut alike = learnt(&event("a", ",\"obfuscation\":\"xy\",\"id\":1"), None);
        for (text, rest) in
            [("", ",\"obfuscation\":\"\",\"id\":1"), ("h\u{e9} {}[]", ",\"obfuscation\":\"abc\",\"id\":1")]
        {
            let raw = event(text, rest);
            let like = alike.matches(&raw).unwrap();
            assert_eq!((&raw[like.text], like.cut), (text.as_bytes(), None));
        }
        for (text, rest) in [
            ("a", ""),
            ("a", ",\"obfuscation\":\"xy\",\"id\":2"),
            ("a", ",\"obfuscation\":\"x\\\"y\",\"id\":1"),
            ("a\\n", ",\"obfuscation\":\"xy\",\"id\":1"),
            ("a\n", ",\"obfuscation\":\"xy\",\"id\":1"),
            ("usage", ",\"obfuscation\":\"xy\",\"id\":1"),
            ("a", ",\"obfuscation\":\"error\",\"id\":1"),
            ("a", ",\"obfuscation\":\"xy\",\"id\":1,\"usage\":{}"),
            ("a\",\"refusal\":\"b", ",\"obfuscation\":\"xy\",\"id\":1"),
        ] {
            assert_eq!(alike.matches(&event(text, rest)), None, "{text} {rest}");
        }
        let mut broken = event("a", ",\"obfuscation\":\"xy\",\"id\":1");
        let at = memmem::find(&broken, b"\"a\"").unwrap() + 1;
        broken[at] = 0xff;
        assert_eq!(alike.matches(&broken), None);
        assert_eq!(alike.matches(&broken[..broken.len() - 1]), None);
    }

    #[test]
    fn what_is_cut_out_moves_with_the_text() {
        let raw = event("ab", ",\"usage\":null");
        let at = memmem::find(&raw, b",\"usage\":null").unwrap();
        let mut alike = learnt(&raw, Some(&(at..at + 13)));
        let longer = event("abcd", ",\"usage\":null");
        let like = alike.matches(&longer).unwrap();
        assert_eq!(&longer[like.cut.unwrap()], b",\"usage\":null");
        // Before the text, or behind something of changing length: not learnt.
        assert!(learnt(&raw, Some(&(0..3))).head.is_empty());
        let padded = event("ab", ",\"obfuscation\":\"x\",\"usage\":null");
        let at = memmem::find(&padded, b",\"usage\":null").unwrap();
        assert!(learnt(&padded, Some(&(at..at + 13))).head.is_empty());
    }

    #[test]
    fn what_says_more_than_its_text_is_not_learnt_and_nothing_after_many_that_differ() {
        let elsewhere =
            |more: &str| format!("data: {{\"x\":{{\"delta\":{{\"content\":\"a\"}}}},{more}}}\n\n").into_bytes();
        for raw in [
            event("a", ",\"choices\":[{\"text\":\"b\"}]"),
            event("a\\n", ""),
            event(&"a".repeat(LONGEST), ""),
            b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n".to_vec(),
            elsewhere("\"choices\":[{\"delta\":{\"content\":\"a\"}}]"),
            elsewhere("\"choices\":[{\"delta\": {\"content\":\"a\"}}]"),
        ] {
            assert!(learnt(&raw, None).head.is_empty(), "{}", String::from_utf8_lossy(&raw));
        }
        let mut alike = learnt(&event("a", ""), None);
        for number in 0..PATIENCE {
            assert!(alike.learns());
            assert_eq!(alike.matches(&event("a", &format!(",\"n\":{number}"))), None);
        }
        assert!(!alike.learns());
    }
}
