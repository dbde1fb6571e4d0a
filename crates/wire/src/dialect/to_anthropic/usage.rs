//! Anthropic's counts.

use serde::Deserialize;

use super::wire::{Count, Lenient, Text};
use crate::dialect::chat::{Counted, Details as Told};
use crate::types;

/// Anthropic's `usage`, possibly partial. Its `input_tokens` exclude tokens that the prompt cache read and wrote.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage<'a> {
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_creation: Lenient<Creation>,
    output_tokens_details: Lenient<Details>,
    #[serde(borrow)]
    service_tier: Text<'a>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Creation {
    ephemeral_5m_input_tokens: Count,
    ephemeral_1h_input_tokens: Count,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Details {
    thinking_tokens: Count,
}

impl Usage<'_> {
    /// OpenAI's word for the service tier that served the request, where OpenAI has one.
    pub(super) fn service_tier(&self) -> Option<&'static str> {
        match &*self.service_tier {
            "standard" => Some("default"),
            "priority" => Some("priority"),
            _ => None,
        }
    }
}

/// The counts so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    input: u64,
    output: u64,
    read: u64,
    /// All cache writes.
    written: u64,
    /// Cache writes that live for an hour.
    written_1h: u64,
    thinking: u64,
    /// Any count was reported.
    said: bool,
}

impl Counts {
    /// The counts; `None` if none was reported, because zeros would mean that the answer was free.
    ///
    /// Anthropic's prompt count excludes tokens that its cache read and wrote, OpenAI's includes both.
    pub(super) fn known(&self) -> Option<Counted> {
        let long = self.written_1h.min(self.written);
        let usage = types::Usage {
            prompt_tokens: self.input.saturating_add(self.read).saturating_add(self.written),
            completion_tokens: self.output,
            cached_tokens: self.read,
            cache_write_tokens: self.written - long,
            cache_write_1h_tokens: long,
            reasoning_tokens: self.thinking.min(self.output),
            ..types::Usage::default()
        };
        self.said.then_some(Counted { usage, details: Told::All })
    }

    /// Takes over the counts of a usage object. They are cumulative, and an absent count keeps its earlier value.
    pub(super) fn update(&mut self, usage: &Usage<'_>) {
        let creation = &usage.cache_creation.0;
        let lives = (creation.ephemeral_5m_input_tokens.0, creation.ephemeral_1h_input_tokens.0);
        let sum = match lives {
            (None, None) => None,
            (short, long) => Some(short.unwrap_or(0).saturating_add(long.unwrap_or(0))),
        };
        for (count, said) in [
            (&mut self.input, usage.input_tokens.0),
            (&mut self.output, usage.output_tokens.0),
            (&mut self.read, usage.cache_read_input_tokens.0),
            (&mut self.written, usage.cache_creation_input_tokens.0.or(sum)),
            (&mut self.written_1h, lives.1),
            (&mut self.thinking, usage.output_tokens_details.0.thinking_tokens.0),
        ] {
            self.said |= said.is_some();
            *count = said.unwrap_or(*count);
        }
    }
}
