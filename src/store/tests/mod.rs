//! Tests of the contract over each kind of store: in a file, and in memory.

mod memory;

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::types::{NanoUsd, RequestId, TenantId, Usage};

const DAY_MS: u64 = 86_400_000;

/// A kind of store, with a place where several processes find it.
trait Kind {
    fn new() -> Self;

    /// The store as another process sees it.
    fn process(&self) -> Arc<dyn Store>;

    /// Takes the tables from their place while they are in use.
    fn clear(&self);
}

struct InFile {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Kind for InFile {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        Self { _folder: folder, path }
    }

    fn process(&self) -> Arc<dyn Store> {
        sqlite::at(&self.path)
    }

    fn clear(&self) {
        fs::remove_file(&self.path).unwrap();
    }
}

struct InMemory(Arc<memory::Shelf>);

impl Kind for InMemory {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn process(&self) -> Arc<dyn Store> {
        self.0.process()
    }

    fn clear(&self) {
        self.0.clear();
    }
}

macro_rules! over_each_kind {
    ($($test:ident)*) => {
        mod in_a_file {
            $(#[test] fn $test() { super::$test::<super::InFile>(); })*
        }
        mod in_memory {
            $(#[test] fn $test() { super::$test::<super::InMemory>(); })*
        }
    };
}

over_each_kind! {
    what_is_not_there_cannot_be_read_and_what_is_opened_to_read_cannot_be_written
    tokens_are_kept_revoked_once_and_rotated_whole
    a_change_by_another_process_has_another_version_and_a_snapshot_does_not_see_it
    who_cannot_write_is_told_so_in_time
    purges_only_grow_and_wider_ones_cover_narrower_ones
    many_narrow_purges_become_one
    objects_are_numbered_in_order_and_nobody_misses_anothers
    a_batch_is_written_once_however_often_it_is_sent
    each_row_of_a_large_batch_says_whether_it_is_new
    a_batch_that_fails_leaves_nothing
    sums_tell_processes_apart_and_survive_the_roll_up
    reports_are_the_same_before_and_after_the_roll_up
    alerts_are_delivered_once_and_the_oldest_first
    lost_tables_are_noticed_by_all_and_given_up_by_one_who_carries_what_is_known
    what_is_carried_over_takes_nothing_back
    there_is_one_owner
    a_follower_reads_again_and_carries_what_it_had
    the_gateway_runs_on_any_store
}

fn session(kind: &impl Kind) -> Box<dyn Session> {
    kind.process().connect().unwrap().0
}

fn token(n: u8, tenant: &str) -> TokenRow {
    TokenRow {
        id: format!("tok_{n}").into(),
        hash: [n; 32],
        tenant: tenant.into(),
        name: Some(format!("token {n}")),
        scopes: r#"["ai:read","ai:write"]"#.into(),
        models: "[]".into(),
        limits: "{}".into(),
        created_at: u64::from(n),
        expires_at: None,
        revoked_at: None,
        replaced_by: None,
    }
}

fn purge(tenant: &str, model: &str, key: &str, at: u64) -> PurgeRow {
    PurgeRow { tenant: tenant.into(), model: model.into(), key: key.into(), at }
}

const WIDE: PurgeBounds = PurgeBounds { narrow: 100, since: 0 };

fn object(n: u8) -> ObjectRow {
    ObjectRow {
        key: [n; 16],
        tenant: format!("t{n}").into(),
        anonymous: n.is_multiple_of(2),
        class: n % 2,
        at: u64::from(n),
    }
}

/// The nth entry of a tenant at a moment.
fn entry(tenant: &str, at: u64, n: u64, cost: u64) -> Entry {
    let mut id = *RequestId::first_at(at).as_bytes();
    id[8..].copy_from_slice(&n.to_be_bytes());
    let subject = Subject {
        id: RequestId::from_bytes(id),
        at,
        tenant: tenant.into(),
        token: Some("tok_1".into()),
        endpoint: "chat_completions",
        route: "gpt-4o".into(),
    };
    Entry {
        provider: "openai".into(),
        model: "gpt-4o".into(),
        usage: Usage { prompt_tokens: 100, completion_tokens: 10, ..Usage::default() },
        cache: "MISS",
        status: 200,
        attempts: 1,
        duration: Duration::from_millis(n),
        ..Entry::bare(subject, NanoUsd(cost), Basis::Provider)
    }
}

fn append(session: &mut dyn Session, process: i64, entries: &[Entry]) -> Appended {
    session.append(&mut entries.iter().map(|entry| (process, entry)), &[]).unwrap()
}

fn alert(tenant: &str, threshold: u32, raised_at: u64) -> AlertRow {
    let (tenant, period) = (tenant.to_owned(), "monthly".to_owned());
    let key = AlertKey { tenant, period, hard: true, period_start: 7, threshold };
    AlertRow { key, raised_at, body: format!("{{\"percent\":{threshold}}}"), delivered_at: None }
}

fn sums<const N: usize>(sums: [(&str, u64); N]) -> Sums {
    sums.into_iter().map(|(tenant, sum)| (TenantId::from(tenant), NanoUsd(sum))).collect()
}

fn what_is_not_there_cannot_be_read_and_what_is_opened_to_read_cannot_be_written<K: Kind>() {
    let kind = K::new();
    let store = kind.process();
    assert!(store.is_absent() && store.connect_to_read().is_err());
    store.check().unwrap();
    let (mut session, id) = store.connect().unwrap();
    assert!(store.holds(&id) && !store.is_absent());
    session.add_token(&token(1, "a")).unwrap();
    assert_eq!(kind.process().connect().unwrap().1, id, "the same tables");
    assert_eq!(kind.process().name(), store.name());
    assert!(store.name().is_some() && store.name() != K::new().process().name());
    let mut reader = kind.process().connect_to_read().unwrap();
    assert_eq!(reader.tokens(None).unwrap(), [token(1, "a")]);
    assert!(reader.add_token(&token(2, "a")).is_err() && reader.revoke_token("tok_1", 5).is_err());
    assert_eq!(session.tokens(None).unwrap(), [token(1, "a")]);
}

fn tokens_are_kept_revoked_once_and_rotated_whole<K: Kind>() {
    let kind = K::new();
    let mut table = session(&kind);
    let (one, two, three) = (token(1, "a"), token(2, "b"), token(3, "a"));
    for token in [&two, &three, &one] {
        table.add_token(token).unwrap();
    }
    assert_eq!(table.tokens(None).unwrap(), [one.clone(), two.clone(), three.clone()], "the oldest first");
    assert_eq!(table.tokens(Some(&"a".into())).unwrap(), [one.clone(), three.clone()]);
    assert_eq!((table.token("tok_2").unwrap(), table.token("tok_' OR '1'='1").unwrap()), (Some(two.clone()), None));
    assert!(table.add_token(&TokenRow { id: "tok_4".into(), ..one.clone() }).is_err(), "its hash is there");
    assert!(table.add_token(&TokenRow { hash: [9; 32], ..one.clone() }).is_err(), "its id is there");

    table.revoke_token("tok_1", 500).unwrap();
    table.revoke_token("tok_1", 900).unwrap();
    table.revoke_token("tok_x", 900).unwrap();
    assert_eq!(table.token("tok_1").unwrap().unwrap().revoked_at, Some(500), "the first time stands");

    assert!(!table.rotate_token("tok_x", &mut |_| panic!("there is none")).unwrap());
    assert!(table.rotate_token("tok_2", &mut |_| None).unwrap());
    assert_eq!(table.token("tok_2").unwrap(), Some(two.clone()), "nothing was wanted");
    let taken = Rotation { successor: token(3, "b"), ends_at: 700 };
    assert!(table.rotate_token("tok_2", &mut |_| Some(taken.clone())).is_err());
    assert_eq!(table.token("tok_2").unwrap(), Some(two.clone()), "both or neither");
    let fine = Rotation { successor: token(5, "b"), ends_at: 700 };
    let asked = &mut |old: &TokenRow| (*old == two).then(|| fine.clone());
    assert!(table.rotate_token("tok_2", asked).unwrap());
    let ended = TokenRow { expires_at: Some(700), replaced_by: Some("tok_5".into()), ..two };
    assert_eq!(session(&kind).tokens(Some(&"b".into())).unwrap(), [ended, token(5, "b")]);
}

fn a_change_by_another_process_has_another_version_and_a_snapshot_does_not_see_it<K: Kind>() {
    let kind = K::new();
    let (here, mut there) = (session(&kind), session(&kind));
    let versions = || [Topic::Tokens, Topic::Purges].map(|topic| here.version(topic).unwrap());
    let mut before = versions();
    let mut changed = |topic: Topic| {
        let now = versions();
        let moved = now[topic as usize] != before[topic as usize];
        let other = now[1 - topic as usize] != before[1 - topic as usize];
        before = now;
        (moved, other)
    };
    there.add_token(&token(1, "a")).unwrap();
    assert_eq!(changed(Topic::Tokens), (true, false));
    there.revoke_token("tok_1", 5).unwrap();
    assert_eq!(changed(Topic::Tokens), (true, false));
    let fine = Rotation { successor: token(2, "a"), ends_at: 7 };
    there.rotate_token("tok_1", &mut |_| Some(fine.clone())).unwrap();
    assert_eq!(changed(Topic::Tokens), (true, false));
    there.purge(&purge("a", "", "", 5), WIDE).unwrap();
    assert_eq!(changed(Topic::Purges), (true, false));
    there.purge(&purge("a", "", "", 6), WIDE).unwrap();
    assert_eq!(changed(Topic::Purges), (true, false));
    append(&mut *there, 1, &[entry("a", 5, 1, 1)]);
    assert_eq!(changed(Topic::Purges), (false, false));
    let seen = here
        .at_once(|tables| {
            let version = tables.version(Topic::Tokens)?;
            let first = tables.tokens(None)?.len();
            there.add_token(&token(3, "a"))?;
            append(&mut *there, 1, &[entry("a", 5, 2, 1)]);
            let nested = tables.at_once(|tables| Ok(tables.tokens(None)?.len()))?;
            let sum = tables.sum_since(0, Rows::All)?;
            Ok((version == tables.version(Topic::Tokens)?, [first, tables.tokens(None)?.len(), nested], sum))
        })
        .unwrap();
    assert_eq!(seen, (true, [2; 3], sums([("a", 1)])), "all of one moment");
    assert_eq!((changed(Topic::Tokens), here.tokens(None).unwrap().len()), ((true, false), 3));
    assert!(here.at_once(|_| Err::<(), _>(StoreError::Failed("as the caller says".into()))).is_err());
    assert_eq!(here.at_once(|tables| tables.sum_since(0, Rows::All)).unwrap(), sums([("a", 2)]));
}

fn who_cannot_write_is_told_so_in_time<K: Kind>() {
    let kind = K::new();
    let (mut here, mut there) = (session(&kind), session(&kind));
    here.add_token(&token(1, "a")).unwrap();
    let mut refused = None;
    let begun = Instant::now();
    here.rotate_token("tok_1", &mut |_| {
        // While the token is being changed, others read it as it was, and nobody else writes.
        assert_eq!(there.tokens(None).unwrap().len(), 1);
        refused = Some(there.append(&mut [(1, &entry("a", 1, 1, 1))].into_iter(), &[]));
        None
    })
    .unwrap();
    assert!(matches!(refused, Some(Err(StoreError::Busy(_)))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(append(&mut *there, 1, &[entry("a", 1, 1, 1)]).entries, [true], "and now it can");
}

fn purges_only_grow_and_wider_ones_cover_narrower_ones<K: Kind>() {
    let kind = K::new();
    let mut table = session(&kind);
    let at = |table: &mut dyn Session, row: &PurgeRow| table.purge(row, WIDE).unwrap();
    assert_eq!(at(&mut *table, &purge("t", "m", "", 100)), Purged { at: 100, folded: false });
    assert_eq!(at(&mut *table, &purge("t", "m", "", 50)).at, 100, "a clock that was put back");
    at(&mut *table, &purge("", "m", "", 20));
    at(&mut *table, &purge("t", "", "k", 60));
    at(&mut *table, &purge("u", "", "", 30));
    at(&mut *table, &purge("t", "", "", 70));
    let sorted = |table: &dyn Session| {
        let mut rows = table.purges().unwrap();
        rows.sort();
        rows
    };
    let all = [purge("", "m", "", 20), purge("t", "", "", 70), purge("t", "m", "", 100), purge("u", "", "", 30)];
    assert_eq!(sorted(&*table), all, "the key is covered by its tenant");
    at(&mut *table, &purge("", "", "", 65));
    assert_eq!(sorted(&*table), [purge("", "", "", 65), all[1].clone(), all[2].clone()]);
    table.purge(&purge("u", "m", "", 200), PurgeBounds { since: 71, ..WIDE }).unwrap();
    assert_eq!(sorted(&*session(&kind)), [all[2].clone(), purge("u", "m", "", 200)], "what is too old is gone");
}

fn many_narrow_purges_become_one<K: Kind>() {
    let kind = K::new();
    let mut table = session(&kind);
    let bounds = PurgeBounds { narrow: 10, since: 0 };
    table.purge(&purge("u", "m", "", 1), bounds).unwrap();
    for n in 1..=10 {
        assert!(!table.purge(&purge("t", "", &format!("k{n}"), n), bounds).unwrap().folded);
    }
    let purged = table.purge(&purge("t", "m", "", 11), bounds).unwrap();
    assert_eq!(purged, Purged { at: 11, folded: true });
    let rows = table.purges().unwrap();
    assert!(rows.contains(&purge("t", "", "", 6)) && rows.contains(&purge("u", "m", "", 1)), "{rows:?}");
    assert_eq!(rows.len(), 7, "the older half of the tenant's is covered: {rows:?}");
}

fn objects_are_numbered_in_order_and_nobody_misses_anothers<K: Kind>() {
    let kind = K::new();
    let (mut here, mut there) = (session(&kind), session(&kind));
    let nobody = &mut |row| panic!("nobody else wrote {row:?}");
    assert_eq!(here.objects_behind(0, nobody).unwrap(), 0);
    let seen = here.add_objects(0, &[object(1), object(2)], &[], nobody).unwrap();
    let mut read = Vec::new();
    let upto = there.add_objects(0, &[object(3), object(1)], &[], &mut |row| read.push(row)).unwrap();
    assert_eq!(read, [object(1), object(2)], "what was there is handed over first");
    assert!(upto > seen);
    let mut behind = Vec::new();
    assert_eq!(here.objects_behind(seen, &mut |row| behind.push(row)).unwrap(), upto);
    assert_eq!(behind, [object(3)], "one that is there keeps its number and its owner");
    let last = here.add_objects(upto, &[object(4)], &[[2; 16], [9; 16]], nobody).unwrap();
    let mut all = Vec::new();
    assert_eq!(session(&kind).objects_behind(0, &mut |row| all.push(row)).unwrap(), last);
    assert_eq!(all, [object(1), object(3), object(4)]);
    assert_eq!(here.objects_behind(last, nobody).unwrap(), last);
}

fn a_batch_is_written_once_however_often_it_is_sent<K: Kind>() {
    let kind = K::new();
    let mut log = session(&kind);
    let entries = [entry("a", 1_000, 1, 5), entry("a", 1_000, 2, 7)];
    let alerts = [alert("a", 50, 1), alert("a", 80, 2)];
    let mut both = entries.iter().map(|entry| (1, entry));
    let first = log.append(&mut both, &alerts).unwrap();
    assert_eq!(first, Appended { entries: vec![true, true], alerts: vec![true, true] });
    let dearer = Entry { cost: NanoUsd(1_000), ..entries[0].clone() };
    let more = entry("b", 1_000, 3, 1);
    let again = [(2, &dearer), (2, &more)];
    let second = log.append(&mut again.into_iter(), &[alert("a", 80, 3), alert("b", 80, 3)]).unwrap();
    assert_eq!(second, Appended { entries: vec![false, true], alerts: vec![false, true] });
    assert_eq!(session(&kind).sum_since(0, Rows::All).unwrap(), sums([("a", 12), ("b", 1)]), "what is there stays");
    assert!(log.has_entry(&entries[0].subject.id).unwrap() && log.has_entry(&more.subject.id).unwrap());
    assert!(!log.has_entry(&RequestId::now()).unwrap());
    // Excessive numbers from a broken provider do not overflow the sums.
    append(&mut *log, 1, &[entry("c", 1_000, 4, u64::MAX), entry("c", 1_000, 5, u64::MAX)]);
    assert_eq!(log.sum_since(0, Rows::All).unwrap()[&TenantId::from("c")], NanoUsd(2 * MOST.cast_unsigned()));
}

fn each_row_of_a_large_batch_says_whether_it_is_new<K: Kind>() {
    let kind = K::new();
    let mut log = session(&kind);
    let entries: Vec<_> = (0..40).map(|n| entry("a", 1_000 + n, n, 1)).collect();
    append(&mut *log, 1, &[entries[3].clone(), entries[17].clone(), entries[38].clone()]);
    let there = |n: usize| [3, 17, 38].contains(&n);
    // One id is twice in the batch itself.
    let batch: Vec<_> = entries.iter().chain([&entries[5]]).cloned().collect();
    let expected: Vec<_> = (0..40).map(|n| !there(n)).chain([false]).collect();
    assert_eq!(append(&mut *log, 2, &batch).entries, expected);
    assert_eq!(log.sum_since(0, Rows::All).unwrap(), sums([("a", 40)]));
    let more: Vec<_> = (40..61).map(|n| entry("b", 2_000, n, 1)).collect();
    assert_eq!(append(&mut *log, 2, &more).entries, [true; 21]);
    assert_eq!(log.sum_since(0, Rows::Of(2)).unwrap(), sums([("a", 37), ("b", 21)]));
}

fn a_batch_that_fails_leaves_nothing<K: Kind>() {
    let kind = K::new();
    let mut log = session(&kind);
    let entries = [entry("a", 1_000, 1, 5), entry("a", 1_000, 2, 7)];
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut broken = entries.iter().enumerate().map(|(n, entry)| {
            assert!(n < 1, "as the test wants it");
            (1, entry)
        });
        log.append(&mut broken, &[])
    }));
    assert!(outcome.is_err());
    let mut next = session(&kind);
    assert_eq!(next.sum_since(0, Rows::All).unwrap(), Sums::new(), "all of a batch, or nothing");
    assert_eq!(append(&mut *next, 1, &entries).entries, [true, true], "and others write on");
}

fn sums_tell_processes_apart_and_survive_the_roll_up<K: Kind>() {
    let kind = K::new();
    let mut log = session(&kind);
    let day = 20_000 * DAY_MS;
    append(&mut *log, 1, &[entry("a", day + 5, 1, 1), entry("a", day + DAY_MS, 2, 10), entry("b", day, 3, 100)]);
    append(&mut *log, 2, &[entry("a", day + DAY_MS, 4, 1_000)]);
    let of = |log: &dyn Session, start, rows| log.sum_since(start, rows).unwrap();
    assert_eq!(of(&*log, 0, Rows::All), sums([("a", 1_011), ("b", 100)]));
    assert_eq!(of(&*log, day + 5, Rows::All), sums([("a", 1_011)]), "from that millisecond on");
    assert_eq!(of(&*log, day + 6, Rows::All), sums([("a", 1_010)]));
    assert_eq!(of(&*log, 0, Rows::Of(1)), sums([("a", 11), ("b", 100)]));
    assert_eq!(of(&*log, 0, Rows::Except(1)), sums([("a", 1_000)]));
    assert_eq!(log.roll_up_entries(day + DAY_MS).unwrap(), 2);
    assert_eq!(log.roll_up_entries(day + DAY_MS).unwrap(), 0);
    assert_eq!(of(&*log, 0, Rows::All), sums([("a", 1_011), ("b", 100)]), "no money is lost");
    assert_eq!(of(&*log, 0, Rows::Except(1))[&TenantId::from("b")], NanoUsd(100), "whose it was is not known any more");
    assert_eq!(of(&*log, 0, Rows::Of(1)), sums([("a", 10)]));
    assert_eq!(of(&*log, 1, Rows::All), sums([("a", 1_010)]), "it counts in no shorter period");
}

/// Everything that a report reads, in one value.
fn reports(session: &dyn Session, span: &Span) -> (Vec<(String, [u64; 6])>, u64, u64, Sums) {
    let mut days: HashMap<String, [u64; 6]> = HashMap::new();
    session
        .costs(span, &mut |row| {
            let sums = days.entry(format!("{} {}", row.at / DAY_MS, row.tenant)).or_default();
            let CostRow { calls, hits, prompt_tokens, completion_tokens, cost, saved, .. } = row;
            for (sum, n) in sums.iter_mut().zip([calls, hits, prompt_tokens, completion_tokens, cost.0, saved.0]) {
                *sum += n;
            }
        })
        .unwrap();
    let (mut requests, mut refused) = (0, 0);
    session
        .traffic(span, &mut |row| {
            assert_eq!((row.provider, row.model, row.basis, row.status), ("openai", "gpt-4o", "provider", 200));
            requests += row.duration_us / 1_000;
        })
        .unwrap();
    session.refused(span, &mut |row| refused += if row.is_miss { 1_000 } else { 1 } * row.count).unwrap();
    let mut days: Vec<_> = days.into_iter().collect();
    days.sort();
    (days, requests, refused, session.saved(span).unwrap())
}

fn reports_are_the_same_before_and_after_the_roll_up<K: Kind>() {
    let kind = K::new();
    let mut log = session(&kind);
    let day = 20_000 * DAY_MS;
    let hit = Entry { cache: "HIT", saved: NanoUsd(9), ..entry("a", day + 1, 2, 0) };
    let stale = Entry { cache: "STALE", saved: NanoUsd(4), ..entry("b", day + DAY_MS, 4, 0) };
    let mut listing = entry("a", day + 1, 8, 0);
    listing.subject.endpoint = "models";
    let late = entry("a", day + 2 * DAY_MS, 16, 3);
    append(&mut *log, 1, &[entry("a", day, 1, 5), hit, stale, listing, late]);
    let kind_of = |cache, is_listing| Refusal { tenant: "a".into(), status: 429, code: "-", is_listing, cache };
    let (miss, bypass) = (kind_of("MISS", false), kind_of("BYPASS", false));
    for _ in 0..2 {
        let rows = [(&miss, 1), (&bypass, 10)].map(|(kind, count)| RefusalRow { start: day + 60_000, kind, count });
        log.add_refusals(&mut rows.into_iter()).unwrap();
    }
    let whole = Span::new(day, day + 2 * DAY_MS);
    let before = reports(&*log, &whole);
    let days = [("20000 a", [25, 1, 300, 30, 5, 9]), ("20001 b", [1, 1, 100, 10, 0, 4])];
    assert_eq!(before.0, days.map(|(day, sums)| (day.to_owned(), sums)), "calls, hits, tokens, cost and savings");
    assert_eq!((before.1, before.2), (1 + 2 + 4, 2_020), "no listing, nothing behind the end; refusals add up");
    assert_eq!(before.3, sums([("a", 9), ("b", 4)]));
    // The first minute counts as a whole.
    assert_eq!(reports(&*log, &Span::new(day + 60_001, day + DAY_MS)).2, 2_020);
    assert_eq!(reports(&*log, &Span::new(day + 120_000, day + DAY_MS)).2, 0);
    let mut uses: HashMap<(String, String), (u64, u64)> = HashMap::new();
    let mut add = |row: CacheRow<'_>| {
        let (count, saved) = uses.entry((row.tenant.into(), row.cache.into())).or_default();
        (*count, *saved) = (*count + row.count, *saved + row.saved.0);
    };
    log.cache_use(&whole, &mut add).unwrap();
    let one = |tenant: &str, cache: &str, saved| ((tenant.to_owned(), cache.to_owned()), (1, saved));
    assert_eq!(uses, HashMap::from([one("a", "MISS", 0), one("a", "HIT", 9), one("b", "STALE", 4)]));

    assert_eq!(log.roll_up_entries(day + 2 * DAY_MS).unwrap(), 4);
    assert_eq!(log.roll_up_refusals(day + 2 * DAY_MS).unwrap(), 2);
    let after = reports(&*session(&kind), &whole);
    assert_eq!(after.0, before.0, "sums per day stay");
    assert_eq!((after.1, after.2, after.3), (0, 0, Sums::new()), "what has no time any more is in no other report");
}

fn alerts_are_delivered_once_and_the_oldest_first<K: Kind>() {
    let kind = K::new();
    let mut table = session(&kind);
    let silent = AlertRow { delivered_at: Some(5), ..alert("a", 100, 30) };
    let rows = [alert("a", 80, 20), alert("a", 50, 20), alert("b", 50, 10), alert("b", 80, 1), silent];
    table.append(&mut std::iter::empty(), &rows).unwrap();
    let open = |table: &dyn Session| {
        let open = table.undelivered_alerts(1).unwrap();
        open.into_iter().map(|alert| (alert.key.tenant, alert.key.threshold, alert.attempts)).collect::<Vec<_>>()
    };
    let name = |tenant: &str| tenant.to_owned();
    assert_eq!(open(&*table), [(name("b"), 50, 0), (name("a"), 50, 0), (name("a"), 80, 0)]);
    assert_eq!(table.undelivered_alerts(1).unwrap()[0].body, r#"{"percent":50}"#);
    table.count_attempt(&rows[1].key, None).unwrap();
    table.count_attempt(&rows[2].key, Some(40)).unwrap();
    assert_eq!(open(&*session(&kind)), [(name("a"), 50, 1), (name("a"), 80, 0)]);
    table.count_attempt(&rows[1].key, Some(50)).unwrap();
    assert_eq!(open(&*table), [(name("a"), 80, 0)]);
}

fn lost_tables_are_noticed_by_all_and_given_up_by_one_who_carries_what_is_known<K: Kind>() {
    let kind = K::new();
    let store = kind.process();
    assert!(!store.tell_lost(), "nothing is known yet");
    let (mut old, id) = store.connect().unwrap();
    append(&mut *old, 1, &[entry("a", 1_000, 1, 7)]);
    kind.clear();
    assert!(!store.holds(&id) && matches!(store.check(), Err(StoreError::Lost(_))));
    assert!(matches!(store.connect(), Err(StoreError::Lost(_))));
    assert!(matches!(store.connect_to_read(), Err(StoreError::Lost(_))));
    assert_eq!((store.tell_lost(), store.tell_lost(), store.lost()), (true, false, 1), "it is said once");
    // Sessions that have the tables open keep them.
    append(&mut *old, 1, &[entry("a", 1_000, 2, 7)]);
    let failed = store.accept(&mut |standings| {
        standings.carry_over(500, 0, &"a".into(), NanoUsd(1))?;
        Err(StoreError::Failed("as the test wants it".into()))
    });
    assert!(failed.is_err() && store.connect().is_err(), "nothing is accepted");
    let known = sums([("a", 14)]);
    let (new, other) = store
        .accept(&mut |standings| {
            assert_eq!(standings.sum_since(0, Rows::All)?, Sums::new(), "nothing of a failed try is in it");
            for (start, process, cost) in [(1_000, 1, 4), (500, 0, 10)] {
                standings.carry_over(start, process, &"a".into(), NanoUsd(cost))?;
            }
            assert_eq!(standings.sum_since(0, Rows::All)?, known);
            standings.keep_alert(&alert("a", 50, 1))
        })
        .unwrap();
    assert_ne!(id, other);
    assert_eq!(new.sum_since(0, Rows::All).unwrap(), known);
    assert_eq!(new.sum_since(501, Rows::Of(1)).unwrap(), sums([("a", 4)]));
    assert_eq!(new.sum_since(0, Rows::Except(1)).unwrap(), sums([("a", 10)]));
    old.leave();
    drop(new);
    let (mut again, same) = store.connect().unwrap();
    assert_eq!((same, store.holds(&other), store.lost()), (other, true, 1));
    assert_eq!(again.append(&mut std::iter::empty(), &[alert("a", 50, 9)]).unwrap().alerts, [false], "raised before");
    let mut costs = Vec::new();
    again.costs(&Span::new(0, 2_000), &mut |row| costs.push((row.at, row.calls, row.cost.0))).unwrap();
    costs.sort_unstable();
    assert_eq!(costs, [(500, 0, 10), (1_000, 0, 4)], "what was carried over costs, and is no request");
    assert!(store.check().is_ok() && kind.process().connect().is_ok());
}

fn what_is_carried_over_takes_nothing_back<K: Kind>() {
    let kind = K::new();
    // A copy in the place of the lost tables has a part of their rows, and some of its own.
    let mut there = session(&kind);
    let ended = |token: TokenRow, expires_at, revoked_at| TokenRow { expires_at, revoked_at, ..token };
    let before =
        [ended(token(1, "a"), Some(900), None), ended(token(2, "a"), None, Some(50)), token(3, "a"), token(4, "a")];
    before.iter().for_each(|row| there.add_token(row).unwrap());
    there.purge(&purge("a", "", "", 100), WIDE).unwrap();
    there.purge(&purge("b", "", "", 10), WIDE).unwrap();
    drop(there);
    let carried = [
        ended(token(1, "a"), Some(500), None),
        ended(token(2, "a"), None, Some(70)),
        ended(token(3, "a"), Some(600), Some(80)),
        token(4, "a"),
        ended(token(5, "a"), None, Some(90)),
    ];
    let store = kind.process();
    let (session, _) = store
        .accept(&mut |standings| {
            carried.iter().try_for_each(|row| standings.keep_token(row))?;
            [purge("a", "", "", 60), purge("b", "", "", 20), purge("c", "m", "", 30)]
                .iter()
                .try_for_each(|row| standings.keep_purge(row))
        })
        .unwrap();
    let ends: Vec<_> =
        session.tokens(None).unwrap().into_iter().map(|token| (token.expires_at, token.revoked_at)).collect();
    let expected = [(Some(500), None), (None, Some(50)), (Some(600), Some(80)), (None, None), (None, Some(90))];
    assert_eq!(ends, expected, "whoever ended it first stands");
    let mut purges = session.purges().unwrap();
    purges.sort();
    assert_eq!(purges, [purge("a", "", "", 100), purge("b", "", "", 20), purge("c", "m", "", 30)]);
}

fn there_is_one_owner<K: Kind>() {
    let kind = K::new();
    let (first, second) = (kind.process(), kind.process());
    let (one, two) = (first.ownership(), second.ownership());
    assert!(!one.is_held() && !one.may_write());
    one.claim().unwrap();
    one.claim().unwrap();
    assert!(one.is_held() && one.may_write());
    one.announce(vec!["127.0.0.1:8080".into()]);
    assert!(matches!(two.claim(), Err(StoreError::Owned(_))));
    let begun = Instant::now();
    assert!(matches!(two.claim_within(Duration::from_millis(30)), Err(StoreError::Owned(_))));
    assert!(begun.elapsed() >= Duration::from_millis(30) && !two.is_held() && !two.may_write());
    one.hand_over();
    two.claim().unwrap();
    one.claim().unwrap();
    assert_eq!((one.is_held(), one.may_write()), (false, true), "the one before writes what it has under way");
    assert!(matches!(one.take_back(Duration::from_millis(30)), Err(StoreError::Owned(_))) && !one.may_write());
    // The ownership can be given up, and a process that ends loses it.
    two.release();
    assert!(!two.is_held() && !two.may_write());
    one.take_back(Duration::ZERO).unwrap();
    one.hand_over();
    two.claim().unwrap();
    drop(second);
    one.take_back(Duration::ZERO).unwrap();
    assert!(one.is_held() && one.may_write());
    // Tools that work beside a gateway do not need the ownership.
    session(&kind).add_token(&token(1, "a")).unwrap();
}

fn a_follower_reads_again_and_carries_what_it_had<K: Kind>() {
    let kind = K::new();
    let store = kind.process();
    let known: Arc<Mutex<Vec<TokenRow>>> = Arc::default();
    let reads = Arc::new(AtomicU64::new(0));
    let (keeps, carries, counts) = (known.clone(), known.clone(), reads.clone());
    let read = move |tables: &dyn Session| {
        counts.fetch_add(1, Ordering::Relaxed);
        *keeps.lock().unwrap() = tables.tokens(None)?;
        Ok(())
    };
    let carry = move |standings: &mut dyn Standings| {
        carries.lock().unwrap().iter().try_for_each(|token| standings.keep_token(token))
    };
    let follower = TableFollower::start(store.clone(), Topic::Tokens, read, carry);
    assert!(follower.is_up() && reads.load(Ordering::Relaxed) == 1);
    follower.refresh();
    assert_eq!(reads.load(Ordering::Relaxed), 1, "nothing has changed");
    session(&kind).add_token(&token(1, "a")).unwrap();
    follower.refresh();
    assert_eq!(*known.lock().unwrap(), [token(1, "a")]);
    session(&kind).add_token(&token(2, "a")).unwrap();
    let begun = Instant::now();
    while known.lock().unwrap().len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(2), "it does not look by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    kind.clear();
    follower.refresh();
    assert!(!follower.is_up() && known.lock().unwrap().len() == 2, "what is known goes on serving");
    drop(store.accept(&mut |_| Ok(())).unwrap());
    assert_eq!(session(&kind).tokens(None).unwrap(), [token(1, "a"), token(2, "a")]);
    session(&kind).revoke_token("tok_1", 5).unwrap();
    follower.refresh();
    assert!(follower.is_up());
    assert_eq!(known.lock().unwrap()[0].revoked_at, Some(5), "it follows those that were accepted");
}

/// Runs the parts above the store on it: they work with every kind.
fn the_gateway_runs_on_any_store<K: Kind>() {
    use crate::{
        cache::{Purge, Purges},
        config::{self, OnFailure, Period},
        identity::{Directory, NewToken, Refused, Scopes, Tokens},
        ledger::{Ledger, Rule, report},
        objects::{Class, Objects, Owner},
    };
    let kind = K::new();
    let folder = tempfile::tempdir().unwrap();
    let database = config::Database {
        path: folder.path().join("intents"),
        on_failure: OnFailure::Refuse,
        retention: Duration::from_secs(86_400),
        refusal_retention: Duration::from_secs(86_400),
    };
    let rule = config::Budget {
        limit: NanoUsd(1_000),
        period: Period::Monthly,
        timezone: "UTC".into(),
        hard: true,
        alert_at: vec![50],
    };
    let new = NewToken {
        tenant: "team".into(),
        name: None,
        scopes: Scopes::CLIENT,
        models: Vec::new(),
        limits: config::Limits::default(),
        expires_at: None,
    };
    let (_, secret) = Tokens(&mut *session(&kind)).create(&new).unwrap();
    let owner = Owner { tenant: "team".into(), anonymous: false };
    let (mut spent, mut newest) = (0, 0);
    for round in 0..2 {
        let store = kind.process();
        let ledger = Ledger::open(store.clone(), &database).unwrap();
        assert!(matches!(Ledger::open(kind.process(), &database), Err(StoreError::Owned(_))));
        let (directory, purges) = (Directory::follow(store.clone()), Purges::follow(store.clone()));
        let objects = Objects::open(store.clone());
        ledger.read_history(std::slice::from_ref(&rule));
        let team = TenantId::from("team");
        let rules = [Rule { owner: &team, budget: &rule, covers: Arc::new(|_| true) }];
        let account = ledger.account(&team, &rules);
        let standing = || account.budgets()[0].standing(crate::types::unix_now()).spent.0;
        assert_eq!(standing(), spent, "round {round}: what was spent before");
        assert_eq!(directory.authenticate(secret.expose()).unwrap().tenant, team);
        assert_eq!(directory.authenticate("chitty_x").unwrap_err(), Refused::Unknown);
        let key = "ab".repeat(32).parse().ok().unwrap();
        assert_eq!(purges.stamp_of(&key, &team, "m", None), newest);
        newest = purges.purge(&Purge::Key(key), Some(&team)).unwrap();
        assert_eq!(objects.owner("openai", "file-1"), (round > 0).then(|| owner.clone()));
        objects.record("openai", ["file-1"], &owner, Class::Kept);
        assert!(objects.flush(Duration::from_secs(5)));
        if round > 0 {
            // The tables are lost: the next ones get everything that was known.
            kind.clear();
        }
        let mut subject = entry("team", crate::types::unix_now(), 1, 0).subject;
        subject.id = RequestId::now();
        let begun = Instant::now();
        let reservation = loop {
            assert!(begun.elapsed() < Duration::from_secs(10), "nothing is served again");
            // With `refuse` nothing is served while the tables are lost.
            match ledger.reserve(&account, subject.clone(), NanoUsd(400)) {
                Ok(reservation) => break reservation,
                Err(error) => assert_eq!(error, crate::ledger::Refused::Unavailable),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        reservation.settle(Entry::bare(subject, NanoUsd(400), Basis::Provider));
        spent += 400;
        assert!(ledger.flush(Duration::from_secs(10)));
        let begun = Instant::now();
        while store.check().is_err() || objects.counts().waiting > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "nobody goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
        let told = report::spent(&*store.connect_to_read().unwrap(), |_| true, 0).unwrap();
        assert_eq!((told, standing()), (NanoUsd(spent), spent), "round {round}");
        assert!(ledger.close(Duration::from_secs(10)));
        drop((account, ledger));
        let begun = Instant::now();
        while kind.process().ownership().claim().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(5), "the writer does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(session(&kind).tokens(None).unwrap().len(), 1);
    assert_eq!(session(&kind).purges().unwrap().last().unwrap().at, newest);
}
