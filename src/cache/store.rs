//! The store of entries: in memory first, on disk second, both bounded.
//!
//! ```text
//! peek ──▶ memory (S3-FIFO, sharded) ─ miss ─▶ may_hold? ─ load ─▶ tiers below: disk (foyer's blocks, a thread of their own)
//! insert ─▶ memory at once ─────────────────────── dropped when busy ─▶ tiers below
//! ```
//!
//! A tier is a pingora-cache storage, see `tier`.
//!
//! Memory evicts by S3-FIFO: entries that are asked for once pass through a tenth of the space and do not displace those that are
//! asked for again, and a hit takes a shared lock only. The disk is optional: without it, or when it is full, broken or slow,
//! requests go on as if it were empty.

mod disk;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    hash::{BuildHasherDefault, Hasher},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use foyer::{Cache, CacheBuilder, S3FifoConfig};
use futures::FutureExt;
use pingora_cache::{
    storage::{PurgeTarget, PurgeType},
    trace::Span,
};
use tokio::sync::Semaphore;

use self::disk::Disk;
use super::{
    Entry, Key,
    tier::{self, Shelf, Tier},
};

/// How much may be kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of memory, including the overhead of each entry.
    pub memory: usize,
    /// The disk, which survives a restart; `None` for memory only.
    pub disk: Option<DiskOptions>,
    /// The largest body that is kept, in bytes.
    pub max_entry: usize,
}

/// Where entries are kept on disk, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// A folder for this purpose only, used by one process at a time.
    pub folder: PathBuf,
    /// The size in bytes.
    pub size: u64,
}

/// How full a [`Store`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes that the entries in memory cost.
    pub memory_bytes: u64,
    /// Entries in memory.
    pub memory_entries: u64,
    /// Bytes that the entries in memory may cost.
    pub memory_limit: u64,
    /// Bytes taken on disk, as the file system counts them.
    pub disk_bytes: u64,
    /// Bytes that may be taken on disk; zero without a disk.
    pub disk_limit: u64,
    /// How often the disk failed or was too slow.
    pub disk_errors: u64,
    /// Whether the disk is in use and takes what it is given.
    pub disk_up: bool,
}

/// Complete replies by their keys.
pub struct Store {
    memory: Memory,
    limit: usize,
    max_entry: usize,
    /// The tiers below memory, first to last.
    below: Vec<Tier>,
    /// The first of `below`, if there is a disk.
    disk: Option<&'static Disk>,
    /// Counts removals, so that a slow tier cannot bring back what was removed meanwhile.
    removals: Arc<AtomicU64>,
    /// Writes to tiers that are under way.
    writes: Arc<Semaphore>,
}

type Memory = Cache<Key, Arc<Entry>, KeyHashes>;
type KeyHashes = BuildHasherDefault<KeyHasher>;

/// Bytes that an entry costs in memory besides its body and its texts: foyer's record, its slots in the index and in the queue of
/// recently evicted keys, the entry itself, and what the allocator adds to nine allocations. Measured: 620 with mimalloc, 660
/// with glibc; see `tests::memory_stays_within_its_bound`.
const OVERHEAD: usize = 704;

/// How long a request waits for a tier; the tier's own timeout has to be shorter.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a tier may take to write, and how many writes may be under way.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
const WRITES: usize = 256;

/// Bytes that the texts of an entry seldom exceed.
const NAMES: usize = 1 << 10;

impl Store {
    /// Opens the store. If the disk cannot be used, the log says so, and the store works without it.
    ///
    /// Blocks for some milliseconds, and a little longer while a full disk is read in; must be called outside a runtime.
    pub fn open(options: &StoreOptions) -> io::Result<Self> {
        let disk = options.disk.clone().map(|disk| Disk::open(disk, options.max_entry)).transpose()?;
        // A tier lives as long as the process; its system resources are released with this store.
        let disk: Option<&'static Disk> = disk.map(|disk| &*Box::leak(Box::new(disk)));
        let below = disk.map(|disk| disk as Tier).into_iter().collect();
        let shards = shards(options.memory, options.max_entry);
        let largest = options.memory / shards;
        let memory = CacheBuilder::new(options.memory)
            .with_name("can")
            .with_shards(shards)
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(KeyHashes::default())
            .with_weighter(|_: &Key, entry: &Arc<Entry>| weigh(entry))
            // An entry that a shard cannot hold would stay in it all the same.
            .with_filter(move |_: &Key, entry: &Arc<Entry>| weigh(entry) <= largest)
            .build();
        Ok(Self {
            memory,
            limit: options.memory,
            max_entry: options.max_entry,
            below,
            disk,
            removals: Arc::default(),
            writes: Arc::new(Semaphore::new(WRITES)),
        })
    }

    /// Adds a tier below the others.
    #[must_use]
    pub fn with_tier(mut self, tier: Tier) -> Self {
        self.below.push(tier);
        self
    }

    /// The entry of a key if it is in memory. Never waits for anything but a short lock; counts as a use.
    pub fn peek(&self, key: &Key) -> Option<Arc<Entry>> {
        self.memory.get(key).map(|held| held.value().clone())
    }

    /// Whether [`Self::load`] may find something: false is certain, true is not.
    pub fn may_hold(&self, key: &Key) -> bool {
        let others = self.below.len() - usize::from(self.disk.is_some());
        self.memory.contains(key) || others > 0 || self.disk.is_some_and(|disk| disk.may_hold(key))
    }

    /// The entry of a key, from memory or else from the first tier below that has it in time. `owner` is the tenant that the
    /// entry is for, or empty.
    pub async fn load(&self, key: &Key, owner: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.peek(key) {
            return Some(entry);
        }
        for &tier in &self.below {
            let removals = self.removals.load(Ordering::Acquire);
            let reading = tier::read(tier, key, owner, self.max_entry);
            let found = match tokio::time::timeout(PATIENCE, reading).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cache: a tier cannot be read");
                    None
                }
                Err(_) => None,
            };
            let Some(entry) = found.map(Arc::new) else { continue };
            if removals != self.removals.load(Ordering::Acquire) {
                return None;
            }
            // The entry may have been stored again while the tier was read.
            if let Some(entry) = self.peek(key) {
                return Some(entry);
            }
            self.memory.insert(*key, entry.clone());
            return Some(entry);
        }
        None
    }

    /// Keeps an entry: in memory at once, in the tiers below soon. An entry that is too large is not kept; an entry that comes
    /// while a tier is busy is not kept in that tier.
    pub fn insert(&self, key: Key, entry: Arc<Entry>, shelf: &Shelf) {
        if entry.body.len() > self.max_entry {
            return;
        }
        self.memory.insert(key, entry.clone());
        for &tier in &self.below {
            self.write(tier, &key, &entry, shelf);
        }
    }

    fn write(&self, tier: Tier, key: &Key, entry: &Entry, shelf: &Shelf) {
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        let meta = match tier::meta(key, entry, shelf) {
            Ok(meta) => meta,
            Err(error) => {
                tracing::debug!(%error, "cache: an entry is kept in memory only");
                return;
            }
        };
        let (key, body) = (tier::cache_key(key, &shelf.owner), entry.body.clone());
        let (removals, before) = (self.removals.clone(), self.removals.load(Ordering::Acquire));
        soon(async move {
            let counts = || removals.load(Ordering::Acquire) == before;
            if let Err(error) = tier::write(tier, &key, &meta, body, counts).await {
                tracing::debug!(%error, "cache: a tier does not take an entry");
            }
            drop(permit);
        });
    }

    /// Removes the entry of a key. A record on disk may come back after a restart.
    pub fn remove(&self, key: &Key) {
        self.removals.fetch_add(1, Ordering::AcqRel);
        self.memory.remove(key);
        let compact = tier::cache_key(key, "").to_compact();
        for &tier in &self.below {
            let compact = compact.clone();
            soon(async move {
                let span = Span::inactive().handle();
                let purge = tier.purge(PurgeTarget::Active(&compact), PurgeType::Invalidation, &span);
                if let Err(error) = purge.await {
                    tracing::warn!(%error, "cache: a tier does not remove an entry");
                }
            });
        }
    }

    /// How full the store is. Asks the file system, so it is meant for a scrape and not for a request.
    pub fn usage(&self) -> StoreUsage {
        let memory = StoreUsage {
            memory_bytes: self.memory.usage() as u64,
            memory_entries: self.memory.entries() as u64,
            memory_limit: self.limit as u64,
            ..StoreUsage::default()
        };
        self.disk.as_ref().map_or(memory, |disk| StoreUsage {
            disk_bytes: disk.bytes(),
            disk_limit: disk.limit(),
            disk_errors: disk.errors(),
            disk_up: disk.is_up(),
            ..memory
        })
    }

    /// Writes the entries that wait for the disk, for at most `patience`, and releases the disk for the next process. Entries in
    /// memory can still be read.
    pub fn close(&self, patience: Duration) {
        if let Some(disk) = &self.disk {
            disk.close(patience);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(disk) = self.disk {
            disk.release();
        }
    }
}

/// Does the work at once if it only queues something; otherwise in the background, within [`WRITE_PATIENCE`].
fn soon(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    if (&mut work).now_or_never().is_some() {
        return;
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            if tokio::time::timeout(WRITE_PATIENCE, work).await.is_err() {
                tracing::warn!("cache: a tier takes too long");
            }
        });
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// Enough shards that threads seldom meet, and few enough that each can hold the largest entry. An odd number, because foyer
/// chooses the shard by bits that its tables use as well.
fn shards(memory: usize, max_entry: usize) -> usize {
    let largest = OVERHEAD + NAMES + max_entry.saturating_add(max_entry / 8);
    let fitting = (memory / largest).clamp(1, 15);
    if fitting.is_multiple_of(2) { fitting - 1 } else { fitting }
}

/// Bytes that an entry costs in memory. An allocator rounds a body up by at most an eighth.
fn weigh(entry: &Entry) -> usize {
    let texts = entry.tenant.as_str().len() + entry.route.len() + entry.provider.len() + entry.model.len();
    let body = entry.body.len();
    OVERHEAD + texts + body + body / 8
}

/// Keys are uniform already: their first eight bytes are the hash. The hash is stored on disk, so it must not change.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// Ignores the length, which is constant.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
