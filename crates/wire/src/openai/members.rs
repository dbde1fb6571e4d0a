//! Walks the members of one JSON object without building a tree.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One `"key": value` of an object: the raw texts and their byte offsets in the object's text.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The key with its quotes, escapes not decoded.
    pub raw_key: &'a str,
    /// The value's text.
    pub value: &'a str,
    /// Offset of the key's opening quote.
    pub key_at: usize,
    /// Offset of the value's first byte.
    pub value_at: usize,
}

impl<'a> Member<'a> {
    /// Offset behind the key's closing quote.
    pub fn key_end(&self) -> usize {
        self.key_at + self.raw_key.len()
    }

    /// Offset behind the value's last byte.
    pub fn value_end(&self) -> usize {
        self.value_at + self.value.len()
    }

    /// The key as text. A key with a lone surrogate escape has no text and is no known name: it stays raw.
    pub fn key(&self) -> Cow<'a, str> {
        let inner = &self.raw_key[1..self.raw_key.len() - 1];
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Cow::Borrowed(inner);
        }
        if inner.len() > LONGEST_ESCAPED {
            return Cow::Borrowed(self.raw_key);
        }
        serde_json::from_str::<String>(self.raw_key).map_or(Cow::Borrowed(self.raw_key), Cow::Owned)
    }
}

/// A longer key with escapes is no known name, even if each of its characters is written as two escapes of six bytes.
const LONGEST_ESCAPED: usize = 1024;

/// Why a text is not one JSON object.
#[derive(Debug)]
pub enum WalkError {
    /// The object itself is not valid JSON.
    Syntax(serde_json::Error),
    /// Something follows the complete object.
    Trailing(serde_json::Error),
}

/// Calls `each` for every member of the object that `text` is, in order, and validates all of `text`.
///
/// serde_json skips a value with an explicit stack, so the depth of nesting costs one byte per level and no recursion.
pub fn walk<'a>(text: &'a str, each: impl FnMut(Member<'a>)) -> Result<(), WalkError> {
    struct Walk<'a, F> {
        start: usize,
        each: F,
        text: std::marker::PhantomData<&'a str>,
    }

    impl<'de, F: FnMut(Member<'de>)> Visitor<'de> for Walk<'de, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                let (raw_key, value) = (key.get(), value.get());
                // Both are slices of `text`, so the difference of addresses is their offset.
                (self.each)(Member {
                    raw_key,
                    value,
                    key_at: raw_key.as_ptr() as usize - self.start,
                    value_at: value.as_ptr() as usize - self.start,
                });
            }
            Ok(())
        }
    }

    let mut de = serde_json::Deserializer::from_str(text);
    let visitor = Walk { start: text.as_ptr() as usize, each, text: std::marker::PhantomData };
    de.deserialize_map(visitor).map_err(WalkError::Syntax)?;
    de.end().map_err(WalkError::Trailing)
}

/// Calls `each` for every element of the array that `text` is, in order.
///
/// # Errors
/// The text is not an array or not valid JSON.
pub fn elements<'a>(text: &'a str, each: impl FnMut(&'a str)) -> Result<(), serde_json::Error> {
    struct Elements<F>(F);

    impl<'de, F: FnMut(&'de str)> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(element) = seq.next_element::<&'de RawValue>()? {
                (self.0)(element.get());
            }
            Ok(())
        }
    }

    let mut de = serde_json::Deserializer::from_str(text);
    de.deserialize_seq(Elements(each))?;
    de.end()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_the_raw_texts() {
        let mut seen = Vec::new();
        elements(r#" [1, {"a":[2]} ,"b"] "#, |element| seen.push(element)).unwrap();
        assert_eq!(seen, ["1", r#"{"a":[2]}"#, r#""b""#]);
        assert!(
            elements("{}", |_| ()).is_err() && elements("[1", |_| ()).is_err() && elements("[] 1", |_| ()).is_err()
        );
    }

    #[test]
    fn offsets_point_at_the_raw_texts() {
        let text = " { \"a\" : 1 ,\"\\u0062\":[ 2 ] , \"a\":{} } ";
        let mut seen = Vec::new();
        walk(text, |m| {
            assert_eq!(&text[m.key_at..m.key_end()], m.raw_key);
            assert_eq!(&text[m.value_at..m.value_end()], m.value);
            seen.push((m.key().into_owned(), m.value.to_owned()));
        })
        .unwrap();
        assert_eq!(seen, [("a".into(), "1".into()), ("b".into(), "[ 2 ]".into()), ("a".into(), "{}".into())]);
    }

    #[test]
    fn a_broken_object_and_a_tail_are_told_apart() {
        assert!(matches!(walk("{\"a\":1", |_| ()), Err(WalkError::Syntax(_))));
        assert!(matches!(walk("{a:1}", |_| ()), Err(WalkError::Syntax(_))));
        assert!(matches!(walk("{1:1}", |_| ()), Err(WalkError::Syntax(_))));
        assert!(matches!(walk("{\"a\":1} x", |_| ()), Err(WalkError::Trailing(_))));
        assert!(matches!(walk("[1]", |_| ()), Err(WalkError::Syntax(_))));
    }
}
