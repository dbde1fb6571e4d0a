//! Requests that wait for money which is only reserved: it comes free when those under way are settled.
//!
//! One line for each budget. The first in it is tried whenever the budget gives something back. Whoever comes later goes past
//! the line only with what fits beside all that the first one wants, so that a large request is not overtaken for ever, and
//! small ones do not stand behind it for nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::Notified};

use crate::types::NanoUsd;

/// Requests that may wait for one budget at the same time.
const MOST: usize = 1_000;

/// The line before one budget.
pub(super) struct Queue {
    waiting: AtomicUsize,
    /// Held by the first in the line; handed on in the order of arrival.
    turn: Semaphore,
    freed: Notify,
    claim: Mutex<Option<Claim>>,
}

/// What the first in the line waits for, and what went past it since.
struct Claim {
    wanted: NanoUsd,
    passed: NanoUsd,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), turn: Semaphore::new(1), freed: Notify::new(), claim: Mutex::new(None) }
    }
}

/// A place in the line; given back on drop.
pub(super) struct Place<'a>(&'a Queue);

impl Queue {
    /// Somebody waits.
    pub(super) fn is_used(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Lets an amount go past the line where it fits beside the first one's claim, in what is `left`, be it held or not: what is
    /// only held comes free. True where nobody waits.
    pub(super) fn pass(&self, amount: NanoUsd, left: NanoUsd) -> bool {
        if !self.is_used() {
            return true;
        }
        let mut claim = self.claim.lock();
        let Some(claim) = claim.as_mut() else { return false };
        // Not given back when it is settled: the next one to be first begins anew.
        let passed = claim.passed.saturating_add(amount);
        let fits = claim.wanted.saturating_add(passed) <= left;
        if fits {
            claim.passed = passed;
        }
        fits
    }

    /// Takes a place at the end; `None` where the line is too long.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        let place = Place(self);
        (self.waiting.fetch_add(1, Ordering::AcqRel) < MOST).then_some(place)
    }

    /// Something was given back.
    pub(super) fn wake(&self) {
        if self.is_used() {
            self.freed.notify_waiters();
        }
    }

    /// Completes when something is given back after it was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

/// What the first in the line claims; forgotten on drop.
pub(super) struct Claimed<'a>(&'a Queue);

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        *self.0.claim.lock() = None;
    }
}

impl<'a> Place<'a> {
    /// Says what the first in the line waits for.
    pub(super) fn claim(&self, wanted: NanoUsd) -> Claimed<'a> {
        let claim = Claim { wanted, passed: NanoUsd::ZERO };
        *self.0.claim.lock() = Some(claim);
        Claimed(self.0)
    }

    /// Waits to be the first.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.0.turn.acquire().await.ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
