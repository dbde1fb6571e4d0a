//! The tables of the tokenizers: loaded by a thread that drops them again once they have not been needed for a while.
//!
//! The thread that loads the tables also drops them and then ends, so that the allocator can give all of their memory back at
//! once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::{Duration, Instant},
};

use bpe_openai::Tokenizer;
use parking_lot::{Mutex, MutexGuard};

/// How long unused tables are kept. Loading them again takes less than a tenth of a second.
const KEEP: Duration = Duration::from_secs(20);

/// An encoding, which has its own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `cl100k_base`
    Cl100k,
    /// `o200k_base`
    O200k,
}

/// The tables of one encoding.
struct Slot {
    loaded: Mutex<Loaded>,
    /// The tables are loaded or being loaded; can be read without the lock.
    wanted: AtomicBool,
    /// The tables are loaded; can be read without the lock, which is held while they are being loaded.
    ready: AtomicBool,
}

struct Loaded {
    tokenizer: Option<Arc<Tokenizer>>,
    used: Option<Instant>,
}

static SLOTS: [Slot; 2] = [const { Slot::new() }; 2];

impl Slot {
    const fn new() -> Self {
        Self {
            loaded: Mutex::new(Loaded { tokenizer: None, used: None }),
            wanted: AtomicBool::new(false),
            ready: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock()
    }

    /// Drops the tables if they are unused and have been for `keep`; otherwise returns how long to wait before the next try.
    fn release(&self, keep: Duration) -> Result<(), Duration> {
        let mut loaded = self.lock();
        let idle = loaded.used.map_or(Duration::MAX, |at| at.elapsed());
        // The second reference is that of the thread that keeps the tables.
        let free = loaded.tokenizer.as_ref().is_none_or(|tokenizer| Arc::strong_count(tokenizer) <= 2);
        if idle < keep || !free {
            return Err(keep.saturating_sub(idle).max(Duration::from_millis(100)));
        }
        loaded.tokenizer = None;
        self.ready.store(false, Ordering::Relaxed);
        self.wanted.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Encoding {
    /// The tokenizer. Loads its tables if they are not loaded, and blocks meanwhile.
    pub(super) fn tokenizer(self) -> Arc<Tokenizer> {
        let slot = self.slot();
        let mut loaded = slot.lock();
        loaded.used = Some(Instant::now());
        if let Some(tokenizer) = &loaded.tokenizer {
            return tokenizer.clone();
        }
        slot.wanted.store(true, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        let keeper = move || {
            let tokenizer = Arc::new(self.load());
            if sender.send(tokenizer.clone()).is_ok() {
                let mut wait = KEEP;
                loop {
                    thread::sleep(wait);
                    match slot.release(KEEP) {
                        Ok(()) => break,
                        Err(again) => wait = again,
                    }
                }
            }
            drop(tokenizer);
        };
        let started = thread::Builder::new().name("tokenizer".into()).spawn(keeper);
        // If no thread can be started, the tables stay for good.
        let received = started.ok().and_then(|_| receiver.recv().ok());
        let tokenizer = received.unwrap_or_else(|| Arc::new(self.load()));
        loaded.tokenizer = Some(tokenizer.clone());
        slot.ready.store(true, Ordering::Relaxed);
        tokenizer
    }

    /// Whether the tables are loaded.
    pub(super) fn is_ready(self) -> bool {
        self.slot().ready.load(Ordering::Relaxed)
    }

    /// Loads the tables in a separate thread, unless they are loaded.
    pub(super) fn prepare(self) {
        let wanted = &self.slot().wanted;
        // A cheap read first, because this is called for each event of a stream.
        if wanted.load(Ordering::Relaxed) || wanted.swap(true, Ordering::Relaxed) {
            return;
        }
        // If no thread can be started, the tables are loaded at the first count.
        let _ = thread::Builder::new().name("tokenizer".into()).spawn(move || drop(self.tokenizer()));
    }

    fn slot(self) -> &'static Slot {
        &SLOTS[self as usize]
    }

    /// Builds the same tokenizer as `bpe-openai`, with its patterns (MIT, GitHub and contributors).
    fn load(self) -> Tokenizer {
        let (tables, first): (&[u8], String) = match self {
            Self::Cl100k => (include_bytes!(concat!(env!("OUT_DIR"), "/cl100k_base.dict.zst")), CL100K.to_owned()),
            Self::O200k => (include_bytes!(concat!(env!("OUT_DIR"), "/o200k_base.dict.zst")), O200K.join("|")),
        };
        let patterns = [(first.as_str(), false), ("\\s+\\s", true), ("\\s+", false)];
        let tables = zstd::decode_all(tables).ok();
        let encoding = tables.and_then(|tables| rmp_serde::from_slice(&tables).ok());
        match encoding.and_then(|encoding| Tokenizer::new_lookahead(encoding, &patterns, false).ok()) {
            Some(tokenizer) => tokenizer,
            None => unreachable!("a test reads the compiled-in tables"),
        }
    }
}

const CL100K: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| \
                      ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+$";

const O200K: [&str; 6] = [
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    "\\p{N}{1,3}",
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*",
    "\\s*[\\r\\n]+",
    "\\s+$",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_dropped_once_nobody_needs_them_and_come_back() {
        let slot = Slot::new();
        let tokenizer = Arc::new(Encoding::Cl100k.load());
        let (keeper, user) = (tokenizer.clone(), tokenizer.clone());
        *slot.lock() = Loaded { tokenizer: Some(tokenizer), used: Some(Instant::now()) };
        slot.wanted.store(true, Ordering::Relaxed);
        slot.ready.store(true, Ordering::Relaxed);
        assert!(slot.release(Duration::ZERO).is_err(), "one is at work with them");
        drop(user);
        assert!(slot.release(Duration::from_secs(60)).is_err_and(|again| again > Duration::from_secs(50)));
        assert_eq!(slot.release(Duration::ZERO), Ok(()));
        assert_eq!((Arc::strong_count(&keeper), slot.wanted.load(Ordering::Relaxed)), (1, false));
        assert!(!slot.ready.load(Ordering::Relaxed));
        drop(Encoding::Cl100k.tokenizer());
        assert!(Encoding::Cl100k.is_ready());
    }

    #[test]
    fn the_tables_are_those_of_the_crate() {
        let text = "The dog's 12345 sleeps  in\n the sun,\n\n and DOESN'T care. Sch\u{f6}ne Gr\u{fc}\u{df}e! \u{304a}\u{8a95}\u{751f} //\r\n x ";
        assert_eq!(Encoding::Cl100k.tokenizer().encode(text), bpe_openai::cl100k_base().encode(text));
        assert_eq!(Encoding::O200k.tokenizer().encode(text), bpe_openai::o200k_base().encode(text));
    }
}
