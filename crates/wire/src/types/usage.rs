//! What a provider counted for one request.

/// LLM units of one request, in OpenAI's convention: the detail counts are *parts of* their totals.
///
/// Anthropic counts cache reads and writes outside its `input_tokens`; whoever reads such a reply adds them first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, cached ones included.
    pub prompt_tokens: u64,
    /// All generated tokens, reasoning included.
    pub completion_tokens: u64,
    /// Part of `prompt_tokens` that was read from the provider's prompt cache.
    pub cached_tokens: u64,
    /// Part of `prompt_tokens` that was written to the provider's prompt cache (default life).
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
    /// All counts, in the order in which they are written down; a new one goes to the end.
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

    /// What [`Self::numbers`] was made of.
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
    /// OpenAI's faster, dearer tier.
    Priority,
    /// Asynchronous batch processing.
    Batch,
    /// The provider chooses, by what the account is set to (OpenAI's `auto`): the dearest of the others, where no reply says
    /// which it was.
    Auto,
    /// A word that no price list knows.
    Unknown,
}

impl ServiceTier {
    /// Reads a `service_tier` word: OpenAI's, Anthropic's (`standard`, `standard_only`), Groq's (`on_demand`, `performance`).
    /// OpenAI's `scale` is paid for in advance, and what goes beyond is charged as the standard tier.
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
