//! The SQLite file: opening it, its schema, and who may do what with it.
//!
//! One file keeps tokens, the ledger and alerts. The gateway never asks it anything while a request waits: tokens are
//! read into memory, entries are written by one thread. The command line opens the same file beside a running gateway;
//! SQLite's write-ahead log lets one write while others read.

use std::{fmt, io, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

/// How long a writer waits for another one. Long enough for any honest transaction, short enough to notice a stuck one.
pub const BUSY: Duration = Duration::from_secs(2);

/// Kept in `PRAGMA user_version`.
const VERSION: i32 = 1;

/// Marks the file as ours (`PRAGMA application_id`): "CAN1".
const APPLICATION: i32 = 0x4341_4e31;

const SCHEMA: &str = include_str!("schema.sql");

/// Why the file cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// SQLite's own word.
    Sqlite(rusqlite::Error),
    /// The file system's.
    Io(io::Error),
    /// A file that another version of the gateway, or another program, has made.
    Foreign(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Foreign(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens the file for reading and writing, and makes it where it is not there.
///
/// # Errors
/// A file that cannot be made, opened, locked in time or read as ours.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    private(path)?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // A commit survives the end of the process; the last ones may be lost with the power, as the log tells.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens the file for reading only.
///
/// # Errors
/// A file that is not there or not ours.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    check(&connection, path)?;
    Ok(connection)
}

/// Makes a new file readable by its owner only: it names tenants and what they spend.
fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match new {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    // Immediate: two processes that start together must not both make the tables.
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if user_version(&transaction)? == 0 {
        let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(foreign(path));
        }
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    check(&transaction, path)?;
    Ok(transaction.commit()?)
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION {
        return Err(foreign(path));
    }
    match user_version(connection)? {
        VERSION => Ok(()),
        other => Err(StoreError::Foreign(format!(
            "{} has version {other} of the tables; this gateway knows version {VERSION}",
            path.display()
        ))),
    }
}

fn user_version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn foreign(path: &Path) -> StoreError {
    StoreError::Foreign(format!("{} is a database of another program", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        assert!(open_to_read(&path).is_err(), "not there yet");
        drop(open(&path).unwrap());
        drop(open(&path).unwrap());
        drop(open_to_read(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn many_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| open(&path).unwrap());
            }
        });
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        std::fs::write(&path, "no database at all, only text of some length").unwrap();
        assert!(open(&path).is_err());
        let newer = folder.path().join("newer.db");
        open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(open(&newer).unwrap_err().to_string().contains("version 99"));
    }
}
