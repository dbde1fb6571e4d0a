//! Items of stored responses, which count in the bounds on memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::capacity::Share;

/// Bytes that an item takes in addition to its text: entries of maps and lists, and counters.
const OVERHEAD: u64 = 320;

/// A counter of bytes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The number of bytes.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A piece of JSON that is kept. Its bytes count from its creation until its last holder drops it.
pub struct Item {
    /// The JSON text.
    pub json: Box<str>,
    bytes: u64,
    /// The gauge of the item's tenant, and the gauge of all tenants.
    gauges: [Arc<Gauge>; 2],
    _share: Share,
}

impl Item {
    /// The bytes that a text counts as.
    pub fn bytes_of(json: &str) -> u64 {
        json.len() as u64 + OVERHEAD
    }

    /// An item whose bytes count from now on.
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
        // The content of conversations must not appear in logs.
        write!(f, "Item({} bytes)", self.json.len())
    }
}
