//! Attempts that broke while a provider was at work on them.

use std::{sync::Arc, time::Duration};

use super::{Measure, Quote};
use crate::{pricing::Price, types::NanoUsd};

/// How long a provider goes on generating after the gateway has closed the exchange, until it notices.
pub const NOTICE: Duration = Duration::from_millis(250);

/// An attempt that broke while a provider was at work on it.
pub struct BillableFailure {
    /// The price of the attempt's model.
    pub price: Arc<Price>,
    /// How its model's tokens are counted.
    pub measure: Measure,
    /// The provider adds to the prompt something that the body does not show: the only bound is `worst_case`.
    pub unbounded: bool,
    /// The most tokens that the attempt can have generated.
    pub generated: u64,
    /// The most that the attempt was expected to cost.
    pub worst_case: NanoUsd,
}

/// The most tokens that a provider can have generated in this time, within what the request allows. Tokens of a prediction count
/// when they are rejected, and take no time to generate.
pub fn generated_within(price: &Price, quote: &Quote, time: Duration) -> u64 {
    let generated = price.generated_within(time).saturating_mul(quote.choices);
    generated.saturating_add(quote.prediction).min(quote.most_answer)
}

impl BillableFailure {
    /// An attempt that broke just now, after the provider had `worked` on it for this long.
    pub fn after(worked: Duration, measure: Measure, price: Arc<Price>, quote: &Quote) -> Self {
        let generated = generated_within(&price, quote, worked + NOTICE);
        Self { price, measure, unbounded: quote.unbounded_prompt, generated, worst_case: quote.worst_case }
    }
}
