//! Follows the changes of other processes: every change of a topic gives it a new version, which a thread checks often.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::{sync::oneshot, time::timeout};

use super::{Session, Standings, Store, StoreError, StoreId, Topic};

/// How often the store is asked whether another process has changed it.
pub const LOOK: Duration = Duration::from_millis(200);

/// The shortest interval between two looks that a request waits for: clients cannot make the gateway query the store more often.
const PAUSE: Duration = Duration::from_millis(10);

/// How many requests may wait for a look at the same time. Each waits at most [`PATIENCE`].
const MOST_WAITING: usize = 256;
const PATIENCE: Duration = Duration::from_millis(250);

/// The callers that wait for the next look, and the bell that wakes the following thread.
#[derive(Default)]
struct Waiting {
    line: Mutex<Vec<oneshot::Sender<()>>>,
    bell: Condvar,
}

impl Waiting {
    /// Waits until a caller waits, at most for [`LOOK`], and takes all callers that wait by then.
    fn next(&self) -> Vec<oneshot::Sender<()>> {
        let mut line = self.line.lock();
        self.bell.wait_while_for(&mut line, |line| line.is_empty(), LOOK);
        mem::take(&mut *line)
    }
}

/// Reads the rows of the table into memory, in one snapshot.
type Read = Box<dyn Fn(&dyn Session) -> Result<(), StoreError> + Send + Sync>;

/// Writes the rows in memory to tables that take the place of lost ones.
type Carry = Box<dyn Fn(&mut dyn Standings) -> Result<(), StoreError> + Send + Sync>;

/// Reads a table again whenever its version has changed.
pub struct TableFollower {
    store: Arc<dyn Store>,
    topic: Topic,
    read: Read,
    carry: Carry,
    /// Held during a look, so that looks follow one another: a slow look must not overwrite the result of a later one.
    seen: Mutex<Seen>,
    /// The callers that wait for the thread's next look.
    waiting: Arc<Waiting>,
    /// [`NEW`], [`UP`] or [`DOWN`]: whether the last look succeeded.
    state: AtomicU8,
}

const NEW: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

#[derive(Default)]
struct Seen {
    session: Option<(Box<dyn Session>, StoreId)>,
    /// The tables that were read last.
    tables: Option<StoreId>,
    version: Option<i64>,
}

impl TableFollower {
    /// Reads the table, and goes on following it in a thread that ends with the follower. A store that cannot be read is tried
    /// again and again, and the rows read before stay in use. After the tables were deleted or replaced, `carry` writes the
    /// rows in memory to the tables that are accepted in their place, before anybody reads those.
    pub fn start(
        store: Arc<dyn Store>,
        topic: Topic,
        read: impl Fn(&dyn Session) -> Result<(), StoreError> + Send + Sync + 'static,
        carry: impl Fn(&mut dyn Standings) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let follower = Arc::new(Self {
            store,
            topic,
            read: Box::new(read),
            carry: Box::new(carry),
            seen: Mutex::default(),
            waiting: Arc::default(),
            state: AtomicU8::new(NEW),
        });
        follower.store.register(Arc::downgrade(&follower));
        follower.refresh();
        let (weak, waiting) = (Arc::downgrade(&follower), follower.waiting.clone());
        let spawned = thread::Builder::new().name(topic.label().into()).spawn(move || {
            loop {
                let told = waiting.next();
                let begun = Instant::now();
                let Some(follower) = weak.upgrade() else { return };
                follower.refresh();
                drop(follower);
                // A caller that has left meanwhile needs no answer.
                for waits in told {
                    let _ = waits.send(());
                }
                thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "{} are not followed: changes take effect after a restart", topic.label());
        }
        follower
    }

    /// Reads the store now: a change made before the call is known when it returns, if the store can be read.
    pub fn refresh(&self) {
        let mut seen = self.seen.lock();
        let outcome = self.look(&mut seen);
        let before = self.state.swap(if outcome.is_ok() { UP } else { DOWN }, Ordering::Relaxed);
        if let Err(error) = outcome {
            seen.session = None;
            if before != DOWN {
                let topic = self.topic.label();
                tracing::error!(%error, file = %self.store.location(), "{topic} cannot be read; those known go on serving");
            }
        }
    }

    /// Waits for a look that begins after this call: a change made before the call is known then. Callers share looks, which come
    /// at most every [`PAUSE`]; at most [`MOST_WAITING`] callers wait, each for [`PATIENCE`]. False if no look came in time.
    pub async fn look_again(&self) -> bool {
        let (sender, look) = oneshot::channel();
        {
            let mut line = self.waiting.line.lock();
            line.retain(|waits| !waits.is_closed());
            if line.len() >= MOST_WAITING {
                return false;
            }
            line.push(sender);
        }
        self.waiting.bell.notify_one();
        matches!(timeout(PATIENCE, look).await, Ok(Ok(())))
    }

    /// Writes the rows in memory to tables that are about to be accepted in the place of lost ones.
    pub(super) fn carry(&self, standings: &mut dyn Standings) -> Result<(), StoreError> {
        (self.carry)(standings)
    }

    /// False while the store cannot be read.
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    /// The store that is followed.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn look(&self, seen: &mut Seen) -> Result<(), StoreError> {
        if seen.session.as_ref().is_some_and(|(_, tables)| !self.store.holds(tables)) {
            seen.session = None;
        }
        if seen.session.is_none() {
            let (session, tables) = self.store.connect()?;
            if seen.tables.is_some_and(|before| before != tables) {
                seen.version = None;
            }
            seen.tables = Some(tables);
            seen.session = Some((session, tables));
        }
        let Some((session, _)) = &seen.session else { return Ok(()) };
        if Some(session.version(self.topic)?) == seen.version {
            return Ok(());
        }
        // One snapshot, so that the version is that of the rows.
        let version = session.at_once(|tables| {
            let version = tables.version(self.topic)?;
            (self.read)(tables)?;
            Ok(version)
        })?;
        seen.version = Some(version);
        Ok(())
    }
}
