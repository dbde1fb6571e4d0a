//! Queries over the log of finished requests in a span of time: from `since` until before `until`, in milliseconds since 1970.

use super::{ID_BEFORE_ENTRY_MS, StoreError, Sums};
use crate::types::{NanoUsd, RequestId};

/// A span of time, as bounds for the times and the ids of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// No entry of the span has a smaller id.
    pub(in crate::store) first_id: [u8; 16],
    /// No entry of the span has this id or a larger one.
    pub(in crate::store) end_id: [u8; 16],
    pub(in crate::store) since: u64,
    pub(in crate::store) until: u64,
}

impl Span {
    /// From `since` until before `until`.
    pub fn new(since: u64, until: u64) -> Self {
        // An id has 48 bits for its time, and a number in a store has 63.
        let time = |ms: u64| ms.min((1 << 48) - 1);
        let id = |ms: u64| *RequestId::first_at(time(ms)).as_bytes();
        Self {
            first_id: id(since.saturating_sub(ID_BEFORE_ENTRY_MS)),
            // The time in an id is before the time of its entry, unless the clock was put back in between.
            end_id: id(until.saturating_add(ID_BEFORE_ENTRY_MS)),
            since: time(since),
            until: time(until),
        }
    }

    /// The bounds of the span for refusals, which are counted by minute: the first minute counts as a whole.
    pub(in crate::store) fn minutes(&self) -> [u64; 2] {
        [self.since - self.since % 60_000, self.until]
    }
}

/// One row that counts in the sums of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostRow<'r> {
    /// The tenant that pays.
    pub tenant: &'r str,
    /// The time of the row, in milliseconds since 1970.
    pub at: u64,
    /// Number of requests: one for an entry, none for a sum that was carried over.
    pub calls: u64,
    /// Requests that the cache answered.
    pub hits: u64,
    /// LLM tokens that were sent.
    pub prompt_tokens: u64,
    /// LLM tokens that were generated.
    pub completion_tokens: u64,
    /// What the requests cost.
    pub cost: NanoUsd,
    /// What cache hits would have cost.
    pub saved: NanoUsd,
}

/// An entry, as far as a summary needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficRow<'r> {
    /// The tenant that pays.
    pub tenant: &'r str,
    /// The provider that served the request; `-` for none.
    pub provider: &'r str,
    /// The provider's name for the model; `-` for none.
    pub model: &'r str,
    /// What the requests cost.
    pub cost: NanoUsd,
    /// Where the cost comes from: [`super::Basis::label`].
    pub basis: &'r str,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'r str,
    /// The status that the client got.
    pub status: u16,
    /// The duration of the request, in microseconds.
    pub duration_us: u64,
}

/// Entries that have tenant, provider, model and cache outcome in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRow<'r> {
    /// The tenant that pays.
    pub tenant: &'r str,
    /// The provider that served the requests; `-` for none.
    pub provider: &'r str,
    /// The provider's name for the model.
    pub model: &'r str,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'r str,
    /// The number of requests.
    pub count: u64,
    /// What cache hits among them would have cost.
    pub saved: NanoUsd,
}

/// Counted refusals: requests that cost nothing and reached no provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedRow<'r> {
    /// The tenant of the requests.
    pub tenant: &'r str,
    /// First millisecond of the minute, or of the hour.
    pub start: u64,
    /// True for listings of models.
    pub is_listing: bool,
    /// True if the cache could have answered the requests.
    pub is_miss: bool,
    /// The number of requests.
    pub count: u64,
}

/// Queries over a span of time. A table that an earlier version of the store lacks counts as empty.
pub trait Reports {
    /// Passes everything that counts in the sums of the days of a span to `each`, in no particular order: entries, carried-over
    /// sums, refusals, and rolled-up days, whose time is their first millisecond.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn costs(&self, span: &Span, each: &mut dyn FnMut(CostRow<'_>)) -> Result<(), StoreError>;

    /// Passes the entries of a span, without listings of models, to `each`.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn traffic(&self, span: &Span, each: &mut dyn FnMut(TrafficRow<'_>)) -> Result<(), StoreError>;

    /// Passes the refusals of a span to `each`; the first minute of the span counts as a whole.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn refused(&self, span: &Span, each: &mut dyn FnMut(RefusedRow<'_>)) -> Result<(), StoreError>;

    /// Passes the numbers of entries by tenant, provider, model and cache outcome, without listings of models, to `each`.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn cache_use(&self, span: &Span, each: &mut dyn FnMut(CacheRow<'_>)) -> Result<(), StoreError>;

    /// What cache hits have saved in a span, by tenant.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn saved(&self, span: &Span) -> Result<Sums, StoreError>;
}
