//! A rough and cheap estimate of a prompt's tokens.
//!
//! The rule: the bytes of text in the members that make up the prompt (`system`, `messages`, `prompt`, `suffix`, `input`,
//! `instructions`, `tools`, `functions`), names and quotes included, divided by four, rounded up. Escapes count as the
//! characters they stand for, a number as two bytes, an image in base64 as nothing. English has 4 to 4.5 bytes per token
//! with the usual models, code about 3, Chinese and Japanese 2 to 3: only a count by the model's own tokenizer would be
//! exact.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Estimated tokens in this many bytes.
pub fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// The estimate for a request body, by this module's rule. With `longest`, an array in `input` counts as its longest member, as
/// each member is embedded on its own. A body that cannot be read counts in full; the result never exceeds that.
pub fn prompt_tokens(body: &[u8], longest: bool) -> u64 {
    struct Body {
        longest: bool,
    }

    impl<'de> Visitor<'de> for Body {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a request body")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
            let mut bytes = 0;
            while let Some(key) = map.next_key::<String>()? {
                bytes += match key.as_str() {
                    "input" if self.longest => map.next_value_seed(Text { longest: true })?,
                    "system" | "messages" | "prompt" | "suffix" | "input" | "instructions" | "tools" | "functions" => {
                        map.next_value_seed(Text { longest: false })?
                    }
                    _ => map.next_value::<IgnoredAny>().map(|_| 0)?,
                };
            }
            Ok(bytes)
        }
    }

    let counted = serde_json::Deserializer::from_slice(body).deserialize_map(Body { longest });
    // serde_json refuses values nested deeper than 128.
    tokens(counted.unwrap_or(body.len()).min(body.len()))
}

/// Bytes of text in a JSON value.
#[derive(Clone, Copy)]
struct Text {
    /// Take the longest member of the outermost array, not the sum.
    longest: bool,
}

impl<'de> DeserializeSeed<'de> for Text {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Bytes of a number: at least a digit, and the comma behind it.
const NUMBER: usize = 2;
const QUOTES: usize = 2;

impl<'de> Visitor<'de> for Text {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(NUMBER)
    }

    fn visit_bool<E>(self, _: bool) -> Result<usize, E> {
        Ok(NUMBER)
    }

    fn visit_u64<E>(self, _: u64) -> Result<usize, E> {
        Ok(NUMBER)
    }

    fn visit_i64<E>(self, _: i64) -> Result<usize, E> {
        Ok(NUMBER)
    }

    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(NUMBER)
    }

    fn visit_str<E>(self, text: &str) -> Result<usize, E> {
        Ok(if is_image(text) { 0 } else { text.len() + QUOTES })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let mut bytes = 0;
        while let Some(member) = seq.next_element_seed(Text { longest: false })? {
            bytes = if self.longest { member.max(bytes) } else { member + bytes };
        }
        Ok(bytes)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut bytes = 0;
        while let Some(key) = map.next_key_seed(Text { longest: false })? {
            bytes += key + map.next_value_seed(Text { longest: false })?;
        }
        Ok(bytes)
    }
}

/// True for `data:image/png;base64,…`, the form that images have in a message.
fn is_image(text: &str) -> bool {
    text.starts_with("data:")
        && text.split_once(',').is_some_and(|(head, _)| head.len() < 100 && head.ends_with(";base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_prompt_counts_and_what_is_not_does_not() {
        let text = "x".repeat(4000);
        let empty = prompt_tokens(br#"{"messages":[{"role":"user","content":""}]}"#, false);
        assert_eq!(empty, 6, "23 bytes of names and values in quotes");
        let chat = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{text}"}}],"user":"{text}"}}"#);
        assert_eq!(prompt_tokens(chat.as_bytes(), false), empty + 1000);
        for member in ["prompt", "input", "instructions", "tools"] {
            let body = format!(r#"{{"{member}":"{text}","metadata":{{"{member}":"{text}"}}}}"#);
            assert_eq!(prompt_tokens(body.as_bytes(), false), 1001, "{member}");
        }
        let tools = format!(r#"{{"tools":[{{"type":"function","function":{{"description":"{text}"}}}}]}}"#);
        assert!((1001..1020).contains(&prompt_tokens(tools.as_bytes(), false)));
    }

    #[test]
    fn escapes_count_as_what_they_stand_for_and_images_as_nothing() {
        let escaped = format!(r#"{{"prompt":"{}"}}"#, r"\u00e9".repeat(1000));
        assert_eq!(prompt_tokens(escaped.as_bytes(), false), 501);
        let image = format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
            "A".repeat(100_000)
        );
        assert!(prompt_tokens(image.as_bytes(), false) < 30);
    }

    #[test]
    fn texts_to_embed_count_each_on_its_own() {
        let body = format!(r#"{{"input":["{}","{}","b"]}}"#, "a".repeat(2000), "a".repeat(4000));
        assert_eq!(prompt_tokens(body.as_bytes(), true), 1001);
        assert_eq!(prompt_tokens(body.as_bytes(), false), 1502);
    }

    #[test]
    fn the_estimate_never_exceeds_the_whole_body() {
        let deep = format!(r#"{{"messages":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert_eq!(prompt_tokens(deep.as_bytes(), false), tokens(deep.len()));
        for body in [r#"{"input":[1,2,3,-4,5.5,null,true]}"#, r#"{"prompt":""}"#, "{}", "", "[", r#"{"input":0}"#] {
            assert!(prompt_tokens(body.as_bytes(), false) <= tokens(body.len()), "{body}");
        }
    }
}
