//! The owners of objects in the store. Requests read only memory; one thread writes new ids soon after they become known, and
//! reads what another process has written (during `can serve --upgrade` the old process serves on for a while).

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::index::{Class, Index, Key, Owner, key};
use crate::{
    store::{LOOK, ObjectRow, Session, Store, StoreError, StoreId},
    types::unix_now,
};

/// How long the thread waits after a new id: ids that come meanwhile share its commit.
const GATHER: Duration = Duration::from_millis(20);

/// The most rows in one transaction, so that other writers get their turn.
const BATCH: usize = 2_000;

/// How many ids may wait while the file cannot be written. Beyond this number the oldest are never written, and belong to nobody
/// after a restart.
const MAX_WAITING: usize = 200_000;

/// The state of the index in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Ids whose owner is known.
    pub known: usize,
    /// Ids that are not in the database yet.
    pub waiting: usize,
    /// Ids that were removed since the start because there were too many.
    pub forgotten: u64,
}

/// The owners of the providers' objects. Lives as long as the process.
pub struct Objects {
    shared: Arc<Shared>,
    writer: Option<Thread>,
}

struct Shared {
    store: Arc<dyn Store>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    unwritten: VecDeque<Row>,
    /// Ids that were removed from the index, but are still in the file.
    gone: Vec<Key>,
    forgotten: u64,
    lost: u64,
}

#[derive(Clone)]
struct Row {
    key: Key,
    owner: Owner,
    class: Class,
    at: u64,
}

impl From<ObjectRow> for Row {
    fn from(row: ObjectRow) -> Self {
        let ObjectRow { key, tenant, anonymous, class, at } = row;
        let class = if class == Class::Kept as u8 { Class::Kept } else { Class::Turn };
        Self { key, owner: Owner { tenant, anonymous }, class, at }
    }
}

impl From<&Row> for ObjectRow {
    fn from(Row { key, owner, class, at }: &Row) -> Self {
        let Owner { tenant, anonymous } = owner.clone();
        Self { key: *key, tenant, anonymous, class: *class as u8, at: *at }
    }
}

/// The session that the thread has open.
#[derive(Default)]
struct Open {
    session: Option<(Box<dyn Session>, StoreId)>,
    /// The tables that were last open.
    id: Option<StoreId>,
    /// The largest row number that was read into memory.
    seen: i64,
    failed: bool,
    told: bool,
}

impl Objects {
    /// Reads the owners, and starts the thread that keeps the file up to date. While the file cannot be read, ids that are only
    /// there belong to nobody. A file that takes the place of one that was deleted or replaced gets all known ids.
    pub fn open(store: Arc<dyn Store>) -> Self {
        Self::with_limits(store, Class::ALL.map(Class::limit))
    }

    fn with_limits(store: Arc<dyn Store>, limits: [usize; 2]) -> Self {
        let state = State { index: Index::with_limits(limits), ..State::default() };
        let shared = Arc::new(Shared { store, state: RwLock::new(state) });
        let mut file = Open::default();
        shared.synchronise(&mut file);
        let weak = Arc::downgrade(&shared);
        let spawned = thread::Builder::new().name("objects".into()).spawn(move || run(&weak, file));
        let writer = match spawned {
            Ok(handle) => Some(handle.thread().clone()),
            Err(error) => {
                tracing::error!(%error, "owners of objects are not written: after a restart they are nobody's");
                None
            }
        };
        Self { shared, writer }
    }

    /// The owner of an id at a provider; `None` if it belongs to nobody.
    pub fn owner(&self, provider: &str, id: &str) -> Option<Owner> {
        self.shared.read().index.owner(&key(provider, id)).cloned()
    }

    /// Sets the owner of ids at a provider. Ids with an owner keep it.
    pub fn record<'a>(&self, provider: &str, ids: impl IntoIterator<Item = &'a str>, owner: &Owner, class: Class) {
        let at = unix_now();
        // The ids are hashed before the lock is taken, because every request's look-ups wait for it.
        let rows: Vec<Row> =
            ids.into_iter().map(|id| Row { key: key(provider, id), owner: owner.clone(), class, at }).collect();
        let mut state = self.shared.write();
        let idle = state.unwritten.is_empty();
        rows.into_iter().for_each(|row| state.take(row, true));
        let wake = idle && !state.unwritten.is_empty();
        drop(state);
        if wake && let Some(writer) = &self.writer {
            writer.unpark();
        }
    }

    /// Waits until all known ids are in the file; false if that takes longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        while !self.shared.read().unwritten.is_empty() {
            if begun.elapsed() > patience {
                return false;
            }
            self.writer.iter().for_each(Thread::unpark);
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// The state of the index in numbers.
    pub fn counts(&self) -> Counts {
        let state = self.shared.read();
        Counts { known: state.index.len(), waiting: state.unwritten.len(), forgotten: state.forgotten + state.lost }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // The thread ends when it finds that the value is gone.
        self.writer.iter().for_each(Thread::unpark);
    }
}

fn run(shared: &Weak<Shared>, mut file: Open) {
    loop {
        thread::park_timeout(LOOK);
        let Some(shared) = shared.upgrade() else { return };
        if !shared.read().unwritten.is_empty() {
            thread::sleep(GATHER);
        }
        shared.synchronise(&mut file);
    }
}

impl State {
    /// Marks all known ids as not yet written.
    fn start_over(&mut self) {
        let at = unix_now();
        let rows = self.index.all().map(|(key, owner, class)| Row { key, owner: owner.clone(), class, at });
        self.unwritten = rows.collect();
        self.gone.clear();
    }

    fn take(&mut self, row: Row, is_new: bool) {
        let (inserted, gone) = self.index.insert(row.key, &row.owner, row.class);
        if let Some(gone) = gone {
            self.forgotten += 1;
            self.gone.push(gone);
        }
        if inserted && is_new {
            self.unwritten.push_back(row);
            if self.unwritten.len() > MAX_WAITING {
                self.unwritten.pop_front();
                self.lost += 1;
            }
        }
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Reads what other processes have written, then writes what is new here.
    fn synchronise(&self, file: &mut Open) {
        let outcome = self.exchange(file);
        if let Err(error) = &outcome {
            file.session = None;
            if !file.failed {
                tracing::error!(%error, file = %self.store.location(), "owners of objects cannot be written; they wait in memory");
            }
        }
        file.failed = outcome.is_err();
        let forgotten = self.counts_gone();
        if forgotten > 0 && !file.told {
            file.told = true;
            tracing::warn!(
                "there are more objects than the gateway keeps the owners of: the oldest are nobody's from now on"
            );
        }
    }

    fn counts_gone(&self) -> u64 {
        let state = self.read();
        state.forgotten + state.lost
    }

    fn exchange(&self, file: &mut Open) -> Result<(), StoreError> {
        if file.session.as_ref().is_some_and(|(_, id)| !self.store.holds(id)) {
            file.session = None;
        }
        if file.session.is_none() {
            let (session, id) = self.store.connect()?;
            if file.id.is_some_and(|before| before != id) {
                // All known ids are written again, after the rows that are there.
                file.seen = 0;
                self.write().start_over();
            }
            file.id = Some(id);
            file.session = Some((session, id));
        }
        let Some((session, _)) = &mut file.session else { return Ok(()) };
        file.seen = self.take_up(|each| session.objects_behind(file.seen, each))?;
        loop {
            let (rows, gone) = {
                let mut state = self.write();
                let rows: Vec<Row> = state.unwritten.iter().take(BATCH).cloned().collect();
                (rows, std::mem::take(&mut state.gone))
            };
            if rows.is_empty() && gone.is_empty() {
                return Ok(());
            }
            // Rows that another process wrote before are read first, so that no row of this process comes back after it was
            // removed from memory.
            let kept: Vec<ObjectRow> = rows.iter().map(Into::into).collect();
            match self.take_up(|each| session.add_objects(file.seen, &kept, &gone, each)) {
                Ok(seen) => file.seen = seen,
                Err(error) => {
                    self.write().gone.extend(gone);
                    return Err(error);
                }
            }
            let mut state = self.write();
            for row in &rows {
                // Rows may have been removed from the front meanwhile, because memory had no room for them.
                if state.unwritten.front().is_some_and(|front| front.key == row.key) {
                    state.unwritten.pop_front();
                }
            }
        }
    }

    /// Adds the rows that `read` passes on to the index, and returns the result of `read`.
    fn take_up(
        &self,
        read: impl FnOnce(&mut dyn FnMut(ObjectRow)) -> Result<i64, StoreError>,
    ) -> Result<i64, StoreError> {
        let mut taken: Vec<Row> = Vec::new();
        let take = |taken: &mut Vec<Row>| {
            let mut state = self.write();
            taken.drain(..).for_each(|row| state.take(row, false));
        };
        let outcome = read(&mut |row| {
            taken.push(row.into());
            // In portions, because requests read the index meanwhile.
            if taken.len() >= BATCH {
                take(&mut taken);
            }
        });
        take(&mut taken);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{self, Place};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn owner(tenant: &str, anonymous: bool) -> Owner {
        Owner { tenant: tenant.into(), anonymous }
    }

    fn until(what: &str, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while !ready() {
            assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn owners_survive_a_restart_and_reach_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let old = Objects::open(sqlite::at(&path));
        let new = Objects::open(sqlite::at(&path));
        old.record("openai", ["file-1", "file-2"], &owner("a", false), Class::Kept);
        assert_eq!(old.owner("openai", "file-1"), Some(owner("a", false)), "at once");
        until("the other process learning of it", || new.owner("openai", "file-2") == Some(owner("a", false)));
        new.record("openai", ["file-1"], &owner("b", false), Class::Kept);
        new.record("openai", ["resp_1"], &owner("b", true), Class::Turn);
        assert!(new.flush(PATIENCE) && old.flush(PATIENCE));
        drop((old, new));
        let again = Objects::open(sqlite::at(&path));
        assert_eq!(again.owner("openai", "file-1"), Some(owner("a", false)));
        assert_eq!(again.owner("openai", "resp_1"), Some(owner("b", true)));
        assert_eq!(again.owner("azure", "resp_1"), None);
        assert_eq!(again.counts(), Counts { known: 3, waiting: 0, forgotten: 0 });
    }

    #[test]
    fn what_is_too_much_goes_from_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let small = Objects::with_limits(sqlite::at(&path), [3, 1]);
        for n in 0..10 {
            small.record("p", [format!("file-{n}").as_str()], &owner("a", false), Class::Kept);
        }
        assert!(small.flush(PATIENCE));
        let rows = || -> i64 {
            let connection = sqlite::open_to_read(&path).unwrap();
            connection.query_row("SELECT count(*) FROM objects", [], |row| row.get(0)).unwrap()
        };
        until("deleting", || rows() == 3);
        assert_eq!((small.owner("p", "file-6"), small.counts().forgotten), (None, 7));
        assert!(small.owner("p", "file-7").is_some());
        drop(small);
        assert!(Objects::open(sqlite::at(&path)).owner("p", "file-9").is_some());
    }

    #[test]
    fn a_file_in_the_place_of_a_lost_one_gets_every_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let place = Place::from(&path);
        let objects = Objects::open(sqlite::in_place(place.clone()));
        objects.record("p", ["file-1", "file-2"], &owner("a", false), Class::Kept);
        objects.record("p", ["resp_1"], &owner("b", true), Class::Turn);
        assert!(objects.flush(PATIENCE));
        std::fs::remove_file(&path).unwrap();
        objects.record("p", ["file-3"], &owner("a", false), Class::Kept);
        drop(place.accept(|_| Ok(())).unwrap());
        let rows = || -> i64 {
            let connection = sqlite::open_to_read(&path).unwrap();
            connection.query_row("SELECT count(*) FROM objects", [], |row| row.get(0)).unwrap()
        };
        until("writing all of them", || rows() == 4);
        drop(objects);
        let again = Objects::open(sqlite::at(&path));
        assert_eq!(again.owner("p", "resp_1"), Some(owner("b", true)));
        assert_eq!(again.owner("p", "file-3"), Some(owner("a", false)));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone").join("can.db");
        let objects = Objects::open(sqlite::at(&path));
        objects.record("p", ["file-1"], &owner("a", false), Class::Kept);
        assert!(!objects.flush(Duration::from_millis(50)));
        assert!(objects.owner("p", "file-1").is_some());
        std::fs::create_dir(folder.path().join("gone")).unwrap();
        assert!(objects.flush(PATIENCE));
    }
}
