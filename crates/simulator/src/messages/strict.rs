//! Checks the JSON Schemas of structured output and of strict tools: only a subset is allowed, and every object must be closed.

use super::node::{Checked, Node};

/// Keywords that the real API does not compile.
const UNSUPPORTED: [&str; 19] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "propertyNames",
    "oneOf",
    "not",
    "if",
];

/// Keywords that hold schemas by name, and keywords that hold a list of schemas.
const NAMED: [&str; 3] = ["properties", "$defs", "definitions"];
const LISTED: [&str; 3] = ["anyOf", "allOf", "prefixItems"];

/// Deepest nesting that is checked; JSON that is parsed here has at most 128 levels.
const DEPTH: usize = 128;

/// Refuses a schema that structured output does not support.
pub(super) fn check(schema: &Node) -> Checked {
    level(schema, 0)
}

fn level(schema: &Node, depth: usize) -> Checked {
    // `true` and `false` are schemas too.
    if schema.value.is_boolean() || depth > DEPTH {
        return Ok(());
    }
    schema.object()?;
    for keyword in UNSUPPORTED {
        if schema.key(keyword).is_some() {
            let kind = schema.value.get("type").and_then(|t| t.as_str()).unwrap_or("schema");
            return Err(schema.wrong(&format!("For '{kind}' type, property '{keyword}' is not supported")));
        }
    }
    if let Some(least) = schema.key("minItems").filter(|least| !matches!(least.value.as_u64(), Some(0 | 1))) {
        return Err(least.wrong("For 'array' type, 'minItems' values other than 0 or 1 are not supported"));
    }
    let typed = |kind: &str| match schema.value.get("type") {
        Some(serde_json::Value::Array(kinds)) => kinds.iter().any(|k| k == kind),
        Some(one) => one == kind,
        None => false,
    };
    let object = typed("object") || schema.key("properties").is_some();
    if object && schema.value.get("additionalProperties") != Some(&serde_json::Value::Bool(false)) {
        return Err(schema.wrong("For 'object' type, 'additionalProperties' must be explicitly set to false"));
    }
    for holder in NAMED {
        let Some(holder) = schema.key(holder) else { continue };
        holder.object()?;
        for name in holder.value.as_object().into_iter().flatten().map(|(name, _)| name) {
            if let Some(inner) = holder.key(name) {
                level(&inner, depth + 1)?;
            }
        }
    }
    for holder in LISTED {
        let Some(holder) = schema.key(holder) else { continue };
        for inner in holder.items()? {
            level(&inner, depth + 1)?;
        }
    }
    match schema.key("items") {
        Some(items) => level(&items, depth + 1),
        None => Ok(()),
    }
}
