//! Following what other processes change: a row of `versions` grows with every change of a table, and is looked at often.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use rusqlite::Connection;

use super::{StoreError, open};

/// How often the file is asked whether another process has changed it.
pub const LOOK: Duration = Duration::from_millis(200);

/// Takes the rows of the table up. The connection has a transaction: all that is read is of one moment.
type Read = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send + Sync>;

/// Reads a table again whenever its version has changed.
pub struct Follower {
    path: PathBuf,
    /// Its row in `versions`; names it in the log too.
    subject: &'static str,
    read: Read,
    /// Looks are made one at a time: a slow one must not put back what a later one has replaced.
    seen: Mutex<Seen>,
    /// [`NEW`], [`UP`] or [`DOWN`]: whether the last look succeeded.
    state: AtomicU8,
}

const NEW: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

#[derive(Default)]
struct Seen {
    connection: Option<Connection>,
    version: Option<i64>,
}

impl Follower {
    /// Reads the table, and goes on following it in a thread that ends with the follower. A file that cannot be read is tried
    /// again and again; what was read before stays.
    pub fn start(
        path: &Path,
        subject: &'static str,
        read: impl Fn(&Connection) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let follower = Arc::new(Self {
            path: path.to_owned(),
            subject,
            read: Box::new(read),
            seen: Mutex::default(),
            state: AtomicU8::new(NEW),
        });
        follower.refresh();
        let weak = Arc::downgrade(&follower);
        let spawned = thread::Builder::new().name(subject.into()).spawn(move || {
            loop {
                thread::sleep(LOOK);
                let Some(follower) = weak.upgrade() else { return };
                follower.refresh();
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "{subject} are not followed: changes take effect after a restart");
        }
        follower
    }

    /// Reads the file now. A change that was made before is known when this returns.
    pub fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.look(&mut seen);
        let before = self.state.swap(if outcome.is_ok() { UP } else { DOWN }, Ordering::Relaxed);
        if let Err(error) = outcome {
            seen.connection = None;
            if before != DOWN {
                let subject = self.subject;
                tracing::error!(%error, file = %self.path.display(), "{subject} cannot be read; those known go on serving");
            }
        }
    }

    /// False while the file cannot be read.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn look(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let connection = match &mut seen.connection {
            Some(open) => open,
            empty => empty.insert(open(&self.path)?),
        };
        if Some(self.version(connection)?) == seen.version {
            return Ok(());
        }
        // One snapshot: the version belongs to the rows.
        let transaction = connection.unchecked_transaction()?;
        let version = self.version(&transaction)?;
        (self.read)(&transaction)?;
        seen.version = Some(version);
        Ok(())
    }

    fn version(&self, connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT version FROM versions WHERE subject = ?1", [self.subject], |row| row.get(0))
    }
}
