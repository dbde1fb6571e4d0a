//! Rates, and which rate replaces a missing one.
//!
//! A price list names few rates; a bill needs all of them. The rates are completed once, when the catalogue is read, so
//! that charging a request only multiplies and adds.

use crate::types::PicoUsd;

/// Every rate of one service tier, below or above one prompt length, in US dollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Prompt tokens without a more specific rate.
    pub input: PicoUsd,
    /// Generated tokens without a more specific rate.
    pub output: PicoUsd,
    /// Prompt tokens read from the provider's prompt cache.
    pub cached: PicoUsd,
    /// Prompt tokens written to the prompt cache for its default lifetime.
    pub cache_write: PicoUsd,
    /// Prompt tokens written to the prompt cache for its long lifetime (an hour and more).
    pub cache_write_1h: PicoUsd,
    /// Generated thinking tokens.
    pub reasoning: PicoUsd,
    /// Audio in the prompt.
    pub audio_input: PicoUsd,
    /// Audio in the prompt that was read from the prompt cache.
    pub audio_cached: PicoUsd,
    /// Generated audio.
    pub audio_output: PicoUsd,
    /// Images in the prompt.
    pub image_input: PicoUsd,
    /// Images in the prompt that were read from the prompt cache.
    pub image_cached: PicoUsd,
    /// Generated images.
    pub image_output: PicoUsd,
}

impl Rates {
    /// The most that one prompt token can cost.
    pub fn dearest_input(&self) -> PicoUsd {
        [self.cached, self.cache_write, self.cache_write_1h]
            .into_iter()
            .chain([self.audio_input, self.audio_cached, self.image_input, self.image_cached])
            .fold(self.input, PicoUsd::max)
    }

    /// The higher one of each rate.
    pub fn max(&self, other: &Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            cached: self.cached.max(other.cached),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            reasoning: self.reasoning.max(other.reasoning),
            audio_input: self.audio_input.max(other.audio_input),
            audio_cached: self.audio_cached.max(other.audio_cached),
            audio_output: self.audio_output.max(other.audio_output),
            image_input: self.image_input.max(other.image_input),
            image_cached: self.image_cached.max(other.image_cached),
            image_output: self.image_output.max(other.image_output),
        }
    }

    /// The most that one generated token can cost.
    pub fn dearest_output(&self) -> PicoUsd {
        [self.reasoning, self.audio_output, self.image_output].into_iter().fold(self.output, PicoUsd::max)
    }
}

/// The rates that a price list names; `None` for a rate that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub input: Option<PicoUsd>,
    pub output: Option<PicoUsd>,
    pub cached: Option<PicoUsd>,
    pub cache_write: Option<PicoUsd>,
    pub cache_write_1h: Option<PicoUsd>,
    pub reasoning: Option<PicoUsd>,
    pub audio_input: Option<PicoUsd>,
    pub audio_cached: Option<PicoUsd>,
    pub audio_output: Option<PicoUsd>,
    pub image_input: Option<PicoUsd>,
    pub image_cached: Option<PicoUsd>,
    pub image_output: Option<PicoUsd>,
}

impl Listed {
    /// The names of the rates in the file, for messages.
    pub const NAMES: &str = "input, output, cached, cache_write, cache_write_1h, reasoning, audio_input, \
                             audio_cached, audio_output, image_input, image_cached, image_output";

    /// The place for the rate that the file calls `name`; `None` if there is no such rate.
    pub fn slot(&mut self, name: &str) -> Option<&mut Option<PicoUsd>> {
        Some(match name {
            "input" => &mut self.input,
            "output" => &mut self.output,
            "cached" => &mut self.cached,
            "cache_write" => &mut self.cache_write,
            "cache_write_1h" => &mut self.cache_write_1h,
            "reasoning" => &mut self.reasoning,
            "audio_input" => &mut self.audio_input,
            "audio_cached" => &mut self.audio_cached,
            "audio_output" => &mut self.audio_output,
            "image_input" => &mut self.image_input,
            "image_cached" => &mut self.image_cached,
            "image_output" => &mut self.image_output,
            _ => return None,
        })
    }

    /// Whether prompts have a price.
    pub fn prices_input(&self) -> bool {
        self.input.is_some()
    }

    /// Whether any kind of generated tokens has a price.
    pub fn prices_output(&self) -> bool {
        self.any_output().is_some()
    }

    /// Completes the rates of a tier from the tier's own list and the standard tier's.
    ///
    /// In this order: the tier's own rate; the standard tier's rate; the rate of the whole that the token is a part of
    /// (cached of input, reasoning of output). A part's rate in the standard tier that equals the rate of its whole does not
    /// count: if flex halves the output rate, the rate of thinking is halved with it.
    pub fn complete(&self, standard: &Self) -> Rates {
        let input = self.input.or(standard.input).unwrap_or_default();
        // A model that generates only images (or only speech) has no text rate: everything it generates is charged as such.
        let output = self.any_output().or(standard.any_output()).unwrap_or_default();
        let part = |own: Option<PicoUsd>, listed: Option<PicoUsd>, whole: PicoUsd, standard_whole: Option<PicoUsd>| {
            own.or(listed.filter(|_| listed != standard_whole)).unwrap_or(whole)
        };

        let of_input = |own, listed| part(own, listed, input, standard.input);
        let of_output = |own, listed| part(own, listed, output, standard.any_output());
        let cached = of_input(self.cached, standard.cached);
        let cache_write = of_input(self.cache_write, standard.cache_write);
        let audio_input = of_input(self.audio_input, standard.audio_input);
        let image_input = of_input(self.image_input, standard.image_input);
        Rates {
            input,
            output,
            cached,
            cache_write,
            cache_write_1h: part(self.cache_write_1h, standard.cache_write_1h, cache_write, standard.cache_write),
            reasoning: of_output(self.reasoning, standard.reasoning),
            audio_input,
            audio_cached: self.audio_cached.or(standard.audio_cached).unwrap_or(cached),
            audio_output: of_output(self.audio_output, standard.audio_output),
            image_input,
            image_cached: self.image_cached.or(standard.image_cached).unwrap_or(cached),
            image_output: of_output(self.image_output, standard.image_output),
        }
    }

    fn any_output(&self) -> Option<PicoUsd> {
        self.output.or(self.image_output.max(self.audio_output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usd(per_million_cents: u64) -> Option<PicoUsd> {
        Some(PicoUsd(per_million_cents * 10_000))
    }

    #[test]
    fn a_part_without_a_rate_costs_what_the_whole_costs() {
        let listed = Listed { input: usd(300), output: usd(1500), ..Listed::default() };
        let rates = listed.complete(&listed);
        assert_eq!(rates.dearest_input(), PicoUsd(3_000_000));
        assert_eq!([rates.cached, rates.cache_write_1h, rates.image_cached], [PicoUsd(3_000_000); 3]);
        assert_eq!([rates.reasoning, rates.audio_output, rates.dearest_output()], [PicoUsd(15_000_000); 3]);
    }

    #[test]
    fn a_tier_borrows_what_it_lacks_from_the_standard_tier() {
        let standard = Listed { input: usd(250), output: usd(1000), cached: usd(125), ..Listed::default() };
        let batch = Listed { input: usd(125), output: usd(500), ..Listed::default() };
        let rates = batch.complete(&standard);
        assert_eq!([rates.input, rates.output], [PicoUsd(1_250_000), PicoUsd(5_000_000)]);
        assert_eq!(rates.cached, PicoUsd(1_250_000), "the standard cached rate");
        assert_eq!(rates.cache_write, PicoUsd(1_250_000), "no list names it: as input of the tier");
    }

    #[test]
    fn a_part_that_costs_as_much_as_its_whole_follows_it_into_the_tiers() {
        let standard = Listed { input: usd(30), output: usd(250), reasoning: usd(250), ..Listed::default() };
        let flex = Listed { input: usd(15), output: usd(125), ..Listed::default() };
        assert_eq!(flex.complete(&standard).reasoning, PicoUsd(1_250_000));

        let dearer = Listed { reasoning: usd(400), ..standard };
        assert_eq!(flex.complete(&dearer).reasoning, PicoUsd(4_000_000));
    }

    #[test]
    fn a_model_that_generates_only_images_charges_all_output_as_images() {
        let listed = Listed { input: usd(500), image_output: usd(4000), ..Listed::default() };
        assert!(listed.prices_output());
        assert_eq!(listed.complete(&listed).output, PicoUsd(40_000_000));
        assert!(!Listed { input: usd(500), ..Listed::default() }.prices_output());
    }
}
