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

/// The identity of a budget. A new limit changes a budget; a new period or time zone makes another budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetKey {
    /// The tenant that owns the budget.
    pub tenant: TenantId,
    /// How often the budget begins anew.
    pub period: Period,
    /// The time zone of its periods, an IANA name.
    pub timezone: String,
    /// True if the budget refuses requests; false if it only alerts.
    pub hard: bool,
}

/// Whether the spend of the given tenant counts in a budget: the budget is the tenant's own or an ancestor's.
pub type Covers = Arc<dyn Fn(&TenantId) -> bool + Send + Sync>;

/// A budget with its counters. In a hard budget `spent + reserved` never exceeds the limit, except by what a provider charged
/// over the reserved worst case, or after the limit was lowered below what was spent.
pub struct Budget {
    key: BudgetKey,
    zone: TimeZone,
    treasury: Arc<dyn Treasury>,
    /// Held by the request that draws on the treasury.
    drawing: tokio::sync::Mutex<()>,
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
    /// How many of `alert_at` have been crossed in this period.
    alerted: usize,
    /// How high `spent + reserved` may rise here if the limit is shared with other processes; `None`: up to the whole limit.
    granted: Option<NanoUsd>,
    /// What may still be reserved here while a successor grants the rest; `None`: there is no hand-over.
    allowance: Option<NanoUsd>,
    /// The previous period, in which requests may still be under way.
    before: Option<Past>,
}

/// The counters of a period that is over.
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
    /// The owner of the budget: the tenant of the request, or one of its ancestors.
    pub tenant: TenantId,
    /// The budget's period.
    pub period: Period,
    /// How much it is.
    pub limit: NanoUsd,
    /// What is spent of it.
    pub spent: NanoUsd,
    /// What requests under way may still cost.
    pub reserved: NanoUsd,
    /// The amount that the request asked for.
    pub wanted: NanoUsd,
    /// When the budget begins anew, in milliseconds since 1970; `None`: never.
    pub resets_at: Option<u64>,
}

impl Exceeded {
    /// True if the amount would fit once the reservations under way come free: waiting helps then.
    pub fn is_passing(&self) -> bool {
        self.spent.checked_add(self.wanted).is_some_and(|sum| sum <= self.limit)
    }
}

/// A percentage of its limit that a budget has reached.
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

/// The state of a budget at one moment.
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

/// Money held in one budget. It names its period, so that it never changes the counters of another period.
#[derive(Clone, Copy, Debug)]
pub(super) struct BudgetHold {
    start: u64,
    /// The money was taken out of an allowance.
    allowed: bool,
}

impl Budget {
    /// A budget that begins with `spent`: what was spent in the period of `now` before this process knew the budget.
    pub fn new(
        key: BudgetKey,
        rule: &config::Budget,
        covers: Covers,
        spent: NanoUsd,
        now: u64,
        treasury: Arc<dyn Treasury>,
    ) -> Self {
        // The configuration has refused unknown names of time zones.
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
        let (state, drawing, queue) = (Mutex::new(state), tokio::sync::Mutex::default(), Queue::default());
        let budget = Self { key, zone, treasury, drawing, state, queue };
        budget.open(&mut budget.lock());
        budget
    }

    /// The identity of the budget.
    pub fn key(&self) -> &BudgetKey {
        &self.key
    }

    /// Applies a changed rule; the counters stay.
    pub fn set_rule(&self, rule: &config::Budget, covers: Covers) {
        let mut state = self.lock();
        if (state.limit, &state.alert_at) != (rule.limit, &rule.alert_at) {
            state.limit = rule.limit;
            state.alert_at.clone_from(&rule.alert_at);
            // A threshold that is reached again after the limit was raised does not alert a second time in its period: the
            // table of alerts refuses a second row.
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

    /// Counts what a tenant had spent before its requests counted here. This raises no alert: [`Self::take_up`] returns the
    /// thresholds that a new budget has crossed already.
    pub(super) fn take_over(&self, now: u64, spent: NanoUsd) {
        let mut state = self.lock_at(now);
        state.spent = state.spent.saturating_add(spent);
    }

    /// Subtracts what a tenant has spent whose requests no longer count here.
    pub(super) fn hand_over(&self, now: u64, spent: NanoUsd) {
        let mut state = self.lock_at(now);
        state.spent = state.spent.saturating_sub(spent);
        drop(state);
        self.queue.wake();
    }

    /// Holds an amount that is already held elsewhere, whether the amount fits or not.
    pub(super) fn hold_anyway(&self, now: u64, amount: NanoUsd) -> BudgetHold {
        let mut state = self.lock_at(now);
        state.reserved = state.reserved.saturating_add(amount);
        BudgetHold { start: state.start, allowed: false }
    }

    /// From now on a hard budget grants no more than an allowance. The closure computes the allowance from what is left in the
    /// budget. Returns the allowance, or `None` for a soft budget.
    pub(super) fn freeze(&self, now: u64, allowance: impl Fn(NanoUsd) -> NanoUsd) -> Option<NanoUsd> {
        if !self.key.hard {
            return None;
        }
        let mut state = self.lock_at(now);
        let left = state.most().saturating_sub(state.spent.saturating_add(state.reserved));
        state.allowance = Some(allowance(left));
        state.allowance
    }

    /// Lifts the freeze of [`Self::freeze`].
    pub(super) fn thaw(&self) {
        self.lock().allowance = None;
        self.queue.wake();
    }

    /// Asks the treasury for the grant that the period begins with.
    fn open(&self, state: &mut State) {
        state.granted = match self.treasury.opening(&self.purse(state)) {
            Grant::Part(part) if self.key.hard => Some(state.spent.saturating_add(part)),
            _ => None,
        };
    }

    fn purse(&self, state: &State) -> Purse {
        Purse { key: self.key.clone(), start: state.start, limit: state.limit }
    }

    /// What the grant lacks for an amount, and of which period; `None` where it lacks nothing.
    fn missing(&self, now: u64, amount: NanoUsd) -> Option<(Purse, NanoUsd)> {
        let state = self.lock_at(now);
        let sum = state.spent.saturating_add(state.reserved).saturating_add(amount);
        let missing = sum.saturating_sub(state.granted?);
        (missing > NanoUsd::ZERO).then(|| (self.purse(&state), missing))
    }

    /// If this process has only a part of the limit, draws from the treasury what is missing here for `amount`. After
    /// [`Drawn::More`] another try may succeed.
    pub(super) async fn draw(&self, now: u64, amount: NanoUsd) -> Drawn {
        if self.missing(now, amount).is_none() {
            // The grant is not what is short.
            return Drawn::Held;
        }
        let _drawing = self.drawing.lock().await;
        // The request before may have drawn enough for this one too.
        let Some((purse, missing)) = self.missing(now, amount) else { return Drawn::More(NanoUsd::ZERO) };
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

    /// Like [`Self::hold`], for a request that does not stand in the queue: it takes nothing that the queue waits for.
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

    /// Holds more for a request that holds `first`, in the period of `first`. That is the current period or the one before it;
    /// a hard budget refuses more for an older period.
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
        self.fits_in(state, amount)?;
        state.reserved = state.reserved.saturating_add(amount);
        state.allowance = state.allowance.map(|left| left.saturating_sub(amount));
        Ok(BudgetHold { start: state.start, allowed: state.allowance.is_some() })
    }

    fn fits_in(&self, state: &State, amount: NanoUsd) -> Result<(), Exceeded> {
        let held = state.spent.saturating_add(state.reserved);
        // A sum that overflows is refused like any other sum above the limit.
        let allowed = state.allowance.is_none_or(|left| amount <= left);
        let fits = allowed && held.checked_add(amount).is_some_and(|sum| sum <= state.most());
        if self.key.hard && !fits { Err(self.refusal(state, amount)) } else { Ok(()) }
    }

    /// Whether [`Self::hold`] would hold the amount. Changes nothing, and wakes nobody.
    pub(super) fn fits(&self, now: u64, amount: NanoUsd) -> Result<(), Exceeded> {
        self.fits_in(&self.lock_at(now), amount)
    }

    /// Gives back `amount`, which was held, and counts `cost`. Returns the alert thresholds that the cost has crossed.
    pub(super) fn settle(&self, held: BudgetHold, amount: NanoUsd, cost: NanoUsd) -> Vec<ThresholdAlert> {
        let mut state = self.lock();
        if state.start != held.start {
            // The period is over: what was spent in it counts in the tables, not in this budget.
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

    /// Counts a cost that was spent elsewhere: by another process, or before the file could be read.
    pub(super) fn adopt(&self, tenant: &TenantId, at: u64, cost: NanoUsd, now: u64) -> Vec<ThresholdAlert> {
        let mut state = self.lock_at(now);
        let counts = (state.start..state.end).contains(&at) && (state.covers)(tenant);
        if counts { self.add(&mut state, cost) } else { Vec::new() }
    }

    /// The thresholds that a budget has crossed already when it becomes known here.
    pub(super) fn take_up(&self) -> Vec<ThresholdAlert> {
        let mut state = self.lock();
        self.add(&mut state, NanoUsd::ZERO)
    }

    /// The thresholds that were crossed in the current period.
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

    /// The state of the budget at a moment (`now`, milliseconds since 1970).
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

    /// Locks the state and begins the period of `now` if it is new. A clock that goes back does not bring an old period back.
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
            // During a hand-over the successor alone grants the new period.
            state.allowance = state.allowance.map(|_| NanoUsd::ZERO);
        }
        state
    }
}

impl State {
    /// How high `spent + reserved` may rise.
    fn most(&self) -> NanoUsd {
        self.granted.unwrap_or(self.limit).min(self.limit)
    }

    fn resets_at(&self) -> Option<u64> {
        Some(self.end).filter(|end| *end != u64::MAX)
    }
}

/// The last holder of the budget has let go of it: nothing is spent here any more.
impl Drop for Budget {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "{:?}: {} spent and {} reserved of {}", self.key, state.spent, state.reserved, state.limit)
    }
}
