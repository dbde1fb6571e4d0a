//! Counts the tokens of a text, for replies whose provider did not report them.
//!
//! The tokenizers are OpenAI's, in the linear-time implementation of the crate `bpe-openai`. Their tables are loaded when
//! they are needed, and dropped when they have not been needed for a while: 27 ms and 32 MB for `cl100k_base`, 67 ms and
//! 66 MB for `o200k_base`. A gateway that never counts tokens does not load them.

mod tables;

use std::sync::Arc;

use bpe_openai::Tokenizer;

use tables::Encoding;

/// The most bytes that are tokenized in one piece, which bounds the working memory for any text.
const PIECE: usize = 64 << 10;

/// The number of tokens of `text` for a model, named as a provider or a client names it (with `openai/` or `ft:` as a prefix,
/// perhaps).
///
/// `cl100k_base` counts for gpt-4, gpt-3.5, their Azure spelling gpt-35, OpenAI's embeddings and its last base models;
/// `o200k_base` for everything else (which encoding a model has: `tiktoken/model.py` of OpenAI's tiktoken). For OpenAI's
/// models the count of a plain text is exact; special tokens count as the text that they are written with. For models of other
/// vendors the count is an estimate to settle with: the vendor's own tokenizer may well count a fifth more or less in English
/// prose, and differ further on code and on languages that its vocabulary favours or neglects.
///
/// The time is proportional to the length of the text, even for hostile texts: at least 20 MB per second. There are never
/// more tokens than bytes.
pub fn count(model: &str, text: &str) -> u64 {
    if text.is_empty() {
        return 0;
    }
    let tokenizer = tokenizer_of(model);
    pieces(text).map(|piece| tokenizer.count(piece) as u64).sum()
}

/// Whether [`count`] has the model's own tokenizer; otherwise see [`with_margin`].
pub fn is_exact(model: &str) -> bool {
    let model = model.rsplit_once('/').map_or(model, |(_, name)| name);
    let model = model.strip_prefix("ft:").unwrap_or(model);
    let is_series = model.strip_prefix('o').is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()));
    is_series || is_cl100k(model) || ["gpt-", "chatgpt-", "codex-"].iter().any(|start| model.starts_with(start))
}

/// An upper bound of another vendor's count of a text that [`count`] counted as `counted`.
pub fn with_margin(counted: u64) -> u64 {
    counted.saturating_add(counted.div_ceil(2))
}

/// Loads the tables for a model in a separate thread, unless they are loaded, so that a count in the middle of a stream does
/// not wait for them.
pub fn prepare(model: &str) {
    encoding_of(model).prepare();
}

/// Whether the tables for a model are loaded, so that a count does not wait for them.
pub fn is_ready(model: &str) -> bool {
    encoding_of(model).is_ready()
}

fn tokenizer_of(model: &str) -> Arc<Tokenizer> {
    encoding_of(model).tokenizer()
}

fn encoding_of(model: &str) -> Encoding {
    if is_cl100k(model) { Encoding::Cl100k } else { Encoding::O200k }
}

fn is_cl100k(model: &str) -> bool {
    let model = model.rsplit_once('/').map_or(model, |(_, name)| name);
    let model = model.strip_prefix("ft:").unwrap_or(model);
    // gpt-4 and gpt-4-turbo, but not gpt-4o, gpt-4.1 and gpt-4.5; `:` follows the base model in the name of a fine-tune.
    let is_gpt_4 = |rest: &str| rest.is_empty() || rest.starts_with(['-', ':']);
    let starts = ["gpt-3.5", "gpt-35", "text-embedding-", "davinci-002", "babbage-002"];
    model.strip_prefix("gpt-4").is_some_and(is_gpt_4) || starts.iter().any(|start| model.starts_with(start))
}

/// The text in pieces of at most [`PIECE`] bytes.
///
/// Cut at places that do not change the count, if possible: both encodings split a text before a space that follows
/// anything but white space. A text without such a place is cut between any two characters, which changes the count by a
/// token or two.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, tail) = rest.split_at(cut(rest));
        rest = tail;
        Some(piece)
    })
}

fn cut(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let most = text.floor_char_boundary(PIECE);
    let harmless = |at: &usize| text[..*at].chars().next_back().is_some_and(|before| !before.is_whitespace());
    memchr::memrchr_iter(b' ', &text.as_bytes()[PIECE / 2..most])
        .map(|at| PIECE / 2 + at)
        .find(harmless)
        .unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bpe_openai::{cl100k_base, o200k_base};
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "gpt-4";
    const NEW: &str = "gpt-4o";

    #[test]
    fn known_counts() {
        // From OpenAI's cookbook, "How to count tokens with tiktoken".
        for (text, old, new) in [
            ("", 0, 0),
            ("a", 1, 1),
            ("hello world", 2, 2),
            ("tiktoken is great!", 6, 6),
            ("antidisestablishmentarianism", 6, 6),
            ("2 + 2 = 4", 7, 7),
            ("お誕生日おめでとう", 9, 8),
        ] {
            assert_eq!((count(OLD, text), count(NEW, text)), (old, new), "{text}");
        }
        // Special tokens count as text.
        assert!(count(NEW, "<|endoftext|>") > 1);
    }

    #[test]
    fn each_model_has_its_encoding() {
        for model in [
            "gpt-4",
            "gpt-4-turbo-2024-04-09",
            "gpt-4-0613",
            "gpt-3.5-turbo",
            "gpt-35-turbo-16k",
            "openai/gpt-4",
            "ft:gpt-3.5-turbo-0125:org::id",
            "ft:gpt-4:org",
            "text-embedding-3-small",
            "babbage-002",
        ] {
            assert!(is_cl100k(model), "{model}");
        }
        for model in [
            "gpt-4o",
            "gpt-4o-mini",
            "gpt-4.1",
            "gpt-4.5-preview",
            "gpt-5",
            "o3",
            "ft:gpt-4o-mini:org",
            "chatgpt-4o-latest",
            "anthropic/claude-sonnet-4",
            "meta-llama/Llama-3-8b",
            "gpt-oss-120b",
            "",
        ] {
            assert!(!is_cl100k(model), "{model}");
        }
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        count(OLD, "load");
        count(NEW, "load");
        // A generous bound for a debug build on a busy machine; a quadratic algorithm would take hours.
        let within = |seconds, model, text: &str| {
            let start = Instant::now();
            let tokens = count(model, text);
            assert!(start.elapsed() < Duration::from_secs(seconds), "{:?} took {:?}", &text[..8], start.elapsed());
            assert!(tokens > 0 && tokens <= text.len() as u64, "{:?}: {tokens}", &text[..8]);
        };
        within(60, NEW, &"a".repeat(10 << 20));
        for unit in [" ", "\n", "A", "é", "0", "!", "\u{1f600}", "'s", " \n", "\r ", "aA", "\u{0}", "ab  "] {
            let text = unit.repeat((128 << 10) / unit.len());
            within(10, OLD, &text);
            within(10, NEW, &text);
        }
    }

    #[test]
    fn a_long_text_is_cut_where_it_changes_nothing() {
        let prose = "The dog sleeps  in the sun,\n and doesn't care. Schöne Grüße!\n\n\t 12345 ".repeat(8_000);
        assert!(pieces(&prose).count() > 5 && pieces(&prose).all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces(&prose).collect::<String>(), prose);
        for (model, tokenizer) in [(OLD, cl100k_base()), (NEW, o200k_base())] {
            assert_eq!(count(model, &prose), tokenizer.count(&prose) as u64);
        }
        // Without such a place the text is still cut between whole characters.
        let dense = "漢".repeat(PIECE);
        assert_eq!(pieces(&dense).collect::<String>(), dense);
        let (whole, cut) = (o200k_base().count(&dense) as u64, count(NEW, &dense));
        assert!(cut.abs_diff(whole) <= 2 * pieces(&dense).count() as u64, "{whole} {cut}");
    }

    proptest! {
        #[test]
        fn never_more_tokens_than_bytes(text in any::<String>()) {
            for model in [OLD, NEW] {
                prop_assert!(count(model, &text) <= text.len() as u64);
                prop_assert_eq!(count(model, &text) == 0, text.is_empty());
            }
        }

        #[test]
        fn texts_that_meet_at_a_space_add_up(
            head in "([ \\n\\t\\PC]{0,20}|[a-z !'0-9\\n]{0,20})[^\\s]",
            tail in "([ \\n\\t\\PC]{0,20}|[a-z !'0-9\\n]{0,20})",
        ) {
            for model in [OLD, NEW] {
                let whole = count(model, &format!("{head} {tail}"));
                prop_assert_eq!(whole, count(model, &head) + count(model, &format!(" {tail}")));
            }
        }
    }
}
