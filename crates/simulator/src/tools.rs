//! Which tools are called, and with what arguments. Shared by all dialects.
//!
//! A tool is called when `tool_choice` forces one, when the last user message names it, or when that message says
//! "use the tool" (then the first). After a tool result the answer is a text instead, unless a call is forced, so that
//! an agent's loop ends.

use serde_json::{Value, json};

use super::answer::Heard;
use super::schema;

/// One tool as offered by the client.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// A `custom` tool takes free text instead of JSON arguments.
    pub(super) custom: bool,
    parameters: Value,
}

impl Tool {
    /// A function whose arguments satisfy `parameters`.
    pub(super) fn function(name: &str, parameters: Value) -> Self {
        Self { name: name.to_owned(), custom: false, parameters }
    }

    /// Reads a tool of chat (`{"type","function":{"name","parameters"}}`), of the Responses API
    /// (`{"type","name","parameters"}`) or a legacy function (`{"name","parameters"}`). Built-in tools have no name.
    fn read(tool: &Value) -> Option<Self> {
        let custom = tool.get("type").and_then(Value::as_str) == Some("custom");
        let inner = tool.get("function").or_else(|| tool.get("custom")).unwrap_or(tool);
        let name = inner.get("name")?.as_str()?.to_owned();
        let parameters =
            inner.get("parameters").filter(|p| p.is_object()).cloned().unwrap_or_else(|| json!({"type": "object"}));
        Some(Self { name, custom, parameters })
    }

    /// The JSON text of the arguments (free text for a custom tool).
    pub(super) fn arguments(&self) -> String {
        if self.custom {
            format!("example input for {}", self.name)
        } else {
            schema::example(&self.parameters, "").to_string()
        }
    }

    /// Reads the list at `tools` or the legacy `functions`; tools that cannot be called are left out.
    pub(super) fn list(tools: Option<&Value>) -> Vec<Tool> {
        tools.and_then(Value::as_array).map(|list| list.iter().filter_map(Tool::read).collect()).unwrap_or_default()
    }
}

/// The tools that are called in answer to `heard`; empty when the answer is a text.
pub(super) fn called<'a>(tools: &'a [Tool], choice: Option<&Value>, parallel: bool, heard: &Heard) -> Vec<&'a Tool> {
    let (mode, allowed) = mode(choice);
    let offered: Vec<&Tool> = tools.iter().filter(|t| allowed.as_ref().is_none_or(|a| a.contains(&t.name))).collect();
    let mut called: Vec<&Tool> = match mode {
        Mode::None => Vec::new(),
        Mode::Auto if heard.tool_result.is_some() => Vec::new(),
        Mode::Auto | Mode::Required => {
            offered.iter().copied().filter(|t| mentions(&heard.last_user, &t.name)).collect()
        }
    };
    let asked =
        mode == Mode::Required || (mode == Mode::Auto && heard.tool_result.is_none() && says_use(&heard.last_user));
    if called.is_empty() && asked {
        called.extend(offered.first());
    }
    if !parallel {
        called.truncate(1);
    }
    called
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    None,
    Auto,
    Required,
}

/// The mode of a `tool_choice` and, when it restricts the tools, their names.
fn mode(choice: Option<&Value>) -> (Mode, Option<Vec<String>>) {
    let word = |word: Option<&str>| match word {
        Some("none") => Mode::None,
        Some("required") => Mode::Required,
        _ => Mode::Auto,
    };
    let Some(Value::Object(choice)) = choice else { return (word(choice.and_then(Value::as_str)), None) };
    let named = |tool: &Value| {
        tool.pointer("/function/name").or_else(|| tool.get("name")).and_then(Value::as_str).map(str::to_owned)
    };
    let list = choice.get("allowed_tools").unwrap_or(&Value::Null);
    let (list_mode, tools) = match list {
        Value::Object(inner) => (inner.get("mode"), inner.get("tools")),
        _ => (choice.get("mode"), choice.get("tools")),
    };
    if let Some(tools) = tools.and_then(Value::as_array) {
        return (word(list_mode.and_then(Value::as_str)), Some(tools.iter().filter_map(named).collect()));
    }
    let inner = ["function", "custom"].iter().find_map(|key| choice.get(*key)?.get("name"));
    let name = inner.or_else(|| choice.get("name")).and_then(Value::as_str);
    match name {
        Some(name) => (Mode::Required, Some(vec![name.to_owned()])),
        None => (Mode::Auto, None),
    }
}

fn says_use(text: &str) -> bool {
    text.to_ascii_lowercase().contains("use the tool")
}

/// Whether `name` occurs in `text` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.match_indices(&name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + name.len()..].chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(user: &str, choice: Value, parallel: bool) -> Vec<String> {
        let tools = Tool::list(Some(&json!([
            {"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},
            {"type":"function","name":"get_time"},
            {"type":"web_search"}
        ])));
        let heard = Heard { last_user: user.to_owned(), ..Heard::default() };
        called(&tools, Some(&choice), parallel, &heard).iter().map(|t| t.name.clone()).collect()
    }

    #[test]
    fn choices() {
        assert_eq!(names("call get_weather and get_time", json!("auto"), true), ["get_weather", "get_time"]);
        assert_eq!(names("call get_weather and get_time", json!("auto"), false), ["get_weather"]);
        assert_eq!(names("what of get_weathers", json!("auto"), true), [""; 0]);
        assert_eq!(names("Use the tool.", json!(null), true), ["get_weather"]);
        assert_eq!(names("anything", json!("required"), true), ["get_weather"]);
        assert_eq!(names("call get_weather", json!("none"), true), [""; 0]);
        assert_eq!(names("x", json!({"type":"function","function":{"name":"get_time"}}), true), ["get_time"]);
        assert_eq!(names("x", json!({"type":"function","name":"get_time"}), true), ["get_time"]);
        let allowed = json!({"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"get_time"}}]}});
        assert_eq!(names("x", allowed, true), ["get_time"]);
    }

    #[test]
    fn a_result_ends_the_loop_unless_forced() {
        let tools = Tool::list(Some(&json!([{"name":"f"}])));
        let heard = Heard { last_user: "call f".into(), tool_result: Some("x".into()), ..Heard::default() };
        assert!(called(&tools, None, true, &heard).is_empty());
        assert_eq!(called(&tools, Some(&json!("required")), true, &heard).len(), 1);
        assert_eq!(tools[0].arguments(), "{}");
    }
}
