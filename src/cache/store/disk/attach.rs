//! A folder in use: its lock, its blocks, and the threads that read and write these.

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    HybridCacheProperties, Load, PsyncIoEngineConfig, RecoverMode, Spawner,
};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::{Key, KeyHashes},
    DiskOptions, Trial,
};
use crate::{
    cache::{Entry, Form, codec::Stored},
    types::{NanoUsd, Usage, unix_now},
};

type Storage = foyer::Store<Key, Stored, KeyHashes, HybridCacheProperties>;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The most bytes by which a record's names may lengthen it.
const NAMES: u64 = 64 * KIB;
/// The size of foyer's index in front of each run of records in a block.
const BLOB_INDEX: u64 = 4 * KIB;
/// The beginning of foyer's file names.
const PREFIX: &str = "foyer-storage-direct-fs-";

/// Why a folder is not used.
pub(super) enum Refused {
    /// Another process uses the folder.
    Taken,
    Unusable(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("another process uses the folder"),
            Self::Unusable(reason) => write!(f, "the folder cannot be used: {reason}"),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

pub(super) struct Attached {
    hybrid: HybridCache<Key, Stored, KeyHashes>,
    /// Present until `self` is dropped.
    runtime: Option<Runtime>,
    blocks: PathBuf,
    /// Locked while the folder is in use.
    _lock: fs::File,
}

impl Attached {
    /// Takes the folder and recovers its records; with `afresh` they are deleted.
    pub(super) fn new(options: &DiskOptions, max_entry: usize, afresh: bool) -> Result<Self, Refused> {
        let geometry = Geometry::of(options.size, max_entry as u64)?;
        private_folder(&options.folder)?;
        let lock = fs::File::options().create(true).append(true).mode(0o600).open(options.folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Refused::Taken),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        // A folder inside the configured one, which may be older and open to others.
        let blocks = options.folder.join("v1");
        private_folder(&blocks)?;
        fs::set_permissions(&blocks, fs::Permissions::from_mode(0o700))?;
        geometry.tidy(&blocks, afresh)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("cache")
            .thread_stack_size(512 << 10)
            .build()?;
        let hybrid = runtime.block_on(geometry.build(&blocks, Spawner::from(runtime.handle().clone())))?;
        Ok(Self { hybrid, runtime: Some(runtime), blocks, _lock: lock })
    }

    pub(super) fn storage(&self) -> &Storage {
        self.hybrid.storage()
    }

    pub(super) fn runtime(&self) -> Option<&Runtime> {
        self.runtime.as_ref()
    }

    /// Bytes that the blocks take on disk, without holes.
    pub(super) fn bytes(&self) -> u64 {
        let files = fs::read_dir(&self.blocks).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }

    /// Waits until everything queued is written; false if that fails or takes too long.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let storage = self.storage().clone();
        self.wait(patience, async move { storage.close().await.is_ok() }) == Some(true)
    }

    /// Queues a record to be written.
    pub(super) fn queue(&self, key: Key, stored: Stored) {
        self.hybrid.storage_writer(key).force().insert(stored);
    }

    /// Writes a trial record and reads it back.
    pub(super) fn try_out(&self, patience: Duration) -> Trial {
        let key = Key([0; 32]);
        let now = unix_now();
        let entry = Entry {
            form: Form::Json,
            body: Bytes::new(),
            born: now,
            stored: now,
            tenant: "".into(),
            route: "".into(),
            provider: "".into(),
            model: "".into(),
            dropped: "".into(),
            usage: Usage::default(),
            cost: NanoUsd(0),
        };
        self.queue(key, Stored::new(key, Arc::new(entry)));
        let storage = self.storage().clone();
        let arrived = self.wait(patience, async move {
            storage.wait().await;
            match storage.load(&key).await {
                Ok(Load::Entry { value, .. }) => value.answer_for(&key).is_some_and(|entry| entry.born == now),
                _ => false,
            }
        });
        match arrived {
            Some(true) => Trial::Arrived,
            Some(false) => Trial::Lost,
            None => Trial::Stuck,
        }
    }

    /// Blocks, on any thread, until a task on the disk's own runtime is done; `None` if that takes too long.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        patience: Duration,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, result) = mpsc::channel();
        self.runtime.as_ref()?.spawn(async move { done.send(task.await) });
        result.recv_timeout(patience).ok()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // This neither waits for a disk that hangs, nor panics inside another runtime.
            runtime.shutdown_background();
        }
    }
}

/// How the disk is divided into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of a block: one file, and the unit of eviction.
    block: u64,
    count: u64,
    /// Bytes of each of the two buffers that are filled and written in turn.
    buffer: u64,
}

impl Geometry {
    /// About 64 blocks, so that there are few files, but no block smaller than the largest entry needs.
    pub(super) fn of(size: u64, max_entry: u64) -> Result<Self, Refused> {
        let record = max_entry.saturating_add(NAMES);
        let block = (size / 64).max(record.saturating_add(BLOB_INDEX)).max(MIB).next_multiple_of(MIB);
        let count = size / block;
        if count < 4 {
            let least = block.saturating_mul(4) / MIB;
            return Err(Refused::Unusable(format!("its size must be at least {least} MiB for the largest entry")));
        }
        Ok(Self { block, count, buffer: record.max(2 * MIB).next_multiple_of(4 * KIB) })
    }

    /// Removes files of another geometry; with `afresh`, all files.
    fn tidy(self, blocks: &Path, afresh: bool) -> io::Result<()> {
        for file in fs::read_dir(blocks)? {
            let file = file?;
            let number = file.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
            let ours = number.is_some_and(|number| number < self.count) && file.metadata()?.len() == self.block;
            if afresh || !ours {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    async fn build(self, blocks: &Path, spawner: Spawner) -> Result<HybridCache<Key, Stored, KeyHashes>, Refused> {
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| Refused::Unusable("it is too large".into()));
        let failed = |error: foyer::Error| Refused::Unusable(error.to_string());
        let device = FsDeviceBuilder::new(blocks).with_capacity(size(self.block * self.count)?).build();
        let engine = BlockEngineConfig::new(device.map_err(failed)?)
            .with_block_size(size(self.block)?)
            .with_blob_index_size(size(BLOB_INDEX)?)
            .with_buffer_pool_size(size(self.buffer)?)
            .with_submit_queue_size_threshold(size(self.buffer)?)
            .with_indexer_shards(16)
            .with_recover_concurrency(2)
            // foyer frees a block when it takes one, not at the start: a spare block, so that it never starts without one.
            .with_clean_block_threshold(2);
        // foyer's memory is not used: the store's own memory exists before the disk is attached, and after it is released.
        HybridCacheBuilder::new()
            .with_name("can")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(1 << 20)
            .with_shards(4)
            .with_hash_builder(KeyHashes::default())
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .with_spawner(spawner)
            .build()
            .await
            .map_err(failed)
    }
}

/// Makes a folder inside an existing one: if the database's folder is missing, it is not created here.
fn private_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}
