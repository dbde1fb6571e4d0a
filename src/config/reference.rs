//! The reference of all configuration keys, as Markdown.

use serde_json::Value;

use super::{
    emit,
    overlay::ENVIRONMENT,
    presets::PRESETS,
    raw,
    resolved::AuthStyle,
    shape::{expected, schema, shape_of, words},
    template::properties,
};

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the types by `can config reference`. -->

The gateway runs without a file. What it does then, and every key, is in [`conf/can.yaml`](../conf/can.yaml);
[`conf/can.schema.json`](../conf/can.schema.json) is its JSON Schema.

| Command | What it does |
|---|---|
| `can check FILE` | reports all faults of a file at once, as `FILE:LINE: path: message`; exit status 1 if there are any |
| `can config print` | shows what is in effect: file, environment and defaults together, secrets as `[redacted]` |
| `can config default` | writes the commented default file |
| `can config schema` | writes the JSON Schema |
| `can config dev --use-ollama` | writes a file for development against a local Ollama |

A key with nothing behind it counts as absent. Relative paths start at the directory of the file. The environment speaks
over the file, the file over the defaults. On SIGHUP, and when the file changes, it is read again: a file with a fault is
refused and the gateway goes on as before.

Durations are a whole number and a unit: `us`, `ms`, `s`, `m`, `h`, `d`. Sizes are a whole number of bytes, or one with a
unit: `KB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB` (powers of 1024). US dollars are a number with up to nine
decimal places, and stay exact.
";

/// The text of `docs/configuration.md`.
pub fn reference() -> String {
    let schema = schema();
    let mut out = String::from(INTRODUCTION);
    out.push_str("\n## Keys\n");
    for (key, property) in properties(&schema) {
        out.push_str(&format!("\n### `{key}`\n\n{}\n\n", one_line(property)));
        let mut rows = Vec::new();
        walk(&schema, property, key, &mut rows);
        match rows.is_empty() {
            true => out.push_str(&format!("{}; default {}.\n", kind(&schema, property), default(property))),
            false => out.push_str(&format!("| Key | Type | Default | Meaning |\n|---|---|---|---|\n{}", rows.concat())),
        }
        if key == "routes" {
            out.push_str("\nThe built-in routes:\n\n| Model | Served by |\n|---|---|\n");
            for route in raw::default_routes() {
                let to: Vec<_> = route.to.iter().map(|target| format!("`{target}`")).collect();
                out.push_str(&format!("| `{}` | {} |\n", route.model, to.join(", ")));
            }
        }
    }
    out.push_str(
        "\n## Presets\n\nThose with a base URL are there as providers under their own name without a file.\n\n\
         | Preset | Base URL | Key from | Key sent as |\n|---|---|---|---|\n",
    );
    for preset in PRESETS {
        let base = preset.base_url.map_or("give one".to_owned(), |url| format!("`{url}`"));
        let keys = match (preset.key_vars, preset.needs_key) {
            ([], _) => "-".to_owned(),
            (vars, needed) => {
                let vars: Vec<_> = vars.iter().map(|name| format!("`{name}`")).collect();
                format!("{}{}", vars.join(" or "), if needed { "" } else { " (optional)" })
            }
        };
        let auth = match preset.auth {
            AuthStyle::Bearer => "`authorization: Bearer`",
            AuthStyle::ApiKeyHeader => "`api-key`",
            AuthStyle::XApiKey => "`x-api-key`",
        };
        out.push_str(&format!("| `{}` | {base} | {keys} | {auth} |\n", preset.name));
    }
    out.push_str(
        "\n## Environment\n\nBesides the presets' keys above. A variable that is set and empty counts as unset.\n\n\
         | Variable | Meaning |\n|---|---|\n",
    );
    for variable in ENVIRONMENT {
        out.push_str(&format!("| `{}` | {} |\n", variable.name, variable.doc));
    }
    out
}

/// Adds a row for every key below `schema`, under its path from the root.
fn walk(root: &Value, schema: &Value, path: &str, rows: &mut Vec<String>) {
    let section = shape_of(root, schema, Some("object"));
    if section["properties"].is_object() {
        for (key, property) in properties(section) {
            let path = format!("{path}.{key}");
            let before = rows.len();
            walk(root, property, &path, rows);
            if rows.len() == before {
                rows.push(row(root, property, &path));
            }
        }
        return;
    }
    let list = shape_of(root, schema, Some("array"));
    if list["items"].is_object() && shape_of(root, &list["items"], Some("object"))["properties"].is_object() {
        // Items that may also be text are explained at their list.
        if list["items"].get("$ref").is_some() && expected(root, &list["items"]) == "a mapping" {
            walk(root, &list["items"], &format!("{path}[]"), rows);
        }
        return;
    }
    if section["additionalProperties"].is_object() {
        walk(root, &section["additionalProperties"], &format!("{path}.NAME"), rows);
    }
}

fn row(root: &Value, property: &Value, path: &str) -> String {
    let kind = kind(root, property).replace('|', "\\|");
    let meaning = one_line(property).replace('|', "\\|");
    format!("| `{path}` | {kind} | {} | {meaning} |\n", default(property))
}

fn default(property: &Value) -> String {
    match &property["default"] {
        Value::Null => "-".into(),
        value => format!("`{}`", emit::inline(value)),
    }
}

/// The type of a value in a few words.
fn kind(root: &Value, schema: &Value) -> String {
    let shape = shape_of(root, schema, None);
    match shape["x-can"].as_str() {
        Some("duration") => return "duration".into(),
        Some("size") => return "size".into(),
        Some("secret") => return "secret".into(),
        Some("usd") => return "US dollars".into(),
        _ => {}
    }
    if let Some(words) = words(root, schema) {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if shape["items"].is_object() {
        return match kind(root, &shape["items"]).as_str() {
            "whole number" => "list of whole numbers".into(),
            kind => format!("list of {kind}"),
        };
    }
    if shape["additionalProperties"].is_object() {
        return format!("names to {}", kind(root, &shape["additionalProperties"]));
    }
    expected(root, schema).trim_start_matches("a ").to_owned()
}

fn one_line(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::template::default_file;

    /// Each generated file says what the types say.
    #[test]
    fn generated_files_are_fresh() {
        let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let files = [
            ("conf/can.yaml", default_file()),
            ("docs/configuration.md", reference()),
            ("conf/can.schema.json", schema),
        ];
        let committed =
            |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
        let stale: Vec<_> =
            files.iter().filter(|(file, text)| committed(file) != *text).map(|(file, _)| file).collect();
        assert!(stale.is_empty(), "{stale:?} are out of date; run: scripts/docs.sh");
    }

    /// The schema bounds what the type behind it cannot hold: else the fault would have neither path nor line.
    #[test]
    fn a_narrow_number_has_a_maximum() {
        fn walk(value: &Value, path: &str, found: &mut usize) {
            if matches!(value["format"].as_str(), Some("uint8" | "uint16" | "uint32" | "int32")) {
                *found += 1;
                assert!(value["maximum"].is_number(), "{path} is a {} without a maximum", value["format"]);
            }
            let each: Vec<(String, &Value)> = match value {
                Value::Object(all) => all.iter().map(|(key, value)| (format!("{path}/{key}"), value)).collect(),
                Value::Array(all) => {
                    all.iter().enumerate().map(|(at, value)| (format!("{path}/{at}"), value)).collect()
                }
                _ => Vec::new(),
            };
            each.iter().for_each(|(path, value)| walk(value, path, found));
        }
        let mut found = 0;
        walk(&serde_json::to_value(schema()).unwrap(), "", &mut found);
        assert!(found > 3, "{found} narrow numbers");
    }

    #[test]
    fn an_independent_validator_agrees() {
        use crate::config::yaml::Node;
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let value = |text: &str| Node::parse(text, &mut Vec::new()).unwrap().to_json();
        let routes = "routes: [{model: a, to: [b, {provider: c}]}]\nadmin: off\nhttp: {max_body: 5}\n";
        for good in ["", routes, "providers: {a: {preset: openai, api_key: env:A, headers: {x: y}}}"] {
            assert!(validator.is_valid(&value(good)), "{good}");
        }
        for bad in ["htp: {}", "http: {max_body: 1XB}", "admin: on", "routes: [{model: a}]", "retry: {attempts: 0}"] {
            assert!(!validator.is_valid(&value(bad)), "{bad}");
        }
    }

    #[test]
    fn every_key_has_a_meaning() {
        for line in reference().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.contains("|  |"), "{line}");
        }
    }
}
