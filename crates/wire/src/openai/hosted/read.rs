//! Reads which tools a request lets the provider run, and how often.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Hosted, Kind, Limit, Tool};
use crate::openai::endpoint::Endpoint;
use crate::openai::fold::fold;
use crate::openai::members::{elements, walk};
use crate::openai::peek::{Field, Peek, PeekError};

/// See [`Hosted::read`].
pub(super) fn hosted(endpoint: &Endpoint, body: &[u8]) -> Result<Option<Hosted>, PeekError> {
    let mut reading = Reading { endpoint, tools: Vec::new(), max_tool_calls: None, unbounded: false, fault: None };
    let text = std::str::from_utf8(body).unwrap_or_default();
    // The peek has validated the text and refused a repeated known name.
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

/// Most kinds of tools, and most price list names of one kind, that are remembered. No provider has as many, but a body may
/// name millions.
const MOST_KINDS: usize = 64;

/// What has been read from a body's members.
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
                // A value that is not a list has no tools.
                let _ = elements(value, |entry| self.entry(entry, true));
            }
            "max_tool_calls" if responses => match value.parse() {
                Ok(calls) => self.max_tool_calls = Some(calls),
                Err(_) => self.refuse("max_tool_calls", "The field 'max_tool_calls' must be a whole number."),
            },
            // OpenAI's search models, and other vendors' that use the same name.
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

    /// Reads one tool: an entry of `tools` when `outer`, otherwise one that a namespace groups.
    fn entry(&mut self, text: &str, outer: bool) {
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
                Some("tools") => {
                    entry.nested.push(member.value.to_owned());
                    entry.first.get_or_insert(key.into_owned());
                }
                Some("function" | "name" | "inputschema") => {}
                Some(_) | None => entry.first.get_or_insert(key.into_owned()).truncate(64),
            }
        });
        if read.is_err() {
            return self.add_unbounded(Tool::item("unknown"));
        }
        if entry.twisted || matches!(entry.max_uses, Some(None)) {
            return self.refuse(
                "tools",
                "The field 'max_uses' of a tool must be given once, as a whole number, under exactly this name.",
            );
        }
        let types = std::mem::take(&mut entry.types);
        if types.is_empty() {
            // Anthropic's client tools need no type; the tools that Gemini runs have a name only.
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
        for nested in entry.nested {
            // Nested deeper than in any API, or not a list.
            if !outer || elements(&nested, |entry| self.entry(entry, false)).is_err() {
                self.add_unbounded(Tool::item("namespace"));
            }
        }
    }

    /// Adds a tool by its type, as the endpoint's API defines the type.
    fn typed(&mut self, kind: &str, entry: &Entry) {
        if matches!(kind, "function" | "custom" | "namespace") {
            return;
        }
        let dated = |name: &str| kind.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        match self.endpoint {
            Endpoint::Responses => match kind {
                // The client runs these: a response ends with each such call.
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

    /// Adds a container by its memory size. A container that is named by its id may have any size.
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
        let is_full = self.tools.len() == MOST_KINDS;
        match self.tools.iter_mut().find(|known| known.kind == tool.kind) {
            Some(known) => {
                // Both tools may be used, so their limits add up.
                known.max_uses = known.max_uses.zip(tool.max_uses).map(|(one, other)| one.saturating_add(other));
                for price in tool.prices {
                    match known.prices.contains(&price) {
                        true => {}
                        false if known.prices.len() < MOST_KINDS => known.prices.push(price),
                        // The most expensive name counts, and it may be one that is left out.
                        false => self.unbounded = true,
                    }
                }
            }
            None if is_full => {
                self.refuse("tools", "The field 'tools' names too many kinds of tools that a provider runs.");
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
    /// `Some(None)` where the value is not a number.
    max_uses: Option<Option<u64>>,
    twisted: bool,
    size: Option<String>,
    container: Option<String>,
    environment: Option<String>,
    /// Lists of tools that the entry groups; more than one only where a key is repeated.
    nested: Vec<String>,
    /// The first key that has no other meaning here; it names a tool that has no type.
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

/// Whether an item of the input defines a tool: a `type` that is a tool's and not a call's. True also for an input that is
/// nested too deep to be read.
fn brings_tools(input: &str) -> bool {
    let mut found = false;
    let mut reader = serde_json::Deserializer::from_str(input);
    let read = Defined { found: &mut found, is_type: false }.deserialize(&mut reader);
    found || read.is_err()
}

/// Looks for the `type` of a tool in a value.
struct Defined<'f> {
    found: &'f mut bool,
    /// The value stands under the key `type`.
    is_type: bool,
}

impl<'de> DeserializeSeed<'de> for Defined<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Defined<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, word: &str) -> Result<(), E> {
        *self.found |= self.is_type
            && (matches!(word, "file_search" | "code_interpreter" | "mcp" | "image_generation" | "shell")
                || word.starts_with("web_search") && !word.ends_with("_call"));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Defined { found: &mut *self.found, is_type: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            map.next_value_seed(Defined { found: &mut *self.found, is_type: key == "type" })?;
        }
        Ok(())
    }

    skip_scalars!();
}

/// The text of `tools` with `"max_uses"` of `most` added to each of Anthropic's tools that takes one and has none; `None` where
/// nothing changes.
pub(super) fn limited_tools(body: &[u8], peek: &Peek, most: u64) -> Option<String> {
    let place = peek.place(Field::Tools)?;
    let text = std::str::from_utf8(body.get(place.value_at as usize..place.value_end as usize)?).ok()?;
    let (mut changed, mut out) = (false, String::with_capacity(text.len() + 64));
    elements(text, |entry| {
        let (mut takes, mut has) = (false, false);
        let _ = walk(entry, |member| match &*member.key() {
            "type" => {
                let kind = serde_json::from_str::<String>(member.value).unwrap_or_default();
                takes |= kind.starts_with("web_search") || kind.starts_with("web_fetch");
            }
            "max_uses" => has |= member.value != "null",
            _ => {}
        });
        out.push(if out.is_empty() { '[' } else { ',' });
        if !takes || has {
            return out.push_str(entry);
        }
        changed = true;
        match entry.trim_start_matches('{').trim_start().starts_with('}') {
            true => out.push_str(&format!("{{\"max_uses\":{most}}}")),
            false => out.push_str(&format!("{{\"max_uses\":{most},{}", &entry[1..])),
        }
    })
    .ok()?;
    out.push(']');
    changed.then_some(out)
}
