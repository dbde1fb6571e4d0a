//! The deterministic answers: what is read from a conversation, what is answered, and how many tokens both have.
//!
//! - A prompt is one token per 4 bytes of text (rounded up, at least 1) plus 85 per image; tool definitions count as text.
//! - An answer is one token per *piece*: a word with the space before it, cut into parts of at most 24 bytes. A stream
//!   sends one delta per piece, so `completion_tokens` equals the number of content deltas.
//! - A reasoning model (`o1…`, `o3…`, `o4…`, `gpt-5…`) also spends up to 16 reasoning tokens, counted inside
//!   `completion_tokens` as OpenAI does.

use serde_json::{Value, json};

/// Longest piece of an ordinary answer, in bytes.
pub(super) const PIECE: usize = 24;

/// Prompt tokens of an image.
pub(super) const IMAGE_TOKENS: u64 = 85;
const REASONING_TOKENS: u64 = 16;

/// What the answer depends on in a conversation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// Text of the last message of the user.
    pub(super) last_user: String,
    /// Text of the tool result that ends the conversation, if one does: the answer is then a text, not another
    /// call.
    pub(super) tool_result: Option<String>,
    /// Bytes of text in all messages.
    pub(super) bytes: usize,
    /// Number of image parts.
    pub(super) images: u64,
    /// The word "json" occurs somewhere (`response_format: json_object` demands it).
    pub(super) mentions_json: bool,
}

impl Heard {
    /// Adds one chat message, or one input item of the Responses API.
    pub(super) fn message(&mut self, message: &Value) {
        let content = message.get("content").or_else(|| message.get("output")).unwrap_or(&Value::Null);
        let text = self.content(content);
        for calls in ["tool_calls", "arguments"] {
            if let Some(calls) = message.get(calls) {
                self.bytes += calls.to_string().len();
            }
        }
        let role = message.get("role").and_then(Value::as_str).unwrap_or("");
        let kind = message.get("type").and_then(Value::as_str).unwrap_or("");
        let is_result = matches!(role, "tool" | "function") || kind.ends_with("_call_output");
        self.tool_result = is_result.then(|| text.clone());
        if role == "user" {
            self.last_user = text;
        }
    }

    /// Adds text that is not a message: instructions, a prompt.
    pub(super) fn text(&mut self, text: &str) {
        self.bytes += text.len();
        self.mentions_json |= text.to_ascii_lowercase().contains("json");
    }

    /// Prompt tokens of the whole conversation.
    pub(super) fn tokens(&self) -> u64 {
        tokens(self.bytes) + IMAGE_TOKENS * self.images
    }

    fn content(&mut self, content: &Value) -> String {
        let mut text = String::new();
        match content {
            Value::String(s) => text.push_str(s),
            Value::Array(parts) => {
                for part in parts {
                    if let Some(s) = ["text", "refusal"].iter().find_map(|key| part.get(key)?.as_str()) {
                        text.push_str(if text.is_empty() { "" } else { "\n" });
                        text.push_str(s);
                    }
                    let kind = part.get("type").and_then(Value::as_str);
                    self.images += u64::from(matches!(kind, Some("image_url" | "input_image")));
                }
            }
            _ => {}
        }
        self.text(&text);
        text
    }
}

/// Token counts of a call in OpenAI's convention: `cached` is part of `prompt`, `reasoning` is part of `completion`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Count {
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) completion: u64,
    pub(super) reasoning: u64,
}

impl Count {
    /// Counts for `spoken` visible tokens under the output limit `max`; `cached` is clamped to the prompt.
    pub(super) fn new(model: &str, prompt: u64, cached: u64, spoken: u64, max: Option<u64>) -> Self {
        let room = max.unwrap_or(u64::MAX).saturating_sub(spoken);
        let reasoning = if reasons(model) { REASONING_TOKENS.min(room) } else { 0 };
        Self { prompt, cached: cached.min(prompt), completion: spoken + reasoning, reasoning }
    }

    /// The `usage` object of chat and legacy completions.
    pub(super) fn chat(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0
            }
        })
    }

    /// The `usage` object of the Responses API.
    pub(super) fn responses(&self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.completion
        })
    }
}

/// The text of the answer. Fixed answers for the prompts of parity suites, otherwise a sentence that quotes the prompt;
/// `variant` (the index of a choice) only changes that sentence.
pub(super) fn say(heard: &Heard, variant: u64) -> String {
    if let Some(result) = &heard.tool_result {
        return format!("The tool answered: {}", excerpt(result, 120));
    }
    let prompt = heard.last_user.trim();
    let lower = prompt.to_ascii_lowercase();
    if lower.contains("hello") {
        return "Hello there, friend!".to_owned();
    }
    if let Some(n) = after(&lower, "count to ").and_then(leading_number) {
        let numbers: Vec<String> = (1..=n.min(10_000)).map(|i| i.to_string()).collect();
        return numbers.join(", ");
    }
    if let Some(n) = after(&lower, "write ").filter(|rest| rest.contains(" word")).and_then(leading_number) {
        return ["lorem", "ipsum", "dolor", "sit", "amet"]
            .iter()
            .cycle()
            .take(n.min(100_000))
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
    }
    if let Some(at) = lower.find("return the string ") {
        let wanted = prompt[at + "return the string ".len()..].trim();
        return wanted.trim_end_matches(['.', '!']).trim_matches(['"', '\'', '`', '“', '”']).to_owned();
    }
    if prompt.is_empty() {
        return "I am the simulated model. You said nothing.".to_owned();
    }
    let quote = excerpt(prompt, 48);
    match (hash(prompt.as_bytes()).wrapping_add(variant)) % 4 {
        0 => format!("You said \"{quote}\" and the simulated model has taken note."),
        1 => format!("The simulated model read \"{quote}\" with care."),
        2 => format!("About \"{quote}\": this is a simulated answer."),
        _ => format!("A simulated answer to \"{quote}\"."),
    }
}

/// `kib` pieces of 1 KiB each: an answer of a set size.
pub(super) fn filler(kib: usize) -> String {
    let mut text = String::with_capacity(kib * 1024);
    for _ in 0..kib {
        text.push(' ');
        text.push_str(&"x".repeat(1023));
    }
    text
}

/// Cuts a text into pieces: a piece begins at a space and has at most `max` bytes (never inside a character).
pub(super) fn pieces(text: &str, max: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.char_indices().skip(1).find(|(_, c)| *c == ' ').map_or(rest.len(), |(at, _)| at);
        let mut end = word.min(max.max(4));
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// Obeys `stop` and the output limit: the text that may be said, its number of pieces, and whether the limit cut it.
pub(super) fn limit(text: &str, stops: &[String], max: Option<u64>, piece: usize) -> (String, u64, bool) {
    let stop = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
    let text = &text[..stop.unwrap_or(text.len())];
    let all = pieces(text, piece);
    let kept = usize::try_from(max.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(all.len());
    (all[..kept].concat(), kept as u64, kept < all.len())
}

/// Tokens of `bytes` bytes of prompt text.
pub(super) fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4).max(1)
}

/// Whether the model spends reasoning tokens and refuses `max_tokens` and a set `temperature`.
pub(super) fn reasons(model: &str) -> bool {
    ["o1", "o3", "o4", "gpt-5"].iter().any(|family| model.starts_with(family))
}

/// FNV-1a, 64 bits: enough to make ids and vectors from bodies, stable across platforms and releases.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    hash_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// Continues [`hash`]: the hash of the bytes that `hash` was made of, followed by `bytes`.
pub(super) fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The next value of a SplitMix64 sequence.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `prefix` and 29 letters and digits made from `seed`.
pub(super) fn id(prefix: &str, seed: u64) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut state = seed;
    let mut id = prefix.to_owned();
    id.extend((0..29).map(|_| char::from(ALPHABET[(next(&mut state) % 62) as usize])));
    id
}

/// The first `max` characters on one line; does not read the rest of a long text.
pub(super) fn excerpt(text: &str, max: usize) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(word);
        if let Some((end, _)) = line.char_indices().nth(max) {
            line.truncate(end);
            return format!("{}…", line.trim_end());
        }
    }
    line
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.find(mark).map(|at| &text[at + mark.len()..])
}

fn leading_number(text: &str) -> Option<usize> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(prompt: &str) -> String {
        say(&Heard { last_user: prompt.to_owned(), ..Heard::default() }, 0)
    }

    #[test]
    fn the_prompts_of_the_playbook() {
        assert_eq!(said("Say hello in 3 words.").split(' ').count(), 3);
        assert!(said("Say hello in 3 words.").starts_with("Hello"));
        assert_eq!(said("Count to 3."), "1, 2, 3");
        assert_eq!(said("Return the string OK."), "OK");
        assert_eq!(said("Return the string \"Grüß dich\"."), "Grüß dich");
        assert!(said("Test message").contains("Test message"));
        assert_eq!(said("Write 7 words please").split(' ').count(), 7);
    }

    #[test]
    fn a_quote_is_short_and_on_one_line() {
        assert_eq!(excerpt("a\n b\tc", 9), "a b c");
        assert_eq!(excerpt("abc défg", 6), "abc dé…");
        assert_eq!(excerpt("abc def", 4), "abc…");
    }

    #[test]
    fn variants_differ_and_repeat() {
        let heard = Heard { last_user: "what is this".into(), ..Heard::default() };
        assert_eq!(say(&heard, 1), say(&heard, 1));
        assert_ne!(say(&heard, 0), say(&heard, 1));
    }

    #[test]
    fn pieces_join_to_the_text_and_respect_characters() {
        for text in ["", "1, 2, 3", "ééééééééééééééééééééé", "a  b", " lead", "日本語 日本語"]
        {
            for max in [1, 4, 5, 24] {
                let cut = pieces(text, max);
                assert_eq!(cut.concat(), text);
                assert!(cut.iter().all(|p| !p.is_empty() && p.len() <= max.max(4)));
            }
        }
        assert_eq!(pieces("1, 2, 3", PIECE), ["1,", " 2,", " 3"]);
    }

    #[test]
    fn stop_comes_before_the_limit() {
        assert_eq!(limit("1, 2, 3", &["2".into()], None, PIECE), ("1, ".into(), 2, false));
        assert_eq!(limit("1, 2, 3", &[], Some(2), PIECE), ("1, 2,".into(), 2, true));
        assert_eq!(limit("1, 2, 3", &["".into()], Some(3), PIECE), ("1, 2, 3".into(), 3, false));
    }

    #[test]
    fn hearing_counts_text_images_and_tool_results() {
        let mut heard = Heard::default();
        heard.message(&json!({"role":"system","content":"abcd"}));
        heard.message(&json!({"role":"user","content":[
            {"type":"text","text":"efgh"}, {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}));
        assert_eq!((heard.tokens(), heard.last_user.as_str()), (2 + 85, "efgh"));
        heard.message(&json!({"role":"tool","tool_call_id":"x","content":"21 degrees"}));
        assert_eq!(say(&heard, 0), "The tool answered: 21 degrees");
        heard.message(&json!({"role":"user","content":"hello"}));
        assert!(heard.tool_result.is_none());
    }

    #[test]
    fn reasoning_never_passes_the_limit() {
        let count = Count::new("o3-mini", 5, 99, 4, Some(10));
        assert_eq!((count.reasoning, count.completion, count.cached), (6, 10, 5));
        assert_eq!(Count::new("gpt-4o", 5, 0, 4, None).completion, 4);
        assert_eq!(count.chat()["total_tokens"], 15);
    }

    #[test]
    fn ids_are_stable() {
        assert_eq!(id("chatcmpl-", 1), id("chatcmpl-", 1));
        assert_ne!(id("chatcmpl-", 1), id("chatcmpl-", 2));
        assert_eq!(id("x", 7).len(), 30);
    }
}
