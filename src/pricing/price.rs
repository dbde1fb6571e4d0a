//! What a usage costs: integers from end to end, rounded once.

use std::time::Duration;

use super::rates::{Listed, Rates};
use crate::types::{NanoUsd, PicoUsd, ServiceTier, Usage};

/// What one model of one provider charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    base: RateStep,
    /// By rising threshold.
    above: Vec<(u64, RateStep)>,
    limits: ModelLimits,
    /// What a call of a tool costs that the provider runs, where the model has a price of its own for it.
    calls: Vec<(Box<str>, NanoUsd)>,
}

/// What a model can do at most, as far as the price list knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelLimits {
    /// The longest prompt.
    pub max_input_tokens: Option<u64>,
    /// The longest answer.
    pub max_output_tokens: Option<u64>,
    /// How fast it generates one answer.
    pub max_tokens_per_second: Option<u64>,
    /// Whether it may generate what nobody sees.
    pub thinks: Option<bool>,
}

/// Tokens per second that no model generates more of, where the price list does not say: the fastest public services
/// (Cerebras, Groq, SambaNova; November 2026) claim up to 3 000.
const MAX_TOKENS_PER_SECOND: u64 = 3_000;

/// The rates of all tiers for one range of prompt lengths; the last are the dearest of all tiers.
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

    /// The same with prices of calls.
    pub(super) fn with_calls(self, calls: Vec<(Box<str>, NanoUsd)>) -> Self {
        Self { calls, ..self }
    }

    /// What a call of this tool costs, where the model has a price of its own for it.
    pub(super) fn call(&self, tool: &str) -> Option<NanoUsd> {
        self.calls.iter().find(|(name, _)| **name == *tool).map(|(_, price)| *price)
    }

    /// What the provider charges for this usage in this tier.
    ///
    /// - The length of the prompt chooses the rates of the whole request: those of the highest threshold it exceeds.
    /// - Each token is charged once, at the rate of the most special part it belongs to. Cached, written, audio and
    ///   image tokens leave what the input rate applies to; audio and reasoning leave the output.
    /// - Providers do not say which cached tokens were audio. Those that must have been, because the parts add up to
    ///   more than the prompt, are charged as cached audio (then as cached images).
    /// - Parts larger than their totals are cut to them: written before cached, audio before images and reasoning.
    /// - Products and their sum are trillionths in 128 bits; the sum is rounded once, halves up. What exceeds
    ///   [`NanoUsd::MAX`] is that.
    pub fn cost(&self, usage: &Usage, tier: ServiceTier) -> NanoUsd {
        let rates = self.rates(usage.prompt_tokens, tier);
        let pico = prompt_cost(usage, rates).saturating_add(completion_cost(usage, rates));
        NanoUsd::from_pico(pico)
    }

    /// An upper bound of what a request can cost, for a reservation.
    ///
    /// No usage with at most this many prompt and generated tokens costs more, whatever its parts are, and also when
    /// the provider serves it in the standard tier instead of the one asked for: the dearest rates that can apply.
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

    /// Whether the list has other rates for prompts of more than `tokens`, or for shorter ones already.
    pub fn has_step_up_to(&self, tokens: u64) -> bool {
        self.above.first().is_some_and(|(threshold, _)| *threshold <= tokens)
    }

    /// Whether the list has a rate for what is written to the prompt cache, other than that of plain input.
    pub fn prices_cache_writes(&self) -> bool {
        let rates = self.base.tier(ServiceTier::Standard);
        rates.cache_write != rates.input
    }

    /// The longest prompt the model takes, in tokens, if known.
    pub fn max_input_tokens(&self) -> Option<u64> {
        self.limits.max_input_tokens
    }

    /// The longest reply the model gives, in tokens, if known.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.limits.max_output_tokens
    }

    /// The most tokens of one answer that the model can have generated in this time.
    pub fn generated_within(&self, time: Duration) -> u64 {
        let per_second = self.limits.max_tokens_per_second.unwrap_or(MAX_TOKENS_PER_SECOND);
        let tokens = u128::from(per_second) * time.as_millis() / 1_000;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Whether the model may generate what its reply does not show. A model that the list says nothing of may.
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

/// Trillionths of a dollar for the prompt. Its tokens are split twice: by what the prompt cache did with them and by
/// what they carry.
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

/// Trillionths of a dollar for what was generated.
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
