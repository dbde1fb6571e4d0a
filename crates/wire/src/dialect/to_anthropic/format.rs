//! `response_format`: the format of an answer's text.

use serde_json::{Map, Value, json};

use super::super::{Dropped, Refusal, note_dropped};
use super::models::Abilities;
use super::must_be;
use super::schema::{acceptable, compiles, is_open};
use super::tools::{ToolChoice, Tools, no_parameters, object_schema};

/// How the model is made to answer in a format.
#[derive(Default)]
pub(super) struct Format {
    /// `output_config.format`.
    pub(super) native: Option<Value>,
    /// A line for the end of `system`.
    pub(super) line: Option<String>,
    /// The tool whose input is the answer.
    pub(super) tool: Option<String>,
}

impl Format {
    /// Reads `response_format`. Where the model does not support schemas, adds a tool for the answer to `tools`.
    ///
    /// # Errors
    /// A format that is not supported.
    pub(super) fn read(
        chat: &Map<String, Value>,
        abilities: &Abilities,
        tools: &mut Tools,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Self, Refusal> {
        let format = chat.get("response_format").unwrap_or(&Value::Null);
        match format.get("type").and_then(Value::as_str) {
            None if format.is_null() => Ok(Self::default()),
            Some("text") => Ok(Self::default()),
            Some("json_object") => {
                // The prompt asks for JSON, whereas OpenAI enforces it.
                note_dropped(dropped, "response_format.type (json_object)");
                let line = "Answer with one JSON object only, without any text or code fence around it.".to_owned();
                Ok(Self { line: Some(line), ..Self::default() })
            }
            Some("json_schema") => Self::schema(format, abilities, tools, dropped),
            _ => Err(must_be("response_format.type", "`text`, `json_object` or `json_schema`")),
        }
    }

    fn schema(
        format: &Value,
        abilities: &Abilities,
        tools: &mut Tools,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Self, Refusal> {
        const AT: &str = "response_format.json_schema.schema";
        let form = format.get("json_schema").unwrap_or(&Value::Null);
        let schema = match form.get("schema") {
            Some(Value::Object(schema)) => schema,
            None | Some(Value::Null) if form.is_object() => &Map::new(),
            _ => return Err(must_be(AT, "a JSON schema")),
        };
        if abilities.schemas && !schema.is_empty() {
            let mut schema = Value::Object(schema.clone());
            // A tool's input may have members that its schema does not name.
            if compiles(&schema) && !(is_open(&schema) && abilities.forced_tools) {
                acceptable(&mut schema, AT, dropped);
                return Ok(Self { native: Some(json!({"type": "json_schema", "schema": schema})), ..Self::default() });
            }
        }
        let schema = if schema.is_empty() { Some(no_parameters()) } else { object_schema(schema) };
        let Some(schema) = schema else {
            return Err(must_be(AT, "a schema of type `object`"));
        };
        Ok(Self::tool(form, schema, abilities, tools, dropped))
    }

    /// Lets the model give its answer as the input of a tool. Where the client has tools too, the model calls any of them.
    fn tool(form: &Value, schema: Value, abilities: &Abilities, tools: &mut Tools, dropped: &mut Vec<Dropped>) -> Self {
        let mut name = String::from("json_tool_call");
        while tools.has(&name) {
            name.push('_');
        }
        let said = form.get("description").and_then(Value::as_str).filter(|text| !text.is_empty());
        let description = said.unwrap_or("Gives the answer to the user.");
        let alone = tools.defined.is_empty() || tools.choice == ToolChoice::None;
        tools.defined.push(json!({"name": name, "description": description, "input_schema": schema}));
        let mut line = None;
        tools.choice = match &tools.choice {
            // The client requires a call now; the answer in its format comes in a later turn.
            choice @ (ToolChoice::Any | ToolChoice::Tool(_)) if !alone => choice.clone(),
            _ if !abilities.forced_tools => {
                if tools.choice == ToolChoice::None {
                    tools.defined.drain(..tools.defined.len() - 1);
                }
                note_dropped(dropped, "response_format.json_schema (asked for, not enforced)");
                line = Some(format!("Give your answer to the user by calling the tool `{name}`, never as text."));
                ToolChoice::Auto
            }
            _ if alone => ToolChoice::Tool(name.clone()),
            _ => ToolChoice::Any,
        };
        tools.one_at_a_time |= alone;
        Self { native: None, line, tool: Some(name) }
    }
}
