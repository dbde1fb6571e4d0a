//! Checks the shape of a file against the schema of its types, all faults at once.
//!
//! Only the schema keywords that the types in `raw` produce are supported. Faulty values are removed from the tree, so that
//! the rest can still be read and checked for its meaning: one run of `can check` then shows all faults.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{
    fault::{Fault, Path, did_you_mean},
    raw,
    values::{HumanDuration, HumanSize, HumanUsd},
    yaml::{Node, Yaml},
};

/// The JSON Schema (draft 2020-12) of the file.
pub fn schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<raw::File>().to_value()
}

/// Removes everything from `root` that the schema does not allow, and reports it.
pub fn check(root: &mut Node, schema: &Value, faults: &mut Vec<Fault>) {
    if !matches!(root.value, Yaml::Map(_)) {
        let message = format!("the file must be a mapping of keys to values, and is {}", root.kind());
        faults.push(Fault { path: String::new(), line: Some(root.line), message });
        root.value = Yaml::Map(Vec::new());
        return;
    }
    Checker { root: schema, faults }.node(root, schema, &Path::default());
}

/// Follows `$ref`; of a schema with several shapes, picks the shape whose JSON type is `kind`.
pub fn shape_of<'s>(root: &'s Value, schema: &'s Value, kind: Option<&str>) -> &'s Value {
    let schema = follow(root, schema);
    let variants = variants(schema);
    let of_kind = |variant: &&&Value| kind.is_none_or(|kind| types(root, variant).contains(&kind));
    match variants.iter().find(of_kind) {
        Some(variant) if words(root, schema).is_none() => shape_of(root, variant, kind),
        _ => schema,
    }
}

/// The allowed words, if the schema is a choice of words.
pub fn words<'s>(root: &'s Value, schema: &'s Value) -> Option<Vec<&'s str>> {
    let schema = follow(root, schema);
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(Value::as_str).collect();
    }
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    let variants = variants(schema);
    let words: Option<Vec<_>> = variants
        .iter()
        .filter(|variant| variant["type"] != "null")
        .map(|variant| words(root, variant))
        .collect::<Option<Vec<_>>>();
    words.map(|words| words.concat()).filter(|words| !words.is_empty())
}

/// A description of the values that the schema allows.
pub fn expected(root: &Value, schema: &Value) -> String {
    let schema = follow(root, schema);
    match schema["x-can"].as_str() {
        Some("duration") => return "a duration such as `30s`".into(),
        Some("size") => return "a size such as `64MiB`".into(),
        Some("usd") => return "US dollars such as `100` or `0.50`".into(),
        _ => {}
    }
    if let Some(words) = words(root, schema) {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        return match words.as_slice() {
            [word] => word.clone(),
            _ => format!("one of {}", words.join(", ")),
        };
    }
    let variants = variants(schema);
    if !variants.is_empty() {
        let named = variants.iter().filter(|variant| variant["type"] != "null");
        return named.map(|variant| expected(root, variant)).collect::<Vec<_>>().join(" or ");
    }
    let named = |kind: &str| match kind {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        "array" => "a list",
        _ => "a mapping",
    };
    let kinds: Vec<_> = types(root, schema).into_iter().filter(|kind| *kind != "null").map(named).collect();
    kinds.join(" or ")
}

struct Checker<'s, 'f> {
    root: &'s Value,
    faults: &'f mut Vec<Fault>,
}

impl<'s> Checker<'s, '_> {
    /// Checks one value; false if it has to be removed.
    fn node(&mut self, node: &mut Node, schema: &'s Value, path: &Path) -> bool {
        if let Some(words) = words(self.root, schema) {
            return match &node.value {
                Yaml::Text(text) if words.contains(&text.as_str()) => true,
                Yaml::Text(text) => {
                    let expected = expected(self.root, schema);
                    self.fault(node, path, format!("`{text}` is not {expected}{}", did_you_mean(text, words)))
                }
                _ => self.wrong_type(node, schema, path),
            };
        }
        let shape = shape_of(self.root, schema, Some(json_type(&node.value)));
        let kind = json_type(&node.value);
        let fits = types(self.root, shape)
            .iter()
            .any(|allowed| *allowed == kind || (*allowed == "number" && kind == "integer"));
        if !fits {
            return self.wrong_type(node, schema, path);
        }
        // One of several shapes is a choice of words: `off`, or a mapping.
        if !std::ptr::eq(shape, follow(self.root, schema)) && words(self.root, shape).is_some() {
            return self.node(node, shape, path);
        }
        match &mut node.value {
            Yaml::Text(text) => {
                let wrong = match shape["x-can"].as_str() {
                    Some("duration") => HumanDuration::parse(text).err(),
                    Some("size") => HumanSize::parse(text).err(),
                    Some("usd") => HumanUsd::parse(text).err(),
                    _ => None,
                };
                wrong.is_none_or(|message| self.fault(node, path, message))
            }
            Yaml::Int(value) => {
                let value = *value;
                let wrong =
                    (shape["x-can"] == "size" && value >= 0).then(|| HumanSize::parse(&value.to_string()).err());
                if let Some(message) = wrong.flatten() {
                    return self.fault(node, path, message);
                }
                let (min, max) = (shape["minimum"].as_i64(), shape["maximum"].as_i64());
                match (min, max) {
                    (Some(min), _) if value < min => {
                        self.fault(node, path, format!("{value} is less than the least allowed, {min}"))
                    }
                    (_, Some(max)) if value > max => {
                        self.fault(node, path, format!("{value} is more than the most allowed, {max}"))
                    }
                    _ => true,
                }
            }
            Yaml::Float(value) if shape["x-can"] == "usd" => {
                let wrong = HumanUsd::parse(&value.to_string()).err();
                wrong.is_none_or(|message| self.fault(node, path, message))
            }
            Yaml::List(items) => {
                let too_short = items.len() < shape["minItems"].as_u64().map_or(0, |n| n as usize);
                items.retain_mut(|(index, item)| self.node(item, &shape["items"], &path.index(*index)));
                match too_short {
                    true => self.fault(node, path, "the list is empty; it needs at least one item".into()),
                    false => true,
                }
            }
            Yaml::Map(_) => self.map(node, shape, path),
            _ => true,
        }
    }

    fn map(&mut self, node: &mut Node, shape: &'s Value, path: &Path) -> bool {
        let Yaml::Map(entries) = &mut node.value else { return true };
        let known = shape["properties"].as_object();
        let mut lost = Vec::new();
        entries.retain_mut(|(key, value)| {
            let path = path.key(key);
            let schema = match known.and_then(|known| known.get(key.as_str())) {
                Some(schema) => schema,
                None if shape["additionalProperties"].is_object() => &shape["additionalProperties"],
                None => {
                    let names = known.into_iter().flat_map(|known| known.keys()).map(String::as_str);
                    let guess = did_you_mean(key, names.clone());
                    let message = match guess.is_empty() {
                        true => format!("unknown key; known here: {}", names.collect::<Vec<_>>().join(", ")),
                        false => format!("unknown key{guess}"),
                    };
                    return self.fault(value, &path, message);
                }
            };
            // A key without a value (its lines are commented out, say) counts as absent.
            if matches!(value.value, Yaml::Null) {
                return false;
            }
            let stays = self.node(value, schema, &path);
            if !stays {
                lost.push(key.clone());
            }
            stays
        });
        let required = shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let entries: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
        let missing: Vec<&str> = required.filter(|key| !entries.contains(key)).collect();
        let mut whole = true;
        for key in missing {
            whole = false;
            if !lost.iter().any(|lost| lost == key) {
                let hint = match expected(self.root, &shape["properties"][key]).as_str() {
                    "text" => String::new(),
                    expected => format!(": {expected}"),
                };
                self.fault(node, path, format!("`{key}` is missing{hint}"));
            }
        }
        whole
    }

    fn wrong_type(&mut self, node: &Node, schema: &Value, path: &Path) -> bool {
        let expected = expected(self.root, schema);
        let hint = match &node.value {
            Yaml::Int(_) | Yaml::Float(_) if expected.contains("duration") => "; a bare number has no unit",
            Yaml::Int(_) | Yaml::Float(_) | Yaml::Bool(_) if expected.starts_with("text") => "; put it in quotes",
            _ => "",
        };
        self.fault(node, path, format!("expected {expected}, found {}{hint}", node.kind()))
    }

    fn fault(&mut self, node: &Node, path: &Path, message: String) -> bool {
        self.faults.push(Fault { path: path.to_string(), line: Some(node.line), message });
        false
    }
}

fn follow<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema["$ref"].as_str().and_then(|reference| root.pointer(reference.trim_start_matches('#'))) {
        Some(target) => follow(root, target),
        None => schema,
    }
}

fn variants(schema: &Value) -> Vec<&Value> {
    let of = |key: &str| schema[key].as_array().into_iter().flatten();
    of("anyOf").chain(of("oneOf")).collect()
}

/// The JSON types that a value of this schema can have.
fn types<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s str> {
    let schema = follow(root, schema);
    match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => variants(schema).into_iter().flat_map(|variant| types(root, variant)).collect(),
    }
}

fn json_type(value: &Yaml) -> &'static str {
    match value {
        Yaml::Null => "null",
        Yaml::Bool(_) => "boolean",
        Yaml::Int(_) => "integer",
        Yaml::Float(_) => "number",
        Yaml::Text(_) => "string",
        Yaml::List(_) => "array",
        Yaml::Map(_) => "object",
    }
}
