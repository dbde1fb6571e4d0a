//! The contract that every kind of store keeps.
//!
//! | promise | |
//! |---|---|
//! | threads | Every method may block: call it from a thread that is allowed to block, never from a request. |
//! | bounded waits | No call waits longer than two seconds for another writer; then it fails with [`StoreError::Busy`]. |
//! | batches | A method that writes does so in one transaction: everything is kept, or nothing if the method fails. |
//! | durability | What a method has written when it returns survives the end of the process. |
//! | several processes | Command-line tools, and a gateway that hands over, use the tables at the same time. |
//! | notifications | Every change of a [`Topic`] gives it another version, so that a [`TableFollower`] knows when to read it again. |
//! | loss | Tables that were deleted or replaced under a running gateway are noticed ([`StoreError::Lost`]); only their owner gives them up ([`Store::accept`]). |
//!
//! The tests in `store/tests` check these promises for each kind of store.

use std::{
    sync::Weak,
    thread,
    time::{Duration, Instant},
};

use super::{
    AlertRow, AlertTable, EntryLog, ObjectTable, PurgeRow, PurgeTable, Reports, Rows, StoreError, Sums, TableFollower,
    TokenRow, TokenTable,
};
use crate::types::{NanoUsd, TenantId};

/// The interval between two attempts to claim a store that another process owns.
const LOOK: Duration = Duration::from_millis(10);

/// A store: keeps the gateway's tables.
pub trait Store: Send + Sync {
    /// The location of the store, for people: a path, or an address without a password.
    fn location(&self) -> &str;

    /// Opens the tables. Tables of an earlier version are brought up to date, and missing ones are created. The tables that are
    /// opened first are the *known* tables from then on.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the known tables are gone or others are in their place; [`StoreError::Foreign`]; or a store that
    /// cannot be reached, created or written.
    fn connect(&self) -> Result<(Box<dyn Session>, StoreId), StoreError>;

    /// Opens the tables for reading: they must exist, may be those of an earlier version, and are not changed. Methods that write
    /// fail.
    ///
    /// # Errors
    /// As [`Self::connect`].
    fn connect_to_read(&self) -> Result<Box<dyn Session>, StoreError>;

    /// Whether the tables that were opened as `id` are still in their place.
    fn holds(&self, id: &StoreId) -> bool;

    /// True if the store does not exist, so that nobody can have written to it.
    fn is_absent(&self) -> bool;

    /// Registers a follower of a [`Topic`]: if the tables are lost, [`Self::accept`] writes what the follower knows to the new
    /// ones.
    fn register(&self, follower: Weak<TableFollower>);

    /// The one name that all processes with these tables have for them, however their configuration spells the location; `None`
    /// while the name cannot be determined.
    fn name(&self) -> Option<String>;

    /// Fails if the known tables are gone or others are in their place.
    ///
    /// # Errors
    /// [`StoreError::Lost`].
    fn check(&self) -> Result<(), StoreError>;

    /// Accepts the tables that are in place now, or creates new ones, instead of the lost tables. What `carry` writes and what
    /// the followers know is in the accepted tables before anybody else gets a session.
    ///
    /// # Errors
    /// Tables that cannot be created or written, or that belong to another program: they are left alone, and nothing is accepted.
    fn accept(
        &self,
        carry: &mut dyn FnMut(&mut dyn Standings) -> Result<(), StoreError>,
    ) -> Result<(Box<dyn Session>, StoreId), StoreError>;

    /// Notes that the loss of the tables is reported: true once for each loss, so that the caller logs it once.
    fn tell_lost(&self) -> bool;

    /// How many losses of the tables were noticed.
    fn lost(&self) -> u64;

    /// The right to write to the tables, which one gateway has at a time.
    fn ownership(&self) -> &dyn Ownership;
}

/// The ownership of the tables. One gateway has it: two gateways would each grant the whole of every budget. A process that ends
/// loses the ownership, however it ends. Command-line tools work beside a gateway and need no ownership.
pub trait Ownership: Send + Sync {
    /// Takes the ownership, unless this process holds it already or has handed it over.
    ///
    /// # Errors
    /// [`StoreError::Owned`] while another gateway has the ownership, in this process or in another; or a store that cannot be
    /// reached.
    fn claim(&self) -> Result<(), StoreError>;

    /// Like [`Self::claim`], but waits up to `patience` for a gateway that has the ownership and may be about to end.
    ///
    /// # Errors
    /// As for [`Self::claim`].
    fn claim_within(&self, patience: Duration) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            match self.claim() {
                Err(StoreError::Owned(_)) if begun.elapsed() < patience => thread::sleep(LOOK),
                outcome => return outcome,
            }
        }
    }

    /// True while this process holds the ownership and it still keeps others out.
    fn is_held(&self) -> bool;

    /// Whether this process may write: it is the owner, or has handed the ownership over.
    fn may_write(&self) -> bool;

    /// Lets a successor take the ownership. This process still writes the entries of its requests under way.
    fn hand_over(&self);

    /// Takes back what [`Self::hand_over`] gave up, if there is no successor after all.
    ///
    /// # Errors
    /// As for [`Self::claim`].
    fn take_back(&self, patience: Duration) -> Result<(), StoreError>;

    /// Gives the ownership up, if this process holds it.
    fn release(&self);

    /// Publishes the addresses where this gateway listens, for the message to a gateway that is refused.
    fn announce(&self, addresses: Vec<String>);
}

/// The identity of tables: tables that take the place of others have another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub(in crate::store) [u64; 3]);

/// A group of rows that a [`TableFollower`] can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// [`TokenTable`].
    Tokens,
    /// [`PurgeTable`].
    Purges,
}

impl Topic {
    /// The name of the topic in logs and in the table of versions.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Purges => "purges",
        }
    }
}

/// A connection to the tables. One thread uses it at a time.
pub trait Session: TokenTable + PurgeTable + ObjectTable + AlertTable + EntryLog + Reports + Send {
    /// The version of a topic: another number after every change, whichever process made it.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn version(&self, subject: Topic) -> Result<i64, StoreError>;

    /// Calls `read` with a session in which everything that it reads is of one moment.
    ///
    /// # Errors
    /// Those of `read`, or a store that cannot be read.
    fn snapshot(&self, read: &mut dyn FnMut(&dyn Session) -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// Ends a session on tables that are no longer in their place. If they were only moved away, they keep everything that was
    /// written to them.
    fn leave(self: Box<Self>);
}

impl dyn Session + '_ {
    /// [`Session::snapshot`] with a result.
    ///
    /// # Errors
    /// As for [`Session::snapshot`].
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

/// Writes what is carried over into tables that take the place of lost ones, all in one transaction.
pub trait Standings {
    /// Keeps a token. A token that is there already keeps its row, but takes over a revocation or an earlier end from `token`.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_token(&mut self, token: &TokenRow) -> Result<(), StoreError>;

    /// Keeps the stamp of a purge, unless a newer one is there.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_purge(&mut self, purge: &PurgeRow) -> Result<(), StoreError>;

    /// Keeps an alert, unless the table has it already.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_alert(&mut self, alert: &AlertRow) -> Result<(), StoreError>;

    /// [`EntryLog::sum_since`], including what was carried over so far.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError>;

    /// Adds what a tenant spent through a process (0: earlier processes) in a period, dated with the period's first millisecond.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn carry_over(&mut self, start: u64, process: i64, tenant: &TenantId, cost: NanoUsd) -> Result<(), StoreError>;
}
