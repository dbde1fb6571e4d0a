//! Bounds the number of values in a JSON text before the text is parsed.

use memchr::memchr;

use super::locate::string_end;

/// An upper bound of the values in a JSON text: objects, arrays, their elements and members, keys counted as well. One pass
/// without a parse: brackets, commas and colons outside of strings. For a text that is not valid JSON the number means
/// nothing.
///
/// A parsed JSON text takes memory in proportion to this number and to the text's length: a tree of `0,0,0,…` takes forty times
/// the text's size.
pub fn count_values(json: &[u8]) -> usize {
    let (mut at, mut count) = (0, 1);
    while at < json.len() {
        let quote = memchr(b'"', &json[at..]).map_or(json.len(), |length| at + length);
        count += json[at..quote].iter().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
        // A string that does not end reaches to the end of the text.
        at = string_end(json, quote).unwrap_or(json.len());
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn real(value: &Value) -> usize {
        match value {
            Value::Array(all) => 1 + all.iter().map(real).sum::<usize>(),
            Value::Object(all) => 1 + all.values().map(|value| 1 + real(value)).sum::<usize>(),
            _ => 1,
        }
    }

    #[test]
    fn what_stands_in_strings_does_not_count() {
        for (json, count) in [
            ("0", 1),
            (r#""[,,,:{{""#, 1),
            (r#"{"a":"\"[[,,","b":[1,2,3]}"#, 1 + 1 + 2 + 1 + 1 + 2),
            (r#"["\\",","]"#, 3),
            (r#"["unended,,,,"#, 2),
            ("[0,0,0,0]", 5),
        ] {
            assert_eq!(count_values(json.as_bytes()), count, "{json}");
        }
    }

    proptest! {
        #[test]
        fn it_is_never_less_than_the_tree_has(
            text in "(\\[|\\{|,|:|\"|\\\\|a|0|\\]|\\}){0,40}",
            list in proptest::collection::vec(any::<String>(), 0..20),
        ) {
            let value = serde_json::json!({"a": list, "b": [{"c": [], "d": {}}, text, 1.5, null]});
            prop_assert!(count_values(value.to_string().as_bytes()) >= real(&value));
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert!(count_values(text.as_bytes()) >= real(&value));
            }
        }
    }
}
