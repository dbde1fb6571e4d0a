//! The cost of a usage, computed with integers throughout and rounded once.

use std::time::Duration;

use super::rates::{Listed, Rates};
use crate::types::{NanoUsd, PicoUsd, ServiceTier, Usage};

/// The price of one model at one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    base: RateStep,
    /// The rates for long prompts, by ascending threshold in tokens.
    above: Vec<(u64, RateStep)>,
    limits: ModelLimits,
    /// The model's own prices for calls of tools that the provider runs, by tool.
    calls: Vec<(Box<str>, NanoUsd)>,
}

/// The limits of a model, as far as the price list knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelLimits {
    /// The longest prompt, in tokens.
    pub max_input_tokens: Option<u64>,
    /// The longest answer, in tokens.
    pub max_output_tokens: Option<u64>,
    /// The highest speed at which the model generates one answer.
    pub max_tokens_per_second: Option<u64>,
    /// Whether the model may generate tokens that the reply does not show.
    pub thinks: Option<bool>,
}

/// The highest speed in tokens per second, for models of which the price list says none: the fastest public services
/// (Cerebras, Groq, SambaNova; November 2026) claim up to 3 000.
const MAX_TOKENS_PER_SECOND: u64 = 3_000;

/// The rates of all tiers for one range of prompt lengths; the last element has the highest rates of all tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateStep([Rates; 5]);

impl Price {
    /// One rate for prompts and one for generated tokens, the same in every tier.
    pub fn flat(input: PicoUsd, output: PicoUsd) -> Self {
        let listed = Listed { input: Some(input), output: Some(output), ..Listed::default() };
        Self::new(&ListedStep { standard: listed, tiers: Vec::new() }, &[], ModelLimits::default())
    }

    /// Completes the rates that a price list names. `above` needs no order; each threshold replaces all rates.
    pub(super) fn new(base: &ListedStep, above: &[(u64, ListedStep)], limits: ModelLimits) -> Self {
        let mut above: Vec<_> = above.iter().map(|(threshold, step)| (*threshold, step.complete())).collect();
        above.sort_by_key(|(threshold, _)| *threshold);
        Self { base: base.complete(), above, limits, calls: Vec::new() }
    }

    /// The price with prices of calls.
    pub(super) fn with_calls(self, calls: Vec<(Box<str>, NanoUsd)>) -> Self {
        Self { calls, ..self }
    }

    /// The model's own price for a call of this tool; `None` if it has none.
    pub(super) fn call(&self, tool: &str) -> Option<NanoUsd> {
        self.calls.iter().find(|(name, _)| **name == *tool).map(|(_, price)| *price)
    }

    /// The amount that the provider charges for this usage in this tier.
    ///
    /// - The length of the prompt selects the rates of the whole request: those of the highest threshold that it exceeds.
    /// - Each token is charged once, at the rate of the most specific part that it belongs to. Cached, written, audio and
    ///   image tokens are not charged at the input rate as well, nor audio and reasoning tokens at the output rate.
    /// - Providers do not say which cached tokens were audio. Tokens that must have been both, because the parts add up to
    ///   more than the prompt, are charged as cached audio (then as cached images).
    /// - Parts larger than their totals are cut to them: written before cached, audio before images and reasoning.
    /// - Products and their sum are trillionths of a dollar in 128 bits; the sum is rounded once, halves up. A larger sum
    ///   than [`NanoUsd::MAX`] is cut to it.
    pub fn cost(&self, usage: &Usage, tier: ServiceTier) -> NanoUsd {
        let rates = self.rates(usage.prompt_tokens, tier);
        let pico = prompt_cost(usage, rates).saturating_add(completion_cost(usage, rates));
        NanoUsd::from_pico(pico)
    }

    /// An upper bound of what a request can cost, for a reservation.
    ///
    /// No usage with at most this many prompt and generated tokens costs more, whatever its parts are, and even if
    /// the provider serves it in the standard tier instead of the requested one: the highest rates that can apply are used.
    pub fn worst_case(&self, prompt_tokens: u64, max_output_tokens: u64, tier: ServiceTier) -> NanoUsd {
        let reachable = self.above.iter().take_while(|(threshold, _)| prompt_tokens > *threshold);
        let (mut input, mut output) = (PicoUsd::ZERO, PicoUsd::ZERO);
        for step in std::iter::once(&self.base).chain(reachable.map(|(_, step)| step)) {
            for tier in [tier, ServiceTier::Standard] {
                let rates = step.tier(tier);
                input = input.max(rates.dearest_input());
                output = output.max(rates.dearest_output());
            }
        }
        NanoUsd::from_pico(input.times(prompt_tokens).saturating_add(output.times(max_output_tokens)))
    }

    /// The rates of a request with a prompt of this length.
    pub fn rates(&self, prompt_tokens: u64, tier: ServiceTier) -> &Rates {
        let exceeded = self.above.iter().rev().find(|(threshold, _)| prompt_tokens > *threshold);
        exceeded.map_or(&self.base, |(_, step)| step).tier(tier)
    }

    /// Whether the rates change at a prompt length of `tokens` or less.
    pub fn has_step_up_to(&self, tokens: u64) -> bool {
        self.above.first().is_some_and(|(threshold, _)| *threshold <= tokens)
    }

    /// Whether the list has a rate for tokens written to the prompt cache that differs from the input rate.
    pub fn prices_cache_writes(&self) -> bool {
        let rates = self.base.tier(ServiceTier::Standard);
        rates.cache_write != rates.input
    }

    /// The longest prompt that the model takes, in tokens, if known.
    pub fn max_input_tokens(&self) -> Option<u64> {
        self.limits.max_input_tokens
    }

    /// The longest reply that the model gives, in tokens, if known.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.limits.max_output_tokens
    }

    /// The most tokens that the model can have generated for one answer in this time.
    pub fn generated_within(&self, time: Duration) -> u64 {
        let per_second = self.limits.max_tokens_per_second.unwrap_or(MAX_TOKENS_PER_SECOND);
        let tokens = u128::from(per_second) * time.as_millis() / 1_000;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Whether the model may generate tokens that its reply does not show. True if the list does not say.
    pub fn may_think(&self) -> bool {
        self.limits.thinks.unwrap_or(true)
    }
}

impl RateStep {
    fn tier(&self, tier: ServiceTier) -> &Rates {
        let [standard, flex, priority, batch, dearest] = &self.0;
        match tier {
            ServiceTier::Standard => standard,
            ServiceTier::Flex => flex,
            ServiceTier::Priority => priority,
            ServiceTier::Batch => batch,
            ServiceTier::Auto | ServiceTier::Unknown => dearest,
        }
    }
}

/// The rates that a price list names for one range of prompt lengths.
#[derive(Clone, Debug, Default)]
pub(super) struct ListedStep {
    pub standard: Listed,
    pub tiers: Vec<(ServiceTier, Listed)>,
}

impl ListedStep {
    fn complete(&self) -> RateStep {
        let tier = |wanted| {
            let own = self.tiers.iter().find(|(tier, _)| *tier == wanted);
            own.map_or(&self.standard, |(_, listed)| listed).complete(&self.standard)
        };
        let standard = self.standard.complete(&self.standard);
        let [flex, priority, batch] = [ServiceTier::Flex, ServiceTier::Priority, ServiceTier::Batch].map(tier);
        let dearest = standard.max(&flex).max(&priority).max(&batch);
        RateStep([standard, flex, priority, batch, dearest])
    }
}

/// The cost of the prompt in trillionths of a dollar. Its tokens are split twice: by what the prompt cache did with them,
/// and by their kind of content.
fn prompt_cost(usage: &Usage, rates: &Rates) -> u128 {
    let total = usage.prompt_tokens;
    let written_1h = usage.cache_write_1h_tokens.min(total);
    let written = usage.cache_write_tokens.min(total - written_1h);
    let cached = usage.cached_tokens.min(total - written_1h - written);
    let fresh = total - written_1h - written - cached;

    let audio = usage.audio_prompt_tokens.min(total);
    let image = usage.image_prompt_tokens.min(total - audio);
    let audio_fresh = audio.min(fresh);
    let image_fresh = image.min(fresh - audio_fresh);
    let audio_cached = (audio - audio_fresh).min(cached);
    let image_cached = (image - image_fresh).min(cached - audio_cached);

    sum([
        rates.input.times(fresh - audio_fresh - image_fresh),
        rates.audio_input.times(audio_fresh),
        rates.image_input.times(image_fresh),
        rates.cached.times(cached - audio_cached - image_cached),
        rates.audio_cached.times(audio_cached),
        rates.image_cached.times(image_cached),
        rates.cache_write.times(written),
        rates.cache_write_1h.times(written_1h),
    ])
}

/// The cost of the generated tokens in trillionths of a dollar.
fn completion_cost(usage: &Usage, rates: &Rates) -> u128 {
    let total = usage.completion_tokens;
    let audio = usage.audio_completion_tokens.min(total);
    let reasoning = usage.reasoning_tokens.min(total - audio);
    sum([
        rates.output.times(total - audio - reasoning),
        rates.audio_output.times(audio),
        rates.reasoning.times(reasoning),
    ])
}

fn sum<const N: usize>(parts: [u128; N]) -> u128 {
    parts.into_iter().fold(0, u128::saturating_add)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
