//! JSON schemas that Anthropic compiles for structured outputs.
//!
//! Anthropic supports only a part of JSON Schema. The rest is moved into descriptions, where the model still reads it. Source:
//! the limits named in Anthropic's documentation of structured outputs and the transformation in its Python SDK 0.121.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::{Dropped, note_dropped};

/// Keywords that Anthropic refuses; they go into the description.
const REFUSED: &[&str] = &[
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "patternProperties",
    "dependentRequired",
    "dependentSchemas",
    "contains",
    "minContains",
    "maxContains",
    "prefixItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contentEncoding",
    "contentMediaType",
];

/// Keywords that do not restrict a value; they are left out.
const SILENT: &[&str] = &["$schema", "$id", "$comment"];

const FORMATS: &[&str] = &["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// Makes a schema acceptable. Each keyword that is moved is noted as dropped, under the path `at`.
pub(super) fn acceptable(schema: &mut Value, at: &str, dropped: &mut Vec<Dropped>) {
    let Value::Object(schema) = schema else { return };
    let mut moved = Vec::new();
    let keys: Vec<String> = schema.keys().cloned().collect();
    for key in keys {
        let value = &schema[&key];
        let refused = match key.as_str() {
            "minItems" => !matches!(value.as_u64(), Some(0 | 1)),
            "format" => !value.as_str().is_some_and(|format| FORMATS.contains(&format)),
            // An object with arbitrary further members, or with further members of some schema.
            "additionalProperties" => *value != Value::Bool(false),
            key => REFUSED.contains(&key),
        };
        if refused {
            note_dropped(dropped, format!("{at}.{key}"));
            moved.push(format!("{key}: {value}"));
        }
        if refused || SILENT.contains(&key.as_str()) {
            schema.shift_remove(&key);
        }
    }
    // Anthropic supports only `anyOf`, the weaker of the two.
    if !schema.contains_key("anyOf")
        && let Some(branches) = schema.shift_remove("oneOf")
    {
        note_dropped(dropped, format!("{at}.oneOf"));
        schema.insert("anyOf".into(), branches);
    }
    if is_object(schema) {
        // An object of free form can now only be empty.
        if !schema.contains_key("additionalProperties") && !schema.contains_key("properties") && moved.is_empty() {
            note_dropped(dropped, format!("{at}.additionalProperties"));
        }
        schema.insert("additionalProperties".into(), false.into());
    }
    describe(schema, &moved);
    for (key, value) in schema.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(all)) => {
                all.iter_mut().for_each(|(_, schema)| acceptable(schema, at, dropped));
            }
            ("anyOf" | "allOf" | "oneOf", Value::Array(all)) => {
                all.iter_mut().for_each(|schema| acceptable(schema, at, dropped))
            }
            ("items", schema) => acceptable(schema, at, dropped),
            _ => {}
        }
    }
}

/// Whether Anthropic compiles a schema's references: all refer to the schema's own definitions, and none is recursive.
pub(super) fn compiles(root: &Value) -> bool {
    let mut nodes = HashMap::from([("#".to_owned(), Vec::new())]);
    for key in ["$defs", "definitions"] {
        for (name, schema) in root.get(key).and_then(Value::as_object).into_iter().flatten() {
            let mut found = Vec::new();
            references(schema, &mut found);
            nodes.insert(format!("#/{key}/{name}"), found);
        }
    }
    let mut found = Vec::new();
    for (_, value) in
        root.as_object().into_iter().flatten().filter(|(key, _)| !matches!(key.as_str(), "$defs" | "definitions"))
    {
        references(value, &mut found);
    }
    found.extend(root.get("$ref").and_then(Value::as_str));
    nodes.insert("#".to_owned(), found);

    let mut users: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, targets) in &nodes {
        for target in targets {
            if !nodes.contains_key(*target) {
                return false;
            }
            users.entry(target).or_default().push(name);
        }
    }
    // Remove definitions without remaining references until none is left; definitions in a loop are never removed.
    let mut waits: HashMap<&str, usize> = nodes.iter().map(|(name, targets)| (name.as_str(), targets.len())).collect();
    let mut done: Vec<&str> = waits.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut rest = nodes.len();
    while let Some(name) = done.pop() {
        rest -= 1;
        for user in users.get(name).into_iter().flatten() {
            if let Some(count) = waits.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    done.push(user);
                }
            }
        }
    }
    rest == 0
}

/// Whether a schema has an object with members that the schema does not name. [`acceptable`] would make such an object empty.
pub(super) fn is_open(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let open = match members.get("additionalProperties") {
                Some(more) => *more != Value::Bool(false),
                None => is_object(members) && !members.contains_key("properties"),
            };
            open || members.iter().any(|(_, value)| is_open(value))
        }
        Value::Array(all) => all.iter().any(is_open),
        _ => false,
    }
}

/// All `$ref`s in a value.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.iter().for_each(|(_, value)| references(value, found));
        }
        Value::Array(all) => all.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn is_object(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => schema.contains_key("properties"),
    }
}

fn describe(schema: &mut Map<String, Value>, moved: &[String]) {
    if moved.is_empty() {
        return;
    }
    let mut text = moved.join(", ");
    if let Some(said) = schema.get("description").and_then(Value::as_str).filter(|said| !said.is_empty()) {
        text = format!("{said} ({text})");
    }
    schema.insert("description".into(), text.into());
}
