//! Counts a stream's tokens while it runs, in case its provider does not.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Measure, Quote, prompt::Prompt};
use crate::{
    capacity::{Capacity, NotRun},
    ledger::{Exceeded, Reservation},
    openai::StreamRelay,
    pricing::Price,
    tokenizer,
    types::{NanoUsd, ServiceTier},
};

/// Bytes of generated text that are counted at a time: a stream holds no more of it.
const PORTION: usize = 16 * 1024;

/// Tokens by which a stream's reservation grows when it needs more.
const EXTENSION: u64 = 256;

/// About how many tokens a text of this many bytes has: good enough if no price depends on it.
pub fn estimate(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// Whether a model's tokens have a price. If not, an estimate by size will do, and no tables are loaded.
pub fn has_price(price: Option<&Price>) -> bool {
    const MUCH: u64 = 1_000_000_000;
    price.is_some_and(|price| price.worst_case(MUCH, MUCH, ServiceTier::Auto) > NanoUsd::ZERO)
}

/// Counts a stream's tokens in case the provider does not.
pub struct StreamMeter {
    /// The model's tokens have a price.
    priced: bool,
    /// The model may generate what its reply does not show.
    may_think: bool,
    prompt: Prompt,
    measure: Measure,
    model: Arc<str>,
    counted: u64,
    counting: Vec<Counting>,
    capacity: Arc<Capacity>,
    /// The generated tokens that the reservation pays for; `None` if the stream need not stop for a budget.
    cap: Option<Cap>,
}

/// A count of a portion that is under way, and the bytes of the portion, which are the bound if the count fails.
pub type Counting = (JoinHandle<Result<u64, NotRun>>, u64);

/// The tokens that a stream may generate within its reservation.
pub struct Cap {
    tokens: u64,
    /// Cost of [`EXTENSION`] more tokens.
    extension: NanoUsd,
}

impl StreamMeter {
    /// For a model's stream that begins. With a cap, the stream is counted in small portions while it runs.
    pub fn begin(
        model: Arc<str>,
        measure: Measure,
        prompt: Prompt,
        may_think: bool,
        price: Option<&Price>,
        cap: Option<Cap>,
        capacity: Arc<Capacity>,
    ) -> Self {
        let priced = has_price(price);
        Self { priced, may_think, prompt, measure, model, counted: 0, counting: Vec::new(), capacity, cap }
    }

    /// The model may generate what its reply does not show.
    pub fn may_think(&self) -> bool {
        self.may_think
    }

    /// What is left to be counted at the end of the stream: the prompt, how it is counted, the tokens of the answer counted so
    /// far, and the portions that are being counted.
    pub fn into_rest(self) -> (Prompt, Measure, u64, Vec<Counting>) {
        (self.prompt, self.measure, self.counted, self.counting)
    }

    /// Counts what was generated since the last call. On an error nothing is left to pay for that text, which must not be
    /// relayed.
    ///
    /// # Errors
    /// The budget that does not have enough left.
    pub fn follow(&mut self, relay: &mut StreamRelay, reservation: Option<&mut Reservation>) -> Result<(), Exceeded> {
        let pending = relay.generated_pending() as u64;
        if let (Some(cap), Some(reservation)) = (&mut self.cap, reservation) {
            // A token is at least a byte: below this nothing has to be counted. A portion takes a third of a millisecond.
            if self.counted + pending <= cap.tokens && pending <= PORTION as u64 {
                if pending > cap.tokens / 2 {
                    // Half-way there: the tables are loaded by the time they are needed, and only then.
                    tokenizer::prepare(&self.model);
                }
                return Ok(());
            }
            if !tokenizer::is_ready(&self.model) && pending <= 4 * PORTION as u64 {
                // Every stream of this worker would wait while the tables are loaded. Until then each byte is paid for as a token, if
                // there is money for that; what was too much comes free at the end.
                tokenizer::prepare(&self.model);
                if cap.cover(self.counted + pending, reservation).is_ok() {
                    return Ok(());
                }
            }
            let more = tokenizer::count(&self.model, &relay.take_generated());
            cap.cover(self.counted + more, reservation)?;
            self.counted += more;
        } else if pending > PORTION as u64 && !self.priced {
            self.counted += estimate(relay.take_generated().len() as u64);
        } else if pending > PORTION as u64 {
            let (model, text) = (self.model.clone(), relay.take_generated());
            let bytes = text.len() as u64;
            let capacity = self.capacity.clone();
            let count = async move { capacity.parsing.run_surely(move || tokenizer::count(&model, &text)).await };
            self.counting.push((tokio::spawn(count), bytes));
        }
        Ok(())
    }
}

impl Cap {
    /// Makes the reservation pay for this many tokens.
    ///
    /// # Errors
    /// The budget that does not have enough left.
    fn cover(&mut self, tokens: u64, reservation: &mut Reservation) -> Result<(), Exceeded> {
        while tokens > self.tokens {
            reservation.extend(self.extension)?;
            self.tokens += EXTENSION;
        }
        Ok(())
    }

    /// The cap of a reservation; `None` for a model whose answers cost nothing.
    pub fn of(reservation: &Reservation, price: &Price, quote: &Quote) -> Option<Self> {
        let tier = quote.tier;
        let extension = price.worst_case(0, EXTENSION, tier);
        if extension == NanoUsd::ZERO {
            return None;
        }
        let prompt = price.worst_case(quote.prompt_estimate, 0, tier);
        let left = reservation.amount().saturating_sub(prompt);
        let tokens = u128::from(left.0) * u128::from(EXTENSION) / u128::from(extension.0);
        Some(Self { tokens: u64::try_from(tokens).unwrap_or(u64::MAX), extension })
    }
}
