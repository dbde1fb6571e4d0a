//! The abilities of a Claude model, derived from its name.
//!
//! Source: Anthropic's model pages and the errors of its API, and LiteLLM's price file 1.109.1 (`supports_…` keys), November
//! 2026. A name that is unknown or newer counts as the newest model, so that a new one works on the day it appears.

/// How a model is told to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinking {
    /// The model does not think.
    Never,
    /// The model thinks within a budget of tokens.
    Budget,
    /// The model decides how much to think; a budget is still accepted.
    Adaptive,
    /// The model decides how much to think; a budget is an error, and the text is left out unless it is asked for.
    AdaptiveOnly,
}

/// How a model is told not to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    /// By leaving out `thinking`: the model thinks only when asked to.
    Absent,
    /// By `{"type":"disabled"}`.
    Disabled,
    /// By `{"type":"between_tools"}`: no thinking before the first call.
    BetweenTools,
    /// Not at all; `disabled` is an error.
    Never,
}

/// The highest value that `output_config.effort` accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effort {
    /// The field is an error.
    None,
    /// `low`, `medium`, `high`.
    High,
    /// `low`, `medium`, `high` and `max`, but not `xhigh`.
    Max,
    /// All five values.
    All,
}

/// The abilities of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) thinking: Thinking,
    pub(super) off: Off,
    pub(super) effort: Effort,
    /// `output_config.format` and `strict` tools.
    pub(super) schemas: bool,
    /// `temperature`, `top_p` and `top_k`.
    pub(super) sampling: bool,
    /// `temperature` together with `top_p`.
    pub(super) both_samplings: bool,
    /// `tool_choice` of type `any` or `tool`.
    pub(super) forced_tools: bool,
    /// The longest answer, in tokens; `None` for a model of unknown name.
    pub(super) max_output_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Haiku,
    Sonnet,
    Opus,
    /// Fable, Mythos, and future families.
    Other,
}

impl Abilities {
    /// The abilities of the model of this name, such as `claude-opus-4-5-20251101` or
    /// `anthropic.claude-3-7-sonnet-20250219-v1:0`.
    pub(super) fn of(name: &str) -> Self {
        let known = parse(name);
        let (family, version) = known.unwrap_or((Family::Other, (u32::MAX, 0)));
        let thinking = match version {
            (..=3, ..=6) | (..=2, _) => Thinking::Never,
            (..=4, ..=5) | (3, _) => Thinking::Budget,
            (4, 6) => Thinking::Adaptive,
            _ => Thinking::AdaptiveOnly,
        };
        let off = match family {
            _ if version < (5, 0) => Off::Absent,
            Family::Haiku => Off::Disabled,
            Family::Sonnet if version >= (5, 5) => Off::BetweenTools,
            Family::Sonnet | Family::Opus if version < (5, 5) => Off::Disabled,
            _ => Off::Never,
        };
        let effort = match version {
            (4, 5) if family == Family::Opus => Effort::High,
            _ if version < (4, 6) => Effort::None,
            (4, 6) => Effort::Max,
            _ => Effort::All,
        };
        let max_output_tokens = known.map(|_| match version {
            _ if version < (3, 5) => 4096,
            (3, 5 | 6) => 8192,
            (4, ..=1) if family == Family::Opus => 32_000,
            _ if version < (4, 6) => 64_000,
            _ => 128_000,
        });
        Self {
            thinking,
            off,
            effort,
            schemas: version >= (4, 5),
            sampling: version < (4, 7),
            both_samplings: version < (4, 1),
            forced_tools: version < (5, 1),
            max_output_tokens,
        }
    }

    /// Whether the model thinks when a request does not mention thinking.
    pub(super) fn thinks_by_default(&self) -> bool {
        self.off != Off::Absent
    }
}

/// Family and version in a name; `None` for a name without a version.
fn parse(name: &str) -> Option<(Family, (u32, u32))> {
    let name = name.to_ascii_lowercase();
    let claude = &name[name.rfind("claude")?..];
    let mut family = Family::Other;
    let mut numbers = Vec::new();
    for word in claude.split(|c: char| !c.is_ascii_alphanumeric()).skip(1) {
        match word {
            "haiku" => family = Family::Haiku,
            "sonnet" => family = Family::Sonnet,
            "opus" => family = Family::Opus,
            _ if word.len() <= 2 && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) => {
                numbers.push(word.parse().ok()?);
            }
            // A date, or a package version such as `v1:0`: numbers behind it are not the model's version.
            _ if word.contains(|c: char| c.is_ascii_digit()) => break,
            _ => {}
        }
    }
    let major = *numbers.first()?;
    Some((family, (major, numbers.get(1).copied().unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_family_and_version() {
        for (name, family, version) in [
            ("claude-opus-4-5-20251101", Family::Opus, (4, 5)),
            ("claude-3-7-sonnet-latest", Family::Sonnet, (3, 7)),
            ("claude-sonnet-4", Family::Sonnet, (4, 0)),
            ("claude-sonnet-4-20250514", Family::Sonnet, (4, 0)),
            ("us.anthropic.claude-opus-4-6-v1", Family::Opus, (4, 6)),
            ("anthropic.claude-3-5-sonnet-20241022-v2:0", Family::Sonnet, (3, 5)),
            ("anthropic/claude-opus-4.8-fast", Family::Opus, (4, 8)),
            ("claude-haiku-4-5@20251001", Family::Haiku, (4, 5)),
            ("Claude-4-Sonnet", Family::Sonnet, (4, 0)),
            ("claude-instant-1.2", Family::Other, (1, 2)),
            ("claude-2.1", Family::Other, (2, 1)),
            ("claude-fable-5-1", Family::Other, (5, 1)),
        ] {
            assert_eq!(parse(name), Some((family, version)), "{name}");
        }
        for name in ["claude-mythos-preview", "claude", "gpt-4o", "", "claude-"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn abilities_follow_the_version() {
        let thinking = |name| Abilities::of(name).thinking;
        assert_eq!(thinking("claude-3-5-sonnet-20241022"), Thinking::Never);
        assert_eq!(thinking("claude-2.1"), Thinking::Never);
        assert_eq!(thinking("claude-3-7-sonnet-latest"), Thinking::Budget);
        assert_eq!(thinking("claude-haiku-4-5"), Thinking::Budget);
        assert_eq!(thinking("claude-sonnet-4-6"), Thinking::Adaptive);
        assert_eq!(thinking("claude-opus-4-7"), Thinking::AdaptiveOnly);
        assert_eq!(thinking("claude-new"), Thinking::AdaptiveOnly);
        let off = |name| Abilities::of(name).off;
        assert_eq!(off("claude-opus-4-8"), Off::Absent);
        assert_eq!(off("claude-opus-5"), Off::Disabled);
        assert_eq!(off("claude-opus-5-5"), Off::Never);
        assert_eq!(off("claude-sonnet-5"), Off::Disabled);
        assert_eq!(off("claude-sonnet-5-5"), Off::BetweenTools);
        assert_eq!(off("claude-haiku-5-5"), Off::Disabled);
        assert_eq!(off("claude-fable-5"), Off::Never);
        let effort = |name| Abilities::of(name).effort;
        assert_eq!(effort("claude-opus-4-5"), Effort::High);
        assert_eq!(effort("claude-sonnet-4-5"), Effort::None);
        assert_eq!(effort("claude-sonnet-4-6"), Effort::Max);
        assert_eq!(effort("claude-sonnet-5"), Effort::All);
        let longest = |name| Abilities::of(name).max_output_tokens;
        assert_eq!(longest("claude-3-haiku-20240307"), Some(4096));
        assert_eq!(longest("claude-3-5-haiku-latest"), Some(8192));
        assert_eq!(longest("claude-opus-4-1"), Some(32_000));
        assert_eq!(longest("claude-sonnet-4"), Some(64_000));
        assert_eq!(longest("claude-opus-4-6"), Some(128_000));
        assert_eq!(longest("sonnet"), None);
        assert!(!Abilities::of("claude-opus-4-1").schemas && Abilities::of("claude-haiku-4-5").schemas);
        assert!(Abilities::of("claude-fable-5").forced_tools && !Abilities::of("claude-fable-5-1").forced_tools);
    }
}
