//! What the gateway keeps for long: tokens, the ledger and alerts, purges, the owners of objects.
//!
//! The gateway never asks a store anything while a request waits: tokens are read into memory, entries are written by one thread.

mod contract;
mod error;
mod follow;
mod objects;
mod purges;
pub mod sqlite;
mod tokens;

pub use contract::{Session, Standings, Store, StoreId, Subject};
pub use error::StoreError;
pub use follow::{Follower, LOOK};
pub use objects::{ObjectKey, ObjectRow, ObjectTable};
pub use purges::{PurgeBounds, PurgeRow, PurgeTable, Purged};
pub use sqlite::{Owner, Ownership, Place, canonical, has_table, open, open_to_read};
pub use tokens::{Rotation, TokenRow, TokenTable};
