//! Translates `reasoning_effort` and Anthropic's own `thinking` into the parameters that a model supports.

use serde_json::{Map, Value, json};

use super::super::{Dropped, Refusal, note_dropped};
use super::models::{Abilities, Effort, Off, Thinking};
use super::must_be;

/// The smallest budget that Anthropic accepts, in tokens.
const MIN_BUDGET: u64 = 1024;

/// The rest of a request, as far as it matters for thinking.
pub(super) struct Circumstances {
    pub(super) max_tokens: u64,
    /// The model must call a tool.
    pub(super) forced_tool: bool,
    /// See [`super::conversation::Conversation::open_without_thinking`].
    pub(super) open_without_thinking: bool,
}

/// The parameters about thinking in the translated request.
#[derive(Default)]
pub(super) struct Reasoning {
    /// `thinking`.
    pub(super) thinking: Option<Value>,
    /// `output_config.effort`.
    pub(super) effort: Option<&'static str>,
    /// The model thinks before it answers.
    pub(super) on: bool,
}

/// The thinking that the client asks for.
enum Wish<'a> {
    Nothing,
    Off,
    /// Thinking, with the client's own budget in tokens and the display of the text, if stated.
    On(Option<u64>, Option<&'a str>),
}

impl Reasoning {
    /// Decides which parameters about thinking the model gets.
    ///
    /// # Errors
    /// Unknown values of `reasoning_effort` or `thinking`.
    pub(super) fn decide(
        chat: &Map<String, Value>,
        abilities: &Abilities,
        around: &Circumstances,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Self, Refusal> {
        let level = level(chat.get("reasoning_effort"))?;
        let thinking = chat.get("thinking").filter(|thinking| !thinking.is_null());
        let param = if thinking.is_some() { "thinking" } else { "reasoning_effort" };
        let wish = match thinking {
            Some(thinking) => own(thinking)?,
            None => match level {
                None => Wish::Nothing,
                Some(Level::None) => Wish::Off,
                Some(_) => Wish::On(None, None),
            },
        };
        let mut reasoning = Self { on: abilities.thinks_by_default(), ..Self::default() };
        match wish {
            Wish::Nothing => {}
            Wish::Off => reasoning.off(abilities, param, dropped),
            Wish::On(budget, display) => {
                let wanted = Wanted { stated: budget, level, display, param };
                reasoning.start(abilities, around, &wanted, dropped);
            }
        }
        // With thinking off, efforts above `high` are an error.
        let most = if reasoning.is_off() { abilities.effort.min(Effort::High) } else { abilities.effort };
        reasoning.effort = level.and_then(|level| level.word(most, dropped));
        Ok(reasoning)
    }

    fn off(&mut self, abilities: &Abilities, param: &'static str, dropped: &mut Vec<Dropped>) {
        match abilities.off {
            Off::Absent => {}
            Off::Disabled => {
                self.thinking = Some(json!({"type": "disabled"}));
                self.on = false;
            }
            Off::BetweenTools => self.thinking = Some(json!({"type": "between_tools"})),
            Off::Never => note_dropped(dropped, param),
        }
    }

    fn start(
        &mut self,
        abilities: &Abilities,
        around: &Circumstances,
        wanted: &Wanted<'_>,
        dropped: &mut Vec<Dropped>,
    ) {
        if around.forced_tool && self.on {
            // The model thinks anyway; older models accept no `thinking` together with such a choice.
            return;
        }
        let mut thinking = match abilities.thinking {
            Thinking::Never => return note_dropped(dropped, wanted.param),
            _ if around.forced_tool => return note_dropped(dropped, wanted.param),
            Thinking::Budget | Thinking::Adaptive
                if wanted.stated.is_some() || abilities.thinking == Thinking::Budget =>
            {
                match wanted.budget(around, dropped) {
                    Some(budget) => json!({"type": "enabled", "budget_tokens": budget}),
                    None => return note_dropped(dropped, wanted.param),
                }
            }
            _ => {
                if wanted.stated.is_some() {
                    note_dropped(dropped, "thinking.budget_tokens");
                }
                json!({"type": "adaptive"})
            }
        };
        // Where the model omits the text by default, it is asked for, so that all models show their thinking.
        let display = wanted.display.or((abilities.thinking == Thinking::AdaptiveOnly).then_some("summarized"));
        if let Some(display) = display {
            thinking["display"] = display.into();
        }
        self.thinking = Some(thinking);
        self.on = true;
    }

    fn is_off(&self) -> bool {
        self.thinking
            .as_ref()
            .is_some_and(|thinking| thinking["type"] == "disabled" || thinking["type"] == "between_tools")
    }
}

/// The thinking that a client wants, in detail.
struct Wanted<'a> {
    /// The client's own budget in tokens.
    stated: Option<u64>,
    level: Option<Level>,
    display: Option<&'a str>,
    param: &'static str,
}

impl Wanted<'_> {
    /// The budget in tokens; `None` where the API would refuse any budget.
    fn budget(&self, around: &Circumstances, dropped: &mut Vec<Dropped>) -> Option<u64> {
        if around.max_tokens <= MIN_BUDGET || around.open_without_thinking {
            return None;
        }
        if let Some(stated) = self.stated {
            let budget = stated.clamp(MIN_BUDGET, around.max_tokens - 1);
            if budget != stated {
                note_dropped(dropped, "thinking.budget_tokens");
            }
            return Some(budget);
        }
        // A quarter is left for the answer, if that leaves the smallest budget.
        let most = (around.max_tokens - around.max_tokens / 4).max(MIN_BUDGET);
        Some(self.level.unwrap_or(Level::High).budget().min(most))
    }
}

/// OpenAI's efforts, and Anthropic's `max` above them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

impl Level {
    /// The budget in tokens, for a model that requires a budget.
    fn budget(self) -> u64 {
        match self {
            Self::None | Self::Minimal | Self::Low => MIN_BUDGET,
            Self::Medium => 2048,
            Self::High => 4096,
            Self::XHigh => 8192,
            Self::Max => 16_384,
        }
    }

    /// The value for `output_config.effort`, at most `most`.
    fn word(self, most: Effort, dropped: &mut Vec<Dropped>) -> Option<&'static str> {
        if most == Effort::None {
            return None;
        }
        let word = match self {
            Self::None => return None,
            Self::Minimal | Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh if most == Effort::All => "xhigh",
            Self::Max if most >= Effort::Max => "max",
            Self::XHigh | Self::Max => {
                note_dropped(dropped, "reasoning_effort (above high)");
                "high"
            }
        };
        Some(word)
    }
}

fn level(effort: Option<&Value>) -> Result<Option<Level>, Refusal> {
    let level = match effort {
        None | Some(Value::Null) => return Ok(None),
        Some(word) => match word.as_str().unwrap_or("") {
            "none" => Level::None,
            "minimal" => Level::Minimal,
            "low" => Level::Low,
            "medium" => Level::Medium,
            "high" => Level::High,
            "xhigh" => Level::XHigh,
            "max" => Level::Max,
            _ => {
                return Err(must_be(
                    "reasoning_effort",
                    "`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`",
                ));
            }
        },
    };
    Ok(Some(level))
}

/// Reads Anthropic's own `thinking` object, which Chat requests may have as an extension.
fn own(thinking: &Value) -> Result<Wish<'_>, Refusal> {
    let display = thinking.get("display").and_then(Value::as_str);
    match thinking.get("type").and_then(Value::as_str) {
        Some("enabled") => match thinking.get("budget_tokens").and_then(Value::as_u64) {
            Some(budget) => Ok(Wish::On(Some(budget), display)),
            None => Err(must_be("thinking.budget_tokens", "a number of tokens")),
        },
        Some("adaptive") => Ok(Wish::On(None, display)),
        Some("disabled" | "between_tools") => Ok(Wish::Off),
        _ => Err(must_be("thinking.type", "`enabled`, `adaptive` or `disabled`")),
    }
}
