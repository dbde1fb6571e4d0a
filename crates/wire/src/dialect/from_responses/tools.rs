//! Translates the tools and the choice among them.

use serde_json::{Value, json};

use super::names::{self, Names};
use super::read::{self, Object, Refuse, cache_marks, given, others};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

const PLACE: &str = "tools[]";

/// Puts `tools`, `tool_choice` and `parallel_tool_calls` into the chat request. Returns the names of the tools that differ in
/// Chat, so that calls can be translated back: tools that take free text become functions with one text parameter, because
/// few chat providers know such tools, and namespaces become part of the name, because Chat has none.
///
/// Web search is dropped and named: it is only an offer, without which the model can answer, and Codex CLI always makes it.
pub(super) fn put(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<Names, Refusal> {
    let at = At::Param("tools");
    let tools = given(body, "tools").map(|value| read::list(value, at)).transpose()?.unwrap_or_default();
    let mut names = Names::default();
    let mut functions = Vec::with_capacity(tools.len());
    for (index, value) in tools.iter().enumerate() {
        let at = at.item(index);
        let tool = read::object(value, at)?;
        match read::text(tool, "type", at)? {
            "namespace" => namespace(tool, at, &mut names, &mut functions, dropped)?,
            kind if kind.starts_with("web_search") => note_dropped(dropped, "tools[].web_search"),
            _ => functions.push(one(tool, None, at, &mut names, dropped)?),
        }
    }
    let parallel = given(body, "parallel_tool_calls");
    let parallel = parallel.map(|value| read::flag(value, At::Param("parallel_tool_calls"))).transpose()?;
    let choice = given(body, "tool_choice").map(choice).transpose()?;
    if functions.is_empty() {
        // Chat providers refuse an empty list, and a choice without tools. A required call is impossible then.
        return match choice.as_ref().and_then(Value::as_str) {
            Some("auto" | "none") => Ok(names),
            None if choice.is_none() => Ok(names),
            _ => Err(At::Param("tool_choice").refuse("a call is required, but `tools` has none to call.")),
        };
    }
    chat.insert("tools".into(), functions.into());
    chat.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    chat.extend(parallel.map(|parallel| ("parallel_tool_calls".to_owned(), parallel.into())));
    Ok(names)
}

/// Translates a tool that the client runs.
fn one(
    tool: &Object,
    space: Option<&str>,
    at: At<'_>,
    names: &mut Names,
    dropped: &mut Vec<Dropped>,
) -> Result<Value, Refusal> {
    let custom = match read::text(tool, "type", at)? {
        "function" => false,
        "custom" => true,
        kind => return Err(hosted(kind, at)),
    };
    let own = read::text(tool, "name", at)?;
    let name = if custom || space.is_some() { names.note(own, space, custom) } else { own.to_owned() };
    if custom { self::custom(tool, name, at, dropped) } else { function(tool, name, at, dropped) }
}

/// Translates the tools of a namespace; the description of each gets that of the namespace.
fn namespace(
    space: &Object,
    at: At<'_>,
    names: &mut Names,
    functions: &mut Vec<Value>,
    dropped: &mut Vec<Dropped>,
) -> Result<(), Refusal> {
    let name = read::text(space, "name", at)?;
    let about = read::optional(space, "description", at)?.filter(|about| !about.is_empty());
    others(space, &["type", "name", "description", "tools"], PLACE, dropped);
    let place = at.member("tools");
    for (index, value) in read::list(space.get("tools").unwrap_or(&Value::Null), place)?.iter().enumerate() {
        let at = place.item(index);
        let mut tool = one(read::object(value, at)?, Some(name), at, names, dropped)?;
        if let Some(about) = about {
            let own = tool["function"]["description"].as_str().map_or_else(String::new, |own| format!("\n\n{own}"));
            tool["function"]["description"] = format!("{name}: {about}{own}").into();
        }
        functions.push(tool);
    }
    Ok(())
}

fn function(tool: &Object, name: String, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let mut function = Object::new();
    function.insert("name".into(), name.into());
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
    Ok(nested(tool, function, &["parameters", "strict"], dropped))
}

fn custom(tool: &Object, name: String, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
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
    function.insert("name".into(), name.into());
    if !about.is_empty() {
        function.insert("description".into(), about.join("\n\n").into());
    }
    let input = json!({"input": {"type": "string"}});
    let parameters =
        json!({"type": "object", "properties": input, "required": ["input"], "additionalProperties": false});
    function.insert("parameters".into(), parameters);
    Ok(nested(tool, function, &["format"], dropped))
}

/// Chat's form of a tool; members other than `known` are noted as dropped.
fn nested(tool: &Object, function: Object, known: &[&str], dropped: &mut Vec<Dropped>) -> Value {
    if given(tool, "defer_loading").is_some_and(|value| *value != Value::Bool(false)) {
        note_dropped(dropped, "tools[].defer_loading");
    }
    let direct = |callers: &Value| callers.as_array().is_some_and(|all| all.iter().any(|caller| caller == "direct"));
    if given(tool, "allowed_callers").is_some_and(|callers| !direct(callers)) {
        note_dropped(dropped, "tools[].allowed_callers");
    }
    let always = ["type", "name", "description", "defer_loading", "allowed_callers", "cache_control"];
    others(tool, &[&always, known].concat(), PLACE, dropped);
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
            let at = place.item(index);
            named(read::object(tool, at)?, at)
        });
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}))
}

/// The choice of one named tool.
fn named(tool: &Object, at: At<'_>) -> Result<Value, Refusal> {
    match read::text(tool, "type", at)? {
        "function" | "custom" => {
            let name = names::function(read::text(tool, "name", at)?, read::optional(tool, "namespace", at)?);
            Ok(json!({"type": "function", "function": {"name": name}}))
        }
        kind => Err(hosted(kind, at)),
    }
}

fn hosted(kind: &str, at: At<'_>) -> Refusal {
    let instead = match kind {
        "tool_search" => "offer its tools one by one, as `function`",
        "mcp" => "call the server yourself and offer its tools as `function`",
        _ => "leave it out, or offer a tool of your own as a `function`",
    };
    at.member("type").refuse(format_args!("the tool `{kind}` exists at OpenAI only, not for this model; {instead}."))
}
