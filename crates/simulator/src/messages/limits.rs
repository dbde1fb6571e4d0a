//! Rules that depend on the model, by the version in its name: `claude-opus-4-1-20250805` is 4.1, `claude-3-haiku` 3.0.
//! A name without a version has neither the abilities nor the limits that came after 4.0.

/// Major and minor version.
pub(super) type Version = (u32, u32);

/// The version in a name; 0.0 if there is none.
pub(super) fn version(model: &str) -> Version {
    // A date has eight digits and is not part of a version.
    let number = |part: &str| part.parse::<u32>().ok().filter(|_| part.len() <= 2);
    let parts: Vec<Option<u32>> = model.split(['-', '.']).map(number).collect();
    match parts.iter().position(Option::is_some) {
        Some(at) => (parts[at].unwrap_or(0), parts.get(at + 1).copied().flatten().unwrap_or(0)),
        None => (0, 0),
    }
}

/// Whether `temperature` and `top_p` exclude each other, and structured output exists.
pub(super) fn is_recent(model: &str) -> bool {
    version(model) >= (4, 1)
}

/// Whether the model decides itself how much it thinks.
pub(super) fn adapts(model: &str) -> bool {
    version(model) >= (4, 6)
}

/// Whether the model can be told to think only between calls of tools.
pub(super) fn pauses(model: &str) -> bool {
    version(model) >= (5, 5)
}

/// Whether the model thinks at all: all but the first families of 3.x.
pub(super) fn thinks(model: &str) -> bool {
    !(3..4).contains(&version(model).0) || version(model) >= (3, 7)
}

/// Whether `output_config.effort` exists: Opus from 4.5, the others from 4.6.
pub(super) fn has_effort(model: &str) -> bool {
    version(model) >= (4, 6) || (version(model) >= (4, 5) && model.contains("opus"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("claude-opus-4-1-20250805", (4, 1)),
            ("claude-sonnet-4-20250514", (4, 0)),
            ("claude-sonnet-4", (4, 0)),
            ("claude-3-5-sonnet-20241022", (3, 5)),
            ("claude-3-haiku-20240307", (3, 0)),
            ("claude-2.1", (2, 1)),
            ("claude-haiku-4-5", (4, 5)),
            ("claude-opus-5", (5, 0)),
            ("claude-anything", (0, 0)),
        ];
        for (model, wanted) in cases {
            assert_eq!(version(model), wanted, "{model}");
        }
        assert!(!is_recent("claude-3-5-sonnet-latest") && is_recent("claude-sonnet-4-5") && is_recent("claude-opus-5"));
        assert!(!adapts("claude-opus-4-5") && adapts("claude-sonnet-4-6") && adapts("claude-opus-4-10"));
        assert!(has_effort("claude-opus-4-5") && !has_effort("claude-sonnet-4-5"));
        assert!(!thinks("claude-3-5-haiku-latest") && thinks("claude-3-7-sonnet-latest") && thinks("claude-x"));
    }
}
