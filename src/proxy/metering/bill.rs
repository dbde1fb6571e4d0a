//! The usage that a reply reports, and its cost.

use super::{Belief, Quote};
use crate::{
    pricing::Price,
    types::{NanoUsd, ServiceTier, Usage},
};

/// A provider's token count, as far as it is believed, and its cost.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// LLM tokens.
    pub usage: Usage,
    /// Cost at the catalogue's price; `None` for a model without a price.
    pub cost: Option<NanoUsd>,
    /// The provider's count is impossible: the bound is used in its place.
    pub doubted: bool,
    /// The part of the cost that is above what was reserved, if no more than the reservation is settled.
    pub beyond: NanoUsd,
}

impl Counted {
    /// From the usage that was read. `shown` returns how many bytes the provider has shown of its answer. An answer that is
    /// longer than the request allows is charged up to `ceiling`.
    pub fn of(
        usage: Usage,
        quote: Option<&Quote>,
        price: Option<&Price>,
        tier: ServiceTier,
        shown: impl FnOnce() -> u64,
        ceiling: Option<NanoUsd>,
    ) -> Self {
        let (usage, belief) = quote.map_or((usage, Belief::Possible), |quote| quote.believe(usage, shown));
        let cost = price.map(|price| match belief {
            // The kinds of the tokens (cached, thinking, sound) are not known either.
            Belief::Impossible => price.worst_case(usage.prompt_tokens, usage.completion_tokens, tier),
            Belief::Possible | Belief::Shown => price.cost(&usage, tier),
        });
        let ceiling = ceiling.filter(|_| belief != Belief::Possible).unwrap_or(NanoUsd::MAX);
        let beyond = cost.map_or(NanoUsd::ZERO, |cost| cost.saturating_sub(ceiling));
        Self { usage, cost: cost.map(|cost| cost.min(ceiling)), doubted: belief == Belief::Impossible, beyond }
    }

    /// Adds the cost of the tool calls that the provider ran. If the calls have no price, the whole cost is unknown.
    pub fn with_calls(self, calls: Option<NanoUsd>) -> Self {
        Self { cost: self.cost.zip(calls).map(|(tokens, calls)| tokens.saturating_add(calls)), ..self }
    }
}

/// The usage that a reply reports.
#[derive(Clone, Debug, Default)]
pub struct Bill {
    /// The provider's token count, as far as it is believed, and its cost.
    pub counted: Option<Counted>,
    /// The provider's count so far when a stream ended without its whole count, as far as it is believed.
    pub so_far: Option<Usage>,
    /// The count in `so_far` was more than is possible.
    pub doubted: bool,
    /// Something other than text was generated.
    pub media: bool,
    /// A whole reply came without a count: the text that it generated, if that can be read.
    pub uncounted: Option<Option<String>>,
}

impl Bill {
    /// The provider's count.
    pub fn usage(&self) -> Option<Usage> {
        self.counted.map(|counted| counted.usage)
    }

    /// The cost of the provider's count; `None` for a model without a price.
    pub fn cost(&self) -> Option<NanoUsd> {
        self.counted.and_then(|counted| counted.cost)
    }
}
