//! One item, with its part of the bounds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::capacity::Share;

/// Bytes that an item takes besides its text: places in maps and lists, and counts.
const OVERHEAD: u64 = 320;

/// Counts bytes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A piece of JSON that is kept. It counts from when it is made until its last holder lets go of it.
pub struct Item {
    /// Its text.
    pub json: Box<str>,
    bytes: u64,
    /// Of its tenant, and of all.
    gauges: [Arc<Gauge>; 2],
    _share: Share,
}

impl Item {
    /// What a text counts as.
    pub fn bytes_of(json: &str) -> u64 {
        json.len() as u64 + OVERHEAD
    }

    /// An item that counts from now on.
    pub fn new(json: &str, share: Share, gauges: [Arc<Gauge>; 2]) -> Self {
        let bytes = Self::bytes_of(json);
        for gauge in &gauges {
            gauge.0.fetch_add(bytes, Ordering::Relaxed);
        }
        Self { json: json.into(), bytes, gauges, _share: share }
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        for gauge in &self.gauges {
            gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What people say to a model is not for logs.
        write!(f, "Item({} bytes)", self.json.len())
    }
}
