//! Translates the tools, and which of them the model may call.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::super::at::At;
use super::super::{Dropped, Refusal, note_dropped};
use super::calls::name;
use super::content::breakpoint;
use super::models::Abilities;
use super::must_be;
use super::schema::{acceptable, compiles, is_open};

/// Most `strict` tools that Anthropic compiles for one request.
const MAX_STRICT: usize = 20;

/// The tools of a request.
pub(super) struct Tools {
    /// The definitions in Anthropic's form.
    pub(super) defined: Vec<Value>,
    /// Which of them the model may or must call.
    pub(super) choice: ToolChoice,
    /// At most one call in an answer.
    pub(super) one_at_a_time: bool,
    /// The client uses deprecated functions and gets calls in that form.
    pub(super) functions: bool,
}

/// Which tools the model calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToolChoice {
    /// The request does not say.
    Default,
    Auto,
    None,
    Any,
    /// The tool of this name.
    Tool(String),
}

impl Tools {
    /// Reads `tools`, `tool_choice`, `parallel_tool_calls`, `web_search_options` and the deprecated functions.
    ///
    /// # Errors
    /// A tool or a choice that is not supported.
    pub(super) fn read(
        chat: &Map<String, Value>,
        abilities: &Abilities,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Self, Refusal> {
        let mut tools =
            Self { defined: Vec::new(), choice: ToolChoice::Default, one_at_a_time: false, functions: false };
        tools.define(chat, abilities, dropped)?;
        let choice = chat.get("tool_choice").filter(|choice| !choice.is_null());
        let old = chat.get("function_call").filter(|choice| !choice.is_null() && choice.as_str() != Some(""));
        let (choice, param) = (choice.or(old), if choice.is_some() { "tool_choice" } else { "function_call" });
        if let Some(choice) = choice {
            tools.choose(choice, param)?;
        }
        if let Some(search) = chat.get("web_search_options").filter(|search| !search.is_null()) {
            let search = web_search(search, dropped)?;
            if tools.has("web_search") {
                let message = "A tool named `web_search` is given too: rename it, or leave one of the two out.";
                return Err(Refusal::new("web_search_options", message));
            }
            tools.defined.push(search);
        }
        tools.one_at_a_time = tools.functions
            || match chat.get("parallel_tool_calls") {
                None | Some(Value::Null | Value::Bool(true)) => false,
                Some(Value::Bool(false)) => true,
                Some(_) => return Err(must_be("parallel_tool_calls", "true or false")),
            };
        if tools.defined.is_empty()
            && !matches!(tools.choice, ToolChoice::Default | ToolChoice::Auto | ToolChoice::None)
        {
            note_dropped(dropped, param);
        }
        Ok(tools)
    }

    /// Whether a tool of this name is defined.
    pub(super) fn has(&self, name: &str) -> bool {
        self.defined.iter().any(|tool| tool["name"] == name)
    }

    /// Whether the model must call a tool.
    pub(super) fn forces(&self) -> bool {
        !self.defined.is_empty() && matches!(self.choice, ToolChoice::Any | ToolChoice::Tool(_))
    }

    /// The `tool_choice` to send, where it is not the default.
    pub(super) fn choice(&self) -> Option<Value> {
        if self.defined.is_empty() {
            return None;
        }
        let mut choice = match &self.choice {
            ToolChoice::None => return Some(json!({"type": "none"})),
            ToolChoice::Default if !self.one_at_a_time => return None,
            ToolChoice::Default | ToolChoice::Auto => json!({"type": "auto"}),
            ToolChoice::Any => json!({"type": "any"}),
            ToolChoice::Tool(name) => json!({"type": "tool", "name": name}),
        };
        if self.one_at_a_time {
            choice["disable_parallel_tool_use"] = true.into();
        }
        Some(choice)
    }

    /// Defines the tools that a conversation without definitions called: Anthropic requires definitions. The
    /// model must not call any.
    pub(super) fn define_called(&mut self, called: &[String]) {
        if self.defined.is_empty() && !called.is_empty() {
            self.defined = called.iter().map(|name| json!({"name": name, "input_schema": no_parameters()})).collect();
            self.choice = ToolChoice::None;
        }
    }

    /// Lifts a forced choice for a model that cannot be forced. Returns the request to call a tool, for the end of `system`.
    pub(super) fn unforce(&mut self, dropped: &mut Vec<Dropped>) -> Option<String> {
        if !self.forces() {
            return None;
        }
        note_dropped(dropped, "tool_choice (asked for, not enforced)");
        let line = match std::mem::replace(&mut self.choice, ToolChoice::Auto) {
            ToolChoice::Tool(name) => {
                // Without the other tools the model can at least call no other.
                self.defined.retain(|tool| tool["name"] == name.as_str());
                format!("Answer by calling the tool `{name}`.")
            }
            _ => "Answer by calling one of your tools.".to_owned(),
        };
        Some(line)
    }

    fn define(
        &mut self,
        chat: &Map<String, Value>,
        abilities: &Abilities,
        dropped: &mut Vec<Dropped>,
    ) -> Result<(), Refusal> {
        let mut strict = 0;
        for (index, tool) in list(chat, "tools")?.iter().enumerate() {
            let at = At::Item(&At::Param("tools"), index);
            if tool.get("type").and_then(Value::as_str) != Some("function") {
                let message = "Only tools of type `function` can be had here: describe the tool as a function.";
                return Err(Refusal::new(format!("{at}.type"), message));
            }
            let function = tool.get("function").unwrap_or(&Value::Null);
            let mut defined = define(function, &at.member("function"))?;
            if function.get("strict").and_then(Value::as_bool) == Some(true) {
                let schema = &defined["input_schema"];
                let fits = compiles(schema) && (!is_open(schema) || *schema == no_parameters());
                if abilities.schemas && strict < MAX_STRICT && fits {
                    strict += 1;
                    acceptable(&mut defined["input_schema"], "tools[].function.parameters", dropped);
                    defined["strict"] = true.into();
                } else {
                    note_dropped(dropped, "tools[].function.strict");
                }
            }
            let mut marked = [tool, function].into_iter().filter_map(Value::as_object);
            if let Some(mark) = marked.find_map(|on| breakpoint(on, dropped)) {
                defined["cache_control"] = mark;
            }
            self.defined.push(defined);
        }
        let functions = list(chat, "functions")?;
        self.functions = self.defined.is_empty() && !functions.is_empty();
        for (index, function) in functions.iter().enumerate() {
            self.defined.push(define(function, &At::Item(&At::Param("functions"), index))?);
        }
        Ok(())
    }

    fn choose(&mut self, choice: &Value, param: &'static str) -> Result<(), Refusal> {
        let word = choice.as_str().or_else(|| choice.get("type")?.as_str()).unwrap_or("function");
        self.choice = match word {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Any,
            "function" if choice.is_object() => {
                let name = named(choice).ok_or_else(|| must_be(param, "the name of a function in `tools`"))?;
                if !self.has(name) {
                    return Err(Refusal::new(param, format!("There is no function {name:?} among the tools.")));
                }
                ToolChoice::Tool(name.to_owned())
            }
            "allowed_tools" => return self.allow(choice),
            _ => {
                return Err(must_be(param, "`auto`, `none`, `required`, a function, or a list of allowed functions"));
            }
        };
        Ok(())
    }

    /// Removes the tools that `choice` does not allow.
    fn allow(&mut self, choice: &Value) -> Result<(), Refusal> {
        let allowed = choice.get("allowed_tools").unwrap_or(choice);
        self.choice = match allowed.get("mode").and_then(Value::as_str) {
            Some("auto") => ToolChoice::Auto,
            Some("required") => ToolChoice::Any,
            _ => return Err(must_be("tool_choice.allowed_tools.mode", "`auto` or `required`")),
        };
        let Some(Value::Array(tools)) = allowed.get("tools") else {
            return Err(must_be("tool_choice.allowed_tools.tools", "a list of functions"));
        };
        let given: HashSet<&str> = self.defined.iter().filter_map(|tool| tool["name"].as_str()).collect();
        let mut names = HashSet::new();
        for (index, tool) in tools.iter().enumerate() {
            let Some(name) = named(tool).filter(|name| given.contains(name)) else {
                return Err(must_be(
                    format!("tool_choice.allowed_tools.tools[{index}]"),
                    "one of the functions in `tools`",
                ));
            };
            names.insert(name);
        }
        if names.is_empty() {
            return Err(must_be("tool_choice.allowed_tools.tools", "a list of at least one function"));
        }
        self.defined.retain(|tool| tool["name"].as_str().is_some_and(|name| names.contains(name)));
        Ok(())
    }
}

/// The schema of a tool without parameters.
pub(super) fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

fn list<'a>(chat: &'a Map<String, Value>, param: &str) -> Result<&'a [Value], Refusal> {
    match chat.get(param) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(all)) => Ok(all),
        Some(_) => Err(must_be(param, "a list")),
    }
}

fn named(choice: &Value) -> Option<&str> {
    choice.get("function").unwrap_or(choice).get("name")?.as_str()
}

fn define(function: &Value, at: &At<'_>) -> Result<Value, Refusal> {
    let mut defined = json!({"name": name(function, at)?});
    if let Some(description) = function.get("description").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        defined["description"] = description.into();
    }
    defined["input_schema"] = match function.get("parameters") {
        None | Some(Value::Null) => no_parameters(),
        Some(Value::Object(schema)) => {
            object_schema(schema).ok_or_else(|| must_be(format!("{at}.parameters"), "a schema of type `object`"))?
        }
        Some(_) => return Err(must_be(format!("{at}.parameters"), "a JSON schema")),
    };
    Ok(defined)
}

/// The complete schema, with the `type` that Anthropic requires; `None` if it is not the schema of an object.
pub(super) fn object_schema(schema: &Map<String, Value>) -> Option<Value> {
    if schema.is_empty() {
        return Some(no_parameters());
    }
    let is_object = match schema.get("type") {
        None | Some(Value::Null) => true,
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        Some(_) => false,
    };
    let mut whole = Map::from_iter([("type".to_owned(), Value::from("object"))]);
    whole.extend(schema.iter().filter(|(key, _)| *key != "type").map(|(key, value)| (key.clone(), value.clone())));
    is_object.then_some(Value::Object(whole))
}

/// Most web searches in one answer of Anthropic's; OpenAI's search models make one.
pub const MAX_SEARCHES: u64 = 5;

fn web_search(options: &Value, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let Some(options) = options.as_object() else {
        return Err(must_be("web_search_options", "an object"));
    };
    // Each search costs money, and each result tokens.
    let mut tool = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": MAX_SEARCHES});
    if !matches!(options.get("search_context_size").and_then(Value::as_str), None | Some("medium")) {
        note_dropped(dropped, "web_search_options.search_context_size");
    }
    let place = options.get("user_location").and_then(|place| place.get("approximate")?.as_object());
    if let Some(place) = place {
        let mut location = json!({"type": "approximate"});
        for key in ["city", "region", "country", "timezone"] {
            if let Some(Value::String(value)) = place.get(key) {
                location[key] = value.as_str().into();
            }
        }
        tool["user_location"] = location;
    }
    Ok(tool)
}
