//! Reads the text a model generated, out of a whole reply or out of the payload of one stream event.
//!
//! One walk reads every shape: a table says what stands under which key, and everything else is skipped. A member of an
//! unexpected type is skipped too, so that the rest is still read.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// All generated text of a whole JSON reply of chat completions, legacy completions, the Responses API or Anthropic's
/// Messages: content, reasoning, refusals, names and arguments of calls, concatenated in order.
///
/// `None` for a body that is not such a reply: it is not JSON, has no `choices`, `output` or `content` array, or is a
/// Responses reply that is only `queued` or `in_progress`, whose text is still to come.
pub fn generated_text(body: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut sink = Sink::new(&mut text);
    let mut de = serde_json::Deserializer::from_slice(body);
    Walk { place: Place::Reply, sink: &mut sink }.deserialize(&mut de).ok()?;
    de.end().ok()?;
    (sink.found && !sink.pending).then_some(text)
}

/// Bytes of sound and images, as encoded in the JSON, in a complete reply that [`generated_text`] can read.
pub fn generated_media(body: &[u8]) -> u64 {
    append(Place::Reply, body, &mut String::new())
}

/// Appends the generated text of one chunk of a chat or legacy completion. Text before a syntax error counts. Returns the
/// bytes of sound and images in the chunk.
pub(crate) fn append_chunk(payload: &[u8], text: &mut String) -> u64 {
    append(Place::Reply, payload, text)
}

/// Appends the `delta` text of one event of a Responses stream or of one of Anthropic's.
pub(crate) fn append_delta(payload: &[u8], text: &mut String) {
    append(Place::Event, payload, text);
}

fn append(place: Place, payload: &[u8], text: &mut String) -> u64 {
    let mut de = serde_json::Deserializer::from_slice(payload);
    let mut sink = Sink::new(text);
    // The text behind a syntax error cannot be counted.
    let _ = Walk { place, sink: &mut sink }.deserialize(&mut de);
    sink.media
}

/// Where in a reply a value stands. The elements of an array stand where the array does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A reply, or a chunk of one.
    Reply,
    /// An event of a Responses stream, or of Anthropic's.
    Event,
    /// `status` of a reply.
    Status,
    /// `choices` and its elements; [`Place::Output`] stands for `output` and its elements.
    Choices,
    Output,
    /// `message` or `delta` of a choice.
    Message,
    /// `tool_calls` of a message.
    Call,
    /// `function` or `custom` of a call, or `function_call` of a message.
    Function,
    /// A text; Mistral sends [`Place::Parts`] for it.
    Text,
    /// Like [`Place::Text`], for reasoning: vLLM sends the same reasoning under an old and a new name.
    Reasoning,
    /// A text, or an array of parts with texts.
    Parts,
    /// The text of a part.
    Plain,
    /// The `content` of Anthropic's message, or a `content_block` of its stream.
    Blocks,
    /// The input of a call, kept as raw JSON.
    Input,
    /// Sound or images: no text.
    Media,
}

impl Place {
    /// The place of the value under a key; `None` if nothing there was generated.
    fn under(self, key: &str) -> Option<Self> {
        Some(match (self, key) {
            (Self::Reply, "choices") => Self::Choices,
            (Self::Reply, "output") => Self::Output,
            (Self::Reply, "status") => Self::Status,
            (Self::Reply, "content") | (Self::Event, "content_block") => Self::Blocks,
            (Self::Blocks, "text" | "name" | "thinking") => Self::Plain,
            (Self::Blocks, "input") => Self::Input,
            (Self::Event, "delta") => Self::Text,
            (Self::Choices, "message" | "delta") => Self::Message,
            (Self::Choices, "text") => Self::Text,
            (Self::Message, "content" | "refusal") => Self::Text,
            (Self::Message, "reasoning_content" | "reasoning") => Self::Reasoning,
            (Self::Message, "tool_calls") => Self::Call,
            // OpenAI's sound; images of Gemini and OpenRouter.
            (Self::Message, "audio" | "images") | (Self::Parts, "data" | "image_url") => Self::Media,
            (Self::Message, "function_call") | (Self::Call, "function" | "custom") => Self::Function,
            (Self::Function, "name" | "arguments" | "input") => Self::Text,
            (Self::Output, "name" | "arguments" | "input" | "code") => Self::Text,
            (Self::Output, "content" | "summary") => Self::Parts,
            (Self::Parts, "text" | "refusal" | "partial_json") => Self::Plain,
            (Self::Parts, "thinking") => Self::Parts,
            _ => return None,
        })
    }
}

/// Collects the text, and what was seen on the way.
struct Sink<'t> {
    text: &'t mut String,
    /// There was a `choices`, an `output` or a `content` array.
    found: bool,
    /// The reply says that it is not finished.
    pending: bool,
    /// Bytes that spell sound and images.
    media: u64,
}

impl<'t> Sink<'t> {
    fn new(text: &'t mut String) -> Self {
        Self { text, found: false, pending: false, media: 0 }
    }

    /// Takes a text, or its parts. Parts hold plain texts only, so the recursion goes no deeper.
    fn text(&mut self, raw: &str) {
        if raw.starts_with(['[', '{']) {
            let mut de = serde_json::Deserializer::from_str(raw);
            let _ = Walk { place: Place::Parts, sink: self }.deserialize(&mut de);
        } else {
            self.plain(raw);
        }
    }

    /// Takes a JSON string, decoded. A lone surrogate escape, which providers make when they cut a character in two,
    /// becomes replacement characters.
    fn plain(&mut self, raw: &str) {
        let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return };
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            self.text.push_str(inner);
        } else {
            // `raw` is a valid JSON string, so this cannot fail.
            let _ = serde_json::Deserializer::from_str(raw).deserialize_bytes(Decoded(self.text));
        }
    }
}

/// Appends a JSON string to a text.
struct Decoded<'t>(&'t mut String);

impl Visitor<'_> for Decoded<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<(), E> {
        self.0.push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }
}

/// Walks the value at a place.
struct Walk<'s, 't> {
    place: Place,
    sink: &'s mut Sink<'t>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.place {
            Place::Text | Place::Reasoning => {
                self.sink.text(<&RawValue>::deserialize(deserializer)?.get());
                Ok(())
            }
            Place::Plain => {
                self.sink.plain(<&RawValue>::deserialize(deserializer)?.get());
                Ok(())
            }
            Place::Input => {
                let raw = <&RawValue>::deserialize(deserializer)?.get();
                // The block that begins a call in a stream has an empty input; the input follows in deltas.
                self.sink.text.push_str(if raw == "{}" { "" } else { raw });
                Ok(())
            }
            Place::Media => {
                let raw = <&RawValue>::deserialize(deserializer)?.get();
                if raw != "null" {
                    self.sink.media += raw.len() as u64;
                }
                Ok(())
            }
            Place::Status => {
                let raw = <&RawValue>::deserialize(deserializer)?.get();
                self.sink.pending = matches!(raw, "\"queued\"" | "\"in_progress\"");
                Ok(())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut reasoning: Option<Range<usize>> = None;
        while let Some(place) = map.next_key_seed(Key(self.place))? {
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let from = self.sink.text.len();
            map.next_value_seed(Walk { place, sink: self.sink })?;
            if place == Place::Reasoning {
                let text = &mut *self.sink.text;
                match &reasoning {
                    Some(first) if text[first.clone()] == text[from..] => text.truncate(from),
                    _ => reasoning = Some(from..text.len()),
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if matches!(self.place, Place::Reply | Place::Event) {
            return Err(A::Error::custom("an array instead of a reply"));
        }
        self.sink.found |= matches!(self.place, Place::Choices | Place::Output | Place::Blocks);
        while seq.next_element_seed(Walk { place: self.place, sink: self.sink })?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        // A string in place of parts is the text.
        if self.place == Place::Parts {
            self.sink.text.push_str(text);
        }
        Ok(())
    }

    skip_scalars!();
}

/// Reads the next key as the place of its value.
struct Key(Place);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Place>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Place>, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<Place>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<Place>, E> {
        Ok(self.0.under(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> Option<String> {
        generated_text(body.as_bytes())
    }

    #[test]
    fn chat_and_legacy_completions() {
        for (body, expected) in [
            (
                r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"a\n\u00e9","refusal":null,"annotations":[{"url_citation":{"title":"no"}}]},"logprobs":{"content":[{"token":"no"}]},"finish_reason":"stop"}],"usage":{},"model":"no"}"#,
                "a\né",
            ),
            (
                r#"{"choices":[{"message":{"content":"a"}},{"message":{"content":"b","reasoning_content":"why"}}]}"#,
                "abwhy",
            ),
            (
                r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"no","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"custom":{"name":"g","input":"y"}}],"function_call":{"name":"h","arguments":""}}}]}"#,
                "f{\"x\":1}gyh",
            ),
            (r#"{"object":"text_completion","choices":[{"text":"old","index":0},{"text":"er"}]}"#, "older"),
            (r#" {"choices":[]} "#, ""),
            (r#"{"choices":[7,null,"x",{"message":"x"},[{"text":"in"}]],"status":"queue"}"#, "in"),
        ] {
            assert_eq!(text(body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn responses() {
        let body = r#"{"id":"r","object":"response","status":"completed","instructions":"no","output":[
            {"type":"reasoning","id":"no","summary":[{"type":"summary_text","text":"why"}],"content":[{"type":"reasoning_text","text":"so"}],"encrypted_content":"no"},
            {"type":"message","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[{"text":"no"}]},{"type":"refusal","refusal":"never"}]},
            {"type":"function_call","call_id":"no","name":"f","arguments":"{}"},
            {"type":"custom_tool_call","name":"g","input":"x"},
            {"type":"file_search_call","results":[{"text":"no"}]},
            {"type":"code_interpreter_call","code":"1+1","outputs":[{"logs":"no"}]}],
            "text":{"format":{"type":"text"}},"tools":[{"name":"no"}]}"#;
        assert_eq!(text(body).as_deref(), Some("whysoHineverf{}gx1+1"));
        for (status, read) in [("queued", false), ("in_progress", false), ("incomplete", true), ("failed", true)] {
            let behind = format!(r#"{{"output":[{{"content":[{{"text":"Hi"}}]}}],"status":"{status}"}}"#);
            assert_eq!(text(&behind), read.then(|| "Hi".to_owned()), "{status}");
            // An item's own status says nothing.
            let inside = format!(r#"{{"output":[{{"status":"{status}","content":[{{"text":"Hi"}}]}}]}}"#);
            assert_eq!(text(&inside).as_deref(), Some("Hi"));
        }
    }

    #[test]
    fn anthropics_messages() {
        let body = r#"{"id":"msg_1","type":"message","content":[{"type":"thinking","thinking":"why","signature":"no"},
            {"type":"text","text":"Hi","citations":[{"text":"no"}]},{"type":"tool_use","id":"no","name":"f","input":{"x":[1]}}],"stop_reason":"no"}"#;
        assert_eq!(text(body).as_deref(), Some(r#"whyHif{"x":[1]}"#));
        let mut text = String::new();
        for event in [
            r#"{"type":"message_start","message":{"content":[]}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"no","name":"f","input":{}}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"x\""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"b"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"no"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"no"},"usage":{}}"#,
        ] {
            append_delta(event.as_bytes(), &mut text);
        }
        assert_eq!(text, "f{\"x\"ab");
    }

    #[test]
    fn what_is_no_reply() {
        for body in [
            "",
            "hello",
            "7",
            "\"choices\"",
            "[]",
            r#"[{"choices":[{"text":"x"}]}]"#,
            r#"{"error":{"message":"m","choices":[]}}"#,
            r#"{"data":[{"embedding":[0.5]}],"object":"list"}"#,
            r#"{"choices":null}"#,
            r#"{"choices":{"text":"x"}}"#,
            r#"{"choices":"x","output":7}"#,
            r#"{"choices":[{"text":"x"}]"#,
            r#"{"choices":[{"text":"x"}]} x"#,
        ] {
            assert_eq!(text(body), None, "{body}");
        }
        assert_eq!(generated_text(b"{\"choices\":[{\"text\":\"\xff\"}]}"), None);
    }

    #[test]
    fn deep_nesting_does_not_use_the_stack() {
        for unit in ["[", "{\"text\":[", "{\"thinking\":["] {
            let depth = 100_000;
            let body = format!(r#"{{"choices":[{{"message":{{"content":{}"#, unit.repeat(depth));
            assert_eq!(text(&body), None);
            let close: String = unit
                .chars()
                .rev()
                .filter_map(|c| match c {
                    '[' => Some(']'),
                    '{' => Some('}'),
                    _ => None,
                })
                .collect();
            // Skipped or refused, but never followed to the bottom.
            let _ = text(&format!("{body}1{}}}}}]}}", close.repeat(depth)));
            let _ = text(&format!(r#"{{"output":{}1{}}}"#, unit.repeat(depth), close.repeat(depth)));
        }
    }

    #[test]
    fn a_fault_keeps_what_stood_before() {
        let mut text = String::from("a");
        append_chunk(br#"{"choices":[{"delta":{"content":"b"}},"#, &mut text);
        append_delta(br#"{"delta":"c","x":"#, &mut text);
        assert_eq!(text, "abc");
    }
}
