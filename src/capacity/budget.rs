//! One budget of bytes for all requests of the process.
//!
//! Memory for anything larger than [`SMALL`] is drawn from the budget before it is taken, and given back when the last holder of
//! the bytes drops them. The budget has four parts:
//!
//! | part | what | most | if there is no room |
//! |---|---|---|---|
//! | bodies | the bodies that clients send | half of the budget; five eighths with bodies of up to 1 MiB | waits |
//! | work | trees, translated and rewritten bodies | all of it | waits |
//! | replies | replies that are held until their cost is known | half of it | fails |
//! | stored responses | responses kept for later requests | an eighth of it | an old one is dropped, or the new one is not kept |
//!
//! There is no deadlock: a request may hold a body while it waits for work, but none waits for a body while it holds anything,
//! the holder of work never waits for more, and whatever grows (a chunked body, a held reply) never waits. Each wait has an end.
//! Bodies can never fill the budget, so that work always gets its turn. Within one part, requests are served in the order in
//! which they came; large bodies have a queue of their own, so that they do not delay small ones.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::timeout};

/// The largest piece of memory, in bytes, that is not drawn from the budget: such pieces are bounded by the number of
/// connections.
pub const SMALL: usize = 64 << 10;

/// Bodies above this size, in bytes, wait in a queue of their own, and may use less.
const LARGE: u64 = 1 << 20;

/// What the bytes are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A request's body as it arrived.
    Body,
    /// Data that is made from a body: trees, and bodies as providers get them.
    Work,
    /// A reply that is held.
    Reply,
    /// A response that is kept for later requests.
    Stored,
}

impl Part {
    /// Names of the parts in the metrics, in the order of [`Usage::used`].
    pub const LABELS: [&'static str; 4] = ["bodies", "work", "replies", "stored_responses"];
}

/// Why nothing could be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The bytes would not fit into an empty budget; this many would.
    Never(u64),
    /// Other requests hold what is left.
    Full,
}

/// The state of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Size of the budget, in bytes.
    pub limit: u64,
    /// Bytes that are held, by [`Part`].
    pub used: [u64; 4],
    /// Number of requests that wait at the moment.
    pub waiting: usize,
    /// How many requests have waited so far, with or without success.
    pub waits: u64,
    /// How many requests were refused so far.
    pub refusals: u64,
}

/// A budget of bytes for all requests of the process.
pub struct MemoryBudget {
    limit: AtomicU64,
    waits: AtomicU64,
    refusals: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: [u64; 4],
    queues: [VecDeque<Waiter>; 3],
    next: u64,
}

struct Waiter {
    id: u64,
    bytes: u64,
    turn: oneshot::Sender<Share>,
}

/// The queues, in the order in which they are served: requests under way are finished first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Work,
    Bodies,
    LargeBodies,
}

const QUEUES: [Queue; 3] = [Queue::Work, Queue::Bodies, Queue::LargeBodies];

impl Queue {
    fn of(part: Part, bytes: u64) -> Self {
        match part {
            Part::Body if bytes > LARGE => Self::LargeBodies,
            Part::Body => Self::Bodies,
            Part::Work | Part::Reply | Part::Stored => Self::Work,
        }
    }

    fn part(self) -> Part {
        match self {
            Self::Work => Part::Work,
            Self::Bodies | Self::LargeBodies => Part::Body,
        }
    }
}

/// The most bytes that a part may hold.
fn most(part: Part, bytes: u64, limit: u64) -> u64 {
    match part {
        Part::Body if bytes > LARGE => limit / 2,
        Part::Body => limit / 8 * 5,
        Part::Work => limit,
        Part::Reply => limit / 2,
        Part::Stored => limit / 8,
    }
}

impl State {
    fn fits(&self, part: Part, bytes: u64, limit: u64) -> bool {
        let all: u64 = self.used.iter().sum();
        let own = self.used[part as usize];
        own.saturating_add(bytes) <= most(part, bytes, limit) && all.saturating_add(bytes) <= limit
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(limit),
            waits: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// Size of the budget, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The most bytes that a part may hold.
    pub fn most(&self, part: Part) -> u64 {
        most(part, 0, self.limit())
    }

    /// Changes the size. Shares that are held stay held.
    pub fn set_limit(self: &Arc<Self>, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.serve();
    }

    /// The state of the budget.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            limit: self.limit(),
            used: state.used,
            waiting: state.queues.iter().map(VecDeque::len).sum(),
            waits: self.waits.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
        }
    }

    /// Draws bytes; waits if other requests hold what is left.
    ///
    /// # Errors
    /// The bytes would never fit, or did not come free within `patience`.
    pub async fn draw(self: &Arc<Self>, part: Part, bytes: u64, patience: Duration) -> Result<Share, Refused> {
        let queue = Queue::of(part, bytes);
        let (ticket, mut turn) = {
            let limit = self.limit();
            if bytes > most(part, bytes, limit) {
                return Err(self.refuse(Refused::Never(most(part, bytes, limit))));
            }
            let mut state = self.lock();
            if state.queues[queue as usize].is_empty() && state.fits(part, bytes, limit) {
                return Ok(self.grant(&mut state, part, bytes));
            }
            let (sender, turn) = oneshot::channel();
            let id = state.next;
            state.next += 1;
            state.queues[queue as usize].push_back(Waiter { id, bytes, turn: sender });
            (Ticket { budget: self, queue, id }, turn)
        };
        self.waits.fetch_add(1, Ordering::Relaxed);
        let served = timeout(patience, &mut turn).await;
        // The request leaves the queue; from here on, either the share is in the channel or it will never be.
        drop(ticket);
        match served {
            Ok(Ok(share)) => Ok(share),
            _ => turn.try_recv().map_err(|_| self.refuse(Refused::Full)),
        }
    }

    /// Draws bytes if there is room for them now.
    ///
    /// # Errors
    /// There is no room.
    pub fn try_draw(self: &Arc<Self>, part: Part, bytes: u64) -> Result<Share, Refused> {
        let limit = self.limit();
        let mut state = self.lock();
        if state.fits(part, bytes, limit) {
            return Ok(self.grant(&mut state, part, bytes));
        }
        drop(state);
        let most = most(part, bytes, limit);
        Err(self.refuse(if bytes > most { Refused::Never(most) } else { Refused::Full }))
    }

    fn grant(self: &Arc<Self>, state: &mut State, part: Part, bytes: u64) -> Share {
        state.used[part as usize] += bytes;
        Share { budget: self.clone(), part, bytes }
    }

    fn refuse(&self, refused: Refused) -> Refused {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        refused
    }

    fn give_back(self: &Arc<Self>, part: Part, bytes: u64) {
        let mut state = self.lock();
        let used = &mut state.used[part as usize];
        *used = used.saturating_sub(bytes);
        let waits = state.queues.iter().any(|queue| !queue.is_empty());
        drop(state);
        if waits {
            self.serve();
        }
    }

    /// Gives bytes that have become free to those who wait.
    fn serve(self: &Arc<Self>) {
        let limit = self.limit();
        let mut served = Vec::new();
        let mut state = self.lock();
        for queue in QUEUES {
            while let Some(first) = state.queues[queue as usize].front()
                && state.fits(queue.part(), first.bytes, limit)
                && let Some(Waiter { bytes, turn, .. }) = state.queues[queue as usize].pop_front()
            {
                served.push((turn, self.grant(&mut state, queue.part(), bytes)));
            }
        }
        drop(state);
        for (turn, share) in served {
            // If the receiver has left, dropping the share gives it back.
            let _ = turn.send(share);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// A place in a queue; left on drop.
struct Ticket<'a> {
    budget: &'a Arc<MemoryBudget>,
    queue: Queue,
    id: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        let queue = &mut state.queues[self.queue as usize];
        let Some(at) = queue.iter().position(|waiter| waiter.id == self.id) else { return };
        queue.remove(at);
        let others = at == 0 && !queue.is_empty();
        drop(state);
        if others {
            // A smaller request behind it may fit.
            self.budget.serve();
        }
    }
}

/// Bytes of the budget; given back on drop.
pub struct Share {
    budget: Arc<MemoryBudget>,
    part: Part,
    bytes: u64,
}

impl Share {
    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Draws `more` bytes, without waiting.
    ///
    /// # Errors
    /// There is no room.
    pub fn grow(&mut self, more: u64) -> Result<(), Refused> {
        let mut added = self.budget.try_draw(self.part, more)?;
        if self.bytes.saturating_add(more) > most(self.part, self.bytes.saturating_add(more), self.budget.limit()) {
            return Err(self.budget.refuse(Refused::Never(most(self.part, u64::MAX, self.budget.limit()))));
        }
        self.bytes += std::mem::take(&mut added.bytes);
        Ok(())
    }

    /// Gives back the bytes beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(less) = self.bytes.checked_sub(bytes).filter(|less| *less > 0) {
            self.bytes = bytes;
            self.budget.give_back(self.part, less);
        }
    }

    /// Ties the share to the bytes that it stands for: the share is given back when their last clone is dropped.
    pub fn hold(mut self, bytes: Bytes) -> Bytes {
        struct Held {
            bytes: Bytes,
            _share: Share,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        self.shrink_to(bytes.len() as u64);
        Bytes::from_owner(Held { bytes, _share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.part, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
