//! What any kind of store can do.
//!
//! | promise | |
//! |---|---|
//! | threads | Every method may block: call it from a thread that may, never from a request. |
//! | bounded waits | No call waits longer than two seconds for somebody else who writes; then it fails with [`StoreError::Busy`]. |
//! | batches | A method that writes does so in one transaction: all of it is kept, or nothing of it where it fails. |
//! | durability | What a method has written when it returns survives the end of the process. |
//! | several processes | Command-line tools, and a gateway that hands over, use the tables at the same time. |
//! | notifications | Every change of a [`Subject`] gives it another version, so that a [`Follower`] knows when to read it again. |
//! | loss | Tables that were deleted or replaced under a running gateway are noticed ([`StoreError::Lost`]), and given up by their owner only ([`Store::accept`]). |
//!
//! `conformance` tests all of it over each kind.

use std::sync::Weak;

use super::{Follower, ObjectTable, PurgeTable, StoreError, TokenTable};

/// What keeps the gateway's tables.
pub trait Store: Send + Sync {
    /// Where it is, for people: a path, or an address without a password.
    fn location(&self) -> &str;

    /// Opens the tables that are known, or brings them up to date and makes them where there are none. Those that are opened
    /// first are known from then on.
    ///
    /// # Errors
    /// [`StoreError::Lost`] where the known ones are gone or others are in their place; [`StoreError::Foreign`]; or a store that
    /// cannot be reached, made or written.
    fn connect(&self) -> Result<(Box<dyn Session>, StoreId), StoreError>;

    /// Opens the tables for reading: they must be there, may be those of an earlier version, and are not changed. What writes
    /// fails.
    ///
    /// # Errors
    /// As [`Self::connect`].
    fn connect_to_read(&self) -> Result<Box<dyn Session>, StoreError>;

    /// Whether tables that were opened are still those that are in place.
    fn holds(&self, id: &StoreId) -> bool;

    /// Nothing is there, and so nobody can have written anything.
    fn is_absent(&self) -> bool;

    /// Somebody who reads a subject, and keeps what it had where the tables are lost.
    fn register(&self, follower: Weak<Follower>);
}

/// Tells tables from others that take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub(in crate::store) [u64; 3]);

/// What can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// [`TokenTable`].
    Tokens,
    /// [`PurgeTable`].
    Purges,
}

impl Subject {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Purges => "purges",
        }
    }
}

/// A connection to the tables. One thread uses it at a time.
pub trait Session: TokenTable + PurgeTable + ObjectTable + Send {
    /// Another number after every change of a subject, whoever made it.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn version(&self, subject: Subject) -> Result<i64, StoreError>;

    /// All that `read` reads through the session that it is given is of one moment.
    ///
    /// # Errors
    /// Those of `read`, or a store that cannot be read.
    fn snapshot(&self, read: &mut dyn FnMut(&dyn Session) -> Result<(), StoreError>) -> Result<(), StoreError>;
}

impl dyn Session + '_ {
    /// [`Session::snapshot`] with a result.
    ///
    /// # Errors
    /// As there.
    pub fn at_once<T>(&self, read: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (mut read, mut result) = (Some(read), None);
        self.snapshot(&mut |tables| {
            if let Some(read) = read.take() {
                result = Some(read(tables)?);
            }
            Ok(())
        })?;
        result.ok_or_else(|| StoreError::Failed("a snapshot was not read".into()))
    }
}

/// What is carried over into tables that take the place of lost ones, all in one transaction.
pub trait Standings {
    /// Keeps a token. One that is there keeps its row, but has ended if it has ended here.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_token(&mut self, token: &super::TokenRow) -> Result<(), StoreError>;

    /// Keeps a stamp, unless a newer one is there.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_purge(&mut self, purge: &super::PurgeRow) -> Result<(), StoreError>;
}
