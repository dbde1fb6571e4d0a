//! What a reply told about usage, and what that comes to.

use super::{Belief, Quote};
use crate::{
    pricing::Price,
    types::{NanoUsd, ServiceTier, Usage},
};

/// A provider's count, as far as it is believed, and what it comes to.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// LLM tokens.
    pub usage: Usage,
    /// By the catalogue; `None` for a model without a price.
    pub cost: Option<NanoUsd>,
    /// The provider counted what is not possible: the bound stands in for it.
    pub doubted: bool,
    /// What the provider's count comes to beyond what was reserved, where no more than that is settled.
    pub beyond: NanoUsd,
}

impl Counted {
    /// Of a usage that was read. `shown` tells how many bytes the provider has shown of its answer. An answer that is longer
    /// than the request allows is charged up to `ceiling`.
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
            // Of what kind the tokens were is not known either.
            Belief::Impossible => price.worst_case(usage.prompt_tokens, usage.completion_tokens, tier),
            Belief::Possible | Belief::Shown => price.cost(&usage, tier),
        });
        let ceiling = ceiling.filter(|_| belief != Belief::Possible).unwrap_or(NanoUsd::MAX);
        let beyond = cost.map_or(NanoUsd::ZERO, |cost| cost.saturating_sub(ceiling));
        Self { usage, cost: cost.map(|cost| cost.min(ceiling)), doubted: belief == Belief::Impossible, beyond }
    }

    /// With what the calls of tools cost that the provider ran. Without a price of its calls nobody knows what it cost.
    pub fn with_calls(self, calls: Option<NanoUsd>) -> Self {
        Self { cost: self.cost.zip(calls).map(|(tokens, calls)| tokens.saturating_add(calls)), ..self }
    }
}

/// What a reply told about usage.
#[derive(Clone, Debug, Default)]
pub struct Bill {
    /// The provider's count, as far as it is believed, and what it comes to.
    pub counted: Option<Counted>,
    /// What the provider had counted when a stream ended without its whole count, as far as it is believed.
    pub so_far: Option<Usage>,
    /// That was more than is possible.
    pub doubted: bool,
    /// Something else than text was generated.
    pub media: bool,
    /// A whole reply came without a count: what it generated, where that can be told.
    pub uncounted: Option<Option<String>>,
}

impl Bill {
    /// The provider's count.
    pub fn usage(&self) -> Option<Usage> {
        self.counted.map(|counted| counted.usage)
    }

    /// What it comes to; absent for a model without a price.
    pub fn cost(&self) -> Option<NanoUsd> {
        self.counted.and_then(|counted| counted.cost)
    }
}
