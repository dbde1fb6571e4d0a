//! What was spent before: sums that budgets begin with.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::tz::TimeZone;
use rusqlite::{Connection, params};

use super::{
    Shared,
    budget::{Covers, Crossed},
    period,
};
use crate::{
    config::{self, Period},
    store,
    types::{NanoUsd, RequestId, TenantId, unix_now},
};

/// An id is made when a request's header comes, its entry is dated when it is admitted: a body may take a while between.
pub const ID_BEFORE_ENTRY_MS: u64 = 3_600_000;

/// Sums by tenant for each period and time zone that a budget has.
#[derive(Default)]
pub struct History {
    sums: HashMap<(Period, String), Sums>,
    /// Whether the file could be read. Until then budgets begin with nothing, and get it later.
    pub complete: bool,
}

struct Sums {
    start: u64,
    by_tenant: HashMap<TenantId, NanoUsd>,
}

impl History {
    /// Adds what was spent elsewhere, for budgets that are made later.
    pub fn add(&mut self, tenant: &TenantId, at: u64, cost: NanoUsd) {
        for sums in self.sums.values_mut().filter(|sums| sums.start <= at) {
            let sum = sums.by_tenant.entry(tenant.clone()).or_default();
            *sum = sum.saturating_add(cost);
        }
    }

    /// What was spent in the period of `now` by everyone a budget covers.
    pub fn spent(&self, period: Period, timezone: &str, now: u64, covers: &Covers) -> NanoUsd {
        let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(period, &zone, now);
        let sums = self.sums.get(&(period, timezone.to_owned())).filter(|sums| sums.start == start);
        let all = sums.into_iter().flat_map(|sums| &sums.by_tenant);
        all.filter(|(tenant, _)| covers(tenant)).map(|(_, spent)| *spent).sum()
    }
}

/// Which entries count in a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them, and what older ones were rolled up to.
    All,
    /// Those that one process wrote.
    Of(i64),
    /// All but those that one process wrote.
    Except(i64),
}

/// Reads the sums for these rules. The first time it also notes what processes that still live have spent up to that very
/// moment: what they spend later is counted as it comes.
pub fn read(shared: &Shared, rules: &[config::Budget]) {
    // Not under the lock: a request of a tenant that is new would wait for the file.
    let first = !lock(&shared.history).complete;
    let keys: BTreeSet<_> = rules.iter().map(|rule| (rule.period, rule.timezone.clone())).collect();
    let outcome = sums(shared, &keys, Rows::All, first);
    let mut history = lock(&shared.history);
    match outcome {
        // What budgets missed that are there already is still to be given to them.
        Ok(_) if first && !is_empty(shared) => {}
        Ok(sums) => *history = History { sums, complete: true },
        Err(error) if !first => {
            tracing::error!(%error, "the ledger cannot be read: new budgets begin with what was spent before this process");
        }
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be read: budgets begin with nothing until it can");
        }
    }
}

/// Reads what could not be read when budgets were made, and gives it to them. What this process has spent itself they know.
///
/// # Errors
/// The file still cannot be read.
pub fn catch_up(shared: &Shared) -> Result<Vec<Crossed>, store::StoreError> {
    let keys = {
        let budgets = shared.budgets.read().unwrap_or_else(PoisonError::into_inner);
        budgets.keys().map(|key| (key.period, key.timezone.clone())).collect()
    };
    let sums = sums(shared, &keys, Rows::Except(shared.process), true)?;
    let mut history = lock(&shared.history);
    let budgets = shared.budgets.read().unwrap_or_else(PoisonError::into_inner);
    let now = unix_now();
    let mut crossed = Vec::new();
    for (key, budget) in budgets.iter() {
        let Some(sums) = sums.get(&(key.period, key.timezone.clone())) else { continue };
        for (tenant, spent) in &sums.by_tenant {
            // A sum lies in the period whose start it has.
            crossed.extend(budget.adopt(tenant, sums.start, *spent, now));
        }
    }
    *history = History { sums, complete: true };
    Ok(crossed)
}

fn is_empty(shared: &Shared) -> bool {
    shared.budgets.read().unwrap_or_else(PoisonError::into_inner).is_empty()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Key = (Period, String);

fn sums(
    shared: &Shared,
    keys: &BTreeSet<Key>,
    rows: Rows,
    first: bool,
) -> Result<HashMap<Key, Sums>, store::StoreError> {
    let now = unix_now();
    let connection = store::open(&shared.path)?;
    // One snapshot for all sums.
    let snapshot = connection.unchecked_transaction()?;
    let mut sums = HashMap::new();
    for (period, timezone) in keys {
        let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(*period, &zone, now);
        sums.insert((*period, timezone.clone()), Sums { start, by_tenant: sum_since(&snapshot, start, rows)? });
    }
    if first {
        let mut others = lock(&shared.others);
        for (process, spent) in others.iter_mut() {
            *spent = sum_since(&snapshot, shared.others_since, Rows::Of(*process))?;
        }
    }
    Ok(sums)
}

/// What each tenant spent since a moment.
///
/// # Errors
/// A file that cannot be read.
pub fn sum_since(connection: &Connection, start: u64, rows: Rows) -> rusqlite::Result<HashMap<TenantId, NanoUsd>> {
    let first = RequestId::first_at(start.saturating_sub(ID_BEFORE_ENTRY_MS));
    let (of, except) = match rows {
        Rows::All => (None, None),
        Rows::Of(process) => (Some(process), None),
        Rows::Except(process) => (None, Some(process)),
    };
    let mut statement = connection.prepare(
        "SELECT tenant, sum(cost) FROM entries WHERE id >= ?1 AND at >= ?2 AND (?3 IS NULL OR process = ?3) \
         AND (?4 IS NULL OR process <> ?4) GROUP BY tenant",
    )?;
    let mut sums = HashMap::new();
    let mut found = statement.query(params![first.as_bytes(), start, of, except])?;
    while let Some(row) = found.next()? {
        sums.insert(TenantId::from(row.get_ref(0)?.as_str()?), NanoUsd(row.get(1)?));
    }
    if start == 0 && of.is_none() {
        // Entries that were rolled up count in no shorter period, and are older than this process.
        let mut statement = connection.prepare("SELECT tenant, sum(cost) FROM days GROUP BY tenant")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry(TenantId::from(row.get_ref(0)?.as_str()?)).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(NanoUsd(row.get(1)?));
        }
    }
    Ok(sums)
}
