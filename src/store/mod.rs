//! What the gateway keeps for long: tokens, the ledger and alerts, purges, the owners of objects.
//!
//! The gateway never asks a store anything while a request waits: tokens are read into memory, entries are written by one thread.

mod error;
mod follow;
pub mod sqlite;

pub use error::StoreError;
pub use follow::{Follower, LOOK};
pub use sqlite::{FileId, Owner, Ownership, Place, canonical, has_table, open, open_to_read};
