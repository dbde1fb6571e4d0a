//! The queue of requests that wait for reserved money: it comes free when the requests that hold it are settled.
//!
//! Each budget has one queue. The first request in the queue is tried again whenever money comes free in the budget. A later
//! request passes the queue only if its amount fits beside everything that the first one wants: a large request is not
//! overtaken for ever, and small ones do not wait behind it needlessly.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::Notified};

use crate::types::NanoUsd;

/// How many requests may wait for one budget at the same time.
const MOST: usize = 1_000;

/// The queue before one budget.
pub(super) struct Queue {
    waiting: AtomicUsize,
    /// Requests that listen for [`Self::freed`]: also those that wait in the queue of another budget of their chain.
    listening: AtomicUsize,
    /// Held by the first request in the queue; handed on in the order of arrival.
    turn: Semaphore,
    freed: Notify,
    claim: Mutex<Option<Claim>>,
}

/// What the first request in the queue waits for, and what has passed it since.
struct Claim {
    wanted: NanoUsd,
    passed: NanoUsd,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            listening: AtomicUsize::new(0),
            turn: Semaphore::new(1),
            freed: Notify::new(),
            claim: Mutex::new(None),
        }
    }
}

/// A place in the queue; given back on drop.
pub(super) struct Place<'a>(&'a Queue);

/// While it exists, [`Queue::wake`] wakes its holder.
pub(super) struct Listening<'a>(&'a Queue);

impl Queue {
    /// True while a request waits.
    pub(super) fn is_used(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Lets an amount pass the queue if it fits beside the first request's claim in `left`: the limit less what is spent. Held
    /// money counts as left, because it comes free. Always true while nobody waits.
    pub(super) fn pass(&self, amount: NanoUsd, left: NanoUsd) -> bool {
        if !self.is_used() {
            return true;
        }
        let mut claim = self.claim.lock();
        let Some(claim) = claim.as_mut() else { return false };
        // Not given back when the passing request is settled: the count begins anew with the next first request.
        let passed = claim.passed.saturating_add(amount);
        let fits = claim.wanted.saturating_add(passed) <= left;
        if fits {
            claim.passed = passed;
        }
        fits
    }

    /// Takes a place at the end of the queue; `None` if the queue is full.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        let place = Place(self);
        (self.waiting.fetch_add(1, Ordering::AcqRel) < MOST).then_some(place)
    }

    /// Wakes the requests that listen: something was given back to the budget, whose lock is free again.
    pub(super) fn wake(&self) {
        // A request listens before it looks at the budget: either it finds what was given back, or it is counted here.
        if self.listening.load(Ordering::Acquire) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Begins to listen; to be called before the budget is looked at.
    pub(super) fn listen(&self) -> Listening<'_> {
        self.listening.fetch_add(1, Ordering::AcqRel);
        Listening(self)
    }

    /// A future that completes when something is given back after the future was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The claim of the first request in the queue; forgotten on drop.
pub(super) struct Claimed<'a>(&'a Queue);

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        *self.0.claim.lock() = None;
    }
}

impl<'a> Place<'a> {
    /// Sets what the first request in the queue waits for.
    pub(super) fn claim(&self, wanted: NanoUsd) -> Claimed<'a> {
        let claim = Claim { wanted, passed: NanoUsd::ZERO };
        *self.0.claim.lock() = Some(claim);
        Claimed(self.0)
    }

    /// Waits to be the first in the queue.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.0.turn.acquire().await.ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
