//! One budget of one tenant: what is spent and reserved in its current period.

use std::{fmt, sync::Arc};

use jiff::tz::TimeZone;
use parking_lot::{Mutex, MutexGuard};

use super::{
    period,
    queue::Queue,
    treasury::{Drawn, Grant, Purse, Treasury},
};
use crate::{
    config::{self, Period},
    types::{NanoUsd, TenantId},
};

/// What tells budgets apart. A new limit changes a budget, a new period or time zone makes another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// When it begins anew.
    pub period: Period,
    /// In which time zone.
    pub timezone: String,
    /// Whether it refuses.
    pub hard: bool,
}

/// Whether what a tenant spends counts in a budget: its own, or that of an ancestor.
pub type Covers = Arc<dyn Fn(&TenantId) -> bool + Send + Sync>;

/// A budget with its counters. In a hard one `spent + reserved` never exceeds the limit, except by what a provider charged
/// over the reserved worst case, or where the limit was lowered below what was spent.
pub struct Budget {
    key: BudgetKey,
    zone: TimeZone,
    treasury: Arc<dyn Treasury>,
    state: Mutex<State>,
    /// Requests that wait for what is only reserved.
    queue: Queue,
}

struct State {
    covers: Covers,
    limit: NanoUsd,
    alert_at: Vec<u32>,
    /// First millisecond of the current period.
    start: u64,
    /// First millisecond of the next one.
    end: u64,
    spent: NanoUsd,
    reserved: NanoUsd,
    /// How many of `alert_at` have been passed in this period.
    alerted: usize,
    /// What `spent + reserved` may come to here, of a limit that is shared; `None` is all of it.
    granted: Option<NanoUsd>,
    /// What may still be reserved where a successor grants the rest.
    allowance: Option<NanoUsd>,
    /// The period before, in which requests may still be under way.
    before: Option<Past>,
}

/// How a period stood that is over.
#[derive(Clone, Copy, Debug)]
struct Past {
    start: u64,
    end: u64,
    spent: NanoUsd,
    reserved: NanoUsd,
    granted: Option<NanoUsd>,
}

/// Why a hard budget refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose budget: the tenant's, or an ancestor's.
    pub tenant: TenantId,
    /// Its period.
    pub period: Period,
    /// How much it is.
    pub limit: NanoUsd,
    /// What is spent of it.
    pub spent: NanoUsd,
    /// What requests under way may still cost.
    pub reserved: NanoUsd,
    /// What was asked for.
    pub wanted: NanoUsd,
    /// When it begins anew, in milliseconds since 1970; `None`: never.
    pub resets_at: Option<u64>,
}

impl Exceeded {
    /// It would fit if what is only reserved came free: that is a matter of seconds, not of money.
    pub fn is_passing(&self) -> bool {
        self.spent.checked_add(self.wanted).is_some_and(|sum| sum <= self.limit)
    }
}

/// A percentage that a budget has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThresholdAlert {
    /// Which budget.
    pub key: BudgetKey,
    /// Percent of the limit.
    pub threshold: u32,
    /// How much the budget is.
    pub limit: NanoUsd,
    /// What is spent of it.
    pub spent: NanoUsd,
    /// First millisecond of the period.
    pub start: u64,
    /// First one of the next; `None`: there is none.
    pub resets_at: Option<u64>,
}

/// How a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which budget.
    pub key: BudgetKey,
    /// How much it is.
    pub limit: NanoUsd,
    /// What is spent of it.
    pub spent: NanoUsd,
    /// What requests under way may still cost.
    pub reserved: NanoUsd,
    /// First millisecond of the period.
    pub start: u64,
    /// First one of the next; `None`: there is none.
    pub resets_at: Option<u64>,
}

/// Money held in one budget; names the period, so that it never touches another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct BudgetHold {
    start: u64,
    /// It was taken out of an allowance.
    allowed: bool,
}

impl Budget {
    /// A budget with what was spent in the period of `now` before it was known here.
    pub fn new(
        key: BudgetKey,
        rule: &config::Budget,
        covers: Covers,
        spent: NanoUsd,
        now: u64,
        treasury: Arc<dyn Treasury>,
    ) -> Self {
        // The configuration has refused unknown names.
        let zone = TimeZone::get(&key.timezone).unwrap_or(TimeZone::UTC);
        let (start, end) = period::bounds(key.period, &zone, now);
        let state = State {
            covers,
            limit: rule.limit,
            alert_at: rule.alert_at.clone(),
            start,
            end,
            spent,
            reserved: NanoUsd::ZERO,
            alerted: 0,
            granted: None,
            allowance: None,
            before: None,
        };
        let budget = Self { key, zone, treasury, state: Mutex::new(state), queue: Queue::default() };
        budget.open(&mut budget.lock());
        budget
    }

    /// Which budget it is.
    pub fn key(&self) -> &BudgetKey {
        &self.key
    }

    /// Takes over a changed rule; the counters stay.
    pub fn set_rule(&self, rule: &config::Budget, covers: Covers) {
        let mut state = self.lock();
        if (state.limit, &state.alert_at) != (rule.limit, &rule.alert_at) {
            state.limit = rule.limit;
            state.alert_at.clone_from(&rule.alert_at);
            // Each threshold alerts once per period, also after the limit was raised and is reached again: the table of
            // alerts sees to it.
            state.alerted = 0;
        }
        state.covers = covers;
        drop(state);
        self.queue.wake();
    }

    /// Requests that wait for what is only reserved.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// First millisecond of the period that a moment lies in.
    pub(super) fn start_at(&self, now: u64) -> u64 {
        self.lock_at(now).start
    }

    /// Counts what a tenant had spent before its requests counted here. No threshold is passed by it: a new budget looks at
    /// them when it is taken up.
    pub(super) fn take_over(&self, now: u64, spent: NanoUsd) {
        let mut state = self.lock_at(now);
        state.spent = state.spent.saturating_add(spent);
    }

    /// Leaves out what a tenant has spent whose requests do not count here any more.
    pub(super) fn hand_over(&self, now: u64, spent: NanoUsd) {
        let mut state = self.lock_at(now);
        state.spent = state.spent.saturating_sub(spent);
        drop(state);
        self.queue.wake();
    }

    /// Holds an amount that is held elsewhere already, whether it fits or not.
    pub(super) fn hold_anyway(&self, now: u64, amount: NanoUsd) -> BudgetHold {
        let mut state = self.lock_at(now);
        state.reserved = state.reserved.saturating_add(amount);
        BudgetHold { start: state.start, allowed: false }
    }

    /// From now on a hard budget grants no more than an allowance, which is made of what it has left; returns it.
    pub(super) fn freeze(&self, now: u64, allowance: impl Fn(NanoUsd) -> NanoUsd) -> Option<NanoUsd> {
        if !self.key.hard {
            return None;
        }
        let mut state = self.lock_at(now);
        let left = state.most().saturating_sub(state.spent.saturating_add(state.reserved));
        state.allowance = Some(allowance(left));
        state.allowance
    }

    /// Undoes that.
    pub(super) fn thaw(&self) {
        self.lock().allowance = None;
        self.queue.wake();
    }

    /// Asks the treasury for what the period begins with.
    fn open(&self, state: &mut State) {
        state.granted = match self.treasury.opening(&self.purse(state)) {
            Grant::Part(part) if self.key.hard => Some(state.spent.saturating_add(part)),
            _ => None,
        };
    }

    fn purse(&self, state: &State) -> Purse {
        Purse { key: self.key.clone(), start: state.start, limit: state.limit }
    }

    /// Draws what an amount lacks here from the treasury, if what is here is but a part. [`Drawn::More`] says that another try may
    /// succeed.
    pub(super) async fn draw(&self, now: u64, amount: NanoUsd) -> Drawn {
        let (purse, missing) = {
            let state = self.lock_at(now);
            let Some(granted) = state.granted else { return Drawn::Held };
            let sum = state.spent.saturating_add(state.reserved).saturating_add(amount);
            (self.purse(&state), sum.saturating_sub(granted))
        };
        if missing == NanoUsd::ZERO {
            // It is not the grant that is short.
            return Drawn::Held;
        }
        let drawn = self.treasury.draw(&purse, missing).await;
        if let Drawn::More(more) = drawn {
            let mut state = self.lock();
            let is_in_time = state.start == purse.start;
            if is_in_time {
                state.granted = state.granted.map(|granted| granted.saturating_add(more));
            }
            drop(state);
            if is_in_time {
                self.queue.wake();
            } else {
                self.treasury.give_back(&purse, more);
            }
        }
        drawn
    }

    /// Gives the treasury back what is neither spent nor held here.
    pub(super) fn give_back(&self) {
        let mut state = self.lock();
        let Some(granted) = state.granted else { return };
        let used = state.spent.saturating_add(state.reserved);
        let left = granted.saturating_sub(used);
        state.granted = Some(granted.saturating_sub(left));
        let purse = self.purse(&state);
        drop(state);
        if left > NanoUsd::ZERO {
            self.treasury.give_back(&purse, left);
        }
    }

    /// Holds an amount back.
    pub(super) fn hold(&self, now: u64, amount: NanoUsd) -> Result<BudgetHold, Exceeded> {
        self.hold_in(&mut self.lock_at(now), amount)
    }

    /// The same for one that does not stand in the line: what others wait for is left to them.
    pub(super) fn hold_past_line(&self, now: u64, amount: NanoUsd) -> Result<BudgetHold, Exceeded> {
        let mut state = self.lock_at(now);
        let held = self.hold_in(&mut state, amount)?;
        if !self.key.hard || self.queue.pass(amount, state.limit.saturating_sub(state.spent)) {
            return Ok(held);
        }
        state.reserved = state.reserved.saturating_sub(amount);
        state.allowance = state.allowance.map(|left| left.saturating_add(amount));
        Err(self.refusal(&state, amount))
    }

    fn refusal(&self, state: &State, wanted: NanoUsd) -> Exceeded {
        Exceeded {
            tenant: self.key.tenant.clone(),
            period: self.key.period,
            limit: state.limit,
            spent: state.spent,
            reserved: state.reserved,
            wanted,
            resets_at: state.resets_at(),
        }
    }

    /// Holds more for what is held already, in the period that it is held in. One that is over for longer than the period
    /// after it took has nothing left.
    pub(super) fn hold_more(&self, first: BudgetHold, amount: NanoUsd) -> Result<(), Exceeded> {
        let mut state = self.lock();
        if state.start == first.start {
            return self.hold_in(&mut state, amount).map(drop);
        }
        let (limit, hard) = (state.limit, self.key.hard);
        let refusal = |past: Option<&Past>| Exceeded {
            tenant: self.key.tenant.clone(),
            period: self.key.period,
            limit,
            spent: past.map_or(limit, |past| past.spent),
            reserved: past.map_or(NanoUsd::ZERO, |past| past.reserved),
            wanted: amount,
            resets_at: past.map(|past| past.end),
        };
        let Some(past) = state.before.as_mut().filter(|past| past.start == first.start) else {
            return if hard { Err(refusal(None)) } else { Ok(()) };
        };
        let sum = past.spent.saturating_add(past.reserved).checked_add(amount);
        let most = past.granted.unwrap_or(limit).min(limit);
        if hard && sum.is_none_or(|sum| sum > most) {
            return Err(refusal(Some(past)));
        }
        past.reserved = past.reserved.saturating_add(amount);
        Ok(())
    }

    fn hold_in(&self, state: &mut State, amount: NanoUsd) -> Result<BudgetHold, Exceeded> {
        let held = state.spent.saturating_add(state.reserved);
        // What would saturate is refused like anything else that is too much.
        let allowed = state.allowance.is_none_or(|left| amount <= left);
        let fits = allowed && held.checked_add(amount).is_some_and(|sum| sum <= state.most());
        if self.key.hard && !fits {
            return Err(self.refusal(state, amount));
        }
        state.reserved = state.reserved.saturating_add(amount);
        state.allowance = state.allowance.map(|left| left.saturating_sub(amount));
        Ok(BudgetHold { start: state.start, allowed: state.allowance.is_some() })
    }

    /// Gives back what was held, and counts what was spent of it. Returns the percentages this has passed.
    pub(super) fn settle(&self, held: BudgetHold, amount: NanoUsd, cost: NanoUsd) -> Vec<ThresholdAlert> {
        let mut state = self.lock();
        if state.start != held.start {
            // The period is over; what was spent in it is in the ledger.
            if let Some(past) = state.before.as_mut().filter(|past| past.start == held.start) {
                past.reserved = past.reserved.saturating_sub(amount);
                past.spent = past.spent.saturating_add(cost);
            }
            return Vec::new();
        }
        state.reserved = state.reserved.saturating_sub(amount);
        if held.allowed {
            let back = amount.saturating_sub(cost);
            state.allowance = state.allowance.map(|left| left.saturating_add(back));
        }
        let crossed = self.add(&mut state, cost);
        drop(state);
        self.queue.wake();
        crossed
    }

    /// Counts what was spent elsewhere: by another process, or before the file could be read.
    pub(super) fn adopt(&self, tenant: &TenantId, at: u64, cost: NanoUsd, now: u64) -> Vec<ThresholdAlert> {
        let mut state = self.lock_at(now);
        let counts = (state.start..state.end).contains(&at) && (state.covers)(tenant);
        if counts { self.add(&mut state, cost) } else { Vec::new() }
    }

    /// The percentages that are passed already, when a budget is taken up.
    pub(super) fn take_up(&self) -> Vec<ThresholdAlert> {
        let mut state = self.lock();
        self.add(&mut state, NanoUsd::ZERO)
    }

    /// The percentages that were passed in the current period.
    pub(super) fn passed(&self, now: u64) -> Vec<ThresholdAlert> {
        let state = self.lock_at(now);
        let passed = state.alert_at.iter().take(state.alerted);
        passed
            .map(|threshold| ThresholdAlert {
                key: self.key.clone(),
                threshold: *threshold,
                limit: state.limit,
                spent: state.spent,
                start: state.start,
                resets_at: state.resets_at(),
            })
            .collect()
    }

    fn add(&self, state: &mut State, cost: NanoUsd) -> Vec<ThresholdAlert> {
        state.spent = state.spent.saturating_add(cost);
        let mut crossed = Vec::new();
        while let Some(threshold) = state.alert_at.get(state.alerted).copied() {
            let reached = u128::from(state.spent.0) * 100 >= u128::from(state.limit.0) * u128::from(threshold);
            if !reached || state.spent == NanoUsd::ZERO {
                break;
            }
            state.alerted += 1;
            crossed.push(ThresholdAlert {
                key: self.key.clone(),
                threshold,
                limit: state.limit,
                spent: state.spent,
                start: state.start,
                resets_at: state.resets_at(),
            });
        }
        crossed
    }

    /// How it stands at a moment.
    pub fn standing(&self, now: u64) -> Standing {
        let state = self.lock_at(now);
        Standing {
            key: self.key.clone(),
            limit: state.limit,
            spent: state.spent,
            reserved: state.reserved,
            start: state.start,
            resets_at: state.resets_at(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The state in the period of `now`. A clock that goes back does not bring an old period back.
    fn lock_at(&self, now: u64) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if now >= state.end {
            let State { start, end, spent, reserved, granted, .. } = *state;
            state.before = Some(Past { start, end, spent, reserved, granted });
            (state.start, state.end) = period::bounds(self.key.period, &self.zone, now);
            state.spent = NanoUsd::ZERO;
            state.reserved = NanoUsd::ZERO;
            state.alerted = 0;
            self.open(&mut state);
            // The new period is the successor's.
            state.allowance = state.allowance.map(|_| NanoUsd::ZERO);
        }
        state
    }
}

impl State {
    /// What `spent + reserved` may come to.
    fn most(&self) -> NanoUsd {
        self.granted.unwrap_or(self.limit).min(self.limit)
    }

    fn resets_at(&self) -> Option<u64> {
        Some(self.end).filter(|end| *end != u64::MAX)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "{:?}: {} spent and {} reserved of {}", self.key, state.spent, state.reserved, state.limit)
    }
}
