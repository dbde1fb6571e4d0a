//! The prompt of a request whose provider sent no token count: kept while a stream runs, counted at its end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::Quote;
use crate::{
    openai::{self, Endpoint, IMAGE_TOKENS, TEMPLATE_TOKENS},
    providers::adapter,
    routing::Target,
    tokenizer,
};

/// A body above this size, in bytes, is not counted: the quote's bound stands for it.
const LARGEST: usize = 1 << 20;

/// While a stream runs, a body up to this size, in bytes, is always kept for its end.
const SMALL: usize = 16 << 10;

/// Bytes that the larger bodies of all streams together may keep; beyond that a prompt is settled at its bound.
const ALLOWANCE: usize = 32 << 20;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The prompt of a request, as far as it is kept.
pub struct Prompt {
    body: Option<Kept>,
    has_template: bool,
    /// Tokens of the prompt's images, at most.
    images: u64,
    /// The most prompt tokens that a provider counts.
    most: u64,
}

/// A body that is kept; a large one counts in the allowance.
struct Kept {
    bytes: Bytes,
    allowed: usize,
}

impl Kept {
    /// `None` if the body is too large, or if too much is kept already.
    fn of(bytes: Bytes) -> Option<Self> {
        if bytes.len() <= SMALL {
            // The buffer that the body came in may be much larger, and would stay in memory as long.
            return Some(Self { bytes: Bytes::copy_from_slice(&bytes), allowed: 0 });
        }
        let allowed = bytes.len();
        if allowed > LARGEST {
            return None;
        }
        let kept = Self { bytes, allowed };
        (KEPT.fetch_add(allowed, Ordering::Relaxed) + allowed <= ALLOWANCE).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.allowed, Ordering::Relaxed);
    }
}

/// How the tokens of a model are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    model: Arc<str>,
    /// The model's own tokenizer is available.
    exact: bool,
    /// The model reads OpenAI's documented chat format.
    documented: bool,
    /// The prompt cache may be written although the client's request does not ask for it. With Anthropic only if the translation
    /// marks a part of the prompt.
    caches_unasked: bool,
}

/// The tokens of a prompt for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// The number of tokens, at most.
    pub tokens: u64,
    /// How many of `tokens` are for images.
    pub images: u64,
    /// Whether the tokens may have been written to the prompt cache, and for how long.
    pub writes: Writes,
}

/// What may have been written to the provider's prompt cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Nothing.
    Nothing,
    /// For its default life.
    Default,
    /// For an hour and more.
    Long,
}

impl Measure {
    /// For the model of a target; `marked` if the translation marks a part of the prompt for the prompt cache.
    pub fn of(target: &Target, marked: bool) -> Self {
        let (provider, model) = (&target.provider, target.model.clone());
        let api = adapter::of(provider).facts();
        let exact = tokenizer::is_exact(&model);
        // OpenAI's open models have a longer system message in front.
        let of_openai = provider.preset().is_openai && !model.contains("gpt-oss");
        let documented = exact && of_openai && api.documented_tokens;
        Self { model, exact, documented, caches_unasked: marked || api.caches_unasked }
    }

    /// Upper bound of the tokens of a text. Every vendor's tokens have at least one byte.
    pub fn most(&self, text: &str) -> u64 {
        if self.exact { tokenizer::count(&self.model, text) } else { text.len() as u64 }
    }

    /// The model's own tokenizer is available.
    pub fn is_exact(&self) -> bool {
        self.exact
    }
}

impl Prompt {
    /// The prompt of a stream that begins: the request itself is dropped.
    pub fn keep(endpoint: &Endpoint, quote: Option<&Quote>, body: Option<&Bytes>) -> Self {
        Self { body: body.and_then(|bytes| Kept::of(bytes.clone())), ..Self::bare(endpoint, quote) }
    }

    /// The prompt of a request that is over.
    pub fn of(endpoint: &Endpoint, quote: Option<&Quote>, body: Option<&Bytes>) -> Self {
        let body = body.filter(|bytes| bytes.len() <= LARGEST);
        let kept = body.map(|bytes| Kept { bytes: bytes.clone(), allowed: 0 });
        Self { body: kept, ..Self::bare(endpoint, quote) }
    }

    fn bare(endpoint: &Endpoint, quote: Option<&Quote>) -> Self {
        Self {
            body: None,
            has_template: !matches!(endpoint, Endpoint::Embeddings | Endpoint::Moderations | Endpoint::Completions),
            images: quote.map_or(0, |quote| quote.images).saturating_mul(IMAGE_TOKENS),
            most: quote.map_or(u64::MAX, |quote| quote.most_prompt),
        }
    }

    /// The most prompt tokens that a provider counts.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// An upper bound of the prompt's tokens. Blocks.
    pub fn count(&self, measure: &Measure) -> PromptTokens {
        let Some(body) = &self.body else {
            return PromptTokens { tokens: self.most, images: self.images.min(self.most), writes: Writes::Long };
        };
        let counted = openai::count_prompt(&body.bytes, measure.documented, &|text| measure.most(text));
        let template = if self.has_template && !counted.is_plain { TEMPLATE_TOKENS } else { 0 };
        let tokens = counted.tokens.saturating_add(template).saturating_add(self.images).min(self.most);
        let writes = match (counted.marks_cache, measure.caches_unasked) {
            (true, _) => Writes::Long,
            (false, true) => Writes::Default,
            (false, false) => Writes::Nothing,
        };
        PromptTokens { tokens, images: self.images.min(tokens), writes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(exact: bool) -> Measure {
        let model = if exact { "gpt-4o" } else { "claude-sonnet-4-5" };
        Measure { model: model.into(), exact, documented: exact, caches_unasked: exact }
    }

    fn prompt(body: &str, images: u64, most: u64) -> Prompt {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        Prompt { body: Kept::of(bytes), has_template: true, images: images * IMAGE_TOKENS, most }
    }

    #[test]
    fn a_prompt_is_counted_whole_whatever_its_length() {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(10_000);
        let body = serde_json::json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).to_string();
        let exact = tokenizer::count("gpt-4o", &text);
        let counted = prompt(&body, 0, u64::MAX).count(&measure(true)).tokens;
        assert_eq!(counted, exact + 1 + 4 + 3, "the role, what stands around a message, and what begins the answer");
        // Dense text behind plenty of space counts as what it is.
        let dense: String =
            (0..20_000_u32).map(|n| char::from(b'!' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 90)).collect();
        let body = format!(
            "{{{}\"messages\":[{{\"role\":\"user\",\"content\":{}}}]{}}}",
            " ".repeat(5_000),
            serde_json::Value::from(dense.clone()),
            " ".repeat(5_000)
        );
        assert!(prompt(&body, 0, u64::MAX).count(&measure(true)).tokens > tokenizer::count("gpt-4o", &dense));
        // Another vendor's tokenizer may make a token of each byte.
        let digits = "7".repeat(30_000);
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{digits}"}}]}}"#);
        assert!(prompt(&body, 0, u64::MAX).count(&measure(false)).tokens >= 30_000);
    }

    #[test]
    fn images_and_what_is_not_kept_count_as_their_bound() {
        let body =
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/1.png"}}]}]}"#;
        let counted = prompt(body, 20, u64::MAX).count(&measure(true));
        assert!((20 * IMAGE_TOKENS..20 * IMAGE_TOKENS + 50).contains(&counted.tokens), "{counted:?}");
        assert_eq!(counted.images, 20 * IMAGE_TOKENS);
        assert_eq!(prompt(body, 20, 1_000).count(&measure(true)).tokens, 1_000);
        let lost = Prompt { body: None, ..prompt(body, 0, 4_321) };
        assert_eq!(lost.count(&measure(true)), PromptTokens { tokens: 4_321, images: 0, writes: Writes::Long });
    }

    #[test]
    fn what_is_kept_for_streams_has_an_end() {
        let kept: Vec<_> = (0..200).map_while(|_| Kept::of(Bytes::from(vec![b' '; LARGEST]))).collect();
        assert!(kept.len() <= ALLOWANCE / LARGEST && !kept.is_empty(), "{}", kept.len());
        assert!(Kept::of(Bytes::from(vec![b' '; LARGEST])).is_none());
        assert!(Kept::of(Bytes::from(vec![b' '; SMALL])).is_some(), "a small one always");
        assert!(Kept::of(Bytes::from(vec![b' '; LARGEST + 1])).is_none());
        drop(kept);
        assert!(Kept::of(Bytes::from(vec![b' '; LARGEST])).is_some());
    }
}
