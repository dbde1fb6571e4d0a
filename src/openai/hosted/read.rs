//! Reads which tools a request lets the provider run, and how often.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Hosted, Kind, Limit, Tool};
use crate::openai::endpoint::Endpoint;
use crate::openai::fold::fold;
use crate::openai::members::walk;
use crate::openai::peek::{Field, Peek, PeekError};

/// See [`Hosted::read`].
pub(super) fn hosted(endpoint: &Endpoint, body: &[u8]) -> Result<Option<Hosted>, PeekError> {
    let mut reading = Reading { endpoint, tools: Vec::new(), max_tool_calls: None, unbounded: false, fault: None };
    let text = std::str::from_utf8(body).unwrap_or_default();
    // The peek has validated the text and refused a known name that is there twice.
    let _ = walk(text, |member| reading.member(&member.key(), member.value));
    if let Some(fault) = reading.fault {
        return Err(fault);
    }
    if reading.tools.is_empty() {
        return Ok(None);
    }
    let limit = match endpoint {
        _ if reading.unbounded => Limit::Nothing,
        Endpoint::Responses => Limit::Total(reading.max_tool_calls),
        Endpoint::Messages => Limit::PerTool,
        Endpoint::ChatCompletions => Limit::Once,
        _ => Limit::Nothing,
    };
    Ok(Some(Hosted { tools: reading.tools, limit }))
}

/// What a body's members say.
struct Reading<'a> {
    endpoint: &'a Endpoint,
    tools: Vec<Tool>,
    max_tool_calls: Option<u64>,
    unbounded: bool,
    fault: Option<PeekError>,
}

impl Reading<'_> {
    fn member(&mut self, key: &str, value: &str) {
        if value == "null" {
            return;
        }
        let (responses, messages) = (*self.endpoint == Endpoint::Responses, *self.endpoint == Endpoint::Messages);
        match key {
            "tools" => {
                let entries: Vec<&RawValue> = serde_json::from_str(value).unwrap_or_default();
                for entry in entries {
                    self.entry(entry.get());
                }
            }
            "max_tool_calls" if responses => match value.parse() {
                Ok(calls) => self.max_tool_calls = Some(calls),
                Err(_) => self.refuse("max_tool_calls", "The field 'max_tool_calls' must be a whole number."),
            },
            // OpenAI's search models, and others that take over the name.
            "web_search_options" => {
                let options: Options<'_> = serde_json::from_str(value).unwrap_or_default();
                self.add(Tool::search(options.search_context_size.as_deref()));
            }
            "mcp_servers" if messages => self.add(Tool::of(Kind::Item("mcp_call".into()), "mcp".into())),
            // A stored prompt brings its own tools along, unseen.
            "prompt" if responses => self.add_unbounded(Tool::item("prompt")),
            // xAI; OpenRouter; Qwen.
            "search_parameters" | "plugins" | "enable_search" if value != "false" => {
                self.add_unbounded(Tool::item(key))
            }
            // Gemini's own tools within OpenAI's request.
            "google" | "extra_body" if memmem::find(value.as_bytes(), b"tools").is_some() => {
                self.add_unbounded(Tool::item("google"));
            }
            // An item of the input that brings tools along.
            "input" if responses && brings_tools(value) => self.add_unbounded(Tool::item("input")),
            _ => {}
        }
    }

    fn entry(&mut self, text: &str) {
        let mut entry = Entry::default();
        let read = walk(text, |member| {
            let key = member.key();
            match fold(&key).as_deref() {
                Some("type") => entry.types.push(serde_json::from_str(member.value).unwrap_or_default()),
                Some("maxuses") if key == "max_uses" && entry.max_uses.is_none() => {
                    entry.max_uses = Some(member.value.parse().ok());
                }
                Some("maxuses") => entry.twisted = true,
                Some("searchcontextsize") => entry.size = serde_json::from_str(member.value).ok(),
                Some("container") => entry.container = Some(member.value.to_owned()),
                Some("environment") => entry.environment = Some(member.value.to_owned()),
                Some("function" | "name" | "inputschema") => {}
                Some(_) | None => entry.first.get_or_insert(key.into_owned()).truncate(64),
            }
        });
        if read.is_err() {
            return self.add_unbounded(Tool::item("unknown"));
        }
        if entry.twisted || matches!(entry.max_uses, Some(None)) {
            return self
                .refuse("tools", "The field 'max_uses' of a tool must be one whole number, under this very name.");
        }
        let types = std::mem::take(&mut entry.types);
        if types.is_empty() {
            // Anthropic's own tools of a client need no type; Gemini's tools of the provider have a name only.
            if *self.endpoint != Endpoint::Messages {
                let name = entry.first.unwrap_or_default();
                if !name.is_empty() {
                    self.add_unbounded(Tool::item(&name));
                }
            }
            return;
        }
        for kind in types {
            self.typed(&kind, &entry);
        }
    }

    /// A tool by its type, as the endpoint's API knows it.
    fn typed(&mut self, kind: &str, entry: &Entry) {
        if matches!(kind, "function" | "custom" | "namespace") {
            return;
        }
        let dated = |name: &str| kind.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        match self.endpoint {
            Endpoint::Responses => match kind {
                // The client runs them: a response ends with each call.
                "computer" | "computer_use_preview" | "local_shell" | "apply_patch" => {}
                "shell" if !entry.environment.as_ref().is_some_and(|text| text.contains("container")) => {}
                "shell" => self.container(entry.environment.as_deref()),
                "code_interpreter" => self.container(entry.container.as_deref()),
                "file_search" | "image_generation" | "mcp" => self.add(Tool::item(kind)),
                _ if dated("web_search") => self.add(Tool::search(entry.size.as_deref())),
                _ => self.add(Tool::item(kind)),
            },
            Endpoint::Messages => {
                if ["bash", "text_editor", "computer", "memory"].into_iter().any(dated) {
                    return;
                }
                let uses = |tool: Tool| Tool { max_uses: entry.max_uses.flatten(), ..tool };
                if dated("web_search") {
                    self.add(uses(Tool::search(None)));
                } else if dated("web_fetch") {
                    self.add(uses(Tool::of(Kind::Fetch, "web_fetch".into())));
                } else if dated("code_execution") {
                    self.add(Tool::of(Kind::CodeExecution, "code_execution".into()));
                } else if dated("mcp_toolset") {
                    self.add(Tool::of(Kind::Item("mcp_call".into()), "mcp".into()));
                } else {
                    self.add(Tool::item(kind));
                }
            }
            _ => self.add_unbounded(Tool::item(kind)),
        }
    }

    /// A container by its memory. One that is named by its id may have any.
    fn container(&mut self, value: Option<&str>) {
        let auto = value.and_then(|value| serde_json::from_str::<Container<'_>>(value).ok());
        let memory = auto.map(|container| container.memory_limit);
        let name = match memory.as_ref().map(|memory| memory.as_deref()) {
            Some(None | Some("1g")) => "code_interpreter".to_owned(),
            Some(Some(memory)) => format!("code_interpreter_{}", memory.chars().take(16).collect::<String>()),
            None => "code_interpreter_by_id".to_owned(),
        };
        self.add(Tool::of(Kind::Container, name.into()));
    }

    fn add(&mut self, tool: Tool) {
        match self.tools.iter_mut().find(|known| known.kind == tool.kind) {
            Some(known) => {
                // Both may be used.
                known.max_uses = known.max_uses.zip(tool.max_uses).map(|(one, other)| one.saturating_add(other));
                known.prices.extend(tool.prices);
            }
            None => self.tools.push(tool),
        }
    }

    fn add_unbounded(&mut self, tool: Tool) {
        self.unbounded = true;
        self.add(tool);
    }

    fn refuse(&mut self, param: &'static str, message: &str) {
        self.fault.get_or_insert(PeekError { message: message.into(), param: Some(param) });
    }
}

/// What an entry of `tools` says.
#[derive(Default)]
struct Entry {
    /// More than one only where a key is repeated.
    types: Vec<String>,
    /// `Some(None)` where it is no number.
    max_uses: Option<Option<u64>>,
    twisted: bool,
    size: Option<String>,
    container: Option<String>,
    environment: Option<String>,
    /// The first key that says nothing here.
    first: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options<'a> {
    #[serde(borrow)]
    search_context_size: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container<'a> {
    #[serde(borrow)]
    memory_limit: Option<Cow<'a, str>>,
}

/// Whether an item of the input defines a tool: a `type` that is a tool's and not that of a call.
fn brings_tools(input: &str) -> bool {
    let is_tool = |word: &str| {
        matches!(word, "file_search" | "code_interpreter" | "mcp" | "image_generation" | "shell")
            || word.starts_with("web_search") && !word.ends_with("_call")
    };
    fn any(value: &serde_json::Value, is_tool: &dyn Fn(&str) -> bool) -> bool {
        match value {
            serde_json::Value::Array(all) => all.iter().any(|value| any(value, is_tool)),
            serde_json::Value::Object(all) => all.iter().any(|(key, value)| match value {
                serde_json::Value::String(word) => key == "type" && is_tool(word),
                value => any(value, is_tool),
            }),
            _ => false,
        }
    }
    serde_json::from_str::<serde_json::Value>(input).is_ok_and(|value| any(&value, &is_tool))
}

/// `tools` with a `max_uses` of `most` in each of Anthropic's that has none and takes one; `None` where nothing changes.
pub(super) fn limited_tools(body: &[u8], peek: &Peek, most: u64) -> Option<String> {
    let place = peek.place(Field::Tools)?;
    let text = std::str::from_utf8(body.get(place.value_at as usize..place.value_end as usize)?).ok()?;
    let entries: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let mut changed = false;
    let entries: Vec<String> = entries
        .into_iter()
        .map(|entry| {
            let (mut takes, mut has) = (false, false);
            let _ = walk(entry.get(), |member| match &*member.key() {
                "type" => {
                    let kind = serde_json::from_str::<String>(member.value).unwrap_or_default();
                    takes |= kind.starts_with("web_search") || kind.starts_with("web_fetch");
                }
                "max_uses" => has |= member.value != "null",
                _ => {}
            });
            let text = entry.get();
            if !takes || has {
                return text.to_owned();
            }
            changed = true;
            match text.trim_start_matches('{').trim_start().starts_with('}') {
                true => format!("{{\"max_uses\":{most}}}"),
                false => format!("{{\"max_uses\":{most},{}", &text[1..]),
            }
        })
        .collect();
    changed.then(|| format!("[{}]", entries.join(",")))
}
