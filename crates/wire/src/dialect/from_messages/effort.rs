//! Translates the effort of thinking and the format of the answer.

use serde_json::{Value, json};

use super::read::{self, Object, Refuse, given};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Puts `thinking`, `output_config` and `output_format` into the chat request. Returns true if the client
/// does not want to receive the thinking.
pub(super) fn put(body: &Object, model: &str, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<bool, Refusal> {
    let thinking = thinking(body)?;
    let at = At::Param("output_config");
    let config = given(body, "output_config").map(|value| read::object(value, &at)).transpose()?;
    let wish = config.map(|config| wish(config, &at)).transpose()?.flatten();

    let takes_effort = takes_effort(model);
    if thinking.asked && !takes_effort {
        note_dropped(dropped, "thinking");
    }
    if wish.is_some() && (thinking.disabled || !takes_effort) {
        note_dropped(dropped, "output_config.effort");
    }
    if let Some(effort) = wish.or(thinking.effort).filter(|_| takes_effort && !thinking.disabled) {
        chat.insert("reasoning_effort".into(), effort.into());
    }

    let format = match config.and_then(|config| given(config, "format")) {
        Some(value) => Some(schema(value, &At::Member(&at, "format"))?),
        None => given(body, "output_format").map(|value| schema(value, &At::Param("output_format"))).transpose()?,
    };
    if let Some(schema) = format {
        let format = json!({"name": "response", "schema": schema, "strict": true});
        chat.insert("response_format".into(), json!({"type": "json_schema", "json_schema": format}));
    }
    for (name, _) in config.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if !matches!(name.as_str(), "effort" | "format") {
            note_dropped(dropped, format!("output_config.{name}"));
        }
    }
    Ok(thinking.omitted)
}

/// What `thinking` asks for.
#[derive(Default)]
struct Thinking {
    /// Thinking is asked for.
    asked: bool,
    /// Thinking is disabled.
    disabled: bool,
    /// How much thinking, in OpenAI's words.
    effort: Option<&'static str>,
    /// The client does not want to receive the thinking.
    omitted: bool,
}

fn thinking(body: &Object) -> Result<Thinking, Refusal> {
    let Some(value) = given(body, "thinking") else { return Ok(Thinking::default()) };
    let at = At::Param("thinking");
    let thinking = read::object(value, &at)?;
    let omitted = read::optional(thinking, &at, "display")? == Some("omitted");
    match read::member(thinking, &at, "type")? {
        "disabled" => Ok(Thinking { disabled: true, ..Thinking::default() }),
        "adaptive" => Ok(Thinking { asked: true, omitted, ..Thinking::default() }),
        "enabled" => {
            let budget = given(thinking, "budget_tokens").and_then(Value::as_u64);
            let effort = match budget.ok_or_else(|| At::Member(&at, "budget_tokens").must_be("a whole number"))? {
                ..=4096 => "low",
                4097..=16384 => "medium",
                _ => "high",
            };
            Ok(Thinking { asked: true, effort: Some(effort), omitted, ..Thinking::default() })
        }
        _ => Err(At::Member(&at, "type").must_be("`enabled`, `adaptive` or `disabled`")),
    }
}

/// `output_config.effort` in OpenAI's words. Its two highest values have no counterpart that many models know.
fn wish(config: &Object, at: &At<'_>) -> Result<Option<&'static str>, Refusal> {
    Ok(Some(match read::optional(config, at, "effort")? {
        None => return Ok(None),
        Some("low") => "low",
        Some("medium") => "medium",
        Some("high" | "xhigh" | "max") => "high",
        Some(_) => return Err(At::Member(at, "effort").must_be("`low`, `medium`, `high`, `xhigh` or `max`")),
    }))
}

fn schema<'a>(format: &'a Value, at: &At<'_>) -> Result<&'a Value, Refusal> {
    let format = read::object(format, at)?;
    if read::member(format, at, "type")? != "json_schema" {
        return Err(At::Member(at, "type").must_be("`json_schema`"));
    }
    given(format, "schema")
        .filter(|schema| schema.is_object())
        .ok_or_else(|| At::Member(at, "schema").must_be("a JSON schema"))
}

/// Whether the model of this name takes `reasoning_effort` with `low`, `medium` and `high`. Others answer the
/// parameter with a 400, so it is not sent to a model of unknown kind.
///
/// | names | |
/// |---|---|
/// | `o1`, `o3`, `o4` …, but not `o1-mini` and `o1-preview` | OpenAI |
/// | `gpt-5` and above, but not `…-chat…`; `gpt-oss` | OpenAI |
/// | `gemini-2.5`, `gemini-3` | Google's compatibility layer |
/// | `grok-4.3` to `grok-4.9` | xAI; its other models refuse it, also those called `-reasoning` |
/// | `deepseek-r…`, `qwen3`, `…think…`, `…reason…`, but not `…coder…`, `…instruct…`, `…non-…` | open models |
fn takes_effort(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let has = |part: &str| name.contains(part);
    let digit_behind = |prefix: &str| {
        let mut rest = name.strip_prefix(prefix)?.bytes();
        let digit = rest.next().filter(u8::is_ascii_digit)?;
        rest.next().is_none_or(|next| !next.is_ascii_digit()).then_some(digit)
    };
    if name.starts_with("grok") {
        return digit_behind("grok-4.").is_some_and(|minor| minor >= b'3');
    }
    if name.starts_with("gpt-oss") {
        return true;
    }
    if name.starts_with("gpt-") {
        return digit_behind("gpt-").is_some_and(|major| major >= b'5') && !has("-chat");
    }
    if digit_behind("o").is_some() {
        return !name.starts_with("o1-mini") && !name.starts_with("o1-preview");
    }
    if has("coder") || has("instruct") || has("non-") {
        return false;
    }
    ["gemini-2.5", "gemini-3", "deepseek-r", "qwen3"].iter().any(|prefix| name.starts_with(prefix))
        || has("think")
        || has("reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_take_an_effort() {
        for name in [
            "o1",
            "o3-mini",
            "o4-mini-2025-04-16",
            "openai/o3",
            "gpt-5",
            "gpt-5.1-codex",
            "gpt-6",
            "gpt-oss-120b",
            "gpt-oss:20b",
            "gemini-2.5-flash",
            "gemini-3-pro-preview",
            "grok-4.3",
            "deepseek-reasoner",
            "deepseek-r1:7b",
            "Qwen/Qwen3-32B",
            "qwen3:8b",
            "kimi-k2-thinking",
        ] {
            assert!(takes_effort(name), "{name}");
        }
        for name in [
            "",
            "gpt-4o",
            "gpt-4.1",
            "gpt-5-chat-latest",
            "gpt-3.5-turbo",
            "o1-mini",
            "o1-preview",
            "openchat",
            "olmo-3",
            "o",
            "gpt-",
            "grok-4",
            "grok-4.20-reasoning",
            "grok-3-mini",
            "grok-4-1-fast-non-reasoning",
            "qwen3-coder-plus",
            "qwen3-235b-a22b-instruct-2507",
            "mistral-large-latest",
            "magistral-medium-latest",
            "llama3.3",
            "deepseek-chat",
            "gemini-2.0-flash",
        ] {
            assert!(!takes_effort(name), "{name}");
        }
    }
}
