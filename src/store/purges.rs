//! The table of purges: what of the cache no longer counts.

use super::StoreError;

/// A stamp: what it covers, and until when. An empty name stands for any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PurgeRow {
    /// Who has paid for the answers.
    pub tenant: String,
    /// The model that gave them.
    pub model: String,
    /// The key of one answer.
    pub key: String,
    /// Answers to what was asked at this time or before are dead; milliseconds since 1970.
    pub at: u64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct PurgeBounds {
    /// Stamps for models and keys that a tenant has at most. Then one that covers all that is the tenant's takes the place of
    /// the older half.
    pub narrow: usize,
    /// Stamps before this are dropped.
    pub since: u64,
}

/// What a purge has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Its stamp: as asked, unless the same was purged later, by a clock that has been put back since.
    pub at: u64,
    /// Many narrow stamps became one for all that is the tenant's.
    pub folded: bool,
}

/// Every purge that may still cover something.
pub trait PurgeTable {
    /// All stamps.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn purges(&self) -> Result<Vec<PurgeRow>, StoreError>;

    /// Writes a stamp down, unless there is a newer one, and drops those that say nothing any more: what a stamp for all that is
    /// a tenant's, or for everything, covers; and what is out of bounds.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn purge(&mut self, stamp: &PurgeRow, bounds: PurgeBounds) -> Result<Purged, StoreError>;
}
