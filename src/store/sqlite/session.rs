//! The contract of [`Store`] over a file: which connections there are, and what each can do.

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use rusqlite::{Connection, Transaction};

use super::{Place, open_to_read, purges, tokens};
use crate::store::{Follower, PurgeRow, Session, Standings, Store, StoreError, StoreId, Subject, TokenRow};

/// The store in a file, which is made when it is opened first.
pub fn at(path: &Path) -> Arc<dyn Store> {
    in_place(Place::from(path))
}

/// The same in a place that others know too.
pub(crate) fn in_place(place: Place) -> Arc<dyn Store> {
    Arc::new(Sqlite { location: place.path().display().to_string(), place })
}

/// A file that is a store.
struct Sqlite {
    place: Place,
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
        // A file that is there and cannot be read may have rows.
        matches!(self.place.path().try_exists(), Ok(false))
    }

    fn register(&self, follower: Weak<Follower>) {
        self.place.register(follower);
    }
}

/// One connection.
pub struct SqliteSession(pub(super) Connection);

impl From<Connection> for SqliteSession {
    fn from(connection: Connection) -> Self {
        Self(connection)
    }
}

impl Session for SqliteSession {
    fn version(&self, subject: Subject) -> Result<i64, StoreError> {
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
}

/// What is written into a file before it is accepted.
pub(super) struct Carried<'t>(pub &'t Transaction<'t>);

impl Standings for Carried<'_> {
    fn keep_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        Ok(tokens::keep(self.0, token)?)
    }

    fn keep_purge(&mut self, purge: &PurgeRow) -> Result<(), StoreError> {
        Ok(purges::keep(self.0, purge)?)
    }
}
