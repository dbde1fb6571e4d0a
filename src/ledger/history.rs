//! What was spent through other processes, most of which have ended: the sums that budgets begin with.

use std::collections::{BTreeSet, HashMap};

use jiff::tz::TimeZone;

use super::{budget::ThresholdAlert, period};
use crate::{
    config::Period,
    store::{Rows, Session, StoreError},
    types::{NanoUsd, TenantId, unix_now},
};

/// Sums by tenant for each period and time zone that a budget has.
#[derive(Default)]
pub struct History {
    sums: HashMap<(Period, String), Sums>,
    /// Whether the file could be read. Until then budgets begin at zero, and the sums are added later.
    pub complete: bool,
}

struct Sums {
    start: u64,
    by_tenant: HashMap<TenantId, NanoUsd>,
}

impl History {
    /// Adds a cost that was spent elsewhere, for budgets that are created later.
    pub fn add(&mut self, tenant: &TenantId, at: u64, cost: NanoUsd) {
        for sums in self.sums.values_mut().filter(|sums| sums.start <= at) {
            let sum = sums.by_tenant.entry(tenant.clone()).or_default();
            *sum = sum.saturating_add(cost);
        }
    }

    /// What a tenant has spent in the period of `now` (milliseconds since 1970).
    pub fn spent(&self, period: Period, timezone: &str, now: u64, tenant: &TenantId) -> NanoUsd {
        let sums = self.current(period, timezone, now);
        sums.and_then(|sums| sums.by_tenant.get(tenant)).copied().unwrap_or_default()
    }

    /// What several tenants together have spent in the period of `now`.
    pub fn spent_by<'t>(
        &self,
        period: Period,
        timezone: &str,
        now: u64,
        tenants: impl Iterator<Item = &'t TenantId>,
    ) -> NanoUsd {
        let Some(sums) = self.current(period, timezone, now) else { return NanoUsd::ZERO };
        tenants.filter_map(|tenant| sums.by_tenant.get(tenant)).copied().sum()
    }

    /// Every tenant that has spent anything.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.sums.values().flat_map(|sums| sums.by_tenant.keys())
    }

    /// The sums by tenant of the periods that contain `now`, each with the first millisecond of its period.
    pub fn known(&self, now: u64) -> impl Iterator<Item = (u64, &HashMap<TenantId, NanoUsd>)> {
        let current = move |(period, timezone): &(Period, String)| self.current(*period, timezone, now);
        self.sums.keys().filter_map(current).map(|sums| (sums.start, &sums.by_tenant))
    }

    fn current(&self, period: Period, timezone: &str, now: u64) -> Option<&Sums> {
        let sums = self.sums.get(&(period, timezone.to_owned()))?;
        let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(period, &zone, now);
        Some(sums).filter(|sums| sums.start == start)
    }
}

/// A kind of period, and the name of its time zone.
pub type Key = (Period, String);

/// Reads what other processes have spent in the current periods of these kinds.
///
/// # Errors
/// The store cannot be read.
pub fn read(session: &dyn Session, keys: &BTreeSet<Key>, process: i64) -> Result<History, StoreError> {
    let now = unix_now();
    let mut sums = HashMap::new();
    for (period, timezone) in keys {
        let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
        let (start, _) = period::bounds(*period, &zone, now);
        let by_tenant = session.sum_since(start, Rows::Except(process))?;
        sums.insert((*period, timezone.clone()), Sums { start, by_tenant });
    }
    Ok(History { sums, complete: true })
}

impl super::Books {
    /// Adds to budgets that were created before the file could be read the sums that they lack.
    pub fn catch_up(&self, history: &History) -> Vec<ThresholdAlert> {
        let now = unix_now();
        let mut crossed = Vec::new();
        for (key, budget) in &self.budgets {
            let Some(sums) = history.sums.get(&(key.period, key.timezone.clone())) else { continue };
            for (tenant, spent) in &sums.by_tenant {
                // The start of a sum's period lies in that period.
                crossed.extend(budget.adopt(tenant, sums.start, *spent, now));
            }
        }
        crossed
    }
}
