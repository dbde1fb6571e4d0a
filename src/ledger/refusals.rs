//! Counts of requests that cost nothing and reached no provider: refused ones, listings of models, clients that left before
//! anything happened. They are counted by minute, tenant and outcome, so that a client that is refused a million times does
//! not fill the disk.
//!
//! Memory and file are bounded whatever clients send: one tenant has at most [`MOST_OF_TENANT`] kinds in a minute, and all
//! tenants together [`MOST`]. Requests of further kinds are counted by the hour and as `other`: their tenant and their number
//! stay exact.

use std::collections::{HashMap, HashSet};

use crate::{
    store::{Refusal, RefusalRow},
    types::TenantId,
};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;

/// How many kinds of all tenants together are told apart in a minute.
const MOST: usize = 256;

/// How many kinds of one tenant are told apart in a minute.
const MOST_OF_TENANT: usize = 16;

/// How many kinds wait in memory while the file cannot be written. Further kinds are counted by the hour.
const MOST_WAITING: usize = 16_384;

/// How many kinds that are counted by the hour wait in memory: more than there are tenants.
const MOST_BY_HOUR: usize = 4 * MOST_WAITING;

/// Stands for any code where kinds are not told apart.
const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// First millisecond of the minute, or of the hour.
    start: u64,
    kind: Refusal,
}

/// The counts that are not in the file yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: HashMap<Key, u64>,
    /// The minute of the clock that `known` belongs to.
    minute: u64,
    /// The kinds that are told apart in `minute`.
    known: HashSet<Key>,
    of_tenant: HashMap<TenantId, usize>,
    /// Rows that are being written.
    taken: usize,
}

impl Refusals {
    /// Counts a request that was admitted at `at`. False if it could not be counted, because too many kinds wait in memory.
    pub(super) fn add(&mut self, kind: Refusal, at: u64, now: u64) -> bool {
        let exact = Key { start: at - at % MINUTE_MS, kind };
        let key = if self.tells_apart(&exact, now) { exact } else { by_hour(exact) };
        if self.counts.len() >= MOST_BY_HOUR && !self.counts.contains_key(&key) {
            return false;
        }
        let sum = self.counts.entry(key).or_default();
        *sum = sum.saturating_add(1);
        true
    }

    fn tells_apart(&mut self, key: &Key, now: u64) -> bool {
        let minute = now / MINUTE_MS;
        if minute != self.minute {
            self.minute = minute;
            self.known.clear();
            self.of_tenant.clear();
        }
        if self.known.contains(key) {
            return true;
        }
        let used = self.of_tenant.get(&key.kind.tenant).copied().unwrap_or(0);
        if used >= MOST_OF_TENANT || self.known.len() >= MOST || self.counts.len() >= MOST_WAITING {
            return false;
        }
        self.known.insert(key.clone());
        self.of_tenant.insert(key.kind.tenant.clone(), used + 1);
        true
    }

    /// The number of rows to write, without those that are being written.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// The number of rows that are not in the file yet.
    pub(super) fn waiting(&self) -> usize {
        self.counts.len() + self.taken
    }

    /// Takes the rows to write; call [`Self::written`] or [`Self::put_back`] afterwards.
    pub(super) fn take(&mut self) -> Waiting {
        self.taken = self.counts.len();
        Waiting(std::mem::take(&mut self.counts))
    }

    /// Notes that the rows that were taken are in the file.
    pub(super) fn written(&mut self) {
        self.taken = 0;
    }

    /// Puts back the rows that could not be written. Returns the number of requests that memory has no room for.
    pub(super) fn put_back(&mut self, Waiting(counts): Waiting) -> u64 {
        let mut lost = 0;
        self.taken = 0;
        for (key, count) in counts {
            let key = if self.counts.len() >= MOST_WAITING { by_hour(key) } else { key };
            if self.counts.len() >= MOST_BY_HOUR && !self.counts.contains_key(&key) {
                lost += count;
                continue;
            }
            let sum = self.counts.entry(key).or_default();
            *sum = sum.saturating_add(count);
        }
        lost
    }
}

/// Rows that are being written.
pub(super) struct Waiting(HashMap<Key, u64>);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of requests in these rows.
    pub(super) fn requests(&self) -> u64 {
        self.0.values().sum()
    }

    /// The rows as the store keeps them.
    pub(super) fn rows(&self) -> impl Iterator<Item = RefusalRow<'_>> {
        self.0.iter().map(|(Key { start, kind }, count)| RefusalRow { start: *start, kind, count: *count })
    }
}

/// The kind that stands for all kinds of a tenant in an hour.
fn by_hour(Key { start, kind }: Key) -> Key {
    Key { start: start - start % HOUR_MS, kind: Refusal { status: 0, code: OTHER, ..kind } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    const NOW: u64 = 1_795_000_000_000;

    fn kind(tenant: &str, status: u16) -> Refusal {
        Refusal { tenant: tenant.into(), status, code: "-", is_listing: false, cache: "BYPASS" }
    }

    fn sum(refusals: &Refusals, tenant: &str) -> u64 {
        refusals.counts.iter().filter(|(key, _)| key.kind.tenant.as_str() == tenant).map(|(_, count)| count).sum()
    }

    #[test]
    fn a_million_of_a_kind_are_one_row_a_minute() {
        let mut refusals = Refusals::default();
        for n in 0..1_000_000 {
            assert!(refusals.add(kind("team", 429), NOW + n / 10, NOW + n / 10));
        }
        // A span of a hundred seconds touches two or three minutes.
        assert!((2..=3).contains(&refusals.len()), "{}", refusals.len());
        assert_eq!(sum(&refusals, "team"), 1_000_000);
    }

    #[test]
    fn who_sends_many_kinds_loses_detail_and_takes_none_from_others() {
        let mut refusals = Refusals::default();
        for n in 0..10_000 {
            assert!(refusals.add(kind("attacker", 400 + n % 100), NOW, NOW));
        }
        assert_eq!((refusals.len(), sum(&refusals, "attacker")), (MOST_OF_TENANT + 1, 10_000));
        assert!(refusals.add(kind("honest", 429), NOW, NOW));
        let honest = Key { start: NOW - NOW % MINUTE_MS, kind: kind("honest", 429) };
        assert_eq!(refusals.counts[&honest], 1);
        for n in 0..5_000 {
            assert!(refusals.add(kind(&format!("t{n}"), 429), NOW, NOW));
        }
        let by_minute = refusals.counts.keys().filter(|key| key.kind.code != OTHER).count();
        assert_eq!(by_minute, MOST);
        assert_eq!(sum(&refusals, "t4999"), 1, "the number stays with its tenant");
        assert!(refusals.add(kind("t4999", 429), NOW + MINUTE_MS, NOW + MINUTE_MS), "the next minute has room again");
        let again = Key { start: (NOW + MINUTE_MS) / MINUTE_MS * MINUTE_MS, kind: kind("t4999", 429) };
        assert_eq!(refusals.counts[&again], 1);
    }

    #[test]
    fn memory_is_bounded_while_nothing_can_be_written() {
        let mut refusals = Refusals::default();
        let mut lost = 0;
        for minute in 0..3_000 {
            for n in 0..100 {
                let now = NOW + minute * MINUTE_MS;
                lost += u64::from(!refusals.add(kind(&format!("t{}", minute % 600 * 100 + n), 429), now, now));
            }
        }
        assert!(refusals.len() <= MOST_BY_HOUR, "{}", refusals.len());
        let counted: u64 = refusals.counts.values().sum();
        assert_eq!(counted + lost, 300_000);
        let waiting = refusals.take();
        assert!(refusals.add(kind("team", 403), NOW, NOW));
        let lost = refusals.put_back(waiting);
        assert!(lost <= 1 && refusals.len() <= MOST_BY_HOUR, "{lost}");
        assert_eq!(refusals.counts.values().sum::<u64>() + lost, counted + 1);
    }

    #[test]
    fn what_is_written_adds_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let (mut session, _) = sqlite::at(&path).connect().unwrap();
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            for n in 0..20 {
                refusals.add(kind("team", 400 + n), NOW, NOW);
            }
            let waiting = refusals.take();
            assert_eq!(waiting.requests(), 20);
            session.add_refusals(&mut waiting.rows()).unwrap();
        }
        let connection = sqlite::open(&path).unwrap();
        let of = |sql: &str| -> u64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(of("SELECT sum(count) FROM refusals"), 60);
        assert_eq!(of("SELECT count(*) FROM refusals"), MOST_OF_TENANT as u64 + 1);
        assert_eq!(of("SELECT count FROM refusals WHERE code = 'other' AND start % 3600000 = 0"), 12);
    }
}
