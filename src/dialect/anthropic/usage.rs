//! What Anthropic counted.

use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::wire::{Count, Lenient, Text};

/// Anthropic's `usage`, as far as it has come. Its `input_tokens` leave out what the prompt cache read and wrote.
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
    /// OpenAI's word for the tier that served the request, where it has one.
    pub(super) fn service_tier(&self) -> Option<&'static str> {
        match self.service_tier.get() {
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
    /// All writes.
    written: u64,
    /// Those that live for an hour.
    written_1h: u64,
    thinking: u64,
    /// Anything was said.
    said: bool,
}

impl Counts {
    /// The counts, unless none came: a zero would say that the answer was free.
    pub(super) fn known(&self) -> Option<&Self> {
        self.said.then_some(self)
    }

    /// Takes over what a usage object says. Each is a total up to here, and what it does not say stands.
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

/// As OpenAI's `usage`, in the gateway's reading: see the hub's conventions on cache writes.
impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let prompt = self.input.saturating_add(self.read).saturating_add(self.written);
        let long = self.written_1h.min(self.written);
        let mut usage = serializer.serialize_map(None)?;
        usage.serialize_entry("prompt_tokens", &prompt)?;
        usage.serialize_entry("completion_tokens", &self.output)?;
        usage.serialize_entry("total_tokens", &prompt.saturating_add(self.output))?;
        let writes =
            Writes { cached_tokens: self.read, cache_write_tokens: self.written - long, cache_write_1h_tokens: long };
        usage.serialize_entry("prompt_tokens_details", &writes)?;
        let reasoning = Reasoning { reasoning_tokens: self.thinking.min(self.output) };
        usage.serialize_entry("completion_tokens_details", &reasoning)?;
        usage.end()
    }
}

#[derive(serde::Serialize)]
struct Writes {
    cached_tokens: u64,
    cache_write_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cache_write_1h_tokens: u64,
}

#[derive(serde::Serialize)]
struct Reasoning {
    reasoning_tokens: u64,
}

// Its signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
