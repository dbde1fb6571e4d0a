//! Compares member names as the most tolerant reader of JSON may compare them.
//!
//! Go's `encoding/json` folds case, in Unicode's way: it reads `max_to\u{212a}ens` (KELVIN SIGN) as `max_tokens`. Java's and
//! .NET's readers can be told to ignore case, and protobuf's JSON takes `maxTokens` for `max_tokens`. A bound of a request that
//! two readers understand differently holds for one of them only, so the gateway refuses such a name for every field it acts on.

/// Most bytes of a known name without separators; a longer key is not a known name.
const LONGEST: usize = 40;

/// What a key of the top-level object is, besides the fields that [`super::Peek`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// One of [`KNOWN`], by its index.
    Known(u8),
    /// Nothing that the gateway acts on, in any spelling.
    Other,
    /// Not a known name, but one that some reader takes for this known name.
    Twin(&'static str),
}

macro_rules! known {
    ($($index:literal $name:literal $folded:literal)*) => {
        /// Names that bounds, prices and the cache depend on, besides the fields of [`super::Peek`].
        pub(super) const KNOWN: &[&str] = &[$($name),*];

        impl Standing {
            /// What `key` is; `key` must not be a field of [`super::Peek`].
            pub(super) fn of(key: &str) -> Self {
                match key {
                    $($name => Self::Known($index),)*
                    // Frequent keys that resemble no known name: listed to save the folding.
                    "top_p" | "stop" | "top_k" | "response_format" | "parallel_tool_calls"
                    | "frequency_penalty" | "presence_penalty" | "logprobs" | "top_logprobs" | "logit_bias" | "text"
                    | "include" | "truncation" | "encoding_format" | "dimensions" | "stop_sequences"
                    | "verbosity" | "prompt_cache_key" | "safety_identifier" => Self::Other,
                    _ => Self::folded(key),
                }
            }

            #[cold]
            fn folded(key: &str) -> Self {
                match fold(key).as_deref() {
                    $(Some($folded) => Self::Twin($name),)*
                    Some("model") => Self::Twin("model"),
                    Some("stream") => Self::Twin("stream"),
                    Some("streamoptions") => Self::Twin("stream_options"),
                    Some("temperature") => Self::Twin("temperature"),
                    Some("seed") => Self::Twin("seed"),
                    Some("maxtokens") => Self::Twin("max_tokens"),
                    Some("maxcompletiontokens") => Self::Twin("max_completion_tokens"),
                    Some("maxoutputtokens") => Self::Twin("max_output_tokens"),
                    Some("n") => Self::Twin("n"),
                    Some("servicetier") => Self::Twin("service_tier"),
                    Some("store") => Self::Twin("store"),
                    Some("tools") => Self::Twin("tools"),
                    Some("toolchoice") => Self::Twin("tool_choice"),
                    Some("previousresponseid") => Self::Twin("previous_response_id"),
                    Some("user") => Self::Twin("user"),
                    _ => Self::Other,
                }
            }
        }
    };
}

known! {
    0 "messages" "messages"
    1 "input" "input"
    2 "system" "system"
    3 "instructions" "instructions"
    4 "prompt" "prompt"
    5 "suffix" "suffix"
    6 "functions" "functions"
    7 "best_of" "bestof"
    8 "models" "models"
    9 "fallbacks" "fallbacks"
    10 "background" "background"
    11 "speed" "speed"
    12 "inference_geo" "inferencegeo"
    13 "prediction" "prediction"
    14 "web_search_options" "websearchoptions"
    15 "max_tool_calls" "maxtoolcalls"
    16 "reasoning" "reasoning"
    17 "thinking" "thinking"
    18 "conversation" "conversation"
    19 "mcp_servers" "mcpservers"
    20 "container" "container"
    21 "search_parameters" "searchparameters"
    22 "plugins" "plugins"
    23 "enable_search" "enablesearch"
    24 "data_sources" "datasources"
    25 "cached_content" "cachedcontent"
    26 "modalities" "modalities"
    27 "audio" "audio"
    28 "metadata" "metadata"
    29 "extra_body" "extrabody"
    30 "google" "google"
    31 "reasoning_effort" "reasoningeffort"
    32 "context_management" "contextmanagement"
    33 "output_config" "outputconfig"
    34 "enable_thinking" "enablethinking"
    35 "chat_template_kwargs" "chattemplatekwargs"
}

/// The names of [`KNOWN`] that have to do with thinking, as a bit set by index.
pub(super) const OF_THINKING: u64 = 1 << 16 | 1 << 17 | 1 << 29 | 1 << 30 | 1 << 31 | 1 << 33 | 1 << 34 | 1 << 35;

/// `key` as the most tolerant reader compares it: without case, separators and full-width forms. `None` for a key that is
/// too long to be a known name.
pub(super) fn fold(key: &str) -> Option<String> {
    let mut folded = String::with_capacity(LONGEST);
    for char in key.chars().filter_map(fold_char) {
        if folded.len() >= LONGEST {
            return None;
        }
        folded.push(char);
    }
    Some(folded)
}

/// Whether the most tolerant reader could take `key` for `name`.
pub fn folds_to(key: &str, name: &str) -> bool {
    key.chars().filter_map(fold_char).eq(name.chars().filter_map(fold_char))
}

/// One character as [`fold`] reads it; `None` for a separator.
pub fn fold_char(char: char) -> Option<char> {
    Some(match char {
        '_' | '-' | ' ' | '\u{ff3f}' | '\u{ff0d}' => return None,
        // Characters that Unicode, Java or .NET take for a Latin letter.
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        '\u{130}' | '\u{131}' => 'i',
        '\u{ff21}'..='\u{ff3a}' => ascii(char, 0xff21),
        '\u{ff41}'..='\u{ff5a}' => ascii(char, 0xff41),
        char => char.to_ascii_lowercase(),
    })
}

fn ascii(char: char, first: u32) -> char {
    u8::try_from(u32::from(char) - first).map_or(char, |letter| char::from(b'a' + letter % 26))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::openai::{Field, Peek};

    #[test]
    fn a_key_is_compared_as_the_most_generous_reader_compares_it() {
        for key in ["file_ids", "FILE_IDS", "File_Id\u{17f}", "f\u{131}le_\u{130}ds", "fileIds", "file-ids"] {
            assert!(folds_to(key, "file_ids"), "{key}");
        }
        assert!(folds_to("\u{212a}ey", "key"));
        for key in ["file_id", "file_idss", "", "fil_ds"] {
            assert!(!folds_to(key, "file_ids"), "{key}");
        }
    }

    fn all() -> Vec<&'static str> {
        Field::ALL.iter().map(|field| field.name()).chain(KNOWN.iter().copied()).collect()
    }

    /// Folds by a rule other than [`fold`]'s: Unicode's upper case, then its lower case.
    fn reference(key: &str) -> String {
        let letters = key.chars().filter(|char| !matches!(char, '_' | '-' | ' '));
        letters.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
    }

    #[test]
    fn every_known_name_stands_for_itself() {
        for (index, name) in KNOWN.iter().enumerate() {
            assert_eq!(Standing::of(name), Standing::Known(index as u8), "{name}");
        }
        for name in all() {
            let twin = Standing::folded(name);
            assert_eq!(twin, Standing::Twin(name), "{name} has its own folding in the list");
            assert!(fold(name).unwrap().len() < LONGEST);
        }
    }

    #[test]
    fn what_speaks_of_thinking_is_marked() {
        let marked: Vec<_> =
            (0..KNOWN.len()).filter(|index| OF_THINKING >> index & 1 == 1).map(|at| KNOWN[at]).collect();
        let names = ["reasoning", "thinking", "extra_body", "google", "reasoning_effort", "output_config"];
        assert_eq!(marked, [&names[..], &["enable_thinking", "chat_template_kwargs"]].concat());
        let speaks = |body: &str| Peek::parse(body.as_bytes()).unwrap().speaks_of_thinking();
        assert!(speaks(r#"{"thinkin\u0067":null}"#) && speaks(r#"{"reasoning_effort":"none"}"#));
        assert!(!speaks(r#"{"model":"m","messages":[{"thinking":1}],"top_p":1}"#));
    }

    #[test]
    fn what_other_readers_take_for_a_known_name_is_refused() {
        let twins = [
            ("max_to\u{212a}ens", "max_tokens"),
            ("MAX_TOKENS", "max_tokens"),
            ("maxTokens", "max_tokens"),
            ("max-tokens", "max_tokens"),
            ("be\u{17f}t_of", "best_of"),
            ("backGround", "background"),
            ("\u{ff4d}odel", "model"),
            ("th\u{131}nking", "thinking"),
            ("maxToolCalls", "max_tool_calls"),
            ("webSearchOptions", "web_search_options"),
            ("N", "n"),
        ];
        for (key, name) in twins {
            let body = format!("{{\"model\":\"m\",\"{key}\":1}}");
            let error = Peek::parse(body.as_bytes()).expect_err(key);
            assert_eq!(error.param, Some(name), "{key}");
        }
        for name in KNOWN {
            let error = Peek::parse(format!("{{\"{name}\":1,\"{name}\":2}}").as_bytes()).expect_err(name);
            assert_eq!(error.param, Some(*name));
        }
        assert!(Peek::parse("{\"x\":1,\"x\":2,\"top_p\":1,\"maxtoken\":1,\"to\u{212a}en\":1}".as_bytes()).is_ok());
    }

    proptest! {
        /// However a known name is spelled, a body in which some reader finds it is refused, and nothing else is.
        #[test]
        fn a_twin_is_refused_and_only_a_twin(
            name in proptest::sample::select(all()),
            spelling in proptest::collection::vec(0..6_u8, 40),
            noise in "[a-z]{0,2}",
        ) {
            let mut key = noise.clone();
            for (char, how) in name.chars().zip(spelling) {
                match (how, char) {
                    (0, char) => key.extend(char.to_uppercase()),
                    (1, 'k') => key.push('\u{212a}'),
                    (1, 's') => key.push('\u{17f}'),
                    (2, '_') => key.push('-'),
                    (3, '_') => {}
                    (_, char) => key.push(char),
                }
            }
            let twin = all().into_iter().find(|known| reference(known) == reference(&key));
            let known = all().into_iter().find(|known| **known == *key);
            // `null`, because a value of the wrong type would be refused for its type.
            let body = format!("{{\"{key}\":null}}");
            let verdict = Peek::parse(body.as_bytes());
            match (twin, known) {
                (Some(twin), None) => prop_assert_eq!(verdict.unwrap_err().param, Some(twin)),
                (_, Some("model")) => prop_assert!(verdict.is_err()),
                _ => prop_assert!(verdict.is_ok(), "{}: {:?}", key, verdict),
            }
        }
    }
}
