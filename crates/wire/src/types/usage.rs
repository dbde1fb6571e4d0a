//! The usage that a provider reports for one request.

/// Token counts of one request, in OpenAI's convention: the detail counts are *parts of* their totals.
///
/// Anthropic counts cache reads and writes outside its `input_tokens`; code that reads such a reply adds them to
/// `prompt_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// All generated tokens, reasoning included.
    pub completion_tokens: u64,
    /// Part of `prompt_tokens` that was read from the provider's prompt cache.
    pub cached_tokens: u64,
    /// Part of `prompt_tokens` that was written to the provider's prompt cache with the default time to live.
    pub cache_write_tokens: u64,
    /// Part of `prompt_tokens` that was written to the provider's prompt cache for an hour.
    pub cache_write_1h_tokens: u64,
    /// Part of `completion_tokens` that was thinking.
    pub reasoning_tokens: u64,
    /// Part of `prompt_tokens` that was audio.
    pub audio_prompt_tokens: u64,
    /// Part of `completion_tokens` that was audio.
    pub audio_completion_tokens: u64,
    /// Part of `prompt_tokens` that was images.
    pub image_prompt_tokens: u64,
}

impl Usage {
    /// All counts, in the order in which they are stored; a new count must go to the end.
    pub fn numbers(&self) -> [u64; 9] {
        let Self {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            audio_prompt_tokens,
            audio_completion_tokens,
            image_prompt_tokens,
        } = *self;
        [
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            audio_prompt_tokens,
            audio_completion_tokens,
            image_prompt_tokens,
        ]
    }

    /// The usage that [`Self::numbers`] returned these numbers for.
    pub fn from_numbers(numbers: [u64; 9]) -> Self {
        let [
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            audio_prompt_tokens,
            audio_completion_tokens,
            image_prompt_tokens,
        ] = numbers;
        Self {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            audio_prompt_tokens,
            audio_completion_tokens,
            image_prompt_tokens,
        }
    }

    /// Prompt and completion together.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// The price tier a request was served in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// The list price.
    #[default]
    Standard,
    /// OpenAI's cheaper, slower tier.
    Flex,
    /// OpenAI's faster, more expensive tier.
    Priority,
    /// Asynchronous batch processing.
    Batch,
    /// The provider chooses according to the account's settings (OpenAI's `auto`). Charged as the most expensive of the other
    /// tiers where no reply reports the tier.
    Auto,
    /// A word that is no known tier.
    Unknown,
}

impl ServiceTier {
    /// Reads a `service_tier` word: OpenAI's, Anthropic's (`standard`, `standard_only`), Groq's (`on_demand`, `performance`).
    /// OpenAI's `scale` is paid for in advance, and use beyond that is charged as the standard tier.
    pub fn from_word(word: &str) -> Self {
        match word {
            "default" | "standard" | "standard_only" | "on_demand" | "performance" | "scale" => Self::Standard,
            "flex" => Self::Flex,
            "priority" => Self::Priority,
            "batch" => Self::Batch,
            "auto" => Self::Auto,
            _ => Self::Unknown,
        }
    }
}
