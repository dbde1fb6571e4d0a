//! Handing the money over to a successor, as an upgrade does.
//!
//! ```text
//! old: freeze ─▶ flush ─▶ HandoverSnapshot ─▶ let go of the file      settle what is open ─▶ drain: HandoverSnapshot ─▶ end
//!                            │                                       │ rows                 │
//! new:                       └─▶ own the file, read history, inherit ─▶ follow ─▶ inherit ──┴─▶ release the rest
//! ```
//!
//! At every moment `spent + reserved` of both processes together stays within every hard budget: what the old one may
//! still spend is held in the new one. That is what its open requests hold, each until its row appears, and an *allowance*:
//! the part of each budget from which it reserves for requests that still come to it while its listeners close.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Books, Ledger,
    account::{Account, Slot},
    budget::{Budget, BudgetHold},
};
use crate::{
    store::StoreError,
    types::{NanoUsd, RequestId, TenantId, unix_now},
};

/// What is settled has to be in the file within this time, or there is no hand-over.
const FLUSH: Duration = Duration::from_secs(3);

/// A request that reserves late in a hand-over may have been admitted this long before.
const SLACK_MS: u64 = 3_600_000;

/// What a process may still spend after its successor has taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverSnapshot {
    /// Its number in the ledger.
    pub process: i64,
    /// Every request whose row is not in the file yet was admitted at this moment or later; milliseconds since 1970.
    pub since: u64,
    /// Its open requests.
    pub open: Vec<OpenRequest>,
    /// By owner of a hard budget: what it may reserve for requests that are not open yet, in billionths of a dollar.
    pub allowances: Vec<(TenantId, u64)>,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Its id.
    pub id: String,
    /// When it was admitted: decides the period.
    pub at: u64,
    /// Who pays.
    pub tenant: TenantId,
    /// What it holds, in billionths of a dollar.
    pub amount: u64,
}

/// Why nothing is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHandover {
    /// What was settled could not be written: a successor would not know of it.
    Unwritten,
    /// The process before this one still has requests under way.
    Unfinished,
}

/// The process before this one, as long as it may still spend.
pub(super) struct Predecessor {
    pub process: i64,
    pub since: u64,
    /// What each tenant had spent through it since `since` at the last look.
    pub seen: HashMap<TenantId, NanoUsd>,
    /// What is held for its open requests.
    open: HashMap<RequestId, (Arc<Account>, Slot)>,
    /// By owner of a budget.
    allowances: HashMap<TenantId, NanoUsd>,
    /// What is held for its allowances.
    held: Vec<(Arc<Budget>, BudgetHold, NanoUsd)>,
    /// Its connection has ended.
    pub ended: bool,
}

impl Ledger {
    /// Freezes the budgets and tells what this process may still spend. From now on each hard budget grants at most half of
    /// what it has left, and the successor grants the other half.
    ///
    /// # Errors
    /// Why there can be no hand-over; nothing is frozen then.
    pub fn freeze(&self) -> Result<HandoverSnapshot, NoHandover> {
        if self.shared.books().predecessor.is_some() {
            return Err(NoHandover::Unfinished);
        }
        self.snapshot(|left| NanoUsd(left.0 / 2)).inspect_err(|_| self.thaw())
    }

    /// After the listeners are closed: nothing new is granted, and the successor need not hold an allowance any more.
    ///
    /// # Errors
    /// What was settled could not be written; the allowance goes when this process does.
    pub fn drain(&self) -> Result<HandoverSnapshot, NoHandover> {
        self.snapshot(|_| NanoUsd::ZERO)
    }

    /// Undoes [`Self::freeze`].
    pub fn thaw(&self) {
        let mut books = self.shared.books();
        books.frozen = false;
        books.budgets.values().for_each(|budget| budget.thaw());
    }

    /// Lets the successor own the file.
    pub fn let_go(&self) {
        self.shared.store.ownership().hand_over();
    }

    /// Undoes [`Self::let_go`].
    ///
    /// # Errors
    /// Somebody else owns the file now.
    pub fn take_back(&self, patience: Duration) -> Result<(), StoreError> {
        self.shared.store.ownership().take_back(patience)
    }

    fn snapshot(&self, allowance: impl Fn(NanoUsd) -> NanoUsd) -> Result<HandoverSnapshot, NoHandover> {
        let mut snapshot =
            HandoverSnapshot { process: self.shared.process, since: unix_now(), ..HandoverSnapshot::default() };
        {
            // No account gets other budgets meanwhile.
            let mut books = self.shared.books();
            books.frozen = true;
            // First the budgets, then the requests: one that comes between counts in its allowance as well.
            for budget in books.budgets.values() {
                if let Some(granted) = budget.freeze(unix_now(), &allowance) {
                    snapshot.allowances.push((budget.key().tenant.clone(), granted.0));
                }
            }
            for account in books.accounts.values() {
                let open = account.open_requests().into_iter().map(|(id, at, amount)| OpenRequest {
                    id: id.to_string(),
                    at,
                    tenant: account.tenant().clone(),
                    amount: amount.0,
                });
                snapshot.open.extend(open);
            }
        }
        let oldest = snapshot.open.iter().map(|open| open.at).min();
        snapshot.since = oldest.map_or(snapshot.since, |at| at.min(snapshot.since)).saturating_sub(SLACK_MS);
        // What is not open any more has its entry queued by now.
        if self.flush(FLUSH) { Ok(snapshot) } else { Err(NoHandover::Unwritten) }
    }

    /// Holds what another process may still spend; each snapshot replaces the one before. `account` finds the account of a
    /// tenant, if it has one.
    pub fn inherit(&self, snapshot: &HandoverSnapshot, account: impl Fn(&TenantId) -> Option<Arc<Account>>) {
        let found: Vec<_> = snapshot
            .open
            .iter()
            .filter_map(|open| Some((RequestId::parse(&open.id)?, open, account(&open.tenant)?)))
            .collect();
        let mut books = self.shared.books();
        let Some(predecessor) = books.predecessor.as_mut().filter(|known| known.process == snapshot.process) else {
            return;
        };
        for (id, open, account) in found {
            let slot = account.inherit(id, open.at, NanoUsd(open.amount));
            if let Some((account, known)) = predecessor.open.insert(id, (account, slot)) {
                // Its reservation may have grown.
                account.settle(known, NanoUsd::ZERO);
            }
        }
        if snapshot.allowances.iter().all(|(_, allowance)| *allowance == 0) {
            predecessor.release_allowances();
        }
    }

    /// The connection to the process before this one has ended: as soon as its intents are recovered, nothing is held for
    /// it any more.
    pub fn predecessor_ended(&self) {
        if let Some(predecessor) = &mut self.shared.books().predecessor {
            predecessor.ended = true;
        }
    }
}

impl Predecessor {
    pub(super) fn new(snapshot: &HandoverSnapshot) -> Self {
        let mut allowances: HashMap<TenantId, NanoUsd> = HashMap::new();
        for (tenant, allowance) in &snapshot.allowances {
            // Of a tenant with several budgets a request needs something in each.
            let least = allowances.entry(tenant.clone()).or_insert(NanoUsd(*allowance));
            *least = (*least).min(NanoUsd(*allowance));
        }
        Self {
            process: snapshot.process,
            since: snapshot.since,
            seen: HashMap::new(),
            open: HashMap::new(),
            allowances,
            held: Vec::new(),
            ended: false,
        }
    }

    /// Holds its allowance in a budget that is new here.
    pub(super) fn hold_allowance(&mut self, budget: &Arc<Budget>, now: u64) {
        if let Some(amount) = self.allowances.get(&budget.key().tenant).filter(|_| budget.key().hard) {
            self.held.push((budget.clone(), budget.hold_anyway(now, *amount), *amount));
        }
    }

    fn release_allowances(&mut self) {
        self.allowances.clear();
        for (budget, held, amount) in self.held.drain(..) {
            budget.settle(held, amount, NanoUsd::ZERO);
        }
    }

    /// The requests that are still held.
    pub(super) fn open(&self) -> Vec<RequestId> {
        self.open.keys().copied().collect()
    }

    /// Gives back what a request held: it counts in what is spent now.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some((account, slot)) = self.open.remove(&id) {
            account.settle(slot, NanoUsd::ZERO);
        }
    }
}

impl Books {
    /// The process before this one is gone, and all that it spent is counted.
    pub(super) fn release_inherited(&mut self) {
        let Some(mut predecessor) = self.predecessor.take() else { return };
        predecessor.open().into_iter().for_each(|id| predecessor.release(id));
        predecessor.release_allowances();
    }
}
