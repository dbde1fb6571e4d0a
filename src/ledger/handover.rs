//! Hands the money over to a successor process, as an upgrade does.
//!
//! ```text
//! old: freeze ─▶ flush ─▶ HandoverSnapshot ─▶ let go of the file      settle what is open ─▶ drain: HandoverSnapshot ─▶ end
//!                            │                                       │ rows                 │
//! new:                       └─▶ own the file, read history, inherit ─▶ follow ─▶ inherit ──┴─▶ release the rest
//! ```
//!
//! At every moment `spent + reserved` of both processes together stays within every hard budget: what the old process may
//! still spend is held in the new one. The new process holds what the open requests of the old one hold, each until its row
//! appears, and an *allowance*: the part of each budget from which the old process reserves for requests that still come to it
//! while its listeners close.

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

/// Settled entries have to be in the file within this time, or there is no hand-over.
const FLUSH: Duration = Duration::from_secs(3);

/// A request that reserves late in a hand-over may have been admitted this many milliseconds before.
const SLACK_MS: u64 = 3_600_000;

/// What a process may still spend after its successor has taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverSnapshot {
    /// The number of the process in the ledger.
    pub process: i64,
    /// Every request whose row is not in the file yet was admitted at this moment or later (milliseconds since 1970).
    pub since: u64,
    /// The open requests of the process.
    pub open: Vec<OpenRequest>,
    /// By owner of a hard budget: what the process may reserve for requests that are not open yet, in billionths of a dollar.
    pub allowances: Vec<(TenantId, u64)>,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// The id of the request.
    pub id: String,
    /// When the request was admitted, in milliseconds since 1970: decides the period.
    pub at: u64,
    /// The tenant that pays.
    pub tenant: TenantId,
    /// What the request holds, in billionths of a dollar.
    pub amount: u64,
}

/// Why no hand-over is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHandover {
    /// Settled entries could not be written in time: a successor would not know of them.
    Unwritten,
    /// The predecessor of this process still has requests under way.
    Unfinished,
}

/// The predecessor: the process before this one, as long as it may still spend.
pub(super) struct Predecessor {
    pub process: i64,
    pub since: u64,
    /// What each tenant had spent through the predecessor since `since` when the table was last read.
    pub seen: HashMap<TenantId, NanoUsd>,
    /// What is held here for the open requests of the predecessor.
    open: HashMap<RequestId, (Arc<Account>, Slot)>,
    /// The predecessor's allowance in billionths of a dollar, by owner of a budget.
    allowances: HashMap<TenantId, NanoUsd>,
    /// What is held here for the allowances.
    held: Vec<(Arc<Budget>, BudgetHold, NanoUsd)>,
    /// The connection to the predecessor has ended.
    pub ended: bool,
}

impl Ledger {
    /// Freezes the budgets and returns what this process may still spend. From now on each hard budget grants at most half of
    /// what it has left, and the successor grants the other half.
    ///
    /// # Errors
    /// Why no hand-over is possible; nothing is frozen then.
    pub fn freeze(&self) -> Result<HandoverSnapshot, NoHandover> {
        if self.shared.books().predecessor.is_some() {
            return Err(NoHandover::Unfinished);
        }
        self.snapshot(|left| NanoUsd(left.0 / 2)).inspect_err(|_| self.thaw())
    }

    /// Called once the listeners are closed: nothing new is granted, and the successor no longer needs to hold an allowance.
    ///
    /// # Errors
    /// Settled entries could not be written in time; the successor holds the allowance until this process ends.
    pub fn drain(&self) -> Result<HandoverSnapshot, NoHandover> {
        self.snapshot(|_| NanoUsd::ZERO)
    }

    /// Lifts the freeze of [`Self::freeze`].
    pub fn thaw(&self) {
        let mut books = self.shared.books();
        books.frozen = false;
        books.budgets.values().for_each(|budget| budget.thaw());
    }

    /// Lets the successor own the file.
    pub fn let_go(&self) {
        self.shared.store.ownership().hand_over();
    }

    /// Takes back the ownership that [`Self::let_go`] gave up.
    ///
    /// # Errors
    /// Another process owns the file now.
    pub fn take_back(&self, patience: Duration) -> Result<(), StoreError> {
        self.shared.store.ownership().take_back(patience)
    }

    fn snapshot(&self, allowance: impl Fn(NanoUsd) -> NanoUsd) -> Result<HandoverSnapshot, NoHandover> {
        let mut snapshot =
            HandoverSnapshot { process: self.shared.process, since: unix_now(), ..HandoverSnapshot::default() };
        {
            // The lock keeps every account at its budgets meanwhile.
            let mut books = self.shared.books();
            books.frozen = true;
            // First the budgets, then the requests: a request that comes between counts in the allowance as well.
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
        // A request that is no longer open has its entry queued by now.
        if self.flush(FLUSH) { Ok(snapshot) } else { Err(NoHandover::Unwritten) }
    }

    /// Holds what the predecessor may still spend; each snapshot replaces the one before. `account` finds the account of a
    /// tenant, if there is one.
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
                // The reservation of the request may have grown.
                account.settle(known, NanoUsd::ZERO);
            }
        }
        if snapshot.allowances.iter().all(|(_, allowance)| *allowance == 0) {
            predecessor.release_allowances();
        }
    }

    /// Notes that the connection to the predecessor has ended: once its intents are recovered, nothing is held for it any more.
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
            // A request of a tenant with several budgets needs money in each of them.
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

    /// Holds the predecessor's allowance in a budget that is new here.
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

    /// Gives back what a request of the predecessor held: its cost counts as spent now.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some((account, slot)) = self.open.remove(&id) {
            account.settle(slot, NanoUsd::ZERO);
        }
    }
}

impl Books {
    /// Gives back everything held for the predecessor: the process has ended, and all that it spent is counted.
    pub(super) fn release_inherited(&mut self) {
        let Some(mut predecessor) = self.predecessor.take() else { return };
        predecessor.open().into_iter().for_each(|id| predecessor.release(id));
        predecessor.release_allowances();
    }
}
