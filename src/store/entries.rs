//! The log of finished requests: entries, those that are only counted, and what is summed out of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{AlertRow, StoreError};
use crate::types::{NanoUsd, RequestId, TenantId, TokenId, Usage};

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The provider's own count.
    Provider,
    /// Our count of what was relayed, because the provider's did not come.
    Counted,
    /// The most that can have been generated unseen in the time there was, because the provider's count did not come.
    Bounded,
    /// What was reserved, because nothing could be counted.
    Reserved,
    /// What was reserved by a process that ended before it could settle.
    Recovered,
    /// Nothing was bought: refused, failed, or free.
    Nothing,
    /// Nobody knows the model's price.
    Unpriced,
}

impl Basis {
    /// The word in the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Counted => "counted",
            Self::Bounded => "bounded",
            Self::Reserved => "reserved",
            Self::Recovered => "recovered",
            Self::Nothing => "nothing",
            Self::Unpriced => "unpriced",
        }
    }
}

/// What is known of a request when it is admitted.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its id.
    pub id: RequestId,
    /// When it was admitted, in milliseconds since 1970: decides the period it counts in.
    pub at: u64,
    /// Who pays.
    pub tenant: TenantId,
    /// With which token.
    pub token: Option<TokenId>,
    /// What was asked for, in the words of the metrics.
    pub endpoint: &'static str,
    /// The configured route.
    pub route: Arc<str>,
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose it is.
    pub subject: Subject,
    /// Who served it; `-` for nobody.
    pub provider: Arc<str>,
    /// The provider's name for the model; `-` for none.
    pub model: Arc<str>,
    /// LLM tokens by kind.
    pub usage: Usage,
    /// What it cost.
    pub cost: NanoUsd,
    /// What a cache hit would have cost.
    pub saved: NanoUsd,
    /// Where the cost comes from.
    pub basis: Basis,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'static str,
    /// The status the client got; 499 for one that left.
    pub status: u16,
    /// Attempts at providers.
    pub attempts: u32,
    /// Until the reply's first byte.
    pub first_byte: Option<Duration>,
    /// Until its last.
    pub duration: Duration,
}

impl Entry {
    /// An entry for a request of which only the subject is known.
    pub fn bare(subject: Subject, cost: NanoUsd, basis: Basis) -> Self {
        let nobody: Arc<str> = "-".into();
        Self {
            subject,
            provider: nobody.clone(),
            model: nobody,
            usage: Usage::default(),
            cost,
            saved: NanoUsd::ZERO,
            basis,
            cache: "BYPASS",
            status: 0,
            attempts: 0,
            first_byte: None,
            duration: Duration::ZERO,
        }
    }
}

/// A request that cost nothing and reached no provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Whose it was.
    pub tenant: TenantId,
    /// The status the client got; 499 for one that left.
    pub status: u16,
    /// The code of the error; `-` where there was none.
    pub code: &'static str,
    /// It asked for the list of models, or one of them.
    pub is_listing: bool,
    /// `MISS` or `BYPASS`.
    pub cache: &'static str,
}

/// Refusals of a kind, counted.
#[derive(Clone, Copy, Debug)]
pub struct RefusalRow<'a> {
    /// First millisecond of their minute, or of their hour.
    pub start: u64,
    /// What they have in common.
    pub kind: &'a Refusal,
    /// How many they are.
    pub count: u64,
}

/// Which entries count in a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them, and what older ones were rolled up to.
    All,
    /// Those that one process wrote.
    Of(i64),
    /// All but those that one process wrote.
    Except(i64),
}

impl Rows {
    /// The process whose rows alone count, and the one whose rows do not.
    pub(in crate::store) fn processes(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::All => (None, None),
            Self::Of(process) => (Some(process), None),
            Self::Except(process) => (None, Some(process)),
        }
    }
}

/// Of each row of a batch in its order: whether it was new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Entries.
    pub entries: Vec<bool>,
    /// Alerts.
    pub alerts: Vec<bool>,
}

/// Sums by tenant.
pub type Sums = HashMap<TenantId, NanoUsd>;

/// An id is made when a request's header comes, its entry is dated when it is admitted: a body may take a while between.
pub const ID_BEFORE_ENTRY_MS: u64 = 3_600_000;

/// The largest number in a row, a million dollars for a cost: with what a broken provider may claim the sum of nine thousand
/// rows still fits 64 bits.
pub const MOST: i64 = 1_000_000_000_000_000;

/// What finished requests have come to. Entries are never changed; those that are old become sums per day.
pub trait EntryLog {
    /// Writes a batch: entries, each with the process that it belongs to, and alerts. An entry whose id is there already stays as
    /// it is, and an alert that was raised in its period before is not raised again. Numbers are cut at [`MOST`].
    ///
    /// # Errors
    /// A store that cannot be written; nothing of the batch is in it then.
    fn append(
        &mut self,
        entries: &mut dyn Iterator<Item = (i64, &Entry)>,
        alerts: &[AlertRow],
    ) -> Result<Appended, StoreError>;

    /// Adds to the counts of refusals.
    ///
    /// # Errors
    /// A store that cannot be written; nothing is added then.
    fn add_refusals(&mut self, rows: &mut dyn Iterator<Item = RefusalRow<'_>>) -> Result<(), StoreError>;

    /// Whether there is an entry of a request that was not rolled up yet.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn has_entry(&self, id: &RequestId) -> Result<bool, StoreError>;

    /// What each tenant spent since a moment, in milliseconds since 1970: entries, and what was carried over. What was rolled up
    /// counts where that is 0, unless only the rows of one process do.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError>;

    /// Turns the days whose entries are older than `before`, the beginning of a day, into sums: a day at a time, each in its own
    /// transaction. Returns how many entries they were.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn roll_up_entries(&mut self, before: u64) -> Result<usize, StoreError>;

    /// The same for refusals, whose days have neither provider nor model. Returns how many rows they were.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn roll_up_refusals(&mut self, before: u64) -> Result<usize, StoreError>;
}
