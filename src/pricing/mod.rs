//! Prices of models, and the cost of a usage.
//!
//! `conf/prices.yaml` is compiled in and read into a [`Catalogue`]; a configuration may lay its own entries over it
//! ([`Catalogue::overlay`]). A model without an entry is *unpriced*: [`Catalogue::price`] returns `None`, never a
//! price of zero, so that a request under a budget can be refused.
//!
//! | file | contents |
//! |---|---|
//! | `catalogue` | prices by provider and model |
//! | `price` | the cost of a usage in a service tier |
//! | `rates` | completes the rates that a price list does not name |
//! | `load` | reads the YAML file, and reports all faults at once |

mod catalogue;
mod load;
mod price;
mod rates;

pub use catalogue::Catalogue;
pub use price::Price;
pub use rates::Rates;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::types::{NanoUsd, PicoUsd, ServiceTier, Usage};

    /// A rate in US dollars per token, as the source prints it.
    fn fact(text: &str) -> PicoUsd {
        text.parse().unwrap()
    }

    /// Some facts of the source that `conf/prices.yaml` was generated from; `scripts/prices.py --check` compares all of them.
    #[test]
    fn the_builtin_list_keeps_the_facts_of_its_source() {
        use ServiceTier::{Batch, Flex, Priority, Standard};
        let catalogue = Catalogue::builtin();
        let rates = |name: &str, prompt_tokens, tier| {
            let (provider, model) = name.split_once('/').unwrap();
            *catalogue.price(provider, model).unwrap().rates(prompt_tokens, tier)
        };
        let facts = [
            (rates("openai/gpt-4o", 0, Standard).input, "2.5e-06"),
            (rates("openai/gpt-4o", 0, Standard).output, "1e-05"),
            (rates("openai/gpt-4o-mini", 0, Standard).input, "1.5e-07"),
            (rates("openai/gpt-6-astra", 272_000, Standard).input, "1e-05"),
            (rates("openai/gpt-6-astra", 272_001, Priority).cache_write_1h, "0.0001"),
            (rates("openai/gpt-6-astra", 0, Flex).cache_write, "6.25e-06"),
            (rates("openai/gpt-6.1-sol", 300_000, Batch).output, "7.5e-06"),
            (rates("openai/gpt-audio", 0, Standard).audio_output, "6.4e-05"),
            (rates("openai/gpt-image-1", 0, Standard).image_input, "1e-05"),
            (rates("openai/gpt-image-1", 0, Standard).image_cached, "2.5e-06"),
            (rates("openai/gpt-image-1", 0, Standard).output, "4e-05"),
            (rates("openai/gpt-image-1", 0, Batch).image_input, "5e-06"),
            (rates("openai/gpt-3.5-turbo-instruct", 0, Standard).output, "2e-06"),
            (rates("openai/text-embedding-3-small", 0, Standard).input, "2e-08"),
            (rates("anthropic/claude-haiku-5-5", 100_001, Batch).cache_write, "3.125e-07"),
            (rates("anthropic/claude-haiku-5-5", 100_001, Standard).cache_write_1h, "1e-06"),
            (rates("groq/openai/gpt-oss-20b", 0, Standard).input, "7.5e-08"),
            (rates("gemini/gemini-2.5-flash", 0, Priority).audio_cached, "1.8e-07"),
            (rates("gemini/gemini-2.5-flash", 0, Standard).reasoning, "2.5e-06"),
            (rates("gemini/gemini-2.5-flash", 0, Flex).reasoning, "1.25e-06"),
            (rates("deepseek/deepseek-v4-flash", 0, Standard).cached, "6e-09"),
            (rates("xai/grok-4.3", 0, Standard).image_input, "1.25e-06"),
            (rates("cohere/command-r-plus-08-2024", 0, Standard).output, "1e-05"),
        ];
        for (index, (found, text)) in facts.into_iter().enumerate() {
            assert_eq!(found, fact(text), "fact {index}");
        }
        assert_eq!(catalogue.price("openai", "gpt-4o").unwrap().max_output_tokens(), Some(16_384));
        assert_eq!(catalogue.price("openai", "gpt-4o").unwrap().max_input_tokens(), Some(128_000));
    }

    #[test]
    fn a_bill_from_the_builtin_list() {
        let catalogue = Catalogue::builtin();
        let usage = Usage { prompt_tokens: 1_000, completion_tokens: 500, cached_tokens: 400, ..Usage::default() };
        let cost = catalogue.price("openai", "gpt-4o-2024-11-20").unwrap().cost(&usage, ServiceTier::Standard);
        // 600 * 2.50 + 400 * 1.25 + 500 * 10 dollars per million
        assert_eq!((cost, cost.to_string().as_str()), (NanoUsd(7_000_000), "0.007"));
    }

    #[test]
    fn what_the_source_does_not_price_stays_unpriced() {
        let catalogue = Catalogue::builtin();
        let unpriced = [("anthropic", "claude-sonnet-4"), ("groq", "llama-3-70b"), ("openai", "whisper-1")];
        for (provider, model) in unpriced {
            assert_eq!(catalogue.price(provider, model), None, "{provider}/{model}");
        }
        assert_eq!(catalogue.len(), 112);
    }

    #[test]
    fn reading_the_builtin_list_does_not_delay_a_start() {
        let best = (0..5).map(|_| {
            let start = Instant::now();
            assert!(!Catalogue::builtin().is_empty());
            start.elapsed()
        });
        let best = best.min().unwrap();
        // The bound is for an unoptimised build on a busy machine; a release build takes a tenth.
        assert!(best < Duration::from_millis(200), "{best:?}");
    }
}
