//! A quick reader for the usage objects that nearly every provider writes: whole numbers, `null`, and details of the same kind.

use memchr::memchr;

use super::{Count, Creation, Details, ServerToolUse, Tier, Wire};
use crate::{openai::locate::skip_space, types::ServiceTier};

/// More digits may not fit a `u64`.
const MOST_DIGITS: usize = 19;

/// Reads the object that `json` begins with. `None` for an object of any other form, also a broken one: serde has to say what
/// such an object is.
pub(super) fn read(json: &[u8]) -> Option<Wire> {
    let mut wire = Wire::default();
    let mut seen = 0_u32;
    members(json, 0, |key, value| {
        let (bit, slot): (u32, Slot<'_>) = match key {
            b"prompt_tokens" => (0, Slot::Count(&mut wire.prompt_tokens)),
            b"input_tokens" => (1, Slot::Count(&mut wire.input_tokens)),
            b"completion_tokens" => (2, Slot::Count(&mut wire.completion_tokens)),
            b"output_tokens" => (3, Slot::Count(&mut wire.output_tokens)),
            b"total_tokens" => (4, Slot::Count(&mut wire.total_tokens)),
            b"cached_tokens" => (5, Slot::Count(&mut wire.cached_tokens)),
            b"cache_read_input_tokens" => (6, Slot::Count(&mut wire.cache_read_input_tokens)),
            b"cache_creation_input_tokens" => (7, Slot::Count(&mut wire.cache_creation_input_tokens)),
            b"prompt_tokens_details" => (8, Slot::Details(&mut wire.prompt_tokens_details.0)),
            b"input_tokens_details" => (9, Slot::Details(&mut wire.input_tokens_details.0)),
            b"completion_tokens_details" => (10, Slot::Details(&mut wire.completion_tokens_details.0)),
            b"output_tokens_details" => (11, Slot::Details(&mut wire.output_tokens_details.0)),
            b"cache_creation" => (12, Slot::Creation(&mut wire.cache_creation.0)),
            b"server_tool_use" => (13, Slot::Tools(&mut wire.server_tool_use.0)),
            b"service_tier" => (14, Slot::Tier(&mut wire.service_tier)),
            // Members of other names decide too: they are serde's.
            _ => return None,
        };
        once(&mut seen, bit)?;
        match slot {
            Slot::Count(count) => number(json, value).map(|(read, end)| {
                *count = read;
                end
            }),
            Slot::Details(details) => read_details(json, value, details),
            Slot::Creation(creation) => counts(
                json,
                value,
                &mut [
                    (b"ephemeral_1h_input_tokens", Some(&mut creation.ephemeral_1h_input_tokens)),
                    (b"ephemeral_5m_input_tokens", None),
                ],
            ),
            Slot::Tools(tools) => counts(
                json,
                value,
                &mut [(b"web_search_requests", Some(&mut tools.web_search_requests)), (b"web_fetch_requests", None)],
            ),
            Slot::Tier(tier) => read_tier(json, value, tier),
        }
    })?;
    Some(wire)
}

enum Slot<'a> {
    Count(&'a mut Count),
    Details(&'a mut Details),
    Creation(&'a mut Creation),
    Tools(&'a mut ServerToolUse),
    Tier(&'a mut Tier),
}

/// Notes that a member was read. `None` if it was read before: serde refuses that.
fn once(seen: &mut u32, bit: u32) -> Option<()> {
    let before = *seen;
    *seen |= 1 << bit;
    (before != *seen).then_some(())
}

fn read_details(json: &[u8], at: usize, details: &mut Details) -> Option<usize> {
    counts(
        json,
        at,
        &mut [
            (b"cached_tokens", Some(&mut details.cached_tokens)),
            (b"cache_write_tokens", Some(&mut details.cache_write_tokens)),
            (b"audio_tokens", Some(&mut details.audio_tokens)),
            (b"image_tokens", Some(&mut details.image_tokens)),
            (b"reasoning_tokens", Some(&mut details.reasoning_tokens)),
            (b"thinking_tokens", Some(&mut details.thinking_tokens)),
            (b"accepted_prediction_tokens", None),
            (b"rejected_prediction_tokens", None),
            (b"text_tokens", None),
        ],
    )
}

/// Reads an object of counts, or `null`, whose members have these names; those without a place are of no use.
fn counts(json: &[u8], at: usize, places: &mut [(&[u8], Option<&mut Count>)]) -> Option<usize> {
    if json.get(at) == Some(&b'n') {
        return null(json, at);
    }
    let mut seen = 0;
    members(json, at, |key, value| {
        let (bit, (_, place)) = (0..).zip(places.iter_mut()).find(|(_, (name, _))| *name == key)?;
        once(&mut seen, bit)?;
        let (read, end) = number(json, value)?;
        if let Some(place) = place {
            **place = read;
        }
        Some(end)
    })
}

/// A word without escapes, or `null`.
fn read_tier(json: &[u8], at: usize, tier: &mut Tier) -> Option<usize> {
    let Some(rest) = json.get(at..)?.strip_prefix(b"\"") else { return null(json, at) };
    let word = &rest[..memchr(b'"', rest)?];
    let is_plain = word.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    let text = std::str::from_utf8(word).ok().filter(|_| is_plain)?;
    *tier = Tier(Some(ServiceTier::from_word(text)));
    Some(at + word.len() + 2)
}

/// Walks the members of the object at `at`. `read` gets a key and the offset of its value, and returns the offset behind the
/// value. Returns the offset behind the object.
fn members(json: &[u8], at: usize, mut read: impl FnMut(&[u8], usize) -> Option<usize>) -> Option<usize> {
    if json.get(at)? != &b'{' {
        return None;
    }
    let mut at = skip_space(json, at + 1);
    if json.get(at)? == &b'}' {
        return Some(at + 1);
    }
    loop {
        if json.get(at)? != &b'"' {
            return None;
        }
        let rest = json.get(at + 1..)?;
        // What stands before an escaped quote is no name that is known here.
        let key = &rest[..memchr(b'"', rest)?];
        at = skip_space(json, at + key.len() + 2);
        if json.get(at)? != &b':' {
            return None;
        }
        at = skip_space(json, read(key, skip_space(json, at + 1))?);
        match json.get(at)? {
            b',' => at = skip_space(json, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

/// A whole number without a sign, or `null`, and the offset behind it.
fn number(json: &[u8], at: usize) -> Option<(Count, usize)> {
    let rest = json.get(at..)?;
    let (mut number, mut digits) = (0_u64, 0);
    for byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        if digits == MOST_DIGITS {
            return None;
        }
        number = number * 10 + u64::from(digit);
        digits += 1;
    }
    if digits == 0 {
        return null(json, at).map(|end| (Count(None), end));
    }
    let leading_zero = rest[0] == b'0' && digits > 1;
    // A point or an exponent follows the digits of a number that is perhaps not whole.
    let is_plain = matches!(rest.get(digits)?, b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n');
    (is_plain && !leading_zero).then_some((Count(Some(number)), at + digits))
}

fn null(json: &[u8], at: usize) -> Option<usize> {
    json[at..].starts_with(b"null").then_some(at + 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn by_serde(json: &[u8]) -> Option<Wire> {
        Wire::deserialize(&mut serde_json::Deserializer::from_slice(json)).ok()
    }

    #[test]
    fn the_usual_forms_are_read_here() {
        for json in [
            r#"{"prompt_tokens":200,"completion_tokens":90,"total_tokens":290}"#,
            r#"{ "prompt_tokens" : 200 , "completion_tokens" : 0,"prompt_tokens_details": null }"#,
            r#"{"prompt_tokens":200,"completion_tokens":90,"total_tokens":290,"prompt_tokens_details":{"cached_tokens":0,
                "audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":7,"audio_tokens":0,
                "accepted_prediction_tokens":0,"rejected_prediction_tokens":0}} and more"#,
            r#"{"input_tokens":1,"input_tokens_details":{"cached_tokens":1},"output_tokens":2,"output_tokens_details":{}}"#,
            r#"{"input_tokens":200,"cache_creation_input_tokens":7,"cache_read_input_tokens":3,"cache_creation":
                {"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":5},"output_tokens":90,"server_tool_use":
                {"web_search_requests":2,"web_fetch_requests":0},"service_tier":"standard"}"#,
            r#"{"input_tokens":1,"cache_creation":null,"server_tool_use":null,"service_tier":null}"#,
        ] {
            assert!(read(json.as_bytes()).is_some(), "{json}");
            assert_eq!(read(json.as_bytes()), by_serde(json.as_bytes()), "{json}");
        }
    }

    /// Parts of which usage objects are made, sound and broken.
    fn part() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec![
            "prompt_tokens",
            "total_tokens",
            "cached_tokens",
            "prompt_tokens_details",
            "completion_tokens_details",
            "reasoning_tokens",
            "accepted_prediction_tokens",
            "service_tier",
            "cache_creation",
            "server_tool_use",
            "iterations",
            "x",
            "prompt\\u005ftokens",
        ]);
        let value = prop_oneof![
            4 => (0_u64..2_000).prop_map(|number| number.to_string()),
            1 => any::<u64>().prop_map(|number| number.to_string()),
            2 => prop::sample::select(vec![
                "\"batch\"", "\"st\\u0061ndard\"", "null", "nul", "01", "1.0", "1e2", "-1", "\"7\"", "true", "[]", "{}", "18446744073709551616", "",
            ]).prop_map(str::to_owned),
            2 => (0_u64..50).prop_map(|number| format!("{{\"cached_tokens\":{number},\"audio_tokens\": null}}")),
            1 => prop::sample::select(vec![
                "{\"cached_tokens\":1,\"cached_tokens\":2}",
                "{\"ephemeral_1h_input_tokens\":4,\"ephemeral_5m_input_tokens\":1}",
                "{\"web_search_requests\":3}",
                "{\"ephemeral_5m_input_tokens\":\"1\"}",
            ]).prop_map(str::to_owned),
        ];
        (key, value, prop::sample::select(vec!["", " ", "\n"]))
            .prop_map(|(key, value, space)| format!("{space}\"{key}\"{space}:{space}{value}{space}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_is_read_here_is_what_serde_reads(
            parts in prop::collection::vec(part(), 0..5), cut in 0_usize..200, whole in any::<bool>(),
        ) {
            let mut json = format!("{{{}}}", parts.join(",")).into_bytes();
            if !whole {
                json.truncate(cut);
            }
            if let Some(wire) = read(&json) {
                prop_assert_eq!(Some(wire), by_serde(&json), "{}", String::from_utf8_lossy(&json));
            }
        }
    }
}
