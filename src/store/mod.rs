//! What the gateway keeps for long: tokens, the ledger and alerts, purges, the owners of objects.
//!
//! The gateway never asks a store anything while a request waits: tokens are read into memory, entries are written by one thread.

mod alerts;
mod contract;
mod entries;
mod error;
mod follow;
mod objects;
mod purges;
mod reports;
pub mod sqlite;
mod tokens;

pub use alerts::{AlertKey, AlertRow, AlertTable, Undelivered};
pub use contract::{Ownership, Session, Standings, Store, StoreId, Topic};
pub use entries::{
    Appended, Basis, Entry, EntryLog, ID_BEFORE_ENTRY_MS, MOST, Refusal, RefusalRow, Rows, Subject, Sums,
};
pub use error::StoreError;
pub use follow::{Follower, LOOK};
pub use objects::{ObjectKey, ObjectRow, ObjectTable};
pub use purges::{PurgeBounds, PurgeRow, PurgeTable, Purged};
pub use reports::{CacheRow, CostRow, RefusedRow, Reports, Span, TrafficRow};
pub use tokens::{Rotation, TokenRow, TokenTable};
