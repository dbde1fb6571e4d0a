//! Whether a request lets its model think, in the words of the dialect that it is sent in.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

use super::locate::{top_level, value_end};

static EFFORT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"reasoning_effort\""));
static REASONING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"reasoning\""));
static THINKING: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"thinking\""));

/// A longer value says more than no.
const LONGEST: usize = 4 << 10;

/// What a request says about thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingWish {
    /// Nothing: the model does as it is made.
    Unsaid,
    /// It must not: `reasoning_effort: none`, `reasoning: {effort: none}`, or Anthropic's `thinking: {type: disabled}`.
    Off,
    /// Anything else.
    On,
}

impl ThinkingWish {
    /// Reads a whole valid request body. What is spelled in an unusual way counts as [`Self::On`].
    pub fn of(body: &[u8]) -> Self {
        let value = |finder: &Finder<'static>| {
            let hit = top_level(body, finder)?;
            let text = &body[hit.value_at..value_end(body, hit.value_at)?];
            match text.len() {
                0..=LONGEST => serde_json::from_slice::<Value>(text).ok(),
                _ => Some(Value::Bool(true)),
            }
        };
        let mut wish = Self::Unsaid;
        let said = [
            value(&EFFORT).map(|effort| (effort.is_null(), effort == "none")),
            value(&REASONING).map(|reasoning| (reasoning["effort"].is_null(), reasoning["effort"] == "none")),
            value(&THINKING).map(|thinking| (thinking.is_null(), thinking["type"] == "disabled")),
        ];
        for (is_nothing, is_off) in said.into_iter().flatten() {
            match (is_nothing, is_off) {
                (true, _) => {}
                (false, true) if wish == Self::Unsaid => wish = Self::Off,
                (false, true) => {}
                (false, false) => wish = Self::On,
            }
        }
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_no_is_one() {
        for (body, wish) in [
            (r#"{"model":"m"}"#, ThinkingWish::Unsaid),
            (r#"{"reasoning_effort":null}"#, ThinkingWish::Unsaid),
            (r#"{"messages":[{"reasoning_effort":"high"}]}"#, ThinkingWish::Unsaid),
            (r#"{"reasoning_effort":"none"}"#, ThinkingWish::Off),
            (r#"{"reasoning_effort" : "minimal"}"#, ThinkingWish::On),
            (r#"{"reasoning":{"effort":"none"}}"#, ThinkingWish::Off),
            (r#"{"reasoning":{"effort":"low"}}"#, ThinkingWish::On),
            (r#"{"reasoning":{"summary":"auto"}}"#, ThinkingWish::Unsaid),
            (r#"{"thinking":{"type":"disabled"}}"#, ThinkingWish::Off),
            (r#"{"thinking":{"type":"between_tools"}}"#, ThinkingWish::On),
            (r#"{"thinking":{"type":"enabled","budget_tokens":1024}}"#, ThinkingWish::On),
            (r#"{"reasoning_effort":"none","thinking":{"type":"adaptive"}}"#, ThinkingWish::On),
        ] {
            assert_eq!(ThinkingWish::of(body.as_bytes()), wish, "{body}");
        }
    }
}
