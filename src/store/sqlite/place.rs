//! Which file the database is, and whether it still is the one in its place.
//!
//! SQLite goes on with a file that was deleted or moved away as if nothing had happened: what is written then is lost. So the
//! file is known by its number in the file system and by a mark of its own, and everybody who has it open asks before each use
//! whether it still lies there. Once it does not, nobody gets a connection until its owner has accepted what lies there now
//! ([`Place::accept`]), and has written into it what must not be forgotten.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{open, session::Carried};
use crate::store::{StoreError, StoreId, TableFollower};

/// The place of a database; clones are the same place.
#[derive(Clone)]
pub struct Place(Arc<Inner>);

struct Inner {
    path: PathBuf,
    known: Mutex<Option<Known>>,
    /// Those who have read tables of the file into memory.
    followers: Mutex<Vec<Weak<TableFollower>>>,
    lost: AtomicU64,
}

/// The file that was opened there.
#[derive(Clone, Copy)]
struct Known {
    id: StoreId,
    /// The write-ahead log and its index, which belong to no other file.
    beside: [Option<Number>; 2],
    /// It was told that the file is lost.
    told: bool,
}

/// Device and inode.
type Number = (u64, u64);

/// What SQLite keeps beside a database while it is open.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        let inner = Inner {
            path: path.to_owned(),
            known: Mutex::default(),
            followers: Mutex::default(),
            lost: AtomicU64::new(0),
        };
        Self(Arc::new(inner))
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl Place {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens the file that is known; the first one that is opened is. It is made where there was none yet.
    ///
    /// # Errors
    /// [`StoreError::Lost`] where the known file is gone or another one lies in its place; and as [`open`] does.
    pub fn connect(&self) -> Result<(Connection, StoreId), StoreError> {
        self.check()?;
        let connection = open(self.path())?;
        let id = self.identify(&connection)?;
        let mut known = self.lock();
        match &mut *known {
            Some(known) if known.id != id => return Err(self.error()),
            Some(known) => known.beside = self.beside(),
            none => *none = Some(Known { id, beside: self.beside(), told: false }),
        }
        Ok((connection, id))
    }

    /// Fails where the known file is gone or another one lies in its place.
    ///
    /// # Errors
    /// [`StoreError::Lost`].
    pub fn check(&self) -> Result<(), StoreError> {
        let known = *self.lock();
        if known.is_some_and(|known| !self.holds(&known.id)) { Err(self.error()) } else { Ok(()) }
    }

    /// Whether a file that was opened lies in its place.
    pub fn holds(&self, id: &StoreId) -> bool {
        let [device, inode, _] = id.0;
        number(self.path()).is_ok_and(|there| there == Some((device, inode)))
    }

    /// Takes the file that lies there now, or a new one, in the place of the one that is lost. What `carry` writes is in it
    /// before anybody else gets a connection, and so is what followers know.
    ///
    /// # Errors
    /// A file that cannot be made or written, or that is not ours: it is left alone, and nothing is accepted.
    pub fn accept(
        &self,
        carry: impl FnOnce(&Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(Connection, StoreId), StoreError> {
        self.tidy()?;
        let mut connection = open(self.path())?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        carry(&transaction)?;
        for follower in self.followers().iter().filter_map(Weak::upgrade) {
            follower.carry(&mut Carried(&transaction))?;
        }
        transaction.commit()?;
        let id = self.identify(&connection)?;
        *self.lock() = Some(Known { id, beside: self.beside(), told: false });
        Ok((connection, id))
    }

    /// Somebody who reads a table of the file, and keeps what it had where the file is lost.
    pub(in crate::store) fn register(&self, follower: Weak<TableFollower>) {
        let mut followers = self.followers();
        followers.retain(|known| known.strong_count() > 0);
        followers.push(follower);
    }

    /// Says once for each file that it is lost; false where it was said.
    pub fn tell_lost(&self) -> bool {
        match &mut *self.lock() {
            Some(known) if !known.told => {
                known.told = true;
                self.0.lost.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// How often the file was lost.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Removes the write-ahead log of the file that is lost: SQLite would apply it to the one that lies there now, and would cut
    /// its index under connections that still have it open. What came with another file stays.
    fn tidy(&self) -> io::Result<()> {
        let gone = number(self.path())?.is_none();
        let before = self.lock().map_or([None; 2], |known| known.beside);
        for (path, known) in self.paths_beside().iter().zip(before) {
            let there = number(path)?;
            if there.is_some() && (gone || there == known) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn identify(&self, connection: &Connection) -> Result<StoreId, StoreError> {
        let sql = "SELECT version FROM versions WHERE subject = 'file'";
        // Made at random with the file: one that is emptied, or takes over the number of another, is not the same.
        let mark: i64 = connection.query_row(sql, [], |row| row.get(0))?;
        let (device, inode) = number(self.path())?.ok_or_else(|| self.error())?;
        Ok(StoreId([device, inode, mark.cast_unsigned()]))
    }

    fn beside(&self) -> [Option<Number>; 2] {
        self.paths_beside().map(|path| number(&path).ok().flatten())
    }

    fn paths_beside(&self) -> [PathBuf; 2] {
        BESIDE.map(|suffix| {
            let mut path = self.path().as_os_str().to_owned();
            path.push(suffix);
            path.into()
        })
    }

    fn error(&self) -> StoreError {
        StoreError::Lost(format!("the database file {} was deleted or replaced", self.path().display()))
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Weak<TableFollower>>> {
        self.0.followers.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.known.lock()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, lost {} times", self.path().display(), self.lost())
    }
}

/// Device and inode of a file; `None` where there is none.
fn number(path: &Path) -> io::Result<Option<Number>> {
    match fs::metadata(path) {
        Ok(facts) => Ok(Some((facts.dev(), facts.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM days", [], |row| row.get(0)).unwrap()
    }

    fn add(connection: &Connection, day: i64) {
        connection.execute("INSERT INTO days VALUES (?1, 't', 'p', 'm', 1, 0, 2, 3, 4, 0)", [day]).unwrap();
    }

    #[test]
    fn a_lost_file_gives_no_connection_until_another_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        for replace in [false, true] {
            let place = Place::from(&path);
            let (old, id) = place.connect().unwrap();
            add(&old, i64::from(replace));
            assert!(place.check().is_ok() && place.connect().unwrap().1 == id);
            fs::remove_file(&path).unwrap();
            if replace {
                let made = folder.path().join("other.db");
                add(&open(&made).unwrap(), 7);
                fs::rename(&made, &path).unwrap();
            }
            assert!(!place.holds(&id));
            assert!(matches!(place.connect(), Err(StoreError::Lost(_))));
            assert!(place.tell_lost() && !place.tell_lost());
            // The old one is open all the while, as it is in other threads.
            add(&old, 2);
            let (new, other) =
                place.accept(|transaction| Ok(transaction.execute("DELETE FROM alerts", []).map(drop)?)).unwrap();
            assert_ne!(id, other);
            assert_eq!(count(&new), i64::from(replace), "nothing of the old log is in it");
            add(&new, 3);
            drop(old);
            assert_eq!((count(&place.connect().unwrap().0), place.lost()), (1 + i64::from(replace), 1));
            drop(new);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_was_emptied_or_is_foreign_is_not_the_known_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let place = Place::from(&path);
        drop(place.connect().unwrap());
        fs::write(&path, "").unwrap();
        assert!(matches!(place.connect(), Err(StoreError::Lost(_))), "its number is the same");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "no database, only text of some length that is no header").unwrap();
        assert!(place.accept(|_| Ok(())).is_err() && place.connect().is_err());
        assert!(fs::read_to_string(&path).unwrap().starts_with("no database"), "it is left alone");
    }
}
