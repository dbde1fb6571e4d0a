//! Configuration files for people: the commented default, and the one for development against Ollama.

use serde_json::{Map, Value, json};

use super::{
    emit, raw,
    shape::{schema, shape_of},
};

/// The column at which comments are wrapped.
const WIDTH: usize = 110;

/// The default file: every key with its meaning and its default. Keys without a default are commented out with an example,
/// so that loading the file has the same effect as running without one.
pub fn default_file() -> String {
    let schema = schema();
    let template = Template { root: &schema };
    let file = serde_json::to_value(raw::File::default()).unwrap_or_default();
    let mut out = String::from(
        "# yaml-language-server: $schema=can.schema.json\n#\n\
         # ChittyCan Gateway: every key, with its default. All of it may be left out.\n\
         # `#` and a key right behind it is an example: remove the `#` of its block to use it.\n\
         # `can check FILE` reports all faults of a file at once, `can config print` shows what is in effect.\n\
         #\n# Generated from the types: `can config default`.\n",
    );
    for (key, property) in properties(&schema) {
        out.push('\n');
        out.push_str(&template.property(key, property, file.get(key), 0, false));
    }
    out
}

/// A file for development: every model is served by a local Ollama.
pub fn dev_file() -> String {
    let mut dev = raw::Dev::default();
    dev.ollama.base_url = Some("http://127.0.0.1:11434".into());
    let body = emit::yaml(&json!({"mode": "dev", "dev": dev}));
    format!(
        "# ChittyCan Gateway in dev mode: every model is served by a local Ollama, at no cost and without a key.\n\
         # `models` says which of Ollama's models stands for which name; `*` stands for all the others.\n\
         # Get them first: `ollama pull llama3.2` and `ollama pull nomic-embed-text`.\n\
         # OLLAMA_BASE_URL replaces base_url.\n{body}"
    )
}

struct Template<'s> {
    root: &'s Value,
}

impl Template<'_> {
    /// A key with its comment. `example`: the key is inside a block that is commented out already.
    fn property(&self, key: &str, schema: &Value, value: Option<&Value>, indent: usize, example: bool) -> String {
        let shape = shape_of(self.root, schema, value.map(json_type));
        let is_section = |value: &&Value| value.is_object() && shape["properties"].is_object();
        let given = value.into_iter().chain(schema.get("default")).find(|value| is_section(value) || !is_empty(value));
        let comment = comment(schema["description"].as_str().unwrap_or_default(), indent);
        match (given, schema["examples"].get(0)) {
            (Some(value), _) => comment + &self.entry(key, schema, value, indent, example),
            (None, Some(value)) if example => comment + &self.entry(key, schema, value, indent, true),
            (None, Some(value)) => comment + &comment_out(&self.entry(key, schema, value, indent, true), indent),
            (None, None) => String::new(),
        }
    }

    fn entry(&self, key: &str, schema: &Value, value: &Value, indent: usize, example: bool) -> String {
        let shape = shape_of(self.root, schema, Some(json_type(value)));
        let pad = " ".repeat(indent);
        let key = emit::scalar(key);
        match value {
            Value::Object(map) if shape["properties"].is_object() => {
                format!("{pad}{key}:\n{}", self.section(shape, map, indent + 2, example))
            }
            Value::Object(map) => {
                let entries = map
                    .iter()
                    .map(|(key, value)| self.entry(key, &shape["additionalProperties"], value, indent + 2, example));
                format!("{pad}{key}:\n{}", entries.collect::<String>())
            }
            Value::Array(items) if items.iter().all(Value::is_object) => {
                let item = shape_of(self.root, &shape["items"], Some("object"));
                let items = items.iter().enumerate().map(|(at, value)| match (at, value.as_object()) {
                    // The first item shows every key that an item can have, the others only the keys that they have.
                    (0, Some(map)) => {
                        let section = self.section(item, map, indent + 4, example);
                        format!("{pad}  - {}", section.trim_start())
                    }
                    _ => format!("{pad}  - {}\n", emit::inline(value)),
                });
                format!("{pad}{key}:\n{}", items.collect::<String>())
            }
            _ => format!("{pad}{key}: {}\n", emit::inline(value)),
        }
    }

    fn section(&self, shape: &Value, map: &Map<String, Value>, indent: usize, example: bool) -> String {
        properties(shape).map(|(key, schema)| self.property(key, schema, map.get(key), indent, example)).collect()
    }
}

/// The keys of a mapping's schema in the order of their declaration.
pub fn properties(shape: &Value) -> impl Iterator<Item = (&str, &Value)> {
    shape["properties"].as_object().into_iter().flatten().map(|(key, schema)| (key.as_str(), schema))
}

/// The JSON type of a value, named as in JSON Schema.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn comment(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{}# {word}", " ".repeat(indent))),
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Puts `#` in front of every line, at the column where the block starts.
fn comment_out(block: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    block.lines().map(|line| format!("{pad}#{}\n", line.get(indent..).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Loaded, Source};

    fn load(text: &str) -> Loaded {
        let source = Source { file: None, env: Arc::new(|_| None), simulate: false };
        Config::load_text(text, &source).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
    }

    #[test]
    fn the_default_file_says_what_an_empty_one_does() {
        let (file, nothing) = (load(&default_file()), load(""));
        assert_eq!(file.to_yaml(), nothing.to_yaml());
        assert_eq!(format!("{:?}", file.config), format!("{:?}", nothing.config));
        assert_eq!(file.warnings, []);
    }

    #[test]
    fn every_key_of_the_types_is_in_the_default_file() {
        let (schema, text) = (schema(), default_file());
        let mut sections: Vec<&Value> = vec![&schema];
        sections.extend(schema["$defs"].as_object().into_iter().flat_map(|defs| defs.values()));
        for (key, _) in sections.into_iter().flat_map(properties) {
            // The file shows a route's target in its short form.
            let shown =
                text.lines().any(|line| line.trim_start_matches([' ', '#', '-']).starts_with(&format!("{key}:")));
            assert!(shown || key == "provider", "{key} is missing");
        }
    }

    #[test]
    fn the_examples_have_the_right_shape() {
        let uncommented: String = default_file()
            .lines()
            .map(|line| match line.split_once('#') {
                Some((pad, rest)) if pad.trim().is_empty() && (!rest.starts_with(' ') || rest.starts_with("  ")) => {
                    format!("{pad}{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let source = Source { file: None, env: Arc::new(|_| None), simulate: true };
        let faults = Config::load_text(&uncommented, &source).expect_err("the example files are not there");
        for fault in faults {
            assert!(fault.message.starts_with("cannot read `/etc/can/"), "{fault}\n{uncommented}");
        }
        assert!(
            uncommented.contains("\n  openai:\n") && uncommented.contains("\n    model: gpt-4o\n"),
            "{uncommented}"
        );
    }

    #[test]
    fn the_development_file_is_dev_mode() {
        let dev = load(&dev_file()).config;
        assert!(dev.dev);
        assert_eq!(dev.providers["ollama"].base.to_string(), "http://127.0.0.1:11434/v1");
        assert_eq!(dev.providers["ollama"].mapped_model("gpt-4o"), "llama3.2");
    }
}
