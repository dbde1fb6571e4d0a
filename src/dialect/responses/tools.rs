//! Tools, and which of them to call.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::read::{self, At, Object, cache_marks, given, others};
use crate::dialect::{Lost, Refusal, lose};

const PLACE: &str = "tools[]";

/// Puts `tools`, `tool_choice` and `parallel_tool_calls` into the chat request. Gives the names of the tools that take
/// a free text instead of JSON: Chat has no such tool that other providers know, so they become functions of one text,
/// and their calls are turned back.
pub(super) fn put(body: &Object, chat: &mut Object, lost: &mut Vec<Lost>) -> Result<HashSet<String>, Refusal> {
    let at = At::Param("tools");
    let tools = given(body, "tools").map(|value| read::list(value, at)).transpose()?.unwrap_or_default();
    let mut customs = HashSet::new();
    let mut functions = Vec::with_capacity(tools.len());
    for (index, value) in tools.iter().enumerate() {
        let at = at.element(index);
        let tool = read::object(value, at)?;
        functions.push(match read::text(tool, "type", at)? {
            "function" => function(tool, at, lost)?,
            "custom" => {
                customs.insert(read::text(tool, "name", at)?.to_owned());
                custom(tool, at, lost)?
            }
            kind => return Err(hosted(kind, at)),
        });
    }
    let parallel = given(body, "parallel_tool_calls");
    let parallel = parallel.map(|value| read::flag(value, At::Param("parallel_tool_calls"))).transpose()?;
    let choice = given(body, "tool_choice").map(choice).transpose()?;
    if functions.is_empty() {
        // Chat providers refuse an empty list, and a choice without tools. Who must call one cannot.
        return match choice.as_ref().and_then(Value::as_str) {
            Some("auto" | "none") => Ok(customs),
            None if choice.is_none() => Ok(customs),
            _ => Err(At::Param("tool_choice").refuse("a call is required, but `tools` has none to call.")),
        };
    }
    chat.insert("tools".into(), functions.into());
    chat.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    chat.extend(parallel.map(|parallel| ("parallel_tool_calls".to_owned(), parallel.into())));
    Ok(customs)
}

fn function(tool: &Object, at: At<'_>, lost: &mut Vec<Lost>) -> Result<Value, Refusal> {
    let mut function = Object::new();
    function.insert("name".into(), read::text(tool, "name", at)?.into());
    if let Some(description) = read::optional(tool, "description", at)? {
        function.insert("description".into(), description.into());
    }
    if let Some(parameters) = given(tool, "parameters") {
        read::object(parameters, at.member("parameters"))?;
        function.insert("parameters".into(), parameters.clone());
    }
    if let Some(strict) = given(tool, "strict") {
        function.insert("strict".into(), read::flag(strict, at.member("strict"))?.into());
    }
    Ok(nested(tool, function, &["parameters", "strict"], lost))
}

fn custom(tool: &Object, at: At<'_>, lost: &mut Vec<Lost>) -> Result<Value, Refusal> {
    let mut about: Vec<String> = read::optional(tool, "description", at)?.map(str::to_owned).into_iter().collect();
    if let Some(format) = given(tool, "format") {
        let at = at.member("format");
        let format = read::object(format, at)?;
        match read::text(format, "type", at)? {
            "text" => {}
            "grammar" => {
                let (syntax, grammar) = (read::text(format, "syntax", at)?, read::text(format, "definition", at)?);
                about.push(format!("`input` must follow this grammar, written in {syntax}:\n\n{grammar}"));
            }
            _ => return Err(at.member("type").must_be("`text` or `grammar`")),
        }
    }
    let mut function = Object::new();
    function.insert("name".into(), read::text(tool, "name", at)?.into());
    if !about.is_empty() {
        function.insert("description".into(), about.join("\n\n").into());
    }
    let input = json!({"input": {"type": "string"}});
    let parameters =
        json!({"type": "object", "properties": input, "required": ["input"], "additionalProperties": false});
    function.insert("parameters".into(), parameters);
    Ok(nested(tool, function, &["format"], lost))
}

/// Chat's form of a tool, whose further members beside `known` are named.
fn nested(tool: &Object, function: Object, known: &[&str], lost: &mut Vec<Lost>) -> Value {
    if given(tool, "defer_loading").is_some_and(|value| *value != Value::Bool(false)) {
        lose(lost, "tools[].defer_loading");
    }
    let direct = |callers: &Value| callers.as_array().is_some_and(|all| all.iter().any(|caller| caller == "direct"));
    if given(tool, "allowed_callers").is_some_and(|callers| !direct(callers)) {
        lose(lost, "tools[].allowed_callers");
    }
    let always = ["type", "name", "description", "defer_loading", "allowed_callers", "cache_control"];
    others(tool, &[&always, known].concat(), PLACE, lost);
    let mut made = Object::new();
    made.insert("type".into(), "function".into());
    made.insert("function".into(), function.into());
    cache_marks(tool, &mut made);
    made.into()
}

fn choice(value: &Value) -> Result<Value, Refusal> {
    let at = At::Param("tool_choice");
    if let Value::String(word) = value {
        return match word.as_str() {
            "auto" | "none" | "required" => Ok(value.clone()),
            _ => Err(at.must_be("`auto`, `none`, `required` or an object")),
        };
    }
    let choice = value.as_object().ok_or_else(|| at.must_be("a string or an object"))?;
    if read::text(choice, "type", at)? != "allowed_tools" {
        return named(choice, at);
    }
    let mode = match read::text(choice, "mode", at)? {
        mode @ ("auto" | "required") => mode,
        _ => return Err(at.member("mode").must_be("`auto` or `required`")),
    };
    let place = at.member("tools");
    let tools =
        read::list(choice.get("tools").unwrap_or(&Value::Null), place)?.iter().enumerate().map(|(index, tool)| {
            let at = place.element(index);
            named(read::object(tool, at)?, at)
        });
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}))
}

/// One tool that is meant.
fn named(tool: &Object, at: At<'_>) -> Result<Value, Refusal> {
    match read::text(tool, "type", at)? {
        "function" | "custom" => Ok(json!({"type": "function", "function": {"name": read::text(tool, "name", at)?}})),
        kind => Err(hosted(kind, at)),
    }
}

fn hosted(kind: &str, at: At<'_>) -> Refusal {
    let instead = match kind {
        "web_search" | "web_search_preview" => "switch web search off, or offer a search of your own as a `function`",
        "namespace" | "tool_search" => "offer its tools one by one, as `function`",
        "mcp" => "call the server yourself and offer its tools as `function`",
        _ => "leave it out, or offer a tool of your own as a `function`",
    };
    at.member("type").refuse(format_args!("the tool `{kind}` exists at OpenAI only, not for this model; {instead}."))
}
