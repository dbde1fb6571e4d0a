//! The contract of [`Store`] over a file: the kinds of connections, and what each can do.

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use rusqlite::{Connection, Transaction, params};

use super::{
    alerts, entries, open_to_read,
    owner::{OwnerLock, canonical},
    place::Place,
    purges, tokens,
};
use crate::{
    store::{
        AlertRow, Ownership, PurgeRow, Rows, Session, Standings, Store, StoreError, StoreId, Sums, TableFollower,
        TokenRow, Topic,
    },
    types::{NanoUsd, TenantId},
};

/// The store in a file, which is created when it is first opened.
pub fn at(path: &Path) -> Arc<dyn Store> {
    in_place(Place::from(path))
}

/// The store in a place that other parts of the process share.
pub(crate) fn in_place(place: Place) -> Arc<dyn Store> {
    Arc::new(Sqlite { location: place.path().display().to_string(), lock: OwnerLock::of(place.path()), place })
}

/// A store in an SQLite file.
struct Sqlite {
    place: Place,
    lock: OwnerLock,
    location: String,
}

impl Store for Sqlite {
    fn location(&self) -> &str {
        &self.location
    }

    fn connect(&self) -> Result<(Box<dyn Session>, StoreId), StoreError> {
        let (connection, id) = self.place.connect()?;
        Ok((Box::new(SqliteSession(connection)), id))
    }

    fn connect_to_read(&self) -> Result<Box<dyn Session>, StoreError> {
        self.place.check()?;
        Ok(Box::new(SqliteSession(open_to_read(self.place.path())?)))
    }

    fn holds(&self, id: &StoreId) -> bool {
        self.place.holds(id)
    }

    fn is_absent(&self) -> bool {
        // A file that exists but cannot be read may have rows.
        matches!(self.place.path().try_exists(), Ok(false))
    }

    fn register(&self, follower: Weak<TableFollower>) {
        self.place.register(follower);
    }

    fn name(&self) -> Option<String> {
        canonical(self.place.path()).ok().map(|path| path.to_string_lossy().into_owned())
    }

    fn check(&self) -> Result<(), StoreError> {
        self.place.check()
    }

    fn accept(
        &self,
        carry: &mut dyn FnMut(&mut dyn Standings) -> Result<(), StoreError>,
    ) -> Result<(Box<dyn Session>, StoreId), StoreError> {
        let (connection, id) = self.place.accept(|transaction| carry(&mut Carried(transaction)))?;
        Ok((Box::new(SqliteSession(connection)), id))
    }

    fn tell_lost(&self) -> bool {
        self.place.tell_lost()
    }

    fn lost(&self) -> u64 {
        self.place.lost()
    }

    fn ownership(&self) -> &dyn Ownership {
        &self.lock
    }
}

/// One connection to the file.
pub struct SqliteSession(pub(super) Connection);

impl From<Connection> for SqliteSession {
    fn from(connection: Connection) -> Self {
        Self(connection)
    }
}

impl Session for SqliteSession {
    fn version(&self, subject: Topic) -> Result<i64, StoreError> {
        let sql = "SELECT version FROM versions WHERE subject = ?1";
        Ok(self.0.query_row(sql, [subject.label()], |row| row.get(0))?)
    }

    fn snapshot(&self, read: &mut dyn FnMut(&dyn Session) -> Result<(), StoreError>) -> Result<(), StoreError> {
        if !self.0.is_autocommit() {
            return read(self);
        }
        let _transaction = self.0.unchecked_transaction()?;
        read(self)
    }

    fn leave(self: Box<Self>) {
        let _ = self.0.execute_batch("PRAGMA wal_checkpoint(PASSIVE)");
    }
}

/// Writes what is carried over into a file, before the file is accepted.
pub(super) struct Carried<'t>(pub &'t Transaction<'t>);

impl Standings for Carried<'_> {
    fn keep_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        Ok(tokens::keep(self.0, token)?)
    }

    fn keep_purge(&mut self, purge: &PurgeRow) -> Result<(), StoreError> {
        Ok(purges::keep(self.0, purge)?)
    }

    fn keep_alert(&mut self, alert: &AlertRow) -> Result<(), StoreError> {
        Ok(alerts::insert(self.0, alert).map(drop)?)
    }

    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError> {
        Ok(entries::sum_since(self.0, start, rows)?)
    }

    fn carry_over(&mut self, start: u64, process: i64, tenant: &TenantId, cost: NanoUsd) -> Result<(), StoreError> {
        let mut insert = self.0.prepare_cached("INSERT INTO carried VALUES (?1, ?2, ?3, ?4)")?;
        insert.execute(params![start, process, tenant.as_str(), cost.0])?;
        Ok(())
    }
}
