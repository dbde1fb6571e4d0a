//! Attempts that broke while a provider was at work on them.

use std::{sync::Arc, time::Duration};

use super::{Measure, Quote};
use crate::{pricing::Price, types::NanoUsd};

/// What a provider goes on generating after we have let go of it: until it notices.
pub const NOTICE: Duration = Duration::from_millis(250);

/// An attempt that broke while a provider was at work on it.
pub struct BillableFailure {
    /// Of its model.
    pub price: Arc<Price>,
    /// How its model's tokens are counted.
    pub measure: Measure,
    /// The provider adds to the prompt what the body does not show: only the most it was expected to cost is a bound.
    pub unbounded: bool,
    /// The most tokens that it can have generated.
    pub generated: u64,
    /// The most it was expected to cost.
    pub worst_case: NanoUsd,
}

/// The most tokens that a provider can have generated in this time, within what the request allows. What it was given as a
/// prediction counts when it is rejected, and is not generated at any pace.
pub fn generated_within(price: &Price, quote: &Quote, time: Duration) -> u64 {
    let generated = price.generated_within(time).saturating_mul(quote.choices);
    generated.saturating_add(quote.prediction).min(quote.most_answer)
}

impl BillableFailure {
    /// Of an attempt that broke just now, after it had `worked` for so long.
    pub fn after(worked: Duration, measure: Measure, price: Arc<Price>, quote: &Quote) -> Self {
        let generated = generated_within(&price, quote, worked + NOTICE);
        Self { price, measure, unbounded: quote.unbounded_prompt, generated, worst_case: quote.worst_case }
    }
}
