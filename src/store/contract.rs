//! What any kind of store can do.
//!
//! | promise | |
//! |---|---|
//! | threads | Every method may block: call it from a thread that may, never from a request. |
//! | bounded waits | No call waits longer than two seconds for somebody else who writes; then it fails with [`StoreError::Busy`]. |
//! | batches | A method that writes does so in one transaction: all of it is kept, or nothing of it where it fails. |
//! | durability | What a method has written when it returns survives the end of the process. |
//! | several processes | Command-line tools, and a gateway that hands over, use the tables at the same time. |
//! | notifications | Every change of a [`Topic`] gives it another version, so that a [`TableFollower`] knows when to read it again. |
//! | loss | Tables that were deleted or replaced under a running gateway are noticed ([`StoreError::Lost`]), and given up by their owner only ([`Store::accept`]). |
//!
//! `conformance` tests all of it over each kind.

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

/// Between two looks at a store that another process owns.
const LOOK: Duration = Duration::from_millis(10);

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
    fn register(&self, follower: Weak<TableFollower>);

    /// The one name that all processes with these tables have for them, whatever their configuration calls them; `None` while
    /// nobody can say.
    fn name(&self) -> Option<String>;

    /// Fails where the known tables are gone or others are in their place.
    ///
    /// # Errors
    /// [`StoreError::Lost`].
    fn check(&self) -> Result<(), StoreError>;

    /// Takes the tables that are in place now, or new ones, in the place of those that are lost. What `carry` writes is in them
    /// before anybody else gets a session, and so is what followers know.
    ///
    /// # Errors
    /// Tables that cannot be made or written, or that are not ours: they are left alone, and nothing is accepted.
    fn accept(
        &self,
        carry: &mut dyn FnMut(&mut dyn Standings) -> Result<(), StoreError>,
    ) -> Result<(Box<dyn Session>, StoreId), StoreError>;

    /// Says once for each loss that the tables are lost; false where it was said.
    fn tell_lost(&self) -> bool;

    /// How often tables were lost.
    fn lost(&self) -> u64;

    /// The right to write to them, which one gateway has.
    fn ownership(&self) -> &dyn Ownership;
}

/// The right to own the tables, and whether it is made use of: two gateways would each grant the whole of every budget. A
/// process that ends loses it, however it ends. Command-line tools work beside a gateway and need none.
pub trait Ownership: Send + Sync {
    /// Takes it, unless it is held here already or was handed over.
    ///
    /// # Errors
    /// [`StoreError::Owned`] while another gateway has it, in this process or in any other; or a store that cannot be reached.
    fn claim(&self) -> Result<(), StoreError>;

    /// Takes it, and waits a while for a gateway that has it and may be about to end.
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

    /// True while it is held here, and still keeps others out.
    fn is_held(&self) -> bool;

    /// Whether this process may write: it is the owner, or the one before.
    fn may_write(&self) -> bool;

    /// Lets a successor take it. This process goes on writing what it still has under way.
    fn hand_over(&self);

    /// Undoes that, where there is no successor after all.
    ///
    /// # Errors
    /// As for [`Self::claim`].
    fn take_back(&self, patience: Duration) -> Result<(), StoreError>;

    /// Gives it back, where it is held.
    fn release(&self);

    /// Tells whoever is refused where this gateway listens.
    fn announce(&self, addresses: Vec<String>);
}

/// Tells tables from others that take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub(in crate::store) [u64; 3]);

/// What can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// [`TokenTable`].
    Tokens,
    /// [`PurgeTable`].
    Purges,
}

impl Topic {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Purges => "purges",
        }
    }
}

/// A connection to the tables. One thread uses it at a time.
pub trait Session: TokenTable + PurgeTable + ObjectTable + AlertTable + EntryLog + Reports + Send {
    /// Another number after every change of a subject, whoever made it.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn version(&self, subject: Topic) -> Result<i64, StoreError>;

    /// All that `read` reads through the session that it is given is of one moment.
    ///
    /// # Errors
    /// Those of `read`, or a store that cannot be read.
    fn snapshot(&self, read: &mut dyn FnMut(&dyn Session) -> Result<(), StoreError>) -> Result<(), StoreError>;

    /// Ends a session on tables that are not in their place any more. A copy that was moved away gets what was written to it.
    fn leave(self: Box<Self>);
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
    fn keep_token(&mut self, token: &TokenRow) -> Result<(), StoreError>;

    /// Keeps a stamp, unless a newer one is there.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_purge(&mut self, purge: &PurgeRow) -> Result<(), StoreError>;

    /// Keeps an alert, unless it was raised there too.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn keep_alert(&mut self, alert: &AlertRow) -> Result<(), StoreError>;

    /// [`EntryLog::sum_since`], with what was carried over by now.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError>;

    /// Adds what a tenant spent through a process (0: processes before) in a period, dated with its first millisecond.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn carry_over(&mut self, start: u64, process: i64, tenant: &TenantId, cost: NanoUsd) -> Result<(), StoreError>;
}
