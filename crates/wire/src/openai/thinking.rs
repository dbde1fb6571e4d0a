//! Whether a request lets its model think, as stated in the dialect that the request is sent in.

use super::members::walk;

/// What a request says about thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingWish {
    /// Nothing: the model's default applies.
    Unsaid,
    /// The model must not think, in a form that the model's documentation defines.
    Off,
    /// Anything else.
    On,
}

/// The switches that keep a model from thinking, as its documentation defines them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThinkingSwitches {
    /// `reasoning_effort: none`, and `reasoning: {effort: none}` in the Responses API.
    pub effort_none: bool,
    /// Anthropic's `thinking: {type: disabled}`.
    pub thinking_disabled: bool,
}

/// Other members that concern thinking, of all vendors.
const OTHERS: [&str; 9] = [
    // Anthropic.
    "output_config",
    // Qwen; vLLM; Groq; OpenRouter.
    "enable_thinking",
    "thinking_budget",
    "chat_template_kwargs",
    "reasoning_format",
    "include_reasoning",
    // Ollama.
    "think",
    // Gemini within OpenAI's request.
    "google",
    "extra_body",
];

impl ThinkingWish {
    /// Reads a complete valid request body for a model with these switches. A repeated or unusual statement, or one in a form
    /// that the model does not document, counts as [`Self::On`].
    pub fn of(body: &[u8], switches: ThinkingSwitches) -> Self {
        let (mut wish, mut said) = (Self::Unsaid, Vec::new());
        let read = walk(std::str::from_utf8(body).unwrap_or_default(), |member| {
            let key = member.key();
            let is_off = match &*key {
                "reasoning_effort" => switches.effort_none && is_text(member.value, "none"),
                "reasoning" => switches.effort_none && says_only(member.value, "effort", "none"),
                "thinking" => switches.thinking_disabled && says_only(member.value, "type", "disabled"),
                key if OTHERS.contains(&key) => false,
                _ => return,
            };
            if member.value == "null" {
                return;
            }
            let twice = said.contains(&key);
            wish = match (wish, is_off && !twice) {
                (Self::Unsaid | Self::Off, true) => Self::Off,
                _ => Self::On,
            };
            said.push(key);
        });
        if read.is_ok() { wish } else { Self::On }
    }
}

fn is_text(value: &str, word: &str) -> bool {
    serde_json::from_str::<String>(value).is_ok_and(|text| text == word)
}

/// Whether an object has this member once, with this word, and no other member that could concern thinking.
fn says_only(object: &str, key: &str, word: &str) -> bool {
    let (mut times, mut odd) = (0, !object.starts_with('{'));
    let read = walk(object, |member| match &*member.key() {
        name if name == key => {
            times += 1;
            odd |= !is_text(member.value, word);
        }
        // These members only say how thoughts are shown.
        "summary" | "generate_summary" | "display" => {}
        _ => odd = true,
    });
    read.is_ok() && times == 1 && !odd
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: ThinkingSwitches = ThinkingSwitches { effort_none: true, thinking_disabled: true };

    #[test]
    fn only_a_clear_no_is_one() {
        for (body, wish) in [
            (r#"{"model":"m"}"#, ThinkingWish::Unsaid),
            (r#"{"reasoning_effort":null}"#, ThinkingWish::Unsaid),
            (r#"{"messages":[{"reasoning_effort":"high"}]}"#, ThinkingWish::Unsaid),
            (r#"{"reasoning_effort":"none"}"#, ThinkingWish::Off),
            (r#"{"reasoning_effor\u0074":"no\u006ee"}"#, ThinkingWish::Off),
            (r#"{"reasoning_effort" : "minimal"}"#, ThinkingWish::On),
            (r#"{"reasoning":{"effort":"none","summary":"auto"}}"#, ThinkingWish::Off),
            (r#"{"reasoning":{"effort":"low"}}"#, ThinkingWish::On),
            (r#"{"reasoning":{"effort":"none","max_tokens":9000}}"#, ThinkingWish::On),
            (r#"{"thinking":{"type":"disabled"}}"#, ThinkingWish::Off),
            (r#"{"thinking":{"type":"between_tools"}}"#, ThinkingWish::On),
            (r#"{"thinking":{"type":"enabled","budget_tokens":1024}}"#, ThinkingWish::On),
            (r#"{"reasoning_effort":"none","thinking":{"type":"adaptive"}}"#, ThinkingWish::On),
            (r#"{"thinking":{"type":"adaptive"},"reasoning_effort":"none"}"#, ThinkingWish::On),
        ] {
            assert_eq!(ThinkingWish::of(body.as_bytes(), BOTH), wish, "{body}");
        }
    }

    #[test]
    fn what_is_said_twice_or_hidden_is_no_no() {
        for body in [
            r#"{"reasoning_effort":"none","reasoning_effort":"high"}"#,
            r#"{"reasoning_effort":"high","reasoning_effort":"none"}"#,
            r#"{"reasoning_effort":"none","reasoning_effor\u0074":"high"}"#,
            r#"{"thinkin\u0067":{"type":"enabled","budget_tokens":16000}}"#,
            r#"{"thinking":{"type":"disabled","type":"enabled"}}"#,
            r#"{"thinking":{"type":"disabled","Type":"enabled"}}"#,
            r#"{"reasoning":{"effort":"none","effort":"high"}}"#,
            r#"{"reasoning":{"effort":"none","enabled":true}}"#,
            r#"{"reasoning_effort":"none","enable_thinking":true}"#,
            r#"{"reasoning_effort":"none","output_config":{"effort":"max"}}"#,
            r#"{"reasoning_effort":"none""#,
        ] {
            assert_eq!(ThinkingWish::of(body.as_bytes(), BOTH), ThinkingWish::On, "{body}");
        }
    }

    #[test]
    fn a_word_of_another_vendor_switches_nothing_off() {
        let nothing = ThinkingSwitches::default();
        for body in [
            r#"{"thinking":{"type":"disabled"}}"#,
            r#"{"reasoning_effort":"none"}"#,
            r#"{"reasoning":{"effort":"none"}}"#,
        ] {
            assert_eq!(ThinkingWish::of(body.as_bytes(), nothing), ThinkingWish::On, "{body}");
        }
    }
}
