//! What was spent before: sums that budgets begin with.

use std::{collections::HashMap, sync::PoisonError};

use jiff::tz::TimeZone;
use rusqlite::{Connection, params};

use super::{Shared, budget::Covers, period};
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
    /// What was spent in the period of `now` by everyone a budget covers.
    pub fn spent(&self, period: Period, timezone: &str, now: u64, covers: &Covers) -> NanoUsd {
        let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(period, &zone, now);
        let sums = self.sums.get(&(period, timezone.to_owned())).filter(|sums| sums.start == start);
        let all = sums.into_iter().flat_map(|sums| &sums.by_tenant);
        all.filter(|(tenant, _)| covers(tenant)).map(|(_, spent)| *spent).sum()
    }
}

/// Reads the sums for these rules. The first time it also notes what processes that still live have spent up to that very
/// moment: what they spend later is counted as it comes.
pub fn read(shared: &Shared, rules: &[config::Budget]) {
    // Not under the lock: a request of a tenant that is new would wait for the file.
    let first = !shared.history.lock().unwrap_or_else(PoisonError::into_inner).complete;
    let outcome = sums(shared, rules, first);
    let mut history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(sums) => *history = History { sums, complete: true },
        Err(error) if history.complete => {
            tracing::error!(%error, "the ledger cannot be read: new budgets begin with what was spent before this process");
        }
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be read: budgets begin with nothing until it can");
        }
    }
}

fn sums(
    shared: &Shared,
    rules: &[config::Budget],
    first: bool,
) -> Result<HashMap<(Period, String), Sums>, store::StoreError> {
    let now = unix_now();
    let connection = store::open(&shared.path)?;
    // One snapshot for all sums.
    let snapshot = connection.unchecked_transaction()?;
    let mut sums = HashMap::new();
    for rule in rules {
        let key = (rule.period, rule.timezone.clone());
        if sums.contains_key(&key) {
            continue;
        }
        let zone = TimeZone::get(&rule.timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(rule.period, &zone, now);
        let by_tenant = sum_since(&snapshot, start, None)?;
        sums.insert(key, Sums { start, by_tenant });
    }
    if first {
        let mut others = shared.others.lock().unwrap_or_else(PoisonError::into_inner);
        for (process, spent) in others.iter_mut() {
            *spent = sum_since(&snapshot, shared.others_since, Some(*process))?;
        }
    }
    Ok(sums)
}

/// What each tenant spent since a moment, at most that of one process.
///
/// # Errors
/// A file that cannot be read.
pub fn sum_since(
    connection: &Connection,
    start: u64,
    process: Option<i64>,
) -> rusqlite::Result<HashMap<TenantId, NanoUsd>> {
    let first = RequestId::first_at(start.saturating_sub(ID_BEFORE_ENTRY_MS));
    let mut statement = connection.prepare(
        "SELECT tenant, sum(cost) FROM entries WHERE id >= ?1 AND at >= ?2 AND (?3 IS NULL OR process = ?3) GROUP BY tenant",
    )?;
    let mut sums = HashMap::new();
    let mut rows = statement.query(params![first.as_bytes(), start, process])?;
    while let Some(row) = rows.next()? {
        sums.insert(TenantId::from(row.get_ref(0)?.as_str()?), NanoUsd(row.get(1)?));
    }
    if start == 0 && process.is_none() {
        // Entries that were rolled up count in no shorter period.
        let mut statement = connection.prepare("SELECT tenant, sum(cost) FROM days GROUP BY tenant")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry(TenantId::from(row.get_ref(0)?.as_str()?)).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(NanoUsd(row.get(1)?));
        }
    }
    Ok(sums)
}

/// The entries since a moment that other processes wrote, one by one, for budgets that began without them.
///
/// # Errors
/// A file that cannot be read.
pub fn each_foreign(
    connection: &Connection,
    process: i64,
    start: u64,
    mut visit: impl FnMut(TenantId, u64, NanoUsd),
) -> rusqlite::Result<()> {
    let first = RequestId::first_at(start.saturating_sub(ID_BEFORE_ENTRY_MS));
    let mut statement = connection
        .prepare("SELECT tenant, at, cost FROM entries WHERE id >= ?1 AND at >= ?2 AND process <> ?3 AND cost > 0")?;
    let mut rows = statement.query(params![first.as_bytes(), start, process])?;
    while let Some(row) = rows.next()? {
        visit(row.get_ref(0)?.as_str()?.into(), row.get(1)?, NanoUsd(row.get(2)?));
    }
    Ok(())
}
