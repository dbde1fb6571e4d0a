//! Translates the tools and the choice among them.

use serde_json::{Value, json};

use super::read::{self, Object, Refuse, given, no_cache};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Puts `tools` and `tool_choice` into the chat request.
pub(super) fn put(body: &Object, chat: &mut Object, dropped: &mut Vec<Dropped>) -> Result<(), Refusal> {
    let at = At::Param("tools");
    let tools = given(body, "tools").map(|value| read::list(value, &at)).transpose()?.map_or(&[][..], Vec::as_slice);
    let functions = tools.iter().enumerate().map(|(n, value)| function(value, &At::Item(&at, n), dropped));
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    // Chat providers refuse an empty list, and a choice without tools.
    let any = !functions.is_empty();
    if any {
        chat.insert("tools".into(), functions.into());
    }
    match given(body, "tool_choice") {
        Some(value) => choice(value, any, chat),
        None => Ok(()),
    }
}

fn function(value: &Value, at: &At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let tool = read::object(value, at)?;
    // Clients may omit the type of their own tools.
    if let Some(kind) = read::optional(tool, at, "type")?
        && kind != "custom"
    {
        let at = At::Member(at, "type");
        return Err(at.refuse(format!(
            "{at}: the tool `{kind}` is known to Claude models only; describe a tool of your own with `name` and \
             `input_schema`, or choose a Claude model."
        )));
    }
    let mut function = Object::new();
    function.insert("name".into(), read::member(tool, at, "name")?.into());
    if let Some(description) = read::optional(tool, at, "description")? {
        function.insert("description".into(), description.into());
    }
    let schema = given(tool, "input_schema").filter(|schema| schema.is_object());
    let schema = schema.ok_or_else(|| At::Member(at, "input_schema").must_be("a JSON schema"))?;
    function.insert("parameters".into(), schema.clone());
    if let Some(strict) = given(tool, "strict") {
        let strict = strict.as_bool().ok_or_else(|| At::Member(at, "strict").must_be("true or false"))?;
        function.insert("strict".into(), strict.into());
    }
    no_cache(tool, dropped);
    for (name, value) in tool {
        let known = ["type", "name", "description", "input_schema", "strict", "cache_control"].contains(&&**name);
        if !known && !asks_nothing(name, value) {
            note_dropped(dropped, format!("tools[].{name}"));
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn asks_nothing(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(all) => all.is_empty() || (name == "allowed_callers" && all.iter().any(|from| from == "direct")),
        _ => false,
    }
}

fn choice(value: &Value, any_tools: bool, chat: &mut Object) -> Result<(), Refusal> {
    let at = At::Param("tool_choice");
    let choice = read::object(value, &at)?;
    let kind = read::member(choice, &at, "type")?;
    let chosen = match kind {
        "auto" => "auto".into(),
        "none" => "none".into(),
        "any" => "required".into(),
        "tool" => json!({"type": "function", "function": {"name": read::member(choice, &at, "name")?}}),
        _ => return Err(At::Member(&at, "type").must_be("`auto`, `any`, `tool` or `none`")),
    };
    let one_at_a_time = read::flag(choice, &at, "disable_parallel_tool_use")?;
    if !any_tools {
        return match kind {
            "any" | "tool" => Err(at.refuse("tool_choice: a call is required, but `tools` has none to call.")),
            _ => Ok(()),
        };
    }
    chat.insert("tool_choice".into(), chosen);
    if one_at_a_time && kind != "none" {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}
