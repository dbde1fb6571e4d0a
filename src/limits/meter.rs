//! A meter: the counts of one tenant or token.

use std::{
    fmt,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{Kind, Quota, window::Window};
use crate::types::NanoUsd;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How long a client is told to wait when too many of its requests are in flight.
const SLOT_WAIT: Duration = Duration::from_secs(1);

/// The limit that refuses, and when to retry; `None`: never.
type Refused = (u64, Option<Duration>);

/// The limits of a meter; `None` sets no limit, and zero refuses everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The most requests in any second.
    pub requests_per_second: Option<u64>,
    /// The most requests in any minute.
    pub requests_per_minute: Option<u64>,
    /// The most LLM tokens in any minute, prompt and completion together.
    pub tokens_per_minute: Option<u64>,
    /// The most money in any minute.
    pub usd_per_minute: Option<NanoUsd>,
    /// The most requests in flight at one time.
    pub concurrent_requests: Option<u64>,
}

impl Rules {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The steps of a request at which something is limited, as bits.
    fn steps(&self) -> u8 {
        let limits = |kinds: &[Kind]| kinds.iter().any(|kind| self.of(*kind).is_some());
        let enter = limits(&[Kind::RequestsPerSecond, Kind::RequestsPerMinute, Kind::ConcurrentRequests]);
        let charge = limits(&[Kind::TokensPerMinute, Kind::UsdPerMinute]);
        let bit = |limits: bool, step: Stage| if limits { step as u8 } else { 0 };
        bit(enter, Stage::Enter) | bit(charge, Stage::Charge)
    }

    /// The rules with each limit replaced by the result of `part`.
    #[must_use]
    pub fn map(self, part: impl Fn(Kind, u64) -> u64) -> Self {
        let of = |kind| self.of(kind).map(|limit| part(kind, limit));
        Self {
            requests_per_second: of(Kind::RequestsPerSecond),
            requests_per_minute: of(Kind::RequestsPerMinute),
            tokens_per_minute: of(Kind::TokensPerMinute),
            usd_per_minute: of(Kind::UsdPerMinute).map(NanoUsd),
            concurrent_requests: of(Kind::ConcurrentRequests),
        }
    }

    /// The limit of one kind, in its unit.
    fn of(&self, kind: Kind) -> Option<u64> {
        match kind {
            Kind::RequestsPerSecond => self.requests_per_second,
            Kind::RequestsPerMinute => self.requests_per_minute,
            Kind::TokensPerMinute => self.tokens_per_minute,
            Kind::UsdPerMinute => self.usd_per_minute.map(|limit| limit.0),
            Kind::ConcurrentRequests => self.concurrent_requests,
        }
    }
}

/// A step of a request that takes from the meters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Takes a request and a slot.
    Enter = 1,
    /// Takes LLM tokens and money.
    Charge = 2,
}

/// The counts of one tenant or token. A meter is shared by `Arc` and lives across configuration reloads.
pub struct Meter {
    /// The steps at which a rule may refuse: a meter without rules is passed without its lock.
    steps: AtomicU8,
    /// Requests that hold a slot, counted with and without a rule so that a new rule counts them, too.
    in_flight: AtomicU64,
    state: Mutex<State>,
    /// The lengths of the windows, which only tests shorten.
    second: Duration,
    minute: Duration,
}

/// The part of a meter that its lock guards.
pub(super) struct State {
    rules: Rules,
    /// One window for each kind that has a limit, at the index of the kind.
    windows: [Option<Window>; 4],
}

impl Meter {
    /// A meter that has counted nothing.
    pub fn new(rules: Rules) -> Self {
        Self::with_windows(rules, SECOND, MINUTE)
    }

    /// A meter whose windows of a second and of a minute have these lengths.
    pub(super) fn with_windows(rules: Rules, second: Duration, minute: Duration) -> Self {
        let meter = Self {
            steps: AtomicU8::new(0),
            in_flight: AtomicU64::new(0),
            state: Mutex::new(State { rules: Rules::default(), windows: [const { None }; 4] }),
            second,
            minute,
        };
        meter.set_rules(rules);
        meter
    }

    /// Changes the limits. A window that had a limit and still has one keeps its count; requests in flight keep their
    /// slots. Nothing admitted is taken back, so a count may be above a lowered limit until its window has passed.
    pub fn set_rules(&self, rules: Rules) {
        let mut state = self.lock();
        for (kind, length) in [
            (Kind::RequestsPerSecond, self.second),
            (Kind::RequestsPerMinute, self.minute),
            (Kind::TokensPerMinute, self.minute),
            (Kind::UsdPerMinute, self.minute),
        ] {
            let slot = &mut state.windows[kind as usize];
            match (rules.of(kind), slot.as_mut()) {
                (Some(limit), Some(window)) => window.limit = limit,
                (Some(limit), None) => *slot = Some(Window::new(length, limit)),
                (None, _) => *slot = None,
            }
        }
        state.rules = rules;
        self.steps.store(rules.steps(), Ordering::Release);
    }

    /// The limits in force.
    pub fn rules(&self) -> Rules {
        self.lock().rules
    }

    /// Requests that hold a slot now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether a rule may refuse at this step.
    pub(super) fn limits(&self, step: Stage) -> bool {
        self.steps.load(Ordering::Acquire) & step as u8 != 0
    }

    /// Takes a slot. Under the lock when the number of slots is limited.
    pub(super) fn take_slot(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a slot back.
    pub(super) fn give_slot(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// What is left of a window once `amount` more of `kind` is admitted. `state` is this meter's.
    ///
    /// # Errors
    /// It is not admitted: the limit and when to retry.
    pub(super) fn ask(&self, state: &mut State, kind: Kind, amount: u64) -> Result<Option<Quota>, Refused> {
        if kind == Kind::ConcurrentRequests {
            let full = state.rules.concurrent_requests.filter(|limit| self.in_flight() >= *limit);
            return full.map_or(Ok(None), |limit| Err((limit, (limit > 0).then_some(SLOT_WAIT))));
        }
        let Some(window) = state.window(kind) else { return Ok(None) };
        let level = window.level();
        match level.wait(amount) {
            Some(0) => Ok(Some(level.with(amount).quota())),
            wait => Err((window.limit, wait.map(Duration::from_millis))),
        }
    }

    /// Locks the state. It is consistent even after a panic: no panic can fall between two changes that belong together.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// The window of `kind`, if that is limited. Concurrency has no window.
    pub(super) fn window(&mut self, kind: Kind) -> Option<&mut Window> {
        self.windows.get_mut(kind as usize)?.as_mut()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("rules", &self.rules()).field("in_flight", &self.in_flight()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rules = Rules {
        requests_per_second: Some(1),
        requests_per_minute: Some(2),
        tokens_per_minute: Some(3),
        usd_per_minute: Some(NanoUsd(4)),
        concurrent_requests: Some(5),
    };

    #[test]
    fn rules_say_at_which_step_they_may_refuse() {
        let none = Rules::default();
        assert!(none.is_empty());
        assert!(!ALL.is_empty());
        let cases = [
            (none, false, false),
            (ALL, true, true),
            (Rules { requests_per_second: Some(0), ..none }, true, false),
            (Rules { requests_per_minute: Some(1), ..none }, true, false),
            (Rules { concurrent_requests: Some(1), ..none }, true, false),
            (Rules { tokens_per_minute: Some(1), ..none }, false, true),
            (Rules { usd_per_minute: Some(NanoUsd(1)), ..none }, false, true),
        ];
        for (rules, enter, charge) in cases {
            let meter = Meter::new(rules);
            assert_eq!((meter.limits(Stage::Enter), meter.limits(Stage::Charge)), (enter, charge), "{rules:?}");
            assert_eq!(meter.rules(), rules);
        }
    }

    #[test]
    fn every_window_has_the_limit_of_its_kind() {
        let meter = Meter::new(ALL);
        let mut state = meter.lock();
        for (kind, limit) in Kind::ALL.into_iter().zip(1..) {
            assert_eq!(state.rules.of(kind), Some(limit));
            assert_eq!(state.window(kind).map_or(5, |window| window.limit), limit);
        }
    }

    #[test]
    fn new_rules_keep_the_counts_of_the_windows_in_both() {
        let meter = Meter::new(ALL);
        let count = |kind: Kind| {
            let mut state = meter.lock();
            state.window(kind).map(|window| window.level().quota()).map(|quota| quota.limit - quota.remaining)
        };
        for kind in [Kind::RequestsPerMinute, Kind::TokensPerMinute] {
            let mut state = meter.lock();
            let window = state.window(kind).unwrap();
            window.level();
            window.add(2);
        }
        meter.set_rules(Rules { requests_per_minute: Some(100), ..Rules::default() });
        assert_eq!(count(Kind::RequestsPerMinute), Some(2));
        assert_eq!(count(Kind::TokensPerMinute), None);
        meter.set_rules(ALL);
        assert_eq!(count(Kind::RequestsPerMinute), Some(2));
        assert_eq!(count(Kind::TokensPerMinute), Some(0), "a window that was away begins anew");
    }
}
