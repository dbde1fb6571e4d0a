//! Anthropic's rate limit headers under the names and in the form that OpenAI's clients read.

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use super::{headers, reply};
use crate::limits::go_duration;

const PREFIX: &str = "anthropic-ratelimit-";

/// Kinds of limits: OpenAI's names, and Anthropic's names for the same kind. Of several, the first one that is present counts,
/// which is the tightest at Anthropic.
const KINDS: [([&str; 3], &[&str]); 2] = [
    ([reply::LIMIT_REQUESTS, reply::REMAINING_REQUESTS, reply::RESET_REQUESTS], &["requests"]),
    ([reply::LIMIT_TOKENS, reply::REMAINING_TOKENS, reply::RESET_TOKENS], &["tokens", "input-tokens", "output-tokens"]),
];

/// Renames the limits. A `reset` is an instant at Anthropic and a duration at OpenAI.
pub fn to_openai(map: &mut HeaderMap) {
    if !map.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        // The usual case: they speak of an account that the client shares with others, and were removed before.
        return;
    }
    for (ours, theirs) in KINDS {
        for (ours, what) in ours.into_iter().zip(["limit", "remaining", "reset"]) {
            let found = theirs.iter().find_map(|kind| map.get(format!("{PREFIX}{kind}-{what}")));
            let value = match found {
                Some(value) if what == "reset" => until(value),
                found => found.cloned(),
            };
            map.extend(value.map(|value| (HeaderName::from_static(ours), value)));
        }
    }
    headers::remove(map, |name| name.as_str().starts_with(PREFIX));
}

/// The time from now to an RFC 3339 instant, as `6m0s`; `None` for a value that is no such instant.
fn until(instant: &HeaderValue) -> Option<HeaderValue> {
    let instant: Timestamp = instant.to_str().ok()?.parse().ok()?;
    let left = instant.duration_since(Timestamp::now()).unsigned_abs();
    let left = if instant < Timestamp::now() { std::time::Duration::ZERO } else { left };
    HeaderValue::from_str(&go_duration(left)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_get_openais_names_and_durations() {
        let mut map = HeaderMap::new();
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(90);
        for (name, value) in [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2001-01-01T00:00:00Z"),
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "39000"),
            ("anthropic-ratelimit-input-tokens-reset", &soon.to_string()),
            ("anthropic-ratelimit-output-tokens-limit", "8000"),
            ("retry-after", "3"),
        ] {
            map.insert(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        to_openai(&mut map);
        let text = |name: &str| map.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(text("x-ratelimit-limit-requests").as_deref(), Some("50"));
        assert_eq!(text("x-ratelimit-remaining-requests").as_deref(), Some("49"));
        assert_eq!(text("x-ratelimit-reset-requests"), Some(go_duration(std::time::Duration::ZERO)));
        assert_eq!(text("x-ratelimit-limit-tokens").as_deref(), Some("40000"));
        let reset = text("x-ratelimit-reset-tokens").unwrap();
        assert!(reset.starts_with("1m29") || reset == "1m30s", "{reset}");
        assert_eq!(map.len(), 7, "{map:?}");
    }
}
