//! Reads the texts that make up the prompt of a request, one after the other, without building a tree.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The members that make up a prompt.
const MEMBERS: [&str; 8] = ["system", "messages", "prompt", "suffix", "input", "instructions", "tools", "functions"];

/// Something that a prompt consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A text, decoded.
    Text(&'a str),
    /// A number: texts to embed may be given as token numbers.
    Number,
    /// An element of `messages`.
    Message,
}

/// Calls `each` for every [`Piece`] of a request body's prompt. Left out are keys, encoded images and files (`data:` URLs, the
/// `data` of an object whose `type` is `base64`), and members that only the provider reads (`signature`, `encrypted_content`).
///
/// # Errors
/// The body is not a JSON object, is nested more than 127 levels deep within its prompt, or has a string that is not valid text.
/// The pieces reported before the error are only a part of the prompt.
pub fn read_prompt(body: &[u8], each: &mut dyn FnMut(Piece<'_>)) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.deserialize_map(Body { each })?;
    reader.end()
}

struct Body<'e> {
    each: &'e mut dyn FnMut(Piece<'_>),
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            match key {
                Name::Prompt => map.next_value_seed(Value { each: &mut *self.each, messages: false })?,
                Name::Messages => map.next_value_seed(Value { each: &mut *self.each, messages: true })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What kind of value stands under a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Prompt,
    Messages,
    Type,
    Data,
    /// A value without text.
    Hidden,
    Other,
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Name, E> {
        Ok(match key {
            "messages" => Name::Messages,
            "type" => Name::Type,
            "data" => Name::Data,
            "signature" | "encrypted_content" => Name::Hidden,
            _ if MEMBERS.contains(&key) => Name::Prompt,
            _ => Name::Other,
        })
    }
}

/// A value within a prompt.
struct Value<'e> {
    each: &'e mut dyn FnMut(Piece<'_>),
    /// The value's elements are messages.
    messages: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if !text.starts_with("data:") {
            (self.each)(Piece::Text(text));
        }
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        (self.each)(Piece::Number);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        (self.each)(Piece::Number);
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        (self.each)(Piece::Number);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Value { each: &mut *self.each, messages: false })?.is_some() {
            if self.messages {
                (self.each)(Piece::Message);
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // `data` may stand before the `type` that says what it is.
        let (mut encoded, mut data) = (false, None::<&'de RawValue>);
        while let Some(key) = map.next_key_seed(Key)? {
            match key {
                Name::Hidden => drop(map.next_value::<IgnoredAny>()?),
                Name::Data if encoded => drop(map.next_value::<IgnoredAny>()?),
                Name::Data => data = Some(map.next_value()?),
                Name::Type => {
                    let mut told = |piece: Piece<'_>| {
                        encoded |= piece == Piece::Text("base64");
                        (self.each)(piece);
                    };
                    map.next_value_seed(Value { each: &mut told, messages: false })?;
                }
                _ => map.next_value_seed(Value { each: &mut *self.each, messages: false })?,
            }
        }
        if let Some(data) = data.filter(|_| !encoded) {
            let mut reader = serde_json::Deserializer::from_str(data.get());
            let read = Value { each: self.each, messages: false }.deserialize(&mut reader);
            read.map_err(<A::Error as serde::de::Error>::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn told(body: &str) -> Option<(Vec<String>, usize, usize)> {
        let (mut texts, mut numbers, mut messages) = (Vec::new(), 0, 0);
        read_prompt(body.as_bytes(), &mut |piece| match piece {
            Piece::Text(text) => texts.push(text.to_owned()),
            Piece::Number => numbers += 1,
            Piece::Message => messages += 1,
        })
        .ok()?;
        Some((texts, numbers, messages))
    }

    fn texts(body: &str) -> Vec<String> {
        told(body).unwrap().0
    }

    #[test]
    fn only_what_makes_up_a_prompt_is_told() {
        let body = r#"{"model":"m","metadata":{"note":"no"},"system":"s","messages":[{"role":"user","content":"a\nb"},
            {"role":"assistant","content":[{"type":"text","text":"c"}]}],"tools":[{"name":"t"}],"input":[1,-2,2.5,[3]]}"#;
        let expected = ["s", "user", "a\nb", "assistant", "text", "c", "t"];
        assert_eq!(told(body).unwrap(), (expected.map(str::to_owned).to_vec(), 4, 2));
        assert_eq!(texts(r#"{"prompt":["a","b"],"suffix":"c","instructions":null}"#), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_encoded_is_left_out_wherever_its_type_stands() {
        for image in [
            r#"{"type":"base64","media_type":"m","data":"QUJD"}"#,
            r#"{"data":"QUJD","media_type":"m","type":"base64"}"#,
        ] {
            assert_eq!(texts(&format!(r#"{{"messages":[{{"source":{image}}}]}}"#)).concat().len(), "base64m".len());
        }
        assert_eq!(texts(r#"{"input":[{"data":["a",{"data":"b"}],"type":"text"}]}"#), ["text", "a", "b"]);
        assert_eq!(
            texts(r#"{"input":["data:image/png;base64,QUJD",{"signature":"no","encrypted_content":{}}]}"#),
            [""; 0]
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for body in ["", "[]", "{", r#"{"input":"\ud800"}"#, r#"{"input":1}x"#] {
            assert_eq!(told(body), None, "{body}");
        }
        let deep = |levels: usize| format!(r#"{{"input":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(told(&deep(100)).is_some() && told(&deep(1_000_000)).is_none());
        // Outside of the prompt depth does not matter.
        assert!(told(&deep(1_000_000).replace("input", "other")).is_some());
    }
}
