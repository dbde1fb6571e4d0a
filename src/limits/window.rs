//! A count over a sliding window.

use std::time::{Duration, Instant};

use pingora_limits::rate::Rate;

use super::Quota;

/// The largest count of a window; larger counts are cut, so that no sum of two overflows.
const MAX: u64 = i64::MAX as u64 / 4;

/// A [`Rate`] of one slot, with what a `Rate` does not tell: when its windows began and what was given back to them.
///
/// To be used by one thread at a time; every method needs `&mut`, so the owner's lock ensures that.
pub(super) struct Window {
    rate: Rate,
    /// Length of a window in milliseconds.
    interval: u64,
    /// The most that may be counted per window.
    pub(super) limit: u64,
    /// The count of the current window at the last call.
    current: u64,
    /// Milliseconds between the end of the previous window and the beginning of the current one. A `Rate` begins a
    /// window at the first call after the end of the previous one, not at that end.
    gap: u64,
    /// What corrections took back from the previous window, whose count in the `Rate` can no longer be changed.
    returned: u64,
    opened: Instant,
    previous_opened: Option<Instant>,
}

/// The state of a window at one moment, in plain integers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    limit: u64,
    /// Length of a window in milliseconds.
    interval: u64,
    /// The count of the previous window, less what was returned.
    previous: u64,
    /// The count of the current window.
    current: u64,
    /// How many milliseconds of the previous window the last interval covers.
    weight: u64,
    /// Milliseconds until the current window ends.
    left: u64,
}

impl Window {
    /// An empty window. `interval` is at least a millisecond.
    pub(super) fn new(interval: Duration, limit: u64) -> Self {
        Self {
            rate: Rate::new_with_estimator_config(interval, 1, 1),
            interval: interval.as_millis() as u64,
            limit,
            current: 0,
            gap: 0,
            returned: 0,
            opened: Instant::now(),
            previous_opened: None,
        }
    }

    /// The state now.
    pub(super) fn level(&mut self) -> Level {
        let seen = self.rate.rate_with(&(), |seen| seen);
        let mut elapsed = (seen.current_interval_fraction * self.interval as f64).round() as u64;
        let current = counted(seen.curr_samples);
        // A count falls to zero unseen only if the `Rate` has just begun a window. In this call its fraction is relative
        // to the previous window: it tells how late the call was. The end of an empty window goes unseen, but then no
        // count has a weight.
        if current == 0 && self.current > 0 {
            self.begin(elapsed);
            elapsed = 0;
        }
        Level {
            limit: self.limit,
            interval: self.interval,
            previous: counted(seen.prev_samples).saturating_sub(self.returned),
            current,
            weight: self.interval.saturating_sub(self.gap + elapsed),
            left: self.interval.saturating_sub(elapsed),
        }
    }

    /// Counts `amount`. To be called after [`Self::level`], which notices a new window.
    pub(super) fn add(&mut self, amount: u64) {
        let amount = amount.min(MAX - self.current);
        let expected = self.current + amount;
        let current = counted(self.rate.observe(&(), amount as isize));
        if current != expected {
            // A window ended between the two calls.
            self.begin(0);
        }
        self.current = current;
    }

    /// Replaces an estimate that was counted at `charged_at` by the actual number (`truth`).
    ///
    /// If the estimate was too low, the difference is counted now. If it was too high, the difference is taken back from the
    /// window that counted it, if that is the current or the previous one; an older window has no weight any more, so there
    /// is nothing to take back, and later windows keep their counts.
    pub(super) fn correct(&mut self, estimate: u64, truth: u64, charged_at: Instant) {
        self.level();
        if truth >= estimate {
            self.add(truth - estimate);
            return;
        }
        let excess = (estimate - truth).min(MAX);
        if charged_at >= self.opened {
            self.take_back(excess.min(self.current));
        } else if self.previous_opened.is_some_and(|opened| charged_at >= opened) {
            self.returned = self.returned.saturating_add(excess);
        }
    }

    /// Takes `amount`, which is at most the count, from the current window.
    fn take_back(&mut self, amount: u64) {
        let expected = self.current - amount;
        let current = self.rate.observe(&(), -(amount as isize));
        if current == expected as isize {
            self.current = expected;
        } else {
            // A window ended after the count was read: the former current window is the previous one now, and the new
            // window must not begin below zero.
            self.begin(0);
            self.returned = amount;
            self.current = counted(self.rate.observe(&(), amount as isize));
        }
    }

    /// Notes that a window began `gap` milliseconds after the last one ended.
    fn begin(&mut self, gap: u64) {
        self.current = 0;
        self.gap = gap;
        self.returned = 0;
        self.previous_opened = Some(std::mem::replace(&mut self.opened, Instant::now()));
    }
}

impl Level {
    /// Whether `amount` more is within the limit. An amount of zero always is.
    pub(super) fn fits(&self, amount: u64) -> bool {
        let interval = u128::from(self.interval);
        let before = u128::from(self.previous) * u128::from(self.weight);
        let with = (u128::from(self.current) + u128::from(amount)) * interval;
        amount == 0 || before + with <= u128::from(self.limit) * interval
    }

    /// The state after counting `amount` more, which must be within the limit.
    pub(super) fn with(self, amount: u64) -> Self {
        Self { current: self.current.saturating_add(amount), ..self }
    }

    /// Milliseconds until `amount` fits if nothing else is counted; `None` if it is larger than the limit.
    pub(super) fn wait(&self, amount: u64) -> Option<u64> {
        if self.fits(amount) {
            return Some(0);
        }
        let free = self.limit.checked_sub(amount)?;
        // The first weight, in milliseconds, at which `count` leaves room for `amount`.
        let weight = |count: u64, free: u64| (u128::from(free) * u128::from(self.interval) / u128::from(count)) as u64;
        let wait = match free.checked_sub(self.current) {
            // The request has to wait until the previous window has lost enough weight.
            Some(free) => self.weight - weight(self.previous, free),
            // The request has to wait until the current window is the previous one and has lost enough weight.
            None => self.left + self.interval - weight(self.current, free),
        };
        Some(wait.max(1))
    }

    /// What is left of the limit.
    pub(super) fn quota(&self) -> Quota {
        let before = (u128::from(self.previous) * u128::from(self.weight)).div_ceil(u128::from(self.interval)) as u64;
        let reset = match (self.current, before) {
            (0, 0) => 0,
            (0, _) => self.weight,
            _ => self.left + self.interval,
        };
        Quota {
            limit: self.limit,
            remaining: self.limit.saturating_sub(before).saturating_sub(self.current),
            reset: Duration::from_millis(reset),
        }
    }
}

/// The count of a [`Rate`], never below zero.
fn counted(samples: isize) -> u64 {
    samples.max(0) as u64
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;
    use proptest::prelude::*;

    impl Level {
        /// The state `millis` later, if nothing is counted.
        fn later(mut self, mut millis: u64) -> Self {
            while millis >= self.left {
                millis -= self.left;
                (self.previous, self.current) = (self.current, 0);
                (self.weight, self.left) = (self.interval, self.interval);
            }
            self.weight = self.weight.saturating_sub(millis);
            self.left -= millis;
            self
        }
    }

    prop_compose! {
        fn level()(interval in 1..70_000_u64, limit in prop_oneof![0..20_u64, 0..=MAX])(
            interval in Just(interval),
            limit in Just(limit),
            previous in prop_oneof![Just(0), 0..=limit, 0..=MAX],
            current in prop_oneof![Just(0), 0..=limit, 0..=MAX],
            left in 1..=interval,
            gap in prop_oneof![Just(0), 0..=interval],
        ) -> Level {
            Level { limit, interval, previous, current, weight: left.saturating_sub(gap), left }
        }
    }

    proptest! {
        #[test]
        fn the_wait_is_the_shortest_that_helps(level in level(), share in 0.0..1.2_f64) {
            let amount = (level.limit as f64 * share) as u64 + 1;
            match level.wait(amount) {
                None => prop_assert!(amount > level.limit),
                Some(0) => prop_assert!(level.fits(amount)),
                Some(wait) => {
                    prop_assert!(wait <= 2 * level.interval);
                    prop_assert!(level.later(wait).fits(amount), "too short: {level:?} {amount}");
                    prop_assert!(!level.later(wait - 1).fits(amount), "too long: {level:?} {amount}");
                }
            }
        }

        #[test]
        fn exactly_what_remains_fits(level in level()) {
            let quota = level.quota();
            prop_assert!(level.fits(quota.remaining));
            prop_assert!(!level.fits(quota.remaining + 1));
            prop_assert_eq!(level.later(quota.reset.as_millis() as u64).quota().remaining, level.limit);
        }

        #[test]
        fn one_window_counts_exactly(charges in prop::collection::vec((0..1_000_u64, 0..1_000_u64), 1..50)) {
            let mut window = Window::new(Duration::from_secs(600), MAX);
            let charged: Vec<_> = charges
                .iter()
                .map(|&(estimate, _)| {
                    window.level();
                    window.add(estimate);
                    Instant::now()
                })
                .collect();
            prop_assert_eq!(window.level().current, charges.iter().map(|charge| charge.0).sum::<u64>());
            for (&(estimate, truth), at) in charges.iter().zip(charged) {
                window.correct(estimate, truth, at);
            }
            prop_assert_eq!(window.level().current, charges.iter().map(|charge| charge.1).sum::<u64>());
        }
    }

    #[test]
    fn what_is_left_of_the_largest_limit_is_nothing_once_all_of_it_is_taken() {
        let mut window = Window::new(Duration::from_secs(600), u64::MAX);
        window.level();
        window.add(1);
        assert_eq!(window.level().with(u64::MAX).quota().remaining, 0);
    }

    #[test]
    fn counts_are_cut_where_they_would_overflow() {
        let mut window = Window::new(Duration::from_secs(600), u64::MAX);
        for _ in 0..9 {
            window.level();
            window.add(u64::MAX);
        }
        assert_eq!(window.level().current, MAX);
        window.correct(u64::MAX, 0, Instant::now());
        assert_eq!(window.level().current, 0);
    }

    #[test]
    fn an_excess_is_taken_back_from_the_window_that_counted_it() {
        let mut window = Window::new(Duration::from_millis(100), 1_000);
        window.level();
        window.add(900);
        let charged_at = Instant::now();
        sleep(Duration::from_millis(101));
        // On time, the charge is in the previous window now; late, it is forgotten. Either way nothing of it is left.
        window.level();
        let added_at = Instant::now();
        window.add(10);
        window.correct(900, 0, charged_at);
        let quota = window.level().quota();
        assert!(quota.remaining >= 990, "{quota:?}");
        let current = window.level().current;
        let late = added_at.elapsed() >= Duration::from_millis(99);
        assert!(current == 10 || late, "an old excess leaves the new window alone, which counts {current}");
    }

    #[test]
    fn a_late_call_leaves_no_more_weight_than_a_punctual_one() {
        let mut window = Window::new(Duration::from_millis(80), 1_000);
        let opened = Instant::now();
        window.level();
        window.add(800);
        sleep(Duration::from_millis(120));
        // `Rate` begins the second window here. A `Rate` alone would give the first one its full weight again from now on.
        let first = window.level();
        let second = window.level();
        assert!(second.weight <= first.weight, "{first:?} {second:?}");
        assert!(first.weight <= 40 || opened.elapsed() >= Duration::from_millis(159), "{first:?}");
        sleep(Duration::from_millis(40));
        assert_eq!(window.level().quota().remaining, 1_000);
    }

    #[test]
    fn what_was_too_little_is_counted_now() {
        let mut window = Window::new(Duration::from_secs(600), 1_000);
        window.level();
        window.add(100);
        window.correct(100, 1_500, Instant::now());
        let level = window.level();
        assert_eq!(level.current, 1_500);
        assert_eq!(level.quota().remaining, 0);
        assert!(!level.fits(1));
        assert!(level.fits(0));
    }
}
