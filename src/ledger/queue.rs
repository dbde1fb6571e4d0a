//! Requests that wait for money which is only reserved: it comes free when those under way are settled.
//!
//! One line for each budget. The first in it is tried whenever the budget gives something back; whoever comes later stands
//! behind it, also where its own amount would fit, so that a large request is not overtaken for ever.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::Notified};

/// Requests that may wait for one budget at the same time.
const MOST: usize = 1_000;

/// The line before one budget.
pub(super) struct Queue {
    waiting: AtomicUsize,
    /// Held by the first in the line; handed on in the order of arrival.
    turn: Semaphore,
    freed: Notify,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), turn: Semaphore::new(1), freed: Notify::new() }
    }
}

/// A place in the line; given back on drop.
pub(super) struct Place<'a>(&'a Queue);

impl Queue {
    /// Somebody waits.
    pub(super) fn is_used(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
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

impl Place<'_> {
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
