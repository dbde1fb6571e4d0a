//! An example value for a JSON Schema: arguments of a tool call, a structured answer.
//!
//! Understood: `const`, `default`, `examples`, `enum`, `type` (also a list of types), `properties` + `required`, `items`,
//! `prefixItems`, `minItems`, numeric and length bounds, common string formats, `anyOf`/`oneOf`/`allOf`, and local `$ref`. Not
//! understood: `pattern`, `not`, conditional keywords; a schema with them may get a value that it refuses.

use std::cell::Cell;

use serde_json::{Map, Value, json};

/// Deepest nesting that is built; a recursive schema ends here with `null`.
const DEPTH: usize = 24;

/// Most values that are built for one schema.
const NODES: u32 = 2_000;

/// A value that satisfies `schema`. `name` seeds strings, so that an argument `city` reads "example city".
pub(super) fn example(schema: &Value, name: &str) -> Value {
    build(schema, &Root { schema, left: Cell::new(NODES) }, name, 0)
}

/// The whole schema, for `$ref`, and how many more values may be built: the bound for schemas that branch and
/// recur.
struct Root<'a> {
    schema: &'a Value,
    left: Cell<u32>,
}

fn build(schema: &Value, root: &Root, name: &str, depth: usize) -> Value {
    if depth > DEPTH || root.left.get() == 0 {
        return Value::Null;
    }
    root.left.set(root.left.get() - 1);
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.schema.pointer(pointer));
        return target.map_or(Value::Null, |target| build(target, root, name, depth + 1));
    }
    for fixed in ["const", "default"] {
        if let Some(value) = schema.get(fixed) {
            return value.clone();
        }
    }
    for listed in ["enum", "examples"] {
        if let Some(value) = schema.get(listed).and_then(|list| list.get(0)) {
            return value.clone();
        }
    }
    for branches in ["anyOf", "oneOf"] {
        if let Some(branches) = schema.get(branches).and_then(Value::as_array) {
            // Near the bound the last branch is used, which usually ends a recursive type ("null").
            let branch = if depth > DEPTH / 2 { branches.last() } else { branches.first() };
            return branch.map_or(Value::Null, |branch| build(branch, root, name, depth + 1));
        }
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        return all_of(schema, parts, root, name, depth);
    }
    match kind(schema) {
        "object" => object(schema, root, depth),
        "array" => array(schema, root, name, depth),
        "string" => Value::String(string(schema, name)),
        "integer" => number(schema, 1.0).map_or(json!(1), |n| json!(n.ceil() as i64)),
        "number" => number(schema, 1.5).map_or(json!(1.5), |n| json!(n)),
        "boolean" => Value::Bool(true),
        "null" => Value::Null,
        _ => Value::String(string(schema, name)),
    }
}

fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(one)) => one,
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).find(|t| *t != "null").unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "",
    }
}

fn object(schema: &Value, root: &Root, depth: usize) -> Value {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required: Option<Vec<&str>> =
        schema.get("required").and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_str).collect());
    let mut object = Map::new();
    for (name, property) in properties {
        if required.as_ref().is_none_or(|required| required.contains(&name.as_str())) {
            object.insert(name.clone(), build(property, root, name, depth + 1));
        }
    }
    for name in required.unwrap_or_default() {
        object.entry(name).or_insert_with(|| Value::String(format!("example {name}")));
    }
    Value::Object(object)
}

fn array(schema: &Value, root: &Root, name: &str, depth: usize) -> Value {
    if let Some(items) = schema.get("prefixItems").and_then(Value::as_array) {
        return items.iter().map(|item| build(item, root, name, depth + 1)).collect();
    }
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1);
    let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let any = json!({"type": "string"});
    let item = schema.get("items").filter(|items| items.is_object()).unwrap_or(&any);
    // A recursive list ends by being empty where the schema lets it.
    let deep = depth > DEPTH / 2 && schema.get("minItems").is_none();
    let length = if deep { 0 } else { least.min(64).min(most) };
    (0..length).map(|_| build(item, root, name, depth + 1)).collect()
}

fn all_of(schema: &Value, parts: &[Value], root: &Root, name: &str, depth: usize) -> Value {
    let mut merged = Map::new();
    let own = schema.get("properties").map(|_| object(schema, root, depth));
    for value in parts.iter().map(|part| build(part, root, name, depth + 1)).chain(own) {
        match value {
            Value::Object(fields) => merged.extend(fields),
            scalar => return scalar,
        }
    }
    Value::Object(merged)
}

fn string(schema: &Value, name: &str) -> String {
    let text = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => return "2025-01-01T00:00:00Z".to_owned(),
        Some("date") => return "2025-01-01".to_owned(),
        Some("time") => return "12:00:00Z".to_owned(),
        Some("email") => return "someone@example.com".to_owned(),
        Some("uuid") => return "00000000-0000-4000-8000-000000000000".to_owned(),
        Some("uri" | "url") => return "https://example.com/".to_owned(),
        Some("ipv4") => return "192.0.2.1".to_owned(),
        Some("hostname") => return "example.com".to_owned(),
        _ => format!("example {}", if name.is_empty() { "text" } else { name }),
    };
    let bound = |key| schema.get(key).and_then(Value::as_u64).map(|n| n.min(4096) as usize);
    let least = bound("minLength").unwrap_or(0);
    let padded: String = text.chars().chain(std::iter::repeat('x')).take(least.max(text.chars().count())).collect();
    padded.chars().take(bound("maxLength").unwrap_or(usize::MAX)).collect()
}

/// A number inside the bounds of the schema; `None` when `preferred` itself satisfies the schema.
fn number(schema: &Value, preferred: f64) -> Option<f64> {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let step = bound("multipleOf").filter(|step| *step > 0.0);
    let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|n| n + step.unwrap_or(1.0)));
    let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|n| n - step.unwrap_or(1.0)));
    let mut n = preferred;
    if let Some(most) = most {
        n = n.min(most);
    }
    if let Some(least) = least {
        n = n.max(least);
    }
    if let Some(step) = step {
        n = (n / step).ceil() * step;
    }
    (n != preferred).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The claim of this module, checked by a real validator.
    fn valid(schema: Value) -> Value {
        let value = example(&schema, "");
        let validator = jsonschema::validator_for(&schema).unwrap();
        assert!(validator.is_valid(&value), "{value} does not satisfy {schema}");
        value
    }

    #[test]
    fn a_weather_tool() {
        let value = valid(json!({"type":"object","properties":{
            "city":{"type":"string"}, "unit":{"type":"string","enum":["celsius","fahrenheit"]}, "days":{"type":"integer","minimum":2}
        },"required":["city","unit","days"],"additionalProperties":false}));
        assert_eq!(value, json!({"city":"example city","unit":"celsius","days":2}));
    }

    #[test]
    fn nested_and_constrained_schemas() {
        valid(json!({"type":"object","properties":{
            "steps":{"type":"array","minItems":2,"items":{"type":"object","properties":{"n":{"type":"number","maximum":0.5},"ok":{"type":"boolean"}},"required":["n","ok"]}},
            "id":{"type":"string","minLength":40}, "short":{"type":"string","maxLength":2}, "maybe":{"type":["null","integer"]},
            "kind":{"const":"x"}, "step":{"type":"integer","multipleOf":5,"exclusiveMinimum":5}
        },"required":["steps","id","short","maybe","kind","step"]}));
        valid(json!({"anyOf":[{"type":"integer","exclusiveMinimum":4},{"type":"null"}]}));
        valid(
            json!({"allOf":[{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]},{"type":"object","properties":{"b":{"type":"null"}},"required":["b"]}]}),
        );
        valid(json!({}));
    }

    #[test]
    fn recursion_ends() {
        valid(
            json!({"$defs":{"node":{"type":"object","properties":{"value":{"type":"string"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"]}},"$ref":"#/$defs/node"}),
        );
        valid(
            json!({"$defs":{"tree":{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["children"]}},"$ref":"#/$defs/tree"}),
        );
        assert_eq!(example(&json!({"$ref":"#"}), ""), Value::Null);
        let wide: Map<String, Value> = (0..20).map(|n| (n.to_string(), json!({"$ref":"#"}))).collect();
        assert!(example(&json!({"type":"object","properties":wide}), "").to_string().len() < 1 << 20);
    }
}
