//! The identity of the database file, and whether the file is still in its place.
//!
//! SQLite goes on with a file that was deleted or moved away as if nothing had happened: what is written then is lost. So a
//! file is identified by its number in the file system and by a random mark inside it, and everybody who has it open checks
//! before each use whether it is still in its place. Once it is not, nobody gets a connection until the owner has accepted the
//! file that lies there now ([`Place::accept`]) and has written to it what must not be lost.

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
    /// The followers that have read tables of the file into memory.
    followers: Mutex<Vec<Weak<TableFollower>>>,
    lost: AtomicU64,
}

/// The file that was opened at this place.
#[derive(Clone, Copy)]
struct Known {
    id: StoreId,
    /// The write-ahead log and the index of this file.
    beside: [Option<Number>; 2],
    /// The loss of this file was reported.
    told: bool,
}

/// The number of a file in the file system: device and inode.
type Number = (u64, u64);

/// The suffixes of the files that SQLite keeps beside an open database.
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
    /// The path of the database file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens the known file. The first file that is opened becomes the known one, and is created if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if the known file is gone or another one lies in its place; otherwise as for [`open`].
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

    /// Fails if the known file is gone or another one lies in its place.
    ///
    /// # Errors
    /// [`StoreError::Lost`].
    pub fn check(&self) -> Result<(), StoreError> {
        let known = *self.lock();
        if known.is_some_and(|known| !self.holds(&known.id)) { Err(self.error()) } else { Ok(()) }
    }

    /// Whether the file that was opened as `id` is still in its place.
    pub fn holds(&self, id: &StoreId) -> bool {
        let [device, inode, _] = id.0;
        number(self.path()).is_ok_and(|there| there == Some((device, inode)))
    }

    /// Accepts the file that lies in the place of the lost one now, or creates a new file. What `carry` writes and what the
    /// followers know is in the accepted file before anybody else gets a connection.
    ///
    /// # Errors
    /// A file that cannot be created or written, or that belongs to another program: it is left alone, and nothing is accepted.
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

    /// Registers a follower of a table: if the file is lost, [`Self::accept`] writes what the follower knows to the new one.
    pub(in crate::store) fn register(&self, follower: Weak<TableFollower>) {
        let mut followers = self.followers();
        followers.retain(|known| known.strong_count() > 0);
        followers.push(follower);
    }

    /// Notes that the loss of the file is reported: true once for each loss, so that the caller logs it once.
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

    /// Removes the write-ahead log of the lost file and its index: SQLite would apply the log to the file that lies there now,
    /// and would truncate the index under connections that still have it open. A log that came with another file stays.
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
        // The mark is random and created with the tables: a file that was emptied, or that got the inode of the old one,
        // has another mark.
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

/// Device and inode of a file; `None` if it does not exist.
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
            // The old file stays open all the while, as it would in other threads.
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
