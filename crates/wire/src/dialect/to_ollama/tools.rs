//! Translates the tools that a model may call. Ollama cannot force a call.

use serde_json::{Map, Value, json};

use super::request::{drop_unknown, given, wrong};
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Which tools the model may call.
enum ToolChoice<'a> {
    All,
    None,
    /// Only the tools of these names.
    Among(Vec<&'a str>),
}

/// The definitions to send; `None` if there are none.
pub(super) fn tools(chat: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<Option<Vec<Value>>, Refusal> {
    let mut tools = match (given(chat, "tools"), given(chat, "functions")) {
        (Some(tools), _) => list(tools, "tools", dropped)?,
        (None, Some(functions)) => list(functions, "functions", dropped)?,
        (None, None) => Vec::new(),
    };
    let (param, choice) = match (given(chat, "tool_choice"), given(chat, "function_call")) {
        (Some(choice), _) => ("tool_choice", choice),
        (None, Some(choice)) => ("function_call", choice),
        (None, None) => return Ok(Some(tools).filter(|tools| !tools.is_empty())),
    };
    match ToolChoice::read(choice, param, dropped)? {
        ToolChoice::All => {}
        ToolChoice::None => tools.clear(),
        ToolChoice::Among(names) => {
            tools.retain(|tool| tool["function"]["name"].as_str().is_some_and(|name| names.contains(&name)));
            if tools.is_empty() {
                let message = format!("{param} names no function that the request defines.");
                return Err(Refusal::new(param, message));
            }
        }
    }
    Ok(Some(tools).filter(|tools| !tools.is_empty()))
}

fn list(tools: &Value, param: &str, dropped: &mut Vec<Dropped>) -> Result<Vec<Value>, Refusal> {
    let Some(tools) = tools.as_array() else { return Err(wrong(param, "a list")) };
    let tools = tools.iter().enumerate().map(|(i, tool)| {
        let path = format!("{param}[{i}]");
        let Some(tool) = tool.as_object() else { return Err(wrong(path, "an object")) };
        if param == "functions" {
            return function(tool, &path, "functions[].", dropped);
        }
        drop_unknown(tool, &["type", "function"], "tools[].", dropped);
        match tool.get("type").and_then(Value::as_str) {
            Some("function") | None => {}
            Some(kind) => {
                let message = format!("Ollama has no tools of type '{kind}': it takes functions only.");
                return Err(Refusal::new(format!("{path}.type"), message));
            }
        }
        match tool.get("function").and_then(Value::as_object) {
            Some(tool) => function(tool, &format!("{path}.function"), "tools[].function.", dropped),
            None => Err(wrong(format!("{path}.function"), "an object")),
        }
    });
    tools.collect()
}

fn function(tool: &Map<String, Value>, path: &str, prefix: &str, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let known: &[&str] = match tool.get("strict") {
        Some(Value::Bool(false)) => &["name", "description", "parameters", "strict"],
        _ => &["name", "description", "parameters"],
    };
    drop_unknown(tool, known, prefix, dropped);
    let Some(name) = tool.get("name").and_then(Value::as_str) else {
        return Err(wrong(format!("{path}.name"), "a string"));
    };
    let mut function = Map::new();
    function.insert("name".into(), name.into());
    match given(tool, "description") {
        None => {}
        Some(Value::String(description)) => _ = function.insert("description".into(), description.as_str().into()),
        Some(_) => return Err(wrong(format!("{path}.description"), "a string")),
    }
    // Templates iterate over `properties`, so the member must exist.
    let parameters = match given(tool, "parameters") {
        None => json!({ "type": "object", "properties": {} }),
        Some(Value::Object(schema)) if schema.is_empty() => json!({ "type": "object", "properties": {} }),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(wrong(format!("{path}.parameters"), "a JSON Schema, as an object")),
    };
    function.insert("parameters".into(), parameters);
    Ok(json!({ "type": "function", "function": function }))
}

impl<'a> ToolChoice<'a> {
    /// Reads `tool_choice`, or `function_call`, whose objects have no type.
    fn read(choice: &'a Value, param: &'static str, dropped: &mut Vec<Dropped>) -> Result<Self, Refusal> {
        match (choice.as_str(), choice.get("type").and_then(Value::as_str)) {
            (Some("auto"), _) => Ok(Self::All),
            (Some("none"), _) => Ok(Self::None),
            (Some("required"), _) => {
                note_dropped(dropped, param);
                Ok(Self::All)
            }
            (None, Some("allowed_tools")) => Self::allowed(choice, param, dropped),
            (None, Some("custom")) => {
                let message = "Ollama has no custom tools: it takes functions only.";
                Err(Refusal::new(format!("{param}.type"), message))
            }
            (None, _) => {
                let Some(name) = name(choice) else { return Err(Self::wrong(param)) };
                note_dropped(dropped, param);
                Ok(Self::Among(vec![name]))
            }
            (Some(_), _) => Err(Self::wrong(param)),
        }
    }

    fn allowed(choice: &'a Value, param: &'static str, dropped: &mut Vec<Dropped>) -> Result<Self, Refusal> {
        let allowed = choice.get("allowed_tools").unwrap_or(choice);
        match allowed.get("mode").and_then(Value::as_str) {
            Some("auto") | None => {}
            Some("required") => note_dropped(dropped, param),
            Some(_) => return Err(wrong(format!("{param}.allowed_tools.mode"), "auto or required")),
        }
        match allowed.get("tools").and_then(Value::as_array) {
            Some(tools) => Ok(Self::Among(tools.iter().filter_map(name).collect())),
            None => Err(wrong(format!("{param}.allowed_tools.tools"), "a list of tools")),
        }
    }

    fn wrong(param: &str) -> Refusal {
        wrong(param, "auto, none, required, a function to call, or the allowed tools")
    }
}

/// The function that a choice names.
fn name(choice: &Value) -> Option<&str> {
    choice.get("function").unwrap_or(choice).get("name")?.as_str()
}
