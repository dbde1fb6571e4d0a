//! The SQLite file: opening it, its schema, and who may do what with it.
//!
//! One file keeps tokens, the ledger and alerts, and one gateway owns it (`owner`). No request waits for the file: tokens are
//! read into memory, entries are written by one thread. The command line opens the same file beside a running gateway;
//! SQLite's write-ahead log lets one process write while others read.

mod alerts;
mod entries;
mod objects;
mod owner;
mod place;
mod purges;
mod reports;
mod session;
mod tokens;

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;

#[cfg(test)]
pub(crate) use place::Place;
#[cfg(test)]
pub(crate) use session::in_place;
pub use session::{SqliteSession, at};

/// How long a writer waits for another writer: long enough for any normal transaction, short enough to notice a stuck one.
pub const BUSY: Duration = Duration::from_secs(2);

/// The pause between two attempts at an operation for which SQLite itself does not wait.
const PAUSE: Duration = Duration::from_millis(5);

/// The SQL that turns the tables of each version into those of the next. The first step creates the tables; a new file takes
/// every step, an old file those that it lacks.
const STEPS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("purges.sql"),
    include_str!("objects.sql"),
    include_str!("refusals.sql"),
    include_str!("carried.sql"),
];

/// Kept in `PRAGMA user_version`: the number of steps taken.
const VERSION: i32 = STEPS.len() as i32;

/// Marks the file as one of this gateway (`PRAGMA application_id`): "CAN1".
const APPLICATION: i32 = 0x4341_4e31;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if is_busy(&error) { Self::Busy(error.into()) } else { Self::Failed(error.into()) }
    }
}

/// Opens the file for reading and writing, and creates it if it does not exist.
///
/// # Errors
/// A file that cannot be created, opened or locked in time, or that this version of the gateway cannot read.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    private(path)?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // With NORMAL a commit survives the end of the process; a power failure may lose the last commits.
    write_ahead(&connection)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens the file for reading only. Only writers bring a file up to date: a file of an earlier version lacks the newer tables.
///
/// # Errors
/// A file that does not exist, or that this version of the gateway cannot read.
pub fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    version(&connection, path)?;
    Ok(connection)
}

/// Creates a missing file, readable by its owner only: it names tenants and what they spend.
fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match new {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Turns the write-ahead log on; the file remembers the setting. Switching needs a read lock that becomes exclusive. If two
/// processes switch at once, each would wait for the other for ever, so SQLite fails at once, whatever its busy timeout is;
/// hence the loop, which lets go and tries again.
fn write_ahead(connection: &Connection) -> Result<(), StoreError> {
    let begun = Instant::now();
    loop {
        let outcome = match journal_mode(connection) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => connection.pragma_update(None, "journal_mode", "WAL"),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if is_busy(&error) && begun.elapsed() < BUSY => thread::sleep(PAUSE),
            outcome => return Ok(outcome?),
        }
    }
}

fn journal_mode(connection: &Connection) -> rusqlite::Result<String> {
    connection.pragma_query_value(None, "journal_mode", |row| row.get(0))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Runs the steps that the file lacks.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    // Immediate, so that of two processes that start together only one creates the tables.
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let taken = match user_version(&transaction)? {
        0 => {
            let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if tables > 0 {
                return Err(foreign(path));
            }
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            0
        }
        _ => version(&transaction, path)?,
    };
    for step in STEPS.iter().skip(taken) {
        transaction.execute_batch(step)?;
    }
    if taken < STEPS.len() {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(transaction.commit()?)
}

/// Whether a file has a table. A file that only an earlier version has opened for writing lacks the newer tables.
///
/// # Errors
/// A file that cannot be read.
fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([name])
}

/// The version of the file; fails if the file belongs to another program or to a later version of the gateway.
fn version(connection: &Connection, path: &Path) -> Result<usize, StoreError> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION {
        return Err(foreign(path));
    }
    let version = user_version(connection)?;
    match usize::try_from(version) {
        Ok(taken @ 1..) if taken <= STEPS.len() => Ok(taken),
        _ => Err(StoreError::Foreign(format!(
            "{} has version {version} of the tables; this gateway knows version {VERSION}",
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
        // SQLite creates the write-ahead log and its index with the permissions of the file.
        let connection = open(&path).unwrap();
        connection.execute("INSERT INTO days VALUES (0, 'team', 'openai', 'gpt-4o', 1, 0, 2, 3, 4, 0)", []).unwrap();
        for name in ["can.db", "can.db-wal", "can.db-shm"] {
            let facts = std::fs::metadata(path.with_file_name(name)).unwrap();
            assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn many_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| open(&path).unwrap());
            }
        });
        assert_eq!(journal_mode(&open_to_read(&path).unwrap()).unwrap(), "wal");
    }

    /// A file as version 1 of the gateway left it.
    fn first_version(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(STEPS[0]).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection
    }

    #[test]
    fn an_older_file_gets_what_is_new_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let old = first_version(&path);
        old.execute("INSERT INTO days VALUES (0, 'team', 'openai', 'gpt-4o', 1, 0, 2, 3, 4, 0)", []).unwrap();
        old.execute("UPDATE versions SET version = 7", []).unwrap();
        drop(old);
        let count = |connection: &Connection, table: &str| -> rusqlite::Result<i64> {
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        };
        let read = open_to_read(&path).unwrap();
        assert_eq!((user_version(&read).unwrap(), count(&read, "days").unwrap()), (1, 1), "reading changes nothing");
        assert!(count(&read, "purges").is_err());
        drop(read);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| open(&path).unwrap());
            }
        });
        let new = open_to_read(&path).unwrap();
        assert_eq!((user_version(&new).unwrap(), count(&new, "days").unwrap()), (VERSION, 1));
        assert_eq!(count(&new, "purges").unwrap(), 0);
        let tokens: i64 =
            new.query_row("SELECT version FROM versions WHERE subject = 'tokens'", [], |row| row.get(0)).unwrap();
        assert_eq!(tokens, 7);
        let shape = |connection: &Connection| -> Vec<(String, Option<String>)> {
            let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        let fresh = open(&folder.path().join("fresh.db")).unwrap();
        assert_eq!(shape(&new), shape(&fresh), "an old file becomes what a new one is");
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
