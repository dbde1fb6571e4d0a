//! One budget of bytes for all requests of the process.
//!
//! What is larger than [`SMALL`] is drawn before the memory is taken, and given back when the last holder of the bytes lets go
//! of them. Three kinds of things are drawn:
//!
//! | part | what | most | if there is no room |
//! |---|---|---|---|
//! | bodies | what clients send | half of the budget; five eighths with those of up to 1 MiB | waits |
//! | work | trees, translated and rewritten bodies | all of it | waits |
//! | replies | what is held until its cost is known | half of it | fails |
//! | stored responses | what is kept for later requests | an eighth of it | something older goes, or it is not kept |
//!
//! No deadlock: a request may hold a body while it waits for work, but nobody waits for a body while holding anything, the
//! holder of work waits for nothing here, and what grows (a chunked body, a held reply) never waits. Each wait has an end.
//! Bodies can never fill the budget, so that work always gets its turn. Within one part the first who came is the first who is
//! served; large bodies have a queue of their own, so that they do not stand before small ones.

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

/// What is not larger needs no room in the budget: such pieces are bounded by the number of connections.
pub const SMALL: usize = 64 << 10;

/// Bodies above this wait in a queue of their own, and may use less.
const LARGE: u64 = 1 << 20;

/// For what the bytes are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A request's body as it came.
    Body,
    /// What is made of it: trees, and bodies as providers get them.
    Work,
    /// A reply that is held.
    Reply,
    /// A response that is kept for later requests.
    Stored,
}

impl Part {
    /// The parts in the order of [`Usage::used`], under the names that metrics have.
    pub const LABELS: [&'static str; 4] = ["bodies", "work", "replies", "stored_responses"];
}

/// Why nothing could be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It would not fit into an empty budget; this much would.
    Never(u64),
    /// Others hold what is left.
    Full,
}

/// How a budget stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in all.
    pub limit: u64,
    /// Bytes that are held, by [`Part`].
    pub used: [u64; 4],
    /// Requests that wait at the moment.
    pub waiting: usize,
    /// How many have waited so far, with or without success.
    pub waits: u64,
    /// How many were refused so far.
    pub refusals: u64,
}

/// The budget.
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

/// Whose turn comes before whose: what is under way is finished first.
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

/// The most that a part may have.
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
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(limit),
            waits: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// Bytes in all.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The most that all of a part together may have.
    pub fn most(&self, part: Part) -> u64 {
        most(part, 0, self.limit())
    }

    /// Changes the size. What is held stays held.
    pub fn set_limit(self: &Arc<Self>, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.serve();
    }

    /// How it stands.
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

    /// Draws bytes, and waits for them if others hold what is left.
    ///
    /// # Errors
    /// They would never fit, or others held them for all of `patience`.
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
        // Off the queue; from here on either the share is in the channel or it never will be.
        drop(ticket);
        match served {
            Ok(Ok(share)) => Ok(share),
            _ => turn.try_recv().map_err(|_| self.refuse(Refused::Full)),
        }
    }

    /// Draws bytes if there is room for them now.
    ///
    /// # Errors
    /// There is none.
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

    /// Gives those who wait what has become free.
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
            // One who has left gives it back by dropping it.
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
            // A smaller one behind it may fit.
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
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Draws so many more, without waiting.
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

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(less) = self.bytes.checked_sub(bytes).filter(|less| *less > 0) {
            self.bytes = bytes;
            self.budget.give_back(self.part, less);
        }
    }

    /// Ties the share to the bytes that it stands for: it is given back when the last clone of them is dropped.
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
