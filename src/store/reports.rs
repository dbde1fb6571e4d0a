//! What the log of finished requests tells about a span of time. Spans are milliseconds since 1970: from `since` until before
//! `until`.

use super::{ID_BEFORE_ENTRY_MS, StoreError, Sums};
use crate::types::{NanoUsd, RequestId};

/// A span of time as rows have it.
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
        // An id has 48 bits for its time, and a store 63 for a number.
        let time = |ms: u64| ms.min((1 << 48) - 1);
        let id = |ms: u64| *RequestId::first_at(time(ms)).as_bytes();
        Self {
            first_id: id(since.saturating_sub(ID_BEFORE_ENTRY_MS)),
            // An id is older than its entry, unless the clock was put back in between.
            end_id: id(until.saturating_add(ID_BEFORE_ENTRY_MS)),
            since: time(since),
            until: time(until),
        }
    }

    /// The span that counts refusals by minute: its first minute counts as a whole.
    pub(in crate::store) fn minutes(&self) -> [u64; 2] {
        [self.since - self.since % 60_000, self.until]
    }
}

/// What counts in the sums of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostRow<'r> {
    /// Who pays.
    pub tenant: &'r str,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Requests: one for an entry, none for what was carried over.
    pub calls: u64,
    /// Those that the cache answered.
    pub hits: u64,
    /// LLM tokens that were sent.
    pub prompt_tokens: u64,
    /// LLM tokens that were generated.
    pub completion_tokens: u64,
    /// What it cost.
    pub cost: NanoUsd,
    /// What cache hits would have cost.
    pub saved: NanoUsd,
}

/// An entry, as far as a summary asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficRow<'r> {
    /// Who pays.
    pub tenant: &'r str,
    /// Who served it; `-` for nobody.
    pub provider: &'r str,
    /// The provider's name for the model; `-` for none.
    pub model: &'r str,
    /// What it cost.
    pub cost: NanoUsd,
    /// Where the cost comes from: [`super::Basis::label`].
    pub basis: &'r str,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'r str,
    /// The status the client got.
    pub status: u16,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// Entries that have tenant, provider, model and cache outcome in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRow<'r> {
    /// Who pays.
    pub tenant: &'r str,
    /// Who served them.
    pub provider: &'r str,
    /// The provider's name for the model.
    pub model: &'r str,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'r str,
    /// How many they are.
    pub count: u64,
    /// What they would have cost without the cache.
    pub saved: NanoUsd,
}

/// Requests that are only counted: they cost nothing and reached no provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedRow<'r> {
    /// Whose they were.
    pub tenant: &'r str,
    /// First millisecond of the minute, or of the hour.
    pub start: u64,
    /// Listings of models.
    pub is_listing: bool,
    /// The cache could have answered them.
    pub is_miss: bool,
    /// How many they are.
    pub count: u64,
}

/// Questions over a span of time. What is in no table of an earlier version counts as nothing.
pub trait Reports {
    /// All that counts in the sums of the days of a span: entries, what was carried over, refusals, and days that were rolled up,
    /// whose time is their first millisecond. Each row in no particular order.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn costs(&self, span: &Span, each: &mut dyn FnMut(CostRow<'_>)) -> Result<(), StoreError>;

    /// The entries of a span, but no listings of models.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn traffic(&self, span: &Span, each: &mut dyn FnMut(TrafficRow<'_>)) -> Result<(), StoreError>;

    /// The refusals of a span; its first minute counts as a whole.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn refused(&self, span: &Span, each: &mut dyn FnMut(RefusedRow<'_>)) -> Result<(), StoreError>;

    /// The entries of a span by tenant, provider, model and cache outcome, but no listings of models.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn cache_use(&self, span: &Span, each: &mut dyn FnMut(CacheRow<'_>)) -> Result<(), StoreError>;

    /// What cache hits have saved in a span.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn saved(&self, span: &Span) -> Result<Sums, StoreError>;
}
