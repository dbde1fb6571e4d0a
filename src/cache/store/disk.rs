//! The on-disk tier: records in foyer's blocks, written in the background, read with a short timeout.
//!
//! ```text
//!            ┌────────────── lock taken, folder unusable ──────────────┐
//!            ▼                                                         │
//! off ─▶ attach (lock, recover) ─▶ up ─ a trial record is lost ─▶ down ┴─ lost again ─▶ off
//!                                  ▲──────── one comes back ─────┘
//! ```
//!
//! The keeper, a thread of its own, walks through these states. foyer does not report failed writes, and its writer may stop for
//! good after one. So the keeper writes a trial record from time to time, as long as there is something to write, and checks
//! whether it arrives. Requests only use the disk while it is attached.

mod attach;

use std::{
    any::Any,
    collections::HashMap,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use foyer::{Age, Load};
use parking_lot::Mutex;
use pingora_cache::{
    CacheKey, CacheMeta,
    key::CacheHashKey,
    storage::{HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage},
    trace::SpanHandle,
};
use pingora_error::{Error, ErrorType, Result};
use tokio::sync::Semaphore;

use self::attach::{Attached, Refused};
use super::{DiskOptions, Key};
use crate::cache::{
    Entry,
    codec::Stored,
    tier::{self, Pieces, Shelf, WholeHit},
};

/// How long a request waits for the disk.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a start waits for the disk.
const OPEN_PATIENCE: Duration = Duration::from_millis(10);
/// Reads at a time; a read beyond that is a miss.
const READS: usize = 64;
/// After this many failed reads in a row the disk is not read for [`REST`].
const STRIKES: u32 = 3;
const REST: Duration = Duration::from_secs(10);
/// How often the keeper checks the disk.
const PERIOD: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5_000 });
/// How long a trial record may take.
const TRIAL: Duration = Duration::from_millis(if cfg!(test) { 1_000 } else { 10_000 });
/// After this many lost trial records in a row the disk is attached anew.
const TRIALS: u32 = 3;

/// An entry that was found on disk.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// The entry's block is the next to be evicted: to be kept, the entry has to be written again.
    pub(super) leaving: bool,
}

pub(super) struct Disk {
    shared: Arc<Shared>,
    /// Dropping the sender wakes the keeper, which then ends.
    keeper: Mutex<Option<mpsc::Sender<()>>>,
}

struct Shared {
    options: DiskOptions,
    max_entry: usize,
    attached: ArcSwapOption<Attached>,
    /// Records that may still wait to be written, by half of their key: once removed, they must not come back.
    waiting: Mutex<Waiting>,
    /// Whether the last trial record arrived.
    writable: AtomicBool,
    /// Whether something was written since the last trial record.
    written: AtomicBool,
    closed: AtomicBool,
    errors: AtomicU64,
    reads: Arc<Semaphore>,
    strikes: AtomicU32,
    /// Until when the disk is not read, in milliseconds since `begun`.
    rests: AtomicU64,
    begun: Instant,
}

impl Disk {
    /// Attaches the disk, in the background if that takes long.
    pub(super) fn open(options: DiskOptions, max_entry: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            options,
            max_entry,
            attached: ArcSwapOption::empty(),
            waiting: Mutex::default(),
            writable: AtomicBool::new(true),
            written: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            errors: AtomicU64::new(0),
            reads: Arc::new(Semaphore::new(READS)),
            strikes: AtomicU32::new(0),
            rests: AtomicU64::new(0),
            begun: Instant::now(),
        });
        let (keeper, orders) = mpsc::channel();
        let (first, tried) = mpsc::channel();
        let keep = shared.clone();
        thread::Builder::new().name("cache-keeper".into()).spawn(move || keep.keep(&orders, first))?;
        let _ = tried.recv_timeout(OPEN_PATIENCE);
        Ok(Self { shared, keeper: Mutex::new(Some(keeper)) })
    }

    pub(super) fn may_hold(&self, key: &Key) -> bool {
        !self.shared.is_resting()
            && self.shared.attached.load().as_ref().is_some_and(|disk| disk.storage().may_contains(key))
    }

    async fn load(&self, key: &Key) -> Option<Found> {
        let shared = &self.shared;
        if !self.may_hold(key) {
            return None;
        }
        let disk = shared.attached.load_full()?;
        // Held until the read ends, however late: a disk that hangs gets no more than [`READS`] of them.
        let Ok(permit) = shared.reads.clone().try_acquire_owned() else {
            shared.errors.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (key, storage) = (*key, disk.storage().clone());
        let reading = disk.runtime()?.spawn(async move {
            let loaded = storage.load(&key).await;
            drop(permit);
            loaded
        });
        let Ok(Ok(Ok(loaded))) = tokio::time::timeout(PATIENCE, reading).await else {
            shared.strike();
            return None;
        };
        shared.strikes.store(0, Ordering::Relaxed);
        match loaded {
            Load::Entry { value, populated, .. } => {
                value.answer_for(&key).map(|entry| Found { entry, leaving: matches!(populated.age, Age::Old) })
            }
            Load::Piece { piece, .. } => piece.value().answer_for(&key).map(|entry| Found { entry, leaving: false }),
            Load::Throttled | Load::Miss => None,
        }
    }

    /// Queues a record; if the queue is full, the record is dropped.
    fn write(&self, key: Key, entry: Arc<Entry>) {
        if let Some(disk) = &*self.shared.attached.load() {
            self.shared.written.store(true, Ordering::Relaxed);
            if self.shared.writable.load(Ordering::Relaxed) {
                let stored = Stored::new(key, entry);
                // The lock is held until the record is queued: a removal comes before both steps or after both.
                let mut waiting = self.shared.waiting();
                waiting.add(&key, &stored);
                disk.queue(key, stored);
            }
        }
    }

    /// Removes the records with this half of a key. foyer finds records by their hash, which is in that half.
    fn remove(&self, half: [u8; 16]) {
        let mut waiting = self.shared.waiting();
        let waits = waiting.retire(&half);
        let mut key = Key([0; 32]);
        key.0[..half.len()].copy_from_slice(&half);
        if let Some(disk) = &*self.shared.attached.load() {
            // foyer's queue of removals has no bound, so only records that may be there are removed.
            if waits || disk.storage().may_contains(&key) {
                disk.storage().delete(&key);
            }
        }
    }

    /// Whether a record is still in the queue.
    #[cfg(test)]
    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        let disk = self.shared.attached.load_full().unwrap();
        let (storage, key) = (disk.storage().clone(), *key);
        disk.wait(TRIAL, async move { matches!(storage.load(&key).await, Ok(Load::Piece { .. })) }).unwrap_or(true)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shared.attached.load().as_ref().map_or(0, |disk| disk.bytes())
    }

    pub(super) fn limit(&self) -> u64 {
        self.shared.options.size
    }

    pub(super) fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    pub(super) fn is_up(&self) -> bool {
        let shared = &self.shared;
        shared.attached.load().is_some() && shared.writable.load(Ordering::Relaxed) && !shared.is_resting()
    }

    /// Ends the keeper and releases the folder.
    pub(super) fn release(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(self.keeper.lock().take());
        self.shared.attached.store(None);
    }

    /// Ends the keeper, writes the queued records, and releases the folder.
    pub(super) fn close(&self, patience: Duration) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(self.keeper.lock().take());
        if let Some(disk) = self.shared.attached.swap(None)
            && !disk.flush(patience)
        {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?patience, "cache: what waited for the disk was not written in time");
        }
    }
}

/// A record is written whole or not at all: it is in memory already, and small. The reader decides how long it may be used.
#[async_trait]
impl Storage for Disk {
    async fn lookup(&'static self, key: &CacheKey, _trace: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(own) = tier::own_key(key) else { return Ok(None) };
        let Some(Found { entry, leaving }) = self.load(&own).await else { return Ok(None) };
        let meta = tier::meta(&own, &entry, &Shelf::default())?;
        let body = entry.body.clone();
        if leaving {
            self.write(own, entry);
        }
        Ok(Some((meta, Box::new(WholeHit(Some(body))))))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<MissHandler> {
        let Some(key) = tier::own_key(key) else {
            return Error::e_explain(ErrorType::InternalError, "not a key of this cache");
        };
        Ok(Box::new(Writing { disk: self, key, entry: tier::announced(&key, meta)?, body: Pieces::default() }))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _kind: PurgeType,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        self.remove(target.key().primary_bin());
        Ok(PurgeOutcome::Purged(None))
    }

    async fn update_meta(&'static self, _key: &CacheKey, _meta: &CacheMeta, _trace: &SpanHandle) -> Result<bool> {
        Ok(false)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// A record that is being written.
struct Writing {
    disk: &'static Disk,
    key: Key,
    entry: (Entry, usize),
    body: Pieces,
}

#[async_trait]
impl HandleMiss for Writing {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        self.body.push(data);
        match self.body.length() <= self.entry.1 {
            true => Ok(()),
            false => Error::e_explain(ErrorType::InternalError, "longer than announced"),
        }
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let (entry, length) = self.entry;
        if self.body.length() != length {
            return Error::e_explain(ErrorType::InternalError, "shorter than announced");
        }
        self.disk.write(self.key, Arc::new(Entry { body: self.body.whole(), ..entry }));
        Ok(MissFinishType::Created(length))
    }
}

/// Records that may still wait to be written. Its weak reference shows when a record is gone.
#[derive(Debug, Default)]
struct Waiting {
    records: HashMap<[u8; 16], Weak<AtomicBool>>,
    /// Number of records after the last removal of those that are written.
    after: usize,
}

impl Waiting {
    fn add(&mut self, key: &Key, stored: &Stored) {
        if self.records.len() > 2 * self.after + 64 {
            self.records.retain(|_, gone| gone.strong_count() > 0);
            self.after = self.records.len();
        }
        self.records.insert(key.half(), stored.mark());
    }

    /// Marks a record as removed. Returns whether it may still wait.
    fn retire(&mut self, half: &[u8; 16]) -> bool {
        let gone = self.records.remove(half).and_then(|gone| gone.upgrade());
        if let Some(gone) = &gone {
            gone.store(true, Ordering::Relaxed);
        }
        gone.is_some()
    }
}

impl Shared {
    fn waiting(&self) -> parking_lot::MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    fn is_resting(&self) -> bool {
        let until = self.rests.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a failed read.
    fn strike(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES {
            self.strikes.store(0, Ordering::Relaxed);
            self.rests.store(self.now() + REST.as_millis() as u64, Ordering::Relaxed);
            tracing::warn!("cache: reads from the disk fail or are slow; it is left alone for {REST:?}");
        }
    }

    /// The keeper's loop. `first` is dropped when the first attempt to attach is over.
    fn keep(&self, orders: &mpsc::Receiver<()>, first: mpsc::Sender<()>) {
        let mut pause = PERIOD;
        let mut last = None;
        let (mut lost, mut stuck) = (0, 0);
        self.attach(false, &mut last);
        drop(first);
        while let Err(RecvTimeoutError::Timeout) = orders.recv_timeout(pause) {
            let Some(disk) = self.attached.load_full() else {
                self.attach(stuck > 1, &mut last);
                continue;
            };
            if !self.written.swap(false, Ordering::Relaxed) && lost == 0 {
                continue;
            }
            match disk.try_out(TRIAL) {
                Trial::Arrived => {
                    if lost > 0 {
                        tracing::info!("cache: the disk takes entries again");
                    }
                    (lost, stuck, pause) = (0, 0, PERIOD);
                    self.writable.store(true, Ordering::Relaxed);
                    continue;
                }
                Trial::Lost => lost += 1,
                Trial::Stuck => (lost, stuck) = (TRIALS, stuck + 1),
            }
            self.errors.fetch_add(1, Ordering::Relaxed);
            if self.writable.swap(false, Ordering::Relaxed) {
                tracing::error!("cache: the disk takes no entries; memory goes on alone");
            }
            if lost >= TRIALS {
                // foyer's writer may be dead. A new one may work; if not, it is tried less and less often.
                self.attached.store(None);
                lost = 1;
                pause = (pause * 2).min(PERIOD * 64);
            }
        }
    }

    fn attach(&self, afresh: bool, last: &mut Option<String>) {
        match Attached::new(&self.options, self.max_entry, afresh) {
            Ok(disk) => {
                self.attached.store(Some(Arc::new(disk)));
                if self.closed.load(Ordering::SeqCst) {
                    self.attached.store(None);
                } else if last.take().is_some() {
                    tracing::info!(folder = %self.options.folder.display(), "cache: the disk is in use now");
                }
            }
            Err(refused) => {
                let reason = refused.to_string();
                // Logged once, not at every attempt.
                if last.as_ref() != Some(&reason) {
                    let folder = self.options.folder.display();
                    match refused {
                        Refused::Taken => {
                            tracing::warn!(%folder, "cache: {reason}; memory goes on alone until it ends")
                        }
                        Refused::Unusable(_) => {
                            self.errors.fetch_add(1, Ordering::Relaxed);
                            tracing::error!(%folder, "cache: {reason}; memory goes on alone");
                        }
                    }
                    *last = Some(reason);
                }
            }
        }
    }
}

/// The outcome of a trial record.
enum Trial {
    Arrived,
    Lost,
    /// The writer is stuck.
    Stuck,
}
