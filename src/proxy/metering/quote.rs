//! The most that a request can use, and how far a provider's count is believed.

use crate::types::{NanoUsd, ServiceTier, Usage};

/// The most that a request may use, worked out from its body.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    /// The most that any provider of the plan charges for the request; zero if no price is known.
    pub worst_case: NanoUsd,
    /// LLM tokens it is likely to use, with all that the client lets it generate.
    pub tokens: u64,
    /// Prompt tokens it is likely to have.
    pub prompt_estimate: u64,
    /// The provider adds to the prompt something that the body does not show.
    pub unbounded_prompt: bool,
    /// The most prompt tokens of the body itself, without the provider's tools; `None` if the body refers to more.
    pub shown_prompt: Option<u64>,
    /// The stream shows each time that the model reads its prompt again. False with compaction, which rereads the prompt unseen.
    pub tells_of_calls: bool,
    /// The longest prompt that a model of the plan reads at a time.
    pub longest_prompt: u64,
    /// Images in the prompt.
    pub images: u64,
    /// The most prompt tokens that any provider of the plan counts.
    pub most_prompt: u64,
    /// The most tokens that any provider of the plan generates, for all answers together.
    pub most_answer: u64,
    /// Answers that are generated at the same time.
    pub choices: u64,
    /// Something other than text may be generated.
    pub media: bool,
    /// Tokens of a prediction, at most: the rejected ones count as generated.
    pub prediction: u64,
    /// The tier that is asked for.
    pub tier: ServiceTier,
}

impl Quote {
    /// The provider's count if it is possible; otherwise the bound. `shown` returns how many bytes the provider has shown of its
    /// answer: a token is at least one. It is called only if the count is more than the request allows.
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
    /// The request allows the count.
    Possible,
    /// The count is more than the request allows, and the provider has shown an answer as long.
    Shown,
    /// The count is impossible.
    Impossible,
}
