//! The log of finished requests: entries, counts of refusals, and the sums that old rows become.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{AlertRow, StoreError};
use crate::types::{NanoUsd, RequestId, TenantId, TokenId, Usage};

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The provider's own count.
    Provider,
    /// The gateway's count of what it relayed, because the provider's count did not come.
    Counted,
    /// The most that can have been generated unseen in the time of the attempt, because the provider's count did not come.
    Bounded,
    /// The reserved amount, because nothing could be counted.
    Reserved,
    /// Recovered from the intents of a process that ended: the cost recorded there, or else the reserved amount.
    Recovered,
    /// Nothing was bought: the request was refused, failed, or was free.
    Nothing,
    /// The model's price is not known.
    Unpriced,
}

impl Basis {
    /// The value in the table.
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

/// A request as far as it is known at its admission.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The id of the request.
    pub id: RequestId,
    /// When the request was admitted, in milliseconds since 1970: decides the period that it counts in.
    pub at: u64,
    /// The tenant that pays.
    pub tenant: TenantId,
    /// The token that the request was sent with; `None` without a token.
    pub token: Option<TokenId>,
    /// The endpoint, named as in the metrics.
    pub endpoint: &'static str,
    /// The configured route.
    pub route: Arc<str>,
}

/// A finished request, as the log keeps it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The request, its tenant and its time.
    pub subject: Subject,
    /// The provider that served the request; `-` for none.
    pub provider: Arc<str>,
    /// The provider's name for the model; `-` for none.
    pub model: Arc<str>,
    /// LLM tokens by kind.
    pub usage: Usage,
    /// What the request cost.
    pub cost: NanoUsd,
    /// What a cache hit would have cost.
    pub saved: NanoUsd,
    /// Where the cost comes from.
    pub basis: Basis,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'static str,
    /// The status that the client got; 499 if the client left.
    pub status: u16,
    /// The number of attempts at providers.
    pub attempts: u32,
    /// The time until the first byte of the reply; `None` if there was none.
    pub first_byte: Option<Duration>,
    /// The time until the last byte of the reply.
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
    /// The tenant of the request.
    pub tenant: TenantId,
    /// The status that the client got; 499 if the client left.
    pub status: u16,
    /// The code of the error; `-` if there was none.
    pub code: &'static str,
    /// True if the request asked for the list of models or for one model.
    pub is_listing: bool,
    /// `MISS` or `BYPASS`.
    pub cache: &'static str,
}

/// The number of refusals of one kind in one minute or hour.
#[derive(Clone, Copy, Debug)]
pub struct RefusalRow<'a> {
    /// First millisecond of the minute, or of the hour, since 1970.
    pub start: u64,
    /// What the refusals have in common.
    pub kind: &'a Refusal,
    /// The number of refusals.
    pub count: u64,
}

/// Which entries count in a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All entries, and the sums of those that were rolled up.
    All,
    /// The entries that one process wrote.
    Of(i64),
    /// All entries except those that one process wrote.
    Except(i64),
}

impl Rows {
    /// The only process whose rows count, and the process whose rows do not count.
    pub(in crate::store) fn processes(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::All => (None, None),
            Self::Of(process) => (Some(process), None),
            Self::Except(process) => (None, Some(process)),
        }
    }
}

/// Whether each row of a batch was new, in the order of the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// One value for each entry.
    pub entries: Vec<bool>,
    /// One value for each alert.
    pub alerts: Vec<bool>,
}

/// A sum of money for each tenant.
pub type Sums = HashMap<TenantId, NanoUsd>;

/// How long, in milliseconds, the time in a request's id may lie before the time of its entry: the id is created when the
/// request's header comes, the entry is dated at the admission, and the body may take a while in between.
pub const ID_BEFORE_ENTRY_MS: u64 = 3_600_000;

/// The largest number in a row, which is a million dollars for a cost: the sum of nine thousand rows still fits 64 bits, even
/// with what a broken provider may claim.
pub const MOST: i64 = 1_000_000_000_000_000;

/// The log of finished requests. Entries are never changed; old ones become sums per day.
pub trait EntryLog {
    /// Writes a batch: entries, each with the process that it belongs to, and alerts. An entry whose id is there already stays as
    /// it is, and an alert that was raised in its period before is not raised again. Numbers above [`MOST`] are cut to it.
    ///
    /// # Errors
    /// A store that cannot be written; it contains nothing of the batch then.
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

    /// Whether there is an entry of the request that was not rolled up yet.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn has_entry(&self, id: &RequestId) -> Result<bool, StoreError>;

    /// What each tenant spent since `start` (milliseconds since 1970): entries, and sums that were carried over. Entries that
    /// were rolled up count only if `start` is 0, and not for [`Rows::Of`].
    ///
    /// # Errors
    /// A store that cannot be read.
    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError>;

    /// Turns the entries of the days before `before`, which is the beginning of a day, into sums per day: one day at a time, each
    /// in its own transaction. Returns the number of these entries.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn roll_up_entries(&mut self, before: u64) -> Result<usize, StoreError>;

    /// Like [`Self::roll_up_entries`], for refusals: their sums have neither provider nor model. Returns the number of rows.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn roll_up_refusals(&mut self, before: u64) -> Result<usize, StoreError>;
}
