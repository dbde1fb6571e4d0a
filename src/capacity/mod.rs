//! Capacity: what the process may use at once. A budget of bytes for what requests hold, and threads for work that takes long.
//!
//! Both belong to the process, not to a snapshot: a reload may change the size of the budget, and shares that are held stay held.

mod budget;
mod machine;
mod pool;
mod turns;

use std::{sync::Arc, time::Duration};

pub use budget::{MemoryBudget, Part, Refused, SMALL, Share, Usage};
pub use machine::usable_memory;
pub use pool::{NotRun, Pool};
pub use turns::Turns;

/// The default budget is the memory that the process may use, divided by this.
const DEFAULT_PART: u64 = 4;

/// How long a request waits for room in the memory budget.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a request waits for a thread of a pool. Longer than [`PATIENCE`], because its body has been sent by then, and because
/// its turn may take seconds to come.
pub const THREAD_PATIENCE: Duration = Duration::from_secs(10);

/// Requests that may wait for a thread of either pool; the next one is refused at once.
const QUEUE: usize = 1024;

/// What the process may use at once.
pub struct Capacity {
    /// Bytes for bodies, for data that is made from them, and for replies that are held.
    pub memory: Arc<MemoryBudget>,
    /// Threads for work of less than about a second: parsing and translating large bodies, and counting small ones.
    pub parsing: Pool,
    /// Threads that count the tokens of large prompts, which takes seconds.
    pub counting: Pool,
}

impl Capacity {
    /// With a memory budget in bytes; without one, a quarter of the memory that the process may use.
    pub fn new(memory_budget: Option<u64>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory: MemoryBudget::new(budget_of(memory_budget)),
            // A low value, so that other processes on the machine do not starve work that every large body has to pass.
            parsing: Pool::new("parse", cores, QUEUE, 3),
            // Half of the cores, so that counting prompts of 60 MiB leaves cores to everything else.
            counting: Pool::new("count", cores.div_ceil(2), QUEUE, 10),
        }
    }

    /// The pool that counts a text of this many bytes.
    pub fn counting_of(&self, bytes: usize) -> &Pool {
        if bytes > LONG { &self.counting } else { &self.parsing }
    }
}

/// Texts up to this size, in bytes, are counted in at most a twentieth of a second.
const LONG: usize = 1 << 20;

/// The budget in bytes: as configured, or else a quarter of the memory that the process may use.
pub fn budget_of(configured: Option<u64>) -> u64 {
    configured.unwrap_or_else(|| usable_memory() / DEFAULT_PART)
}
