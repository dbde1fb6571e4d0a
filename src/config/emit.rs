//! Writes YAML.

use serde_json::Value;

/// A tree as block YAML; empty lists and mappings as `[]` and `{}`, lists of plain values on one line.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0),
        _ => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
    out
}

/// A value on one line.
pub fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", scalar(key), inline(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Text, quoted if it would otherwise be read as something else. (A JSON string is a YAML string.)
pub fn scalar(text: &str) -> String {
    let first = text.chars().next();
    let plain = first.is_some_and(|c| c.is_ascii_alphanumeric() || "/.".contains(c))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:+@".contains(c))
        && !text.ends_with(':')
        && !matches!(text.to_ascii_lowercase().as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "y" | "n")
        // Text that looks like a number, a date or a time is quoted, so that it is text for every reader.
        && (!text.starts_with(|c: char| c.is_ascii_digit() || c == '.') || reads_as_text(text));
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

/// True for text that starts with a digit and that no reader takes for a number: durations, sizes, addresses.
fn reads_as_text(text: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphabetic())
        && !text.contains(['.', ':', '-', '+', '_'])
        && !text.starts_with("0x")
        && !text.starts_with("0o")
        && !text.ends_with('e')
        || text.parse::<std::net::SocketAddr>().is_ok()
}

fn block(out: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&format!("{pad}{}:", scalar(key)));
                below(out, value, indent + 2);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut nested = String::new();
                block(&mut nested, item, indent + 2);
                // The first key stands on the line of its dash.
                out.push_str(&format!("{pad}- {}", nested.trim_start()));
            }
        }
        _ => out.push_str(&format!("{pad}{}\n", inline(value))),
    }
}

fn below(out: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(out, value, indent);
    } else {
        out.push_str(&format!(" {}\n", inline(value)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::yaml::Node;

    fn read(text: &str) -> Value {
        let mut faults = Vec::new();
        let value = Node::parse(text, &mut faults).unwrap().to_json();
        assert!(faults.is_empty(), "{faults:?}\n{text}");
        value
    }

    #[test]
    fn writes_what_people_would_write() {
        let value = json!({
            "a": {"b": "30s", "c": "127.0.0.1:8080", "e": {}},
            "list": [{"x": "claude-*", "z": ["p/m", 1]}, {"x": "off", "z": []}],
            "none": null, "version": "1.0", "time": "12:30", "empty": "",
        });
        let text = yaml(&value);
        assert_eq!(
            text,
            "a:\n  b: 30s\n  c: 127.0.0.1:8080\n  e: {}\nlist:\n  - x: \"claude-*\"\n    z: [p/m, 1]\n  - x: off\n    \
             z: []\nnone: null\nversion: \"1.0\"\ntime: \"12:30\"\nempty: \"\"\n"
        );
        assert_eq!(read(&text), value);
    }

    proptest! {
        #[test]
        fn any_text_reads_back(key in "\\PC{1,12}", text in "\\PC{0,24}") {
            let value = json!({key: {"list": [{"text": text.clone()}, {"flow": [text]}]}});
            prop_assert_eq!(read(&yaml(&value)), value);
        }
    }
}
