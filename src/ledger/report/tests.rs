//! The reports over known rows.

use std::path::PathBuf;

use super::*;
use crate::{
    store::{Basis, Entry, Session, Subject, sqlite},
    types::{RequestId, Usage},
};

const HOUR: u64 = 3_600_000;

fn at(text: &str) -> u64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64
}

struct Book {
    _folder: tempfile::TempDir,
    path: PathBuf,
    session: Box<dyn Session>,
    rows: u64,
}

impl Book {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let (session, _) = sqlite::at(&path).connect().unwrap();
        Self { _folder: folder, path, session, rows: 0 }
    }

    /// A chat of `tenant` with gpt-4o that cost a cent and took a second, unless `change` says otherwise.
    fn add(&mut self, tenant: &str, at: u64, change: impl FnOnce(&mut Entry)) {
        let entry = self.entry(tenant, at, change);
        self.session.append(&mut [(1, &entry)].into_iter(), &[]).unwrap();
    }

    fn entry(&mut self, tenant: &str, at: u64, change: impl FnOnce(&mut Entry)) -> Entry {
        self.rows += 1;
        let mut id = *RequestId::first_at(at).as_bytes();
        id[8..].copy_from_slice(&self.rows.to_be_bytes());
        let subject = Subject {
            id: RequestId::from_bytes(id),
            at,
            tenant: tenant.into(),
            token: None,
            endpoint: "chat_completions",
            route: "gpt-4o".into(),
        };
        let mut entry = Entry {
            provider: "openai".into(),
            model: "gpt-4o".into(),
            usage: Usage { prompt_tokens: 100, completion_tokens: 10, ..Usage::default() },
            cache: "MISS",
            status: 200,
            attempts: 1,
            duration: Duration::from_secs(1),
            ..Entry::bare(subject, NanoUsd(10_000_000), Basis::Provider)
        };
        change(&mut entry);
        entry
    }

    fn hit(&mut self, tenant: &str, at: u64) {
        self.add(tenant, at, |entry| {
            entry.cache = "HIT";
            (entry.cost, entry.saved) = (NanoUsd::ZERO, NanoUsd(7_000_000));
        });
    }
}

#[test]
fn an_empty_ledger_has_nothing_and_every_day() {
    let book = Book::new();
    let now = at("2026-11-24T12:00:00Z");
    assert_eq!(summary(&*book.session, None, now - 24 * HOUR, now).unwrap(), Summary::default());
    let days = costs(&*book.session, None, now - 48 * HOUR, now).unwrap();
    let expected: Vec<_> = ["22", "23", "24"].map(|day| at(&format!("2026-11-{day}T00:00:00Z"))).to_vec();
    assert_eq!(days.iter().map(|day| day.day).collect::<Vec<_>>(), expected);
    assert!(days.iter().all(|day| *day == Day { day: day.day, ..Day::default() }));
    assert_eq!(costs(&*book.session, None, now, now).unwrap(), []);
    let midnight = at("2026-11-24T00:00:00Z");
    assert_eq!(costs(&*book.session, None, midnight - 1, midnight).unwrap().len(), 1);
    let whole = costs(&*book.session, None, 0, u64::MAX).unwrap();
    assert_eq!(whole.len() as u64, MAX_DAYS);
    assert_eq!(summary(&*book.session, None, 0, u64::MAX).unwrap(), Summary::default());
}

#[test]
fn days_that_were_rolled_up_stand_beside_those_that_were_not() {
    let mut book = Book::new();
    let (monday, tuesday, thursday) =
        (at("2026-11-16T00:00:00Z"), at("2026-11-17T00:00:00Z"), at("2026-11-19T00:00:00Z"));
    for tenant in ["a", "b"] {
        book.add(tenant, monday, |_| {});
        book.hit(tenant, monday + 24 * HOUR - 1);
        book.add(tenant, tuesday, |_| {});
    }
    book.add("a", thursday + 23 * HOUR, |entry| entry.model = "o3-mini".into());
    let all = |book: &Book| {
        [None, Some("a"), Some("b")].map(|tenant| {
            let tenant = tenant.map(TenantId::from);
            costs(&*book.session, tenant.as_ref(), monday + 5 * HOUR, thursday + 24 * HOUR).unwrap()
        })
    };
    let before = all(&book);
    let monday_of_both = Day {
        day: monday,
        calls: 4,
        hits: 2,
        prompt_tokens: 400,
        completion_tokens: 40,
        cost: NanoUsd(20_000_000),
        saved: NanoUsd(14_000_000),
    };
    assert_eq!(before[0][0], monday_of_both);
    assert_eq!(before[0].iter().map(|day| day.calls).collect::<Vec<_>>(), [4, 2, 0, 1]);
    assert_eq!(before[1].iter().map(|day| day.calls).collect::<Vec<_>>(), [2, 1, 0, 1]);
    assert_eq!(before[2].iter().map(|day| day.calls).collect::<Vec<_>>(), [2, 1, 0, 0]);
    assert_eq!(book.session.roll_up_entries(tuesday).unwrap(), 4);
    assert_eq!(all(&book), before, "a roll-up changes no sum");
    // A late entry of a day that was rolled up is added to it.
    book.add("b", monday + HOUR, |_| {});
    assert_eq!(all(&book)[2][0].calls, 3);
    let pair = costs_of(&*book.session, |id| id.as_str() != "a", monday, thursday).unwrap();
    assert_eq!(pair.iter().map(|day| day.calls).collect::<Vec<_>>(), [3, 1, 0]);
}

#[test]
fn a_summary_counts_each_kind_as_what_it_is() {
    let mut book = Book::new();
    let now = at("2026-11-24T12:00:00Z");
    let since = now - 24 * HOUR;
    book.add("a", since - 1, |_| {});
    book.add("a", now, |_| {});
    for minute in 0..5 {
        book.add("a", since + minute * 60_000, |_| {});
    }
    book.hit("a", since);
    book.hit("b", since + HOUR);
    // Earlier this month, and in the last one.
    book.hit("a", at("2026-11-01T00:00:00Z"));
    book.hit("a", at("2026-10-31T23:59:59.999Z"));
    book.add("a", since, |entry| {
        entry.cache = "BYPASS";
        (entry.provider, entry.model) = ("groq".into(), "llama-3-70b".into());
        (entry.cost, entry.basis) = (NanoUsd::ZERO, Basis::Unpriced);
    });
    book.add("a", since, |entry| entry.basis = Basis::Counted);
    book.add("a", since, |entry| *entry = Entry::bare(entry.subject.clone(), NanoUsd(1), Basis::Recovered));
    book.add("a", since, |entry| entry.subject.endpoint = "models");
    book.add("a", since, |entry| entry.subject.endpoint = "model");
    let all = summary(&*book.session, None, since, now).unwrap();
    let expected = Summary {
        requests: 10,
        hits: 2,
        misses: 6,
        cost: NanoUsd(60_000_001),
        cached_cost: NanoUsd::ZERO,
        latency: Some(Latency {
            p50: Duration::from_secs(1),
            p95: Duration::from_secs(1),
            p99: Duration::from_secs(1),
        }),
        models: vec![("gpt-4o".into(), 8), (NO_MODEL.into(), 1), ("groq/llama-3-70b".into(), 1)],
        savings_month: NanoUsd(21_000_000),
        recovered: 1,
        counted: 1,
        unpriced: 1,
    };
    assert_eq!(all, expected);
    assert_eq!(all.hit_rate(), 0.25);
    assert_eq!(
        (all.average(), all.average_uncached(), all.average_cached()),
        (NanoUsd(6_000_000), NanoUsd(7_500_000), NanoUsd::ZERO)
    );
    let b = summary(&*book.session, Some(&"b".into()), since, now).unwrap();
    assert_eq!((b.requests, b.hits, b.savings_month), (1, 1, NanoUsd(7_000_000)));
    let not_b = summary_of(&*book.session, |id| id.as_str() != "b", since, now).unwrap();
    assert_eq!(not_b.requests, 9);
}

#[test]
fn percentiles_are_those_of_the_nearest_rank() {
    let of = |micros: Vec<u64>| {
        let found = latency(micros).unwrap();
        [found.p50, found.p95, found.p99].map(|time| time.as_micros() as u64)
    };
    assert_eq!(latency(Vec::new()), None);
    assert_eq!(of(vec![7]), [7, 7, 7]);
    assert_eq!(of(vec![20, 10]), [10, 20, 20]);
    assert_eq!(of((1..=100).rev().collect()), [50, 95, 99]);
    assert_eq!(of((1..=101).collect()), [51, 96, 100]);
    assert_eq!(of((1..=1_000).rev().collect()), [500, 950, 990]);
    // Only requests that a client got an answer to count.
    let mut book = Book::new();
    for micros in 1..=100 {
        book.add("a", micros, |entry| entry.duration = Duration::from_micros(micros));
        book.add("a", micros, |entry| (entry.status, entry.duration) = (502, Duration::from_secs(60)));
    }
    let found = summary(&*book.session, None, 0, 1_000).unwrap();
    assert_eq!(found.requests, 200);
    assert_eq!(found.latency.unwrap().p99, Duration::from_micros(99));
}

#[test]
fn a_month_is_projected_from_its_first_moment_to_its_last() {
    let (start, end) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    let ten = NanoUsd(10_000_000_000);
    assert_eq!(project(ten, start, end, start), None);
    assert_eq!(project(ten, start, end, start + 24 * HOUR), Some(NanoUsd(300_000_000_000)));
    assert_eq!(project(ten, start, end, at("2026-11-16T00:00:00Z")), Some(NanoUsd(20_000_000_000)));
    assert_eq!(project(ten, start, end, end - 1), Some(NanoUsd(10_000_000_004)), "next to nothing is still to come");
    assert_eq!(project(NanoUsd::ZERO, start, end, start + 1), Some(NanoUsd::ZERO));
    assert_eq!(project(NanoUsd::MAX, start, end, start + 1), Some(NanoUsd::MAX));
}

#[test]
fn a_month_is_that_of_its_time_zone() {
    let mut book = Book::new();
    // 23:30 UTC on the 31st of October is November in Berlin already.
    book.add("a", at("2026-10-31T23:30:00Z"), |_| {});
    book.add("a", at("2026-11-16T00:00:00Z"), |_| {});
    book.add("b", at("2026-11-16T00:00:00Z"), |_| {});
    let now = at("2026-11-16T00:00:00Z");
    let of_a = |id: &TenantId| id.as_str() == "a";
    let utc = month(&*book.session, of_a, "UTC", now).unwrap();
    assert_eq!((utc.start, utc.spent), (at("2026-11-01T00:00:00Z"), NanoUsd(10_000_000)));
    assert_eq!(utc.projected, Some(NanoUsd(20_000_000)));
    let berlin = month(&*book.session, of_a, "Europe/Berlin", now).unwrap();
    assert_eq!((berlin.start, berlin.spent), (at("2026-10-31T23:00:00Z"), NanoUsd(20_000_000)));
    assert_eq!(spent(&*book.session, |_| true, 0).unwrap(), NanoUsd(30_000_000));
}

/// A million rows take 2.6 s in an unoptimised build.
#[test]
fn many_entries_are_read_in_no_time() {
    const ROWS: u64 = 100_000;
    let mut book = Book::new();
    let until = at("2026-11-24T12:00:00Z");
    let mut entry = |row: u64| {
        let tenant = ["a", "b", "c"][row as usize % 3];
        book.entry(tenant, until - 1 - row * 2_000, |entry| entry.duration = Duration::from_micros(ROWS - row))
    };
    let entries: Vec<Entry> = (0..ROWS).map(&mut entry).collect();
    book.session.append(&mut entries.iter().map(|entry| (1, entry)), &[]).unwrap();
    let begun = std::time::Instant::now();
    let found = summary(&*book.session, None, 0, until).unwrap();
    assert_eq!((found.requests, found.latency.unwrap().p95), (ROWS, Duration::from_micros(ROWS / 100 * 95)));
    let days = costs(&*book.session, None, 0, until).unwrap();
    assert_eq!(days.iter().map(|day| day.calls).sum::<u64>(), ROWS);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn the_cache_is_told_by_tenant_and_model() {
    let mut book = Book::new();
    let now = at("2026-11-24T12:00:00Z");
    let since = now - 30 * 24 * HOUR;
    assert_eq!(cache(&*book.session, |_| true, since, now).unwrap(), CacheReport::default());
    for n in 1..=3 {
        book.hit("a", now - n * HOUR);
    }
    book.add("a", now - HOUR, |entry| entry.cache = "MISS");
    book.add("a", now - HOUR, |entry| (entry.cache, entry.provider) = ("BYPASS", "groq".into()));
    book.add("b", now - HOUR, |entry| {
        (entry.cache, entry.cost, entry.saved) = ("STALE", NanoUsd::ZERO, NanoUsd(1_000_000));
    });
    book.add("b", now - HOUR, |entry| (entry.cache, entry.subject.endpoint) = ("BYPASS", "models"));
    book.hit("b", since - 1);
    let report = cache(&*book.session, |_| true, since, now).unwrap();
    let gpt = CacheUse { hits: 3, misses: 1, saved: NanoUsd(21_000_000), ..CacheUse::default() };
    let groq = CacheUse { bypassed: 1, ..CacheUse::default() };
    let stale = CacheUse { hits: 1, stale: 1, saved: NanoUsd(1_000_000), ..CacheUse::default() };
    let line = |tenant: &str, model: &str, done| CacheLine { tenant: tenant.into(), model: model.into(), done };
    assert_eq!(report.lines, [line("a", "gpt-4o", gpt), line("b", "gpt-4o", stale), line("a", "groq/gpt-4o", groq)]);
    let total = CacheUse { hits: 4, stale: 1, misses: 1, bypassed: 1, saved: NanoUsd(22_000_000) };
    assert_eq!((report.total, total.hit_rate()), (total, 0.8));
    let only = cache(&*book.session, |tenant| tenant.as_str() == "b", since, now).unwrap();
    assert_eq!((only.total, only.lines.len()), (stale, 1));

    // The same definition in every report, before the roll-up and after it.
    let whole = summary(&*book.session, None, since, now).unwrap();
    assert_eq!((whole.hits, whole.misses, whole.hit_rate()), (4, 1, 0.8));
    let hits =
        |book: &Book| -> u64 { costs(&*book.session, None, since, now).unwrap().iter().map(|day| day.hits).sum() };
    let before = hits(&book);
    book.session.roll_up_entries(now + 24 * HOUR).unwrap();
    assert_eq!((before, hits(&book)), (5, 5), "the first day counts from its beginning");
}

#[test]
fn what_is_only_counted_counts_in_every_report() {
    let mut book = Book::new();
    let now = at("2026-11-24T12:00:30Z");
    let since = now - 24 * HOUR;
    book.add("a", now - HOUR, |_| {});
    let refuse = |book: &Book, start: u64, tenant: &str, listing: bool, cache: &str, count: u64| {
        let row = rusqlite::params![start, tenant, listing, cache, count];
        let sql = "INSERT INTO refusals VALUES (?1, ?2, 429, 'rate_limit_exceeded', ?3, ?4, ?5)";
        sqlite::open(&book.path).unwrap().execute(sql, row).unwrap();
    };
    let minute = at("2026-11-23T12:00:00Z");
    refuse(&book, minute - 60_000, "a", false, "BYPASS", 1_000);
    // The minute of these refusals begins before the span, and ends in it.
    refuse(&book, minute, "a", false, "BYPASS", 40);
    refuse(&book, minute, "a", false, "MISS", 2);
    refuse(&book, minute, "a", true, "BYPASS", 5);
    refuse(&book, minute, "b", false, "BYPASS", 7);
    let of_a = Some(TenantId::from("a"));
    let all = |book: &Book| {
        let found = summary(&*book.session, of_a.as_ref(), since, now).unwrap();
        let models = vec![(NO_MODEL.to_owned(), 42), ("gpt-4o".to_owned(), 1)];
        assert_eq!((found.requests, found.hits, found.misses, found.models), (43, 0, 3, models));
        assert_eq!(found.latency.unwrap().p50, Duration::from_secs(1));
        let report = cache(&*book.session, |_| true, since, now).unwrap();
        assert_eq!((report.total.misses, report.total.bypassed), (3, 47));
        costs(&*book.session, None, since, now).unwrap().iter().map(|day| day.calls).collect::<Vec<_>>()
    };
    assert_eq!(all(&book), [1_054, 1]);
    // The sums per day keep the number of refusals.
    assert_eq!(book.session.roll_up_refusals(at("2026-11-24T00:00:00Z")).unwrap(), 5);
    let rolled = costs(&*book.session, None, since, now).unwrap();
    assert_eq!(rolled.iter().map(|day| day.calls).collect::<Vec<_>>(), [1_054, 1]);
    let b = costs(&*book.session, Some(&"b".into()), since, now).unwrap();
    assert_eq!(b[0], Day { day: at("2026-11-23T00:00:00Z"), calls: 7, ..Day::default() });
    assert_eq!(spent(&*book.session, |_| true, 0).unwrap(), NanoUsd(10_000_000));
    // A file of an earlier version that no gateway of this version has opened for writing.
    sqlite::open(&book.path).unwrap().execute_batch("DROP TABLE refusals").unwrap();
    assert_eq!(summary(&*book.session, None, since, now).unwrap().requests, 1);
}
