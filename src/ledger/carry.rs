//! What is written to a fresh file after the old one was deleted or replaced under the process: what was spent in the current
//! periods, and which thresholds were crossed. Single entries, and the spend of periods that are over, are lost with the old
//! file.
//!
//! What the new file contains already counts (it may be a copy of the old one): only what is missing is added. Each sum is
//! dated with the beginning of its period, so that nested periods are not counted twice: the spend of the month is the spend
//! of today plus a row dated the first of the month for the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::tz::TimeZone;

use super::{Shared, account::Settled, alerts, period};
use crate::{
    config::Period,
    store::{Rows, Standings, StoreError},
    types::{NanoUsd, TenantId, unix_now},
};

/// The process number that stands for all processes before this one.
const BEFORE: i64 = 0;

/// Periods whose own sums are carried whether there is a budget for them or not: reports ask for them.
const REPORTED: [Period; 4] = [Period::Daily, Period::Weekly, Period::Monthly, Period::Total];

/// By the start of a period: what each tenant has spent since then.
type Sums = BTreeMap<u64, HashMap<TenantId, NanoUsd>>;

/// Writes what the fresh file is missing. `written` is what this process had written to the lost file.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn write(
    standings: &mut dyn Standings,
    shared: &Shared,
    written: &HashMap<TenantId, Settled>,
) -> Result<(), StoreError> {
    let now = unix_now();
    let (mut before, mut starts, mut passed) = (Sums::new(), BTreeSet::new(), Vec::new());
    let predecessor = {
        let books = shared.books();
        for (start, sums) in books.history.known(now) {
            let known = before.entry(start).or_default();
            for (tenant, sum) in sums {
                // Several kinds of periods may begin at one moment.
                let most = known.entry(tenant.clone()).or_default();
                *most = (*most).max(*sum);
            }
        }
        for budget in books.budgets.values() {
            starts.insert(budget.start_at(now));
            passed.extend(budget.passed(now));
        }
        books.predecessor.as_ref().map(|predecessor| (predecessor.process, predecessor.since))
    };
    starts.extend(before.keys());
    starts.extend(REPORTED.map(|period| period::bounds(period, &TimeZone::UTC, now).0));
    let own = starts.iter().map(|start| {
        let sums = written.iter().map(|(tenant, settled)| (tenant.clone(), settled.since(*start)));
        (*start, sums.collect())
    });
    fill(standings, &before, BEFORE, Rows::Except(shared.process))?;
    fill(standings, &own.collect(), shared.process, Rows::Of(shared.process))?;
    for crossed in &passed {
        // Whether the alert was delivered is lost with the file; most likely it was.
        standings.keep_alert(&alerts::row(crossed, false))?;
    }
    if let Some((process, since)) = predecessor {
        let seen = standings.sum_since(since, Rows::Of(process))?;
        if let Some(predecessor) = &mut shared.books().predecessor {
            predecessor.seen = seen;
        }
    }
    Ok(())
}

/// Adds to the file what it lacks of the sums, from the period that began last to the period that began first.
fn fill(standings: &mut dyn Standings, known: &Sums, process: i64, rows: Rows) -> Result<(), StoreError> {
    for (start, sums) in known.iter().rev() {
        let there = standings.sum_since(*start, rows)?;
        for (tenant, sum) in sums {
            // What was added for a shorter period is in the file already.
            let missing = sum.saturating_sub(there.get(tenant).copied().unwrap_or_default());
            if missing > NanoUsd::ZERO {
                standings.carry_over(*start, process, tenant, missing)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    #[test]
    fn nested_periods_keep_their_sums_and_what_is_there_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let store = sqlite::at(&path);
        let team = TenantId::from("team");
        let sums: Sums = [(0, 1_000), (100, 700), (200, 700), (300, 50)]
            .map(|(start, sum)| (start, HashMap::from([(team.clone(), NanoUsd(sum))])))
            .into();
        let sum_since = |start, rows| store.connect_to_read().unwrap().sum_since(start, rows).unwrap();
        let check = || {
            for (start, sum) in &sums {
                let found = sum_since(*start, Rows::Except(1));
                assert_eq!(found[&team], sum[&team], "since {start}");
            }
        };
        drop(store.accept(&mut |standings| fill(standings, &sums, BEFORE, Rows::Except(1))).unwrap());
        check();
        // A repetition changes nothing; the rows of another process are not looked at.
        drop(store.accept(&mut |standings| fill(standings, &sums, BEFORE, Rows::Except(1))).unwrap());
        check();
        assert_eq!(sum_since(0, Rows::Of(1)), HashMap::new());
        // A copy of the old file that has a part of it.
        sqlite::open(&path).unwrap().execute_batch("DELETE FROM carried WHERE at IN (0, 300)").unwrap();
        drop(store.accept(&mut |standings| fill(standings, &sums, BEFORE, Rows::Except(1))).unwrap());
        let all = sum_since(0, Rows::All);
        assert!(all[&team] >= NanoUsd(1_000), "{all:?}");
    }
}
