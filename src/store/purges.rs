//! The table of purges: which cached answers no longer count.

use super::StoreError;

/// The stamp of a purge: which answers it covers, and until when. An empty name stands for any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PurgeRow {
    /// The tenant that has paid for the answers.
    pub tenant: String,
    /// The model that gave them.
    pub model: String,
    /// The key of one answer.
    pub key: String,
    /// Answers to requests sent at this time or before are no longer served; milliseconds since 1970.
    pub at: u64,
}

/// How many stamps are kept.
#[derive(Clone, Copy, Debug)]
pub struct PurgeBounds {
    /// How many stamps for models and keys a tenant may have. Beyond that, one stamp for all answers of the tenant replaces the
    /// older half of them.
    pub narrow: usize,
    /// Stamps older than this time are deleted; milliseconds since 1970.
    pub since: u64,
}

/// The result of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The time of the stamp: the requested one, unless the table had a later one (from a clock that was put back since).
    pub at: u64,
    /// True if many narrow stamps were replaced by one for all answers of the tenant.
    pub folded: bool,
}

/// The table of purges that may still cover an answer.
pub trait PurgeTable {
    /// All stamps.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn purges(&self) -> Result<Vec<PurgeRow>, StoreError>;

    /// Writes a stamp, unless there is a newer one, and deletes stamps that have no effect any more: those covered by a stamp for
    /// all answers of a tenant or for everything, and those out of `bounds`.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn purge(&mut self, stamp: &PurgeRow, bounds: PurgeBounds) -> Result<Purged, StoreError>;
}
