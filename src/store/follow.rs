//! Following what other processes change: a row of `versions` grows with every change of a table, and is looked at often.

use std::{
    mem,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::{sync::oneshot, time::timeout};

use super::{FileId, Place, StoreError};

/// How often the file is asked whether another process has changed it.
pub const LOOK: Duration = Duration::from_millis(200);

/// Between two looks that somebody waits for: strangers cannot make the file be asked more often than this.
const PAUSE: Duration = Duration::from_millis(10);

/// How many may wait for a look at the same time, and for how long.
const MOST_WAITING: usize = 256;
const PATIENCE: Duration = Duration::from_millis(250);

/// Those who wait for the next look, and what wakes the one who makes it.
#[derive(Default)]
struct Waiting {
    line: Mutex<Vec<oneshot::Sender<()>>>,
    bell: Condvar,
}

impl Waiting {
    /// Those who wait by now, as soon as there is one; after [`LOOK`] also nobody.
    fn next(&self) -> Vec<oneshot::Sender<()>> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(line, LOOK, |line| line.is_empty());
        mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Takes the rows of the table up. The connection has a transaction: all that is read is of one moment.
type Read = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send + Sync>;

/// Writes what is known into a file that took the place of the one it was read from.
type Carry = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send + Sync>;

/// Reads a table again whenever its version has changed.
pub struct Follower {
    place: Place,
    /// Its row in `versions`; names it in the log too.
    subject: &'static str,
    read: Read,
    carry: Carry,
    /// Looks are made one at a time: a slow one must not put back what a later one has replaced.
    seen: Mutex<Seen>,
    /// Those who wait for the thread's next look.
    waiting: Arc<Waiting>,
    /// [`NEW`], [`UP`] or [`DOWN`]: whether the last look succeeded.
    state: AtomicU8,
}

const NEW: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

#[derive(Default)]
struct Seen {
    connection: Option<(Connection, FileId)>,
    /// The file that was read last.
    file: Option<FileId>,
    version: Option<i64>,
}

impl Follower {
    /// Reads the table, and goes on following it in a thread that ends with the follower. A file that cannot be read is tried
    /// again and again; what was read before stays. Where the file was deleted or replaced, `carry` writes what is known into
    /// the one that is accepted in its place, before anybody reads that.
    pub fn start(
        place: impl Into<Place>,
        subject: &'static str,
        read: impl Fn(&Connection) -> rusqlite::Result<()> + Send + Sync + 'static,
        carry: impl Fn(&Connection) -> rusqlite::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let follower = Arc::new(Self {
            place: place.into(),
            subject,
            read: Box::new(read),
            carry: Box::new(carry),
            seen: Mutex::default(),
            waiting: Arc::default(),
            state: AtomicU8::new(NEW),
        });
        follower.place.register(Arc::downgrade(&follower));
        follower.refresh();
        let (weak, waiting) = (Arc::downgrade(&follower), follower.waiting.clone());
        let spawned = thread::Builder::new().name(subject.into()).spawn(move || {
            loop {
                let told = waiting.next();
                let begun = Instant::now();
                let Some(follower) = weak.upgrade() else { return };
                follower.refresh();
                drop(follower);
                // One that has left meanwhile needs no word.
                for waits in told {
                    let _ = waits.send(());
                }
                thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
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
                tracing::error!(%error, file = %self.place.path().display(), "{subject} cannot be read; those known go on serving");
            }
        }
    }

    /// Waits for a look that begins after this call: what was changed before is known then. Looks are shared, come at most
    /// every [`PAUSE`] and are waited for by at most [`MOST_WAITING`], for [`PATIENCE`]. False where there was none in time.
    pub async fn look_again(&self) -> bool {
        let (sender, look) = oneshot::channel();
        {
            let mut line = self.waiting.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.retain(|waits| !waits.is_closed());
            if line.len() >= MOST_WAITING {
                return false;
            }
            line.push(sender);
        }
        self.waiting.bell.notify_one();
        matches!(timeout(PATIENCE, look).await, Ok(Ok(())))
    }

    /// Writes what is known into a file that is about to be accepted in the place of the one it was read from.
    pub(super) fn carry(&self, connection: &Connection) -> rusqlite::Result<()> {
        (self.carry)(connection)
    }

    /// False while the file cannot be read.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// Where the file is that is followed.
    pub fn place(&self) -> &Place {
        &self.place
    }

    fn look(&self, seen: &mut Seen) -> Result<(), StoreError> {
        if seen.connection.as_ref().is_some_and(|(_, file)| !self.place.holds(file)) {
            seen.connection = None;
        }
        if seen.connection.is_none() {
            let (connection, file) = self.place.connect()?;
            if seen.file.is_some_and(|before| before != file) {
                seen.version = None;
            }
            seen.file = Some(file);
            seen.connection = Some((connection, file));
        }
        let Some((connection, _)) = &seen.connection else { return Ok(()) };
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
