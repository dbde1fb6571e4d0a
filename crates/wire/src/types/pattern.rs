//! Patterns in the configuration of models and tools: a name, or a prefix with one `*` at the end.

/// Whether a pattern equals this name, or, where the pattern ends with `*`, is a prefix of the name.
pub fn matches(pattern: &str, name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix.as_bytes()),
        None => name == pattern.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_rest() {
        for (pattern, name, expected) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-4o*", "gpt-4o", true),
            ("gpt-4o*", "gpt-4o-mini", true),
            ("*", "", true),
            ("", "a", false),
            ("a*b", "aXb", false),
            ("**", "*a", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
