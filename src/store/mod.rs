//! The store: what the gateway keeps for long (tokens, the ledger and alerts, purges, the owners of objects).
//!
//! No request waits for a store: tokens are read into memory, entries are written by one thread.
//!
//! | file | contents |
//! |---|---|
//! | `contract` | what every kind of store can do: sessions, snapshots, loss, ownership |
//! | `tokens`, `purges`, `objects`, `entries`, `alerts` | one table each: its rows, and how they are read and written |
//! | `reports` | queries over the entries of a span of time |
//! | `follow` | a thread that reads a topic again when it has changed |
//! | `error` | why a store cannot be used |
//! | `sqlite` | a store in a file: all SQL, and everything about files |
//!
//! Another kind of store would be another folder beside `sqlite`: it implements [`Store`], [`Session`] (with the tables),
//! [`Standings`] and [`Ownership`], and joins the list of kinds in `tests`, which check the contract for each of them.

mod alerts;
mod contract;
mod entries;
mod error;
mod follow;
mod objects;
mod purges;
mod reports;
pub mod sqlite;
#[cfg(test)]
mod tests;
mod tokens;

pub use alerts::{AlertKey, AlertRow, AlertTable, Undelivered};
pub use contract::{Ownership, Session, Standings, Store, StoreId, Topic};
pub use entries::{
    Appended, Basis, Entry, EntryLog, ID_BEFORE_ENTRY_MS, MOST, Refusal, RefusalRow, Rows, Subject, Sums,
};
pub use error::StoreError;
pub use follow::{LOOK, TableFollower};
pub use objects::{ObjectKey, ObjectRow, ObjectTable};
pub use purges::{PurgeBounds, PurgeRow, PurgeTable, Purged};
pub use reports::{CacheRow, CostRow, RefusedRow, Reports, Span, TrafficRow};
pub use tokens::{Rotation, TokenRow, TokenTable};
