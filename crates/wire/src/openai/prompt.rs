//! An upper bound of the prompt tokens of a request body, for a request whose provider reported no count.
//!
//! Nothing is left out because of how it looks: every key and every string is measured, and every other byte counts as a
//! token, because a provider may write all of it into the prompt. Left out are the top-level parameters that are known not to
//! be part of the prompt, and the JSON syntax of messages in OpenAI's format, for which the
//! documented overhead counts instead.

use std::borrow::Cow;

use memchr::memchr2;
use serde_json::value::RawValue;

use super::locate::skip_space;
use super::members::walk;

/// Tokens around a message besides its role and its text, and the tokens that begin the answer (OpenAI's cookbook, "How to count
/// tokens with tiktoken": 3, 4 for the oldest model, 1 more with a name; every reply is primed with 3).
const PER_MESSAGE: u64 = 4;
const PER_NAME: u64 = 1;
const PRIMING: u64 = 3;

/// Most tokens between the parts of a message's text.
const PER_PART: u64 = 2;

/// Parameters that providers act on and do not show to the model (the API descriptions of OpenAI and Anthropic).
const PARAMETERS: [&str; 26] = [
    "model",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "seed",
    "stop",
    "stop_sequences",
    "service_tier",
    "store",
    "user",
    "metadata",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "parallel_tool_calls",
    "reasoning_effort",
    "safety_identifier",
    "prompt_cache_key",
];

/// The result of [`count_prompt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptCount {
    /// Upper bound of the prompt tokens, without images and without what the provider adds without showing it.
    pub tokens: u64,
    /// The whole prompt is in a format whose overhead is documented and counted: the provider adds nothing else.
    pub is_plain: bool,
    /// Some key concerns the prompt cache: the cache may be written, for an hour and more.
    pub marks_cache: bool,
}

/// An upper bound of the tokens in the prompt of a valid request body. `measure` tells how many tokens a text has at most;
/// `documented` says that the model reads OpenAI's documented chat format.
pub fn count_prompt(body: &[u8], documented: bool, measure: &dyn Fn(&str) -> u64) -> PromptCount {
    let mut count = Counting { measure, tokens: 0, is_plain: documented, marks_cache: false };
    let text = std::str::from_utf8(body).unwrap_or_default();
    let read = walk(text, |member| {
        let key = member.key();
        if PARAMETERS.contains(&key.as_ref()) {
            return;
        }
        let plain = documented
            && match &*key {
                "messages" | "input" => count.messages(member.value),
                "instructions" | "system" => count.text(member.value),
                _ => false,
            };
        if !plain {
            count.is_plain = false;
            count.marks_cache |= speaks_of_cache(&key);
            count.everything(member.raw_key.as_bytes());
            count.everything(member.value.as_bytes());
        }
    });
    if read.is_err() {
        // No provider gets such a body; in any case it has no more tokens than bytes.
        count.tokens = body.len() as u64;
        count.is_plain = false;
    }
    let priming = if count.is_plain { PRIMING } else { 0 };
    PromptCount {
        tokens: count.tokens.saturating_add(priming),
        is_plain: count.is_plain,
        marks_cache: count.marks_cache,
    }
}

struct Counting<'m> {
    measure: &'m dyn Fn(&str) -> u64,
    tokens: u64,
    is_plain: bool,
    marks_cache: bool,
}

impl Counting<'_> {
    fn add(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Counts a text that stands for a message of its own, with its role; false for a value that is not a text.
    fn text(&mut self, value: &str) -> bool {
        let Some(tokens) = self.string(value) else { return false };
        // The role is a word.
        self.add(tokens.saturating_add(PER_MESSAGE + 1));
        true
    }

    /// Counts the messages of a conversation, or one text in their place; false for any other value. A message that is not plain
    /// is counted with everything in it.
    fn messages(&mut self, value: &str) -> bool {
        if value.starts_with('"') {
            return self.text(value);
        }
        let Ok(all) = serde_json::from_str::<Vec<&RawValue>>(value) else { return false };
        for message in all {
            match self.message(message.get()) {
                Some(tokens) => self.add(tokens),
                None => {
                    self.is_plain = false;
                    self.add(PER_MESSAGE);
                    self.everything(message.get().as_bytes());
                }
            }
        }
        true
    }

    /// The tokens of a message that has only role, text and perhaps a name; `None` for any other message.
    fn message(&self, value: &str) -> Option<u64> {
        let (mut tokens, mut odd, mut seen) = (PER_MESSAGE, !value.starts_with('{'), Vec::with_capacity(4));
        let read = walk(value, |member| {
            let key = member.key();
            let part = match &*key {
                "role" => self.string(member.value),
                "name" => self.string(member.value).map(|name| name.saturating_add(PER_NAME)),
                "content" => self.content(member.value),
                "type" => (member.value == "\"message\"").then_some(0),
                _ => None,
            };
            odd |= seen.contains(&key);
            seen.push(key);
            match part {
                Some(part) => tokens = tokens.saturating_add(part),
                None => odd = true,
            }
        });
        (read.is_ok() && !odd).then_some(tokens)
    }

    /// The tokens of a content: a text, or parts that are texts and images.
    fn content(&self, value: &str) -> Option<u64> {
        if value.starts_with('"') {
            return self.string(value);
        }
        let parts: Vec<&RawValue> = serde_json::from_str(value).ok()?;
        parts.into_iter().try_fold(0_u64, |tokens, part| Some(tokens.saturating_add(self.part(part.get())?)))
    }

    fn part(&self, value: &str) -> Option<u64> {
        let (mut kind, mut text, mut image, mut odd) = (None, None, false, !value.starts_with('{'));
        let read = walk(value, |member| match &*member.key() {
            "type" if kind.is_none() => kind = Some(member.value),
            "text" if text.is_none() => text = Some(member.value),
            "image_url" if !image => {
                image = true;
                odd |= !is_image(member.value);
            }
            _ => odd = true,
        });
        if read.is_err() || odd {
            return None;
        }
        match (kind?, text, image) {
            ("\"text\"" | "\"input_text\"" | "\"output_text\"", Some(text), false) => {
                self.string(text).map(|tokens| tokens.saturating_add(PER_PART))
            }
            // The image itself is counted separately, see `Bound::images`.
            ("\"image_url\"" | "\"input_image\"", None, true) => Some(PER_PART),
            _ => None,
        }
    }

    fn string(&self, value: &str) -> Option<u64> {
        let text = serde_json::from_str::<String>(value).ok()?;
        Some((self.measure)(&text))
    }

    /// Counts all keys and strings of a piece of JSON, and a token for each other byte that is not white space.
    fn everything(&mut self, json: &[u8]) {
        let mut at = 0;
        while let Some(byte) = json.get(at) {
            if *byte != b'"' {
                self.add(u64::from(!byte.is_ascii_whitespace()));
                at += 1;
                continue;
            }
            let end = string_end(json, at);
            let text = decoded(&json[at..end]);
            let mut tokens = (self.measure)(&text);
            if text.len() + 2 != end - at {
                // A provider may show the model either spelling.
                tokens = tokens.max((self.measure)(&String::from_utf8_lossy(&json[at..end])));
            }
            self.add(tokens.saturating_add(2));
            if json.get(skip_space(json, end)) == Some(&b':') {
                self.marks_cache |= speaks_of_cache(&text);
            }
            at = end;
        }
    }
}

/// Whether a key may concern the prompt cache and how long it keeps something (`cache_control`, `ttl`,
/// `prompt_cache_retention`).
fn speaks_of_cache(key: &str) -> bool {
    let key = key.to_lowercase();
    key.contains("cache") || key == "ttl"
}

/// Whether a value is only an image, encoded in the body or behind a link.
fn is_image(value: &str) -> bool {
    let is_url = |value: &str| {
        let url = serde_json::from_str::<Cow<'_, str>>(value);
        url.is_ok_and(|url| ["data:image/", "https://", "http://"].iter().any(|start| url.starts_with(start)))
    };
    if value.starts_with('"') {
        return is_url(value);
    }
    let (mut urls, mut odd) = (0, !value.starts_with('{'));
    let read = walk(value, |member| match &*member.key() {
        "url" => {
            urls += 1;
            odd |= !is_url(member.value);
        }
        "detail" => odd |= !matches!(member.value, "\"low\"" | "\"high\"" | "\"auto\"" | "\"original\""),
        _ => odd = true,
    });
    read.is_ok() && urls == 1 && !odd
}

/// Offset behind the closing quote of the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(step) = json.get(end..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        end += step;
        if json[end] == b'"' {
            return end + 1;
        }
        end += 2;
    }
    json.len()
}

/// A JSON string as text. A string with a lone surrogate is not text: its raw spelling is returned instead.
fn decoded(quoted: &[u8]) -> Cow<'_, str> {
    match serde_json::from_slice::<String>(quoted) {
        Ok(text) => Cow::Owned(text),
        Err(_) => String::from_utf8_lossy(quoted),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A token for each byte.
    fn bytes(text: &str) -> u64 {
        text.len() as u64
    }

    fn count(body: &str, documented: bool) -> PromptCount {
        count_prompt(body.as_bytes(), documented, &bytes)
    }

    #[test]
    fn a_plain_conversation_is_its_texts_and_what_stands_around_them() {
        for (body, tokens) in [
            (r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#, 4 + 2 + PER_MESSAGE + PRIMING),
            (
                r#"{"messages":[{"role":"user","content":"h\u0069","name":"bo"}]}"#,
                4 + 2 + 2 + 1 + PER_MESSAGE + PRIMING,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#,
                4 + 2 + 2 * PER_PART + PER_MESSAGE + PRIMING,
            ),
            (r#"{"instructions":"be","input":"hi"}"#, 2 * (2 + 1 + PER_MESSAGE) + PRIMING),
            (r#"{"messages":[],"metadata":{"note":"none of it"},"stop":["x"]}"#, PRIMING),
        ] {
            assert_eq!(count(body, true), PromptCount { tokens, is_plain: true, marks_cache: false }, "{body}");
        }
    }

    #[test]
    fn nothing_hides() {
        const LONG: &str =
            "the quick brown fox jumps over the lazy dog, again and again, until it has had enough of it all";
        let hidden = [
            json!({"messages": [{"role": "user", "content": format!("data:{LONG}")}]}),
            json!({"messages": [{"role": "user", "content": "x", "signature": LONG}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "x", "encrypted_content": LONG}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": LONG}}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": LONG}}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,", "alt": LONG}}]}]}),
            json!({"messages": [{"role": LONG, "content": ""}]}),
            json!({"messages": LONG}),
            json!({"messages": {"0": LONG}}),
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {LONG: {}}}}}]}),
            json!({"response_format": {"json_schema": {"schema": {"description": LONG}}}}),
            json!({"text": {"format": {"schema": {"enum": [LONG]}}}}),
            json!({"prediction": {"type": "content", "content": LONG}}),
            json!({"documents": [LONG], "messages": []}),
            json!({LONG: 1}),
        ];
        for body in hidden.iter().map(ToString::to_string) {
            for documented in [true, false] {
                assert!(count(&body, documented).tokens >= LONG.len() as u64, "{body}");
            }
        }
        // Another reader may take the first of two.
        let twice = format!(r#"{{"messages":[{{"role":"user","content":"{LONG}","content":"x"}}]}}"#);
        assert!(count(&twice, true).tokens > LONG.len() as u64);
        // A number may have any length.
        let digits = "1".repeat(500);
        assert!(count(&format!(r#"{{"tools":[{digits}]}}"#), true).tokens > 500);
        // Nesting has no bottom that something could lie below.
        let deep = format!(r#"{{"x":{}"{LONG}"{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(count(&deep, true).tokens > 20_000);
    }

    #[test]
    fn what_may_be_kept_in_the_prompt_cache_is_told() {
        for (body, marks) in [
            (r#"{"messages":[{"role":"user","content":"cache_control"}]}"#, false),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}"#,
                true,
            ),
            (r#"{"messages":[],"cache\u005fcontrol":{"type":"ephemeral"}}"#, true),
            (r#"{"prompt_cache_retention":"24h","messages":[]}"#, true),
        ] {
            assert_eq!(count(body, true).marks_cache, marks, "{body}");
        }
    }

    proptest! {
        /// A text is counted wherever it stands, and the count never exceeds the body's bytes, except for the tokens around
        /// messages.
        #[test]
        fn every_text_counts(text in "\\PC{1,40}", place in 0..6_usize, documented in any::<bool>()) {
            let body = match place {
                0 => json!({"messages": [{"role": "user", "content": text}]}),
                1 => json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
                2 => json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": text}}]}]}),
                3 => json!({"messages": [], text.as_str(): []}),
                4 => json!({"input": text}),
                _ => json!({"input": [text, [text]]}),
            }.to_string();
            prop_assume!(!PARAMETERS.contains(&text.as_str()));
            let counted = count(&body, documented).tokens;
            prop_assert!(counted >= text.len() as u64, "{}: {}", body, counted);
            prop_assert!(counted <= body.len() as u64 + 2 * PER_MESSAGE + PRIMING, "{}: {}", body, counted);
        }
    }
}
