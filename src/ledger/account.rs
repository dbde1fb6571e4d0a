//! A tenant's account: the budgets that its requests count in, what it has under way, and what this process has settled for
//! it.
//!
//! Requests reserve and settle through the account, never at a budget directly. So a reload can change the budgets of a
//! tenant at any moment and lose nothing: a budget that is new to the account takes over what the tenant has spent in the
//! period and what its open requests hold.

use std::{fmt, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::budget::{Budget, BudgetHold, Exceeded, ThresholdAlert};
use crate::types::{NanoUsd, RequestId, TenantId};

/// The budgets that a request counts in: its tenant's, then its ancestors'.
pub type Budgets = Arc<[Arc<Budget>]>;

/// The account of one tenant; see the module's documentation.
pub struct Account {
    tenant: TenantId,
    state: Mutex<State>,
}

struct State {
    budgets: Budgets,
    open: Slab<Open>,
    settled: Settled,
}

/// What one open request holds.
struct Open {
    id: RequestId,
    /// Milliseconds since 1970: decides the period.
    at: u64,
    amount: NanoUsd,
    budgets: Budgets,
    /// One hold for each of `budgets`, in their order.
    held: Vec<BudgetHold>,
}

/// Names an open request of an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(usize);

/// Why an account cannot reserve: the budget that refuses, and how it stands.
#[derive(Debug)]
pub(super) struct Short {
    pub budget: Arc<Budget>,
    pub exceeded: Exceeded,
}

impl Account {
    /// An account without budgets. It knows nothing of what the tenant spent before this process.
    pub(super) fn new(tenant: TenantId) -> Self {
        let state = State { budgets: Arc::new([]), open: Slab::new(), settled: Settled::default() };
        Self { tenant, state: Mutex::new(state) }
    }

    /// The tenant whose account this is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The budgets that the tenant's requests count in at this moment.
    pub fn budgets(&self) -> Budgets {
        self.lock().budgets.clone()
    }

    /// Changes the budgets. `before` returns what the tenant spent in the current period of a budget through other processes. It
    /// is called for budgets that come to the account or leave it. A new account passes `None`: its budgets have counted that
    /// amount already.
    pub(super) fn set_budgets(&self, budgets: Budgets, now: u64, before: Option<&dyn Fn(&Budget) -> NanoUsd>) {
        let mut state = self.lock();
        let has = |list: &Budgets, budget: &Arc<Budget>| list.iter().any(|other| Arc::ptr_eq(other, budget));
        if let Some(before) = before {
            for budget in budgets.iter().filter(|budget| !has(&state.budgets, budget)) {
                let own = state.settled.since(budget.start_at(now));
                budget.take_over(now, before(budget).saturating_add(own));
            }
            for budget in state.budgets.iter().filter(|budget| !has(&budgets, budget)) {
                let own = state.settled.since(budget.start_at(now));
                budget.hand_over(now, before(budget).saturating_add(own));
            }
        }
        for (_, open) in &mut state.open {
            let mut held = Vec::with_capacity(budgets.len());
            for budget in budgets.iter() {
                let known = open.budgets.iter().position(|other| Arc::ptr_eq(other, budget));
                held.push(known.map_or_else(|| budget.hold_anyway(open.at, open.amount), |at| open.held[at]));
            }
            for (budget, share) in open.budgets.iter().zip(&open.held).filter(|(budget, _)| !has(&budgets, budget)) {
                budget.settle(*share, open.amount, NanoUsd::ZERO);
            }
            (open.budgets, open.held) = (budgets.clone(), held);
        }
        state.budgets = budgets;
    }

    /// The first budget that lacks room for an amount. [`Self::hold`] would hold the amount in the budgets before it and give it
    /// back to them, which wakes those who wait there: a request that waits there itself would wake itself over and over.
    pub(super) fn short_of(&self, at: u64, amount: NanoUsd) -> Option<Short> {
        let budgets = self.budgets();
        budgets.iter().find_map(|budget| {
            let exceeded = budget.fits(at, amount).err()?;
            Some(Short { budget: budget.clone(), exceeded })
        })
    }

    /// Holds an amount in all budgets, or in none. Unless the request stands in a budget's queue (`in_line`), it passes the queue
    /// only if its amount fits beside what the first request in the queue claims.
    pub(super) fn hold(&self, id: RequestId, at: u64, amount: NanoUsd, in_line: bool) -> Result<Slot, Short> {
        let mut state = self.lock();
        let budgets = state.budgets.clone();
        let held = hold_all(&budgets, at, amount, in_line)?;
        Ok(Slot(state.open.insert(Open { id, at, amount, budgets, held })))
    }

    /// Holds here what a request holds in another process, whether the amount fits or not.
    pub(super) fn inherit(&self, id: RequestId, at: u64, amount: NanoUsd) -> Slot {
        let mut state = self.lock();
        let budgets = state.budgets.clone();
        let held = budgets.iter().map(|budget| budget.hold_anyway(at, amount)).collect();
        Slot(state.open.insert(Open { id, at, amount, budgets, held }))
    }

    /// The open requests: id, time of admission (milliseconds since 1970), amount held.
    pub(super) fn open_requests(&self) -> Vec<(RequestId, u64, NanoUsd)> {
        self.lock().open.iter().map(|(_, open)| (open.id, open.at, open.amount)).collect()
    }

    /// Holds more for an open request, in all of its budgets or in none.
    pub(super) fn extend(&self, slot: Slot, more: NanoUsd) -> Result<(), Exceeded> {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(slot.0) else { return Ok(()) };
        // If a new period has begun since, the request still counts in the period of its admission.
        for (index, (budget, held)) in open.budgets.iter().zip(&open.held).enumerate() {
            if let Err(exceeded) = budget.hold_more(*held, more) {
                for (budget, held) in open.budgets.iter().zip(&open.held).take(index) {
                    budget.settle(*held, more, NanoUsd::ZERO);
                }
                return Err(exceeded);
            }
        }
        open.amount = open.amount.saturating_add(more);
        Ok(())
    }

    /// Gives back what an open request held, and counts its cost. Returns the alert thresholds that the cost has crossed.
    pub(super) fn settle(&self, slot: Slot, cost: NanoUsd) -> Vec<ThresholdAlert> {
        let mut state = self.lock();
        let Some(open) = state.open.try_remove(slot.0) else { return Vec::new() };
        state.settled.add(open.at, cost);
        let settle = |(budget, held): (&Arc<Budget>, &BudgetHold)| budget.settle(*held, open.amount, cost);
        open.budgets.iter().zip(&open.held).flat_map(settle).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn hold_all(budgets: &Budgets, at: u64, amount: NanoUsd, in_line: bool) -> Result<Vec<BudgetHold>, Short> {
    let mut held = Vec::with_capacity(budgets.len());
    for budget in budgets.iter() {
        let outcome = if in_line { budget.hold(at, amount) } else { budget.hold_past_line(at, amount) };
        match outcome {
            Ok(share) => held.push(share),
            Err(exceeded) => {
                for (budget, share) in budgets.iter().zip(held) {
                    budget.settle(share, amount, NanoUsd::ZERO);
                }
                return Err(Short { budget: budget.clone(), exceeded });
            }
        }
    }
    Ok(held)
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "account of {}: {} requests open, {:?}", self.tenant, state.open.len(), state.budgets)
    }
}

/// Sums of settled costs by quarter of an hour: every time zone's midnight is the start of a quarter.
#[derive(Default)]
pub(super) struct Settled {
    /// The sum before the first quarter that is kept.
    older: NanoUsd,
    /// Start of each quarter and its sum, in ascending order.
    quarters: Vec<(u64, NanoUsd)>,
}

const QUARTER_MS: u64 = 900_000;

/// How many quarters are kept: more than the longest period has. Only a period without an end counts the sum before them.
const KEPT: usize = 32 * 96;

impl Settled {
    pub(super) fn add(&mut self, at: u64, cost: NanoUsd) {
        let start = at - at % QUARTER_MS;
        let place = self.quarters.iter().rposition(|(known, _)| *known <= start);
        match place {
            Some(place) if self.quarters[place].0 == start => {
                let sum = &mut self.quarters[place].1;
                *sum = sum.saturating_add(cost);
                return;
            }
            Some(place) => self.quarters.insert(place + 1, (start, cost)),
            None => self.quarters.insert(0, (start, cost)),
        }
        if self.quarters.len() > KEPT {
            let (_, sum) = self.quarters.remove(0);
            self.older = self.older.saturating_add(sum);
        }
    }

    /// The sum settled since a moment that is the start of a quarter; 0 stands for everything that was settled.
    pub(super) fn since(&self, start: u64) -> NanoUsd {
        let recent: NanoUsd = self.quarters.iter().filter(|(at, _)| *at >= start).map(|(_, sum)| *sum).sum();
        if start == 0 { recent.saturating_add(self.older) } else { recent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_kept_by_quarters_and_forgotten_by_none() {
        let mut settled = Settled::default();
        settled.add(3 * QUARTER_MS + 5, NanoUsd(1));
        settled.add(3 * QUARTER_MS, NanoUsd(2));
        settled.add(QUARTER_MS, NanoUsd(4));
        settled.add(2 * QUARTER_MS + 1, NanoUsd(8));
        for (start, sum) in [(4, 0), (3, 3), (2, 11), (1, 15), (0, 15)] {
            assert_eq!(settled.since(start * QUARTER_MS), NanoUsd(sum), "{start}");
        }
        for quarter in 10..10 + KEPT as u64 {
            settled.add(quarter * QUARTER_MS, NanoUsd(100));
        }
        assert_eq!(settled.quarters.len(), KEPT);
        assert_eq!(settled.since(0), NanoUsd(15 + 100 * KEPT as u64));
        assert_eq!(settled.since(10 * QUARTER_MS), NanoUsd(100 * KEPT as u64));
    }
}
