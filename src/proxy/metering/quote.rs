//! The most that a request can use, and how far a provider's count is believed.

use crate::types::{NanoUsd, ServiceTier, Usage};

/// What a request may use, from its body.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    /// No provider charges more for it; zero where nobody knows a price.
    pub worst_case: NanoUsd,
    /// LLM tokens it is likely to use, with all that the client lets it generate.
    pub tokens: u64,
    /// Prompt tokens it is likely to have.
    pub prompt_estimate: u64,
    /// The provider adds to the prompt what the body does not show.
    pub unbounded_prompt: bool,
    /// The most prompt tokens that the body itself comes to, tools of the provider aside; `None` where it refers to more.
    pub shown_prompt: Option<u64>,
    /// A stream tells whenever the model reads its prompt again. Who compacts the prompt does so in between.
    pub tells_of_calls: bool,
    /// The longest prompt that a model of the plan reads at a time.
    pub longest_prompt: u64,
    /// Images in the prompt.
    pub images: u64,
    /// No provider of the plan counts more prompt tokens.
    pub most_prompt: u64,
    /// None generates more tokens, all answers together.
    pub most_answer: u64,
    /// Answers that are generated at the same time.
    pub choices: u64,
    /// Something else than text may be generated.
    pub media: bool,
    /// Tokens of a prediction, at most: what is rejected of it counts as generated.
    pub prediction: u64,
    /// The tier that is asked for.
    pub tier: ServiceTier,
}

impl Quote {
    /// The provider's count as far as it is possible; what is not is settled at the bound. `shown` tells how many bytes the
    /// provider has shown of its answer: a token is at least one. It is asked for only where the count is more than the request
    /// allows.
    pub fn believe(&self, usage: Usage, shown: impl FnOnce() -> u64) -> (Usage, Belief) {
        if usage.prompt_tokens <= self.most_prompt && usage.completion_tokens <= self.most_answer {
            return (usage, Belief::Possible);
        }
        let most_answer = self.most_answer.max(shown());
        if usage.prompt_tokens <= self.most_prompt && usage.completion_tokens <= most_answer {
            return (usage, Belief::Shown);
        }
        // Parts of a count that is wrong (cached tokens, which are cheaper) are not believed either.
        let prompt_tokens = usage.prompt_tokens.min(self.most_prompt);
        let completion_tokens = usage.completion_tokens.min(most_answer);
        (Usage { prompt_tokens, completion_tokens, ..Usage::default() }, Belief::Impossible)
    }
}

/// How far a provider's count is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// The request allows it.
    Possible,
    /// It is more than the request allows, and the provider has shown as much.
    Shown,
    /// It cannot be.
    Impossible,
}
