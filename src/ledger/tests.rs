//! The rules about money, in any order of events; and the ledger on disks that fail.

use std::{path::Path, thread};

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::{
    config::Period,
    store::{Rows, sqlite},
    types::{RequestId, Usage},
};

fn start(database: &config::Database) -> Result<Arc<Ledger>, StoreError> {
    Ledger::open(sqlite::at(&database.path), database)
}

impl Ledger {
    fn path(&self) -> &Path {
        Path::new(self.store().location())
    }
}

fn rule(limit: u64) -> config::Budget {
    config::Budget {
        limit: NanoUsd(limit),
        period: Period::Monthly,
        timezone: "UTC".into(),
        hard: true,
        alert_at: vec![50, 80, 100],
    }
}

fn database(folder: &Path) -> config::Database {
    config::Database {
        path: folder.join("can.db"),
        on_failure: OnFailure::Serve,
        retention: Duration::from_secs(40 * 86_400),
        refusal_retention: Duration::from_secs(10 * 86_400),
    }
}

fn subject(tenant: &str) -> Subject {
    Subject {
        id: RequestId::now(),
        at: unix_now(),
        tenant: tenant.into(),
        token: None,
        endpoint: "chat_completions",
        route: "gpt-4o".into(),
    }
}

fn only(tenant: &'static str) -> Covers {
    Arc::new(move |id: &TenantId| id.as_str() == tenant)
}

/// The account of a tenant with one budget of its own.
fn alone(ledger: &Ledger, tenant: &'static str, rule: &config::Budget) -> (Arc<Account>, Arc<Budget>) {
    let rules = [Rule { owner: &tenant.into(), budget: rule, covers: only(tenant) }];
    let account = ledger.account(&tenant.into(), &rules);
    let budget = account.budgets()[0].clone();
    (account, budget)
}

fn cost(subject: &Subject, cost: u64) -> Entry {
    let usage = Usage { prompt_tokens: 1, ..Usage::default() };
    Entry { usage, ..Entry::bare(subject.clone(), NanoUsd(cost), Basis::Provider) }
}

/// Sum and number of a tenant's entries.
fn rows(path: &Path, tenant: &str) -> (u64, u64) {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row("SELECT coalesce(sum(cost), 0), count(*) FROM entries WHERE tenant = ?1", [tenant], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap()
}

fn flush(ledger: &Ledger) {
    assert!(ledger.flush(Duration::from_secs(10)), "not written in time");
}

#[derive(Clone, Debug)]
enum Step {
    /// Reserve this amount, for the team (`true`) or for its sibling under the same parent.
    Reserve(bool, u64),
    /// Settle the nth open reservation at this share of what it holds, in 1/255.
    Settle(usize, u8),
    /// Drop the nth open reservation before a provider was called.
    Release(usize),
    /// Drop the nth open reservation after a provider was called.
    Abandon(usize),
    /// Ask for more in the nth open reservation.
    Extend(usize, u64),
    /// The process ends: nothing settles what is open.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<bool>(), 0..400u64).prop_map(|(sibling, amount)| Step::Reserve(sibling, amount)),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, share)| Step::Settle(at, share)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Abandon),
        1 => (any::<usize>(), 0..200u64).prop_map(|(at, more)| Step::Extend(at, more)),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A process over the same files: a ledger with the budgets of a team, its sibling and their parent.
struct Process {
    ledger: Arc<Ledger>,
    team: Arc<Account>,
    sibling: Arc<Account>,
    open: Vec<(Subject, Reservation)>,
}

const TEAM: u64 = 700;
const PARENT: u64 = 1_000;

impl Process {
    fn start(folder: &Path) -> Self {
        let ledger = start(&database(folder)).unwrap();
        ledger.read_history(&[rule(0)]);
        let process = |tenant: &'static str, limit| {
            let (owner, above): (TenantId, TenantId) = (tenant.into(), "parent".into());
            let rules = [
                Rule { owner: &owner, budget: &rule(limit), covers: only(tenant) },
                Rule { owner: &above, budget: &rule(PARENT), covers: Arc::new(|_| true) },
            ];
            ledger.account(&owner, &rules)
        };
        let (team, sibling) = (process("team", TEAM), process("sibling", PARENT));
        Self { team, sibling, ledger, open: Vec::new() }
    }

    /// Spent and reserved of the team and of the parent.
    fn counters(&self) -> [(u64, u64); 3] {
        let now = unix_now();
        let of = |budget: &Budget| {
            let standing = budget.standing(now);
            (standing.spent.0, standing.reserved.0)
        };
        [of(&self.team.budgets()[0]), of(&self.sibling.budgets()[0]), of(&self.team.budgets()[1])]
    }

    /// Ends the process as a kill would: guards do not run, nothing more is written, locks are released. The next process finds
    /// the copies in `rest`.
    fn kill(self, rest: &Path) {
        copy_as_of_now(&self.ledger, rest);
        let Self { ledger, open, team, sibling } = self;
        drop((team, sibling, ledger));
        for (_, reservation) in open {
            reservation.forget();
        }
    }
}

/// Copies the files in the state in which a process that is killed at this moment leaves them.
fn copy_as_of_now(ledger: &Ledger, rest: &Path) {
    // First the intents: one whose entry is written meanwhile changes nothing, an entry without either would be lost.
    let mut folder = ledger.path().to_owned().into_os_string();
    folder.push("-intents");
    let copies = rest.join("can.db-intents");
    std::fs::create_dir(&copies).unwrap();
    for segment in std::fs::read_dir(folder).unwrap() {
        let segment = segment.unwrap();
        std::fs::copy(segment.path(), copies.join(segment.file_name())).unwrap();
    }
    let connection = Connection::open(ledger.path()).unwrap();
    connection.execute("VACUUM INTO ?1", [rest.join("can.db").to_str().unwrap()]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn money_is_never_made_lost_or_overspent(steps in steps()) {
        let mut folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(folder.path());
        // The expected counters.
        let (mut team, mut sibling) = (0, 0);
        for step in steps {
            match step {
                Step::Reserve(is_sibling, amount) => {
                    let (name, account) =
                        if is_sibling { ("sibling", &process.sibling) } else { ("team", &process.team) };
                    let [(t, tr), _, (p, pr)] = process.counters();
                    let fits = p + pr + amount <= PARENT && (is_sibling || t + tr + amount <= TEAM);
                    let subject = subject(name);
                    let outcome = process.ledger.reserve(account, subject.clone(), NanoUsd(amount));
                    prop_assert_eq!(outcome.is_ok(), fits);
                    process.open.extend(outcome.ok().map(|reservation| (subject, reservation)));
                }
                Step::Settle(at, share) if !process.open.is_empty() => {
                    let (subject, reservation) = process.open.swap_remove(at % process.open.len());
                    let spent = reservation.amount().0 * u64::from(share) / 255;
                    *if subject.tenant.as_str() == "team" { &mut team } else { &mut sibling } += spent;
                    reservation.settle(cost(&subject, spent));
                }
                Step::Release(at) if !process.open.is_empty() => {
                    drop(process.open.swap_remove(at % process.open.len()));
                }
                Step::Abandon(at) if !process.open.is_empty() => {
                    let (subject, mut reservation) = process.open.swap_remove(at % process.open.len());
                    *if subject.tenant.as_str() == "team" { &mut team } else { &mut sibling } += reservation.amount().0;
                    reservation.mark_sent();
                }
                Step::Extend(at, more) if !process.open.is_empty() => {
                    let at = at % process.open.len();
                    let before = process.open[at].1.amount();
                    let extended = process.open[at].1.extend(NanoUsd(more)).is_ok();
                    prop_assert_eq!(process.open[at].1.amount().0, before.0 + if extended { more } else { 0 });
                }
                Step::Crash => {
                    for (subject, reservation) in &process.open {
                        let held = reservation.amount().0;
                        *if subject.tenant.as_str() == "team" { &mut team } else { &mut sibling } += held;
                    }
                    let rest = tempfile::tempdir().unwrap();
                    process.kill(rest.path());
                    folder = rest;
                    process = Process::start(folder.path());
                }
                _ => {}
            }
            let held: u64 = process.open.iter().map(|(_, reservation)| reservation.amount().0).sum();
            let [(t, tr), (s, sr), (p, pr)] = process.counters();
            prop_assert_eq!((t, s, p), (team, sibling, team + sibling));
            prop_assert_eq!((tr + sr, pr), (held, held));
            prop_assert!(t + tr <= TEAM && p + pr <= PARENT);
        }
        process.open.clear();
        flush(&process.ledger);
        let path = folder.path().join("can.db");
        prop_assert_eq!((rows(&path, "team").0, rows(&path, "sibling").0), (team, sibling));
    }
}

#[test]
fn a_kill_before_any_entry_is_written_leaves_what_each_request_has_cost() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, _) = alone(&ledger, "team", &rule(1_000));
    // From now on the file cannot be written.
    let busy = Connection::open(ledger.path()).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reserve = |amount| {
        let subject = subject("team");
        (subject.clone(), ledger.reserve(&account, subject, NanoUsd(amount)).unwrap())
    };
    for spent in [10, 0, 30] {
        let (subject, mut reservation) = reserve(800);
        reservation.extend(NanoUsd(100)).unwrap();
        reservation.settle(cost(&subject, spent));
    }
    let (subject, whole) = reserve(160);
    whole.settle(cost(&subject, 160));
    drop(reserve(800));
    let (_, open) = reserve(800);
    let rest = tempfile::tempdir().unwrap();
    copy_as_of_now(&ledger, rest.path());
    open.forget();
    assert_eq!(rows(&rest.path().join("can.db"), "team"), (0, 0), "nothing was written");

    let next = start(&database(rest.path())).unwrap();
    next.read_history(&[rule(0)]);
    let (_, budget) = alone(&next, "team", &rule(1_000));
    assert_eq!(budget.standing(unix_now()).spent, NanoUsd(1_000));
    flush(&next);
    assert_eq!(rows(next.path(), "team"), (1_000, 6));
}

#[test]
fn threads_that_race_never_overspend() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, budget) = alone(&ledger, "team", &rule(10_000));
    let admitted: u64 = thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let (ledger, account) = (&ledger, &account);
                scope.spawn(move || {
                    let mut admitted = 0;
                    for round in 0..200 {
                        let subject = subject("team");
                        let Ok(reservation) = ledger.reserve(account, subject.clone(), NanoUsd(97)) else {
                            continue;
                        };
                        match (racer + round) % 3 {
                            0 => drop(reservation),
                            _ => {
                                admitted += 1;
                                reservation.settle(cost(&subject, 31));
                            }
                        }
                    }
                    admitted
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    let standing = budget.standing(unix_now());
    assert_eq!((standing.spent.0, standing.reserved.0), (admitted * 31, 0));
    assert!(standing.spent.0 <= 10_000);
    flush(&ledger);
    assert_eq!(rows(ledger.path(), "team").0, standing.spent.0);
}

#[test]
fn a_panic_gives_back_or_settles_what_was_held() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, budget) = alone(&ledger, "team", &rule(1_000));
    for (sent, spent) in [(false, 0), (true, 60)] {
        let (ledger, account) = (ledger.clone(), account.clone());
        let panicked = thread::spawn(move || {
            let mut reservation = ledger.reserve(&account, subject("team"), NanoUsd(60)).unwrap();
            if sent {
                reservation.mark_sent();
            }
            panic!("as a test wants it");
        });
        assert!(panicked.join().is_err());
        let standing = budget.standing(unix_now());
        assert_eq!((standing.spent.0, standing.reserved.0), (spent, 0), "sent: {sent}");
    }
}

#[test]
fn a_soft_budget_alerts_and_refuses_nothing_and_each_threshold_alerts_once() {
    let folder = tempfile::tempdir().unwrap();
    let soft = config::Budget { hard: false, ..rule(100) };
    for _ in 0..2 {
        // The second process finds the thresholds passed, and raises nothing again.
        let ledger = start(&database(folder.path())).unwrap();
        ledger.read_history(std::slice::from_ref(&soft));
        let (account, _) = alone(&ledger, "team", &soft);
        for _ in 0..3 {
            let subject = subject("team");
            let reservation = ledger.reserve(&account, subject.clone(), NanoUsd(500)).unwrap();
            reservation.settle(cost(&subject, 45));
        }
        flush(&ledger);
    }
    let connection = Connection::open(folder.path().join("can.db")).unwrap();
    let mut statement = connection.prepare("SELECT threshold FROM alerts ORDER BY threshold").unwrap();
    let thresholds: Vec<u32> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(thresholds, [50, 80, 100]);
}

#[test]
fn a_new_period_begins_with_nothing_and_an_old_reservation_does_not_touch_it() {
    let now = unix_now();
    let daily = config::Budget { period: Period::Daily, ..rule(100) };
    let key = BudgetKey { tenant: "team".into(), period: Period::Daily, timezone: "UTC".into(), hard: true };
    let budget = Budget::new(key, &daily, only("team"), NanoUsd(30), now, Arc::new(Local));
    let held = budget.hold(now, NanoUsd(70)).unwrap();
    let refused = budget.hold(now, NanoUsd(1)).unwrap_err();
    assert_eq!((refused.spent, refused.reserved, refused.wanted), (NanoUsd(30), NanoUsd(70), NanoUsd(1)));
    let tomorrow = refused.resets_at.unwrap();
    let next = budget.hold(tomorrow, NanoUsd(100)).unwrap();
    assert!(budget.settle(held, NanoUsd(70), NanoUsd(70)).is_empty());
    let standing = budget.standing(tomorrow);
    assert_eq!((standing.spent, standing.reserved, standing.start), (NanoUsd::ZERO, NanoUsd(100), tomorrow));
    assert_eq!(budget.settle(next, NanoUsd(100), NanoUsd(100)).len(), 3);
    // A clock that goes back does not bring the old period back.
    assert!(budget.hold(now, NanoUsd(1)).is_err());
}

#[test]
fn what_grows_over_midnight_still_counts_in_the_day_it_began_in() {
    let now = unix_now();
    let daily = config::Budget { period: Period::Daily, ..rule(100) };
    let key = BudgetKey { tenant: "team".into(), period: Period::Daily, timezone: "UTC".into(), hard: true };
    let budget = Budget::new(key, &daily, only("team"), NanoUsd(30), now, Arc::new(Local));
    let (one, other) = (budget.hold(now, NanoUsd(40)).unwrap(), budget.hold(now, NanoUsd(20)).unwrap());
    let tomorrow = budget.standing(now).resets_at.unwrap();
    budget.hold(tomorrow, NanoUsd(99)).unwrap();
    // Ten are left in yesterday's period, whatever is left today.
    assert_eq!(budget.hold_more(one, NanoUsd(11)).unwrap_err().reserved, NanoUsd(60));
    budget.hold_more(one, NanoUsd(10)).unwrap();
    budget.hold_more(other, NanoUsd(1)).unwrap_err();
    // Money that comes free in yesterday's period stays in that period.
    budget.settle(one, NanoUsd(50), NanoUsd(45));
    budget.hold_more(other, NanoUsd(5)).unwrap();
    budget.hold_more(other, NanoUsd(1)).unwrap_err();
    let standing = budget.standing(tomorrow);
    assert_eq!((standing.spent, standing.reserved), (NanoUsd::ZERO, NanoUsd(99)));
    // Two days later the counters of that period are gone.
    budget.standing(tomorrow + 86_400_000);
    budget.hold_more(other, NanoUsd(1)).unwrap_err();
}

/// Grants 20 as a period begins, 30 at a draw, and keeps what comes back.
#[derive(Default)]
struct Doles(Mutex<Vec<u64>>);

impl Treasury for Doles {
    fn opening(&self, _: &Purse) -> Grant {
        Grant::Part(NanoUsd(20))
    }

    fn draw<'a>(&'a self, _: &'a Purse, wanted: NanoUsd) -> futures::future::BoxFuture<'a, Drawn> {
        let drawn = if wanted <= NanoUsd(30) { Drawn::More(NanoUsd(30)) } else { Drawn::Spent };
        Box::pin(std::future::ready(drawn))
    }

    fn give_back(&self, of: &Purse, left: NanoUsd) {
        assert_eq!(of.limit, NanoUsd(100));
        self.0.lock().push(left.0);
    }

    fn share(&self, _: &str, _: &'static str, limit: u64) -> u64 {
        limit
    }
}

#[tokio::test]
async fn a_budget_holds_what_it_was_granted_and_no_more() {
    let now = unix_now();
    let daily = config::Budget { period: Period::Daily, ..rule(100) };
    let key = BudgetKey { tenant: "team".into(), period: Period::Daily, timezone: "UTC".into(), hard: true };
    let doles = Arc::new(Doles::default());
    let budget = Budget::new(key.clone(), &daily, only("team"), NanoUsd(10), now, doles.clone());
    // The spend before the budget was created is no part of the grant.
    let first = budget.hold(now, NanoUsd(20)).unwrap();
    assert!(budget.hold(now, NanoUsd(1)).unwrap_err().is_passing(), "the limit has more");
    // An extension in the middle of a reply does not draw on the treasury.
    assert!(budget.hold_more(first, NanoUsd(1)).is_err());
    assert_eq!(budget.draw(now, NanoUsd(31)).await, Drawn::Spent);
    assert_eq!(budget.draw(now, NanoUsd(30)).await, Drawn::More(NanoUsd(30)));
    assert_eq!(budget.draw(now, NanoUsd(30)).await, Drawn::Held, "that much is here");
    budget.hold_more(first, NanoUsd(5)).unwrap();
    let second = budget.hold(now, NanoUsd(25)).unwrap();
    budget.settle(first, NanoUsd(25), NanoUsd(3));
    // 60 here, 13 spent, 25 held.
    budget.give_back();
    budget.give_back();
    assert_eq!(*doles.0.lock(), [22]);
    assert!(budget.hold(now, NanoUsd(1)).is_err(), "what is given back is gone");
    // A new period has a grant of its own.
    let tomorrow = budget.standing(now).resets_at.unwrap();
    assert!(budget.hold(tomorrow, NanoUsd(21)).is_err());
    let third = budget.hold(tomorrow, NanoUsd(20)).unwrap();
    budget.settle(second, NanoUsd(25), NanoUsd(25));
    // A budget that only alerts is granted nothing and draws nothing.
    let soft = Budget::new(BudgetKey { hard: false, ..key }, &daily, only("team"), NanoUsd(0), now, doles.clone());
    soft.hold(now, NanoUsd(500)).unwrap();
    assert_eq!(soft.draw(now, NanoUsd(1)).await, Drawn::Held);
    // The last one to let go of a removed budget gives back what a request under way held too much.
    let last = Arc::new(budget);
    let counts_in = last.clone();
    drop(last);
    assert_eq!(doles.0.lock().len(), 1);
    counts_in.settle(third, NanoUsd(20), NanoUsd(5));
    drop(counts_in);
    assert_eq!(*doles.0.lock(), [22, 15]);
}

#[test]
fn a_file_that_cannot_be_written_loses_nothing_and_hangs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, _) = alone(&ledger, "team", &rule(1_000_000));
    // Another program holds the lock.
    let blocker = Connection::open(ledger.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    for _ in 0..1_000 {
        let subject = subject("team");
        ledger.reserve(&account, subject.clone(), NanoUsd(10)).unwrap().settle(cost(&subject, 7));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    while ledger.health().database {
        assert!(begun.elapsed() < Duration::from_secs(10), "the lock is not noticed");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ledger.health().waiting, 1_000);
    assert!(ledger.is_open(), "`serve` goes on");
    blocker.execute_batch("COMMIT").unwrap();
    flush(&ledger);
    assert_eq!(rows(ledger.path(), "team"), (7_000, 1_000));
    assert_eq!((ledger.health().waiting, ledger.health().database), (0, true));
}

#[test]
fn a_ledger_that_has_to_be_written_refuses_while_it_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let strict = config::Database { on_failure: OnFailure::Refuse, ..database(folder.path()) };
    let nowhere = config::Database { path: folder.path().join("no/folder/can.db"), ..strict.clone() };
    assert!(start(&nowhere).is_err(), "at the start it is a fault");
    let lenient = config::Database { on_failure: OnFailure::Serve, ..nowhere };
    let ledger = start(&lenient).unwrap();
    assert!(!ledger.health().database && ledger.is_open());

    let ledger = start(&strict).unwrap();
    let blocker = Connection::open(ledger.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    ledger.record(cost(&subject("team"), 1));
    let begun = Instant::now();
    while ledger.is_open() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the lock is not noticed");
        thread::sleep(Duration::from_millis(10));
    }
    let account = ledger.account(&"team".into(), &[]);
    assert_eq!(ledger.reserve(&account, subject("team"), NanoUsd(1)).unwrap_err(), Refused::Unavailable);
    blocker.execute_batch("COMMIT").unwrap();
    flush(&ledger);
    assert!(ledger.is_open());
}

#[test]
fn a_file_that_comes_late_brings_what_was_spent_before() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mount");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    {
        let ledger = start(&database(&elsewhere)).unwrap();
        ledger.record(cost(&subject("team"), 900));
        flush(&ledger);
    }
    let ledger = start(&database(&place)).unwrap();
    ledger.read_history(&[rule(0)]);
    let (account, budget) = alone(&ledger, "team", &rule(1_000));
    assert_eq!(budget.standing(unix_now()).spent, NanoUsd::ZERO);
    let mine = subject("team");
    ledger.reserve(&account, mine.clone(), NanoUsd(50)).unwrap().settle(cost(&mine, 50));
    std::fs::rename(&elsewhere, &place).unwrap();
    let begun = Instant::now();
    while budget.standing(unix_now()).spent != NanoUsd(950) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{budget:?}");
        thread::sleep(Duration::from_millis(20));
    }
    flush(&ledger);
    assert_eq!(rows(ledger.path(), "team"), (950, 2));
}

#[test]
fn a_successor_holds_what_the_process_before_it_may_still_spend() {
    let folder = tempfile::tempdir().unwrap();
    let old = start(&database(folder.path())).unwrap();
    old.read_history(&[rule(0)]);
    let (old_account, old_budget) = alone(&old, "team", &rule(1_000));
    let reserve = |ledger: &Arc<Ledger>, account: &Arc<Account>, amount| {
        let subject = subject("team");
        ledger.reserve(account, subject.clone(), NanoUsd(amount)).map(|reservation| (subject, reservation))
    };
    let (first, reservation) = reserve(&old, &old_account, 100).unwrap();
    reservation.settle(cost(&first, 100));
    let open = [reserve(&old, &old_account, 200).unwrap(), reserve(&old, &old_account, 100).unwrap()];

    let snapshot = old.freeze().unwrap();
    assert_eq!(snapshot.allowances, [(TenantId::from("team"), 300)], "half of what is left");
    assert_eq!(snapshot.open.iter().map(|open| open.amount).sum::<u64>(), 300);
    assert!(matches!(reserve(&old, &old_account, 301), Err(Refused::Held(_))), "the rest is the successor's");
    old.thaw();
    drop(reserve(&old, &old_account, 600).unwrap());
    let snapshot = old.freeze().unwrap();
    old.let_go();

    let store = sqlite::at(&folder.path().join("can.db"));
    let new = Ledger::open_after(store, &database(folder.path()), Arc::new(Local), Some(&snapshot)).unwrap();
    new.read_history(&[rule(0)]);
    let (new_account, new_budget) = alone(&new, "team", &rule(1_000));
    new.inherit(&snapshot, |_| Some(new_account.clone()));
    let stands = |budget: &Budget| {
        let standing = budget.standing(unix_now());
        (standing.spent.0, standing.reserved.0)
    };
    assert_eq!(stands(&new_budget), (100, 600), "open requests and the allowance");
    assert!(matches!(reserve(&new, &new_account, 301), Err(Refused::Held(_))));
    let (mine, reservation) = reserve(&new, &new_account, 300).unwrap();
    reservation.settle(cost(&mine, 0));
    assert_eq!(new.freeze(), Err(NoHandover::Unfinished));

    // What the old process settles counts as spent in the new one, and is not held any more.
    let until = |wanted: (u64, u64)| {
        let begun = Instant::now();
        while stands(&new_budget) != wanted {
            let (spent, reserved) = stands(&new_budget);
            assert!(
                spent + reserved <= 1_000 && begun.elapsed() < Duration::from_secs(10),
                "{new_budget:?}, not {wanted:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    };
    let [(second, settled), (_, extended)] = open;
    settled.settle(cost(&second, 150));
    until((250, 400));
    // A request that still comes to the old process is paid from the allowance, as is more money for an open request.
    let (late, reservation) = reserve(&old, &old_account, 250).unwrap();
    let mut extended = extended;
    assert!(extended.extend(NanoUsd(51)).is_err());
    extended.extend(NanoUsd(50)).unwrap();
    assert!(reserve(&old, &old_account, 1).is_err());
    reservation.settle(cost(&late, 50));
    let last = reserve(&old, &old_account, 200).unwrap();
    let (older, newer) = (stands(&old_budget), stands(&new_budget));
    assert!(older.0 + older.1 <= 1_000 && newer.0 + newer.1 <= 1_000);
    until((300, 400));

    // The listeners are closed: the allowance belongs to the successor, which holds exactly what is open.
    let rest = old.drain().unwrap();
    assert!(reserve(&old, &old_account, 1).is_err());
    new.inherit(&rest, |_| Some(new_account.clone()));
    until((300, 350));
    // The old process is killed: its requests under way count at the reserved amount, once.
    let (_, last) = last;
    last.forget();
    extended.forget();
    drop((old, old_account, old_budget));
    new.predecessor_ended();
    until((650, 0));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(stands(&new_budget), (650, 0));
    flush(&new);
    assert_eq!(rows(new.path(), "team").0, 650);
    assert!(new.freeze().is_ok(), "it may hand over in its turn");
}

#[test]
fn steady_load_does_not_keep_the_writer_from_its_other_work() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    ledger.read_history(&[rule(0)]);
    let (_, budget) = alone(&ledger, "team", &rule(1_000_000));
    let another = journal::Journal::new(folder.path().join("can.db-intents"), 7);
    another.renew().unwrap();
    let pin = another.note(&subject("team"), NanoUsd(300)).unwrap();
    let busy = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                ledger.record(cost(&subject("other"), 0));
                thread::sleep(Duration::from_millis(1));
            }
        });
        // Another process ends and leaves a request under way.
        drop((another, pin));
        let begun = Instant::now();
        let recovered = || budget.standing(unix_now()).spent == NanoUsd(300);
        while !recovered() && begun.elapsed() < Duration::from_secs(8) {
            thread::sleep(Duration::from_millis(20));
        }
        busy.store(false, Ordering::Relaxed);
        assert!(recovered(), "{budget:?}");
    });
}

#[test]
fn old_entries_become_sums_per_day_and_lose_no_money() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("can.db");
    let (mut session, _) = sqlite::at(&path).connect().unwrap();
    let day = 86_400_000;
    let now = unix_now();
    {
        let mut entries = Vec::new();
        for back in 0..100 {
            for call in 0..3 {
                let at = now - back * day + call;
                let subject = Subject { id: RequestId::first_at(at), at, ..subject("team") };
                entries.push(cost(&subject, 5));
            }
        }
        session.append(&mut entries.iter().map(|entry| (1, entry)), &[]).unwrap();
    }
    let rolled = session.roll_up_entries((now - 40 * day) / day * day).unwrap();
    assert!((170..=180).contains(&rolled), "{rolled}");
    assert_eq!(session.roll_up_entries((now - 40 * day) / day * day).unwrap(), 0);
    let sums = session.sum_since(0, Rows::All).unwrap();
    assert_eq!(sums[&TenantId::from("team")], NanoUsd(1_500));
    let connection = Connection::open(&path).unwrap();
    let calls: u64 = connection.query_row("SELECT sum(calls) FROM days", [], |row| row.get(0)).unwrap();
    assert_eq!(calls, rolled as u64);
}

/// The rules of a team under a parent, for [`Ledger::account`].
fn reload(ledger: &Ledger, own: &[config::Budget], above: &[config::Budget]) -> Arc<Account> {
    let (owner, parent): (TenantId, TenantId) = ("team".into(), "parent".into());
    let all: Vec<_> = own.iter().chain(above).cloned().collect();
    ledger.read_history(&all);
    let is_known = |key: &BudgetKey| {
        let rules = if key.tenant == owner { own } else { above };
        rules.iter().any(|rule| (rule.period, rule.hard, &rule.timezone) == (key.period, key.hard, &key.timezone))
    };
    ledger.retain(is_known);
    let own = own.iter().map(|budget| Rule { owner: &owner, budget, covers: only("team") });
    let above = above.iter().map(|budget| Rule { owner: &parent, budget, covers: Arc::new(|_| true) });
    ledger.account(&owner, &own.chain(above).collect::<Vec<_>>())
}

#[test]
fn a_budget_that_goes_and_returns_or_changes_keeps_what_is_spent_and_held() {
    let folder = tempfile::tempdir().unwrap();
    {
        let before = start(&database(folder.path())).unwrap();
        before.record(cost(&subject("team"), 100));
        before.record(cost(&subject("stranger"), 1_000));
        flush(&before);
    }
    let ledger = start(&database(folder.path())).unwrap();
    let monthly = rule(2_000);
    let variants = [
        vec![],
        vec![monthly.clone()],
        vec![config::Budget { timezone: "Asia/Kolkata".into(), ..monthly.clone() }],
        vec![config::Budget { hard: false, ..monthly.clone() }],
        vec![config::Budget { period: Period::Total, ..monthly.clone() }],
        vec![config::Budget { period: Period::Total, ..monthly.clone() }, monthly.clone()],
        vec![],
        vec![monthly.clone()],
    ];
    let account = reload(&ledger, std::slice::from_ref(&monthly), &[]);
    let (mut spent, mut open) = (100, Vec::new());
    for (round, own) in variants.iter().enumerate() {
        for above in [&[][..], std::slice::from_ref(&monthly)] {
            // Some open requests are older than the reload, some are settled behind it.
            let subject = subject("team");
            open.push((subject.clone(), ledger.reserve(&account, subject, NanoUsd(40)).unwrap()));
            if open.len() > 3 {
                let (subject, reservation): (Subject, Reservation) = open.remove(0);
                reservation.settle(cost(&subject, 7));
                spent += 7;
            }
            assert!(Arc::ptr_eq(&reload(&ledger, own, above), &account), "an account is for ever");
            let held = 40 * open.len() as u64;
            for budget in account.budgets().iter() {
                let standing = budget.standing(unix_now());
                let others = if standing.key.tenant.as_str() == "parent" { 1_000 } else { 0 };
                assert_eq!(
                    (standing.spent.0, standing.reserved.0),
                    (spent + others, held),
                    "round {round}: {:?}",
                    standing.key
                );
            }
        }
    }
    drop(open);
    flush(&ledger);
    let standing = account.budgets()[0].standing(unix_now());
    assert_eq!((standing.spent.0, standing.reserved.0), (spent, 0));
    assert_eq!(rows(ledger.path(), "team").0, spent);
}

#[test]
fn reloads_under_load_lose_no_money_and_make_none() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let monthly = rule(u64::MAX / 4);
    let account = reload(&ledger, std::slice::from_ref(&monthly), &[]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3_u64 {
            let (ledger, account, stop) = (&ledger, &account, &stop);
            scope.spawn(move || {
                let mut open = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let subject = subject("team");
                    open.push((subject.clone(), ledger.reserve(account, subject, NanoUsd(50)).unwrap()));
                    if open.len() > 5 {
                        let (subject, reservation): (Subject, Reservation) = open.remove(worker as usize);
                        reservation.settle(cost(&subject, 10 + worker));
                    }
                    thread::sleep(Duration::from_micros(50));
                }
            });
        }
        for round in 0..40 {
            let own = if round % 2 == 0 { &[][..] } else { std::slice::from_ref(&monthly) };
            reload(&ledger, own, if round % 3 == 0 { &[] } else { std::slice::from_ref(&monthly) });
        }
        reload(&ledger, std::slice::from_ref(&monthly), std::slice::from_ref(&monthly));
        stop.store(true, Ordering::Relaxed);
    });
    flush(&ledger);
    let spent = rows(ledger.path(), "team").0;
    assert!(spent > 0);
    for budget in account.budgets().iter() {
        let standing = budget.standing(unix_now());
        assert_eq!((standing.spent.0, standing.reserved.0), (spent, 0), "{:?}", standing.key);
    }
}

#[tokio::test]
async fn requests_wait_in_the_order_of_arrival_for_what_is_only_held() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, budget) = alone(&ledger, "team", &rule(100));
    let patience = Duration::from_secs(30);
    let mut open = Vec::new();
    for amount in [40, 40] {
        let subject = subject("team");
        open.push((subject.clone(), ledger.reserve(&account, subject, NanoUsd(amount)).unwrap()));
    }
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    // The first request is large, the ones behind it would fit at once.
    for amount in [70, 20, 15] {
        let (ledger, account, told) = (ledger.clone(), account.clone(), told.clone());
        let wait = tokio::spawn(async move {
            let outcome = ledger.reserve_within(&account, subject("team"), NanoUsd(amount), patience).await;
            told.send((amount, outcome.map(|reservation| reservation.amount()))).unwrap();
        });
        while !budget.queue().is_used() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(wait);
    }
    assert!(order.try_recv().is_err(), "all three wait");
    let (subject, reservation) = open.remove(0);
    reservation.settle(cost(&subject, 10));
    // On this runtime with one thread every task that can go on has gone on after these yields.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(order.try_recv().is_err(), "60 are free, the first needs 70, and nobody overtakes it");
    let (subject, reservation) = open.remove(0);
    reservation.settle(cost(&subject, 10));
    for amount in [70, 20, 15] {
        assert_eq!(order.recv().await.unwrap(), (amount, Ok(NanoUsd(amount))));
    }
    assert!(!budget.queue().is_used());
}

#[tokio::test]
async fn what_fits_beside_the_first_in_the_line_does_not_stand_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, budget) = alone(&ledger, "team", &rule(100));
    let under_way = subject("team");
    let held = ledger.reserve(&account, under_way.clone(), NanoUsd(50)).unwrap();
    let large = {
        let (ledger, account) = (ledger.clone(), account.clone());
        let patience = Duration::from_secs(30);
        tokio::spawn(async move { ledger.reserve_within(&account, subject("team"), NanoUsd(70), patience).await })
    };
    while !budget.queue().is_used() {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    let small = |amount| ledger.reserve(&account, subject("team"), NanoUsd(amount));
    // 70 are claimed of 100: 30 are left for those behind, once, however often they come and go.
    drop(small(20).unwrap());
    let tiny = small(10).unwrap();
    assert!(matches!(small(1), Err(Refused::Held(_))), "the first one would not fit any more");
    assert!(matches!(small(101), Err(Refused::Exceeded(_))));
    held.settle(cost(&under_way, 0));
    assert_eq!(large.await.unwrap().unwrap().amount(), NanoUsd(70));
    assert!(!budget.queue().is_used());
    // Nobody waits any more: the free money is available to all.
    assert!(small(20).is_ok());
    drop(tiny);
}

#[tokio::test]
async fn a_wait_ends_with_the_money_with_patience_or_with_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (account, budget) = alone(&ledger, "team", &rule(100));
    let ask = |amount, ms| {
        let (ledger, account) = (ledger.clone(), account.clone());
        async move { ledger.reserve_within(&account, subject("team"), NanoUsd(amount), Duration::from_millis(ms)).await }
    };
    let first = subject("team");
    let reservation = ledger.reserve(&account, first.clone(), NanoUsd(60)).unwrap();
    assert!(matches!(ask(101, 5_000).await, Err(Refused::Exceeded(_))), "no wait brings more than there is");
    let begun = Instant::now();
    assert!(matches!(ask(50, 30).await, Err(Refused::Held(_))));
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert!(matches!(ask(50, 0).await, Err(Refused::Held(_))));
    // A request that gives up frees its place in the queue.
    assert!(tokio::time::timeout(Duration::from_millis(10), ask(50, 60_000)).await.is_err());
    assert!(!budget.queue().is_used());
    // The held money is spent in the end: then the waiting request is refused.
    let waits = tokio::spawn(ask(50, 30_000));
    while !budget.queue().is_used() {
        tokio::task::yield_now().await;
    }
    reservation.settle(cost(&first, 60));
    assert!(matches!(waits.await.unwrap(), Err(Refused::Exceeded(_))));
}

#[tokio::test]
async fn a_request_in_the_queue_of_one_budget_learns_what_comes_free_in_another() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = start(&database(folder.path())).unwrap();
    let (company, team, other): (TenantId, TenantId, TenantId) = ("company".into(), "team".into(), "other".into());
    let (of_all, own) = (rule(200), rule(100));
    let of_company = || Rule { owner: &company, budget: &of_all, covers: Arc::new(|_| true) };
    let of_team = Rule { owner: &team, budget: &own, covers: only("team") };
    let (account, neighbour) =
        (ledger.account(&team, &[of_team, of_company()]), ledger.account(&other, &[of_company()]));
    let budget =
        |owner: &TenantId| account.budgets().iter().find(|budget| budget.key().tenant == *owner).unwrap().clone();
    let (team_budget, company_budget) = (budget(&team), budget(&company));
    let (first, theirs) = (subject("team"), subject("other"));
    let held = ledger.reserve(&account, first.clone(), NanoUsd(40)).unwrap();
    let waits = {
        let (ledger, account) = (ledger.clone(), account.clone());
        let patience = Duration::from_secs(30);
        tokio::spawn(async move { ledger.reserve_within(&account, subject("team"), NanoUsd(70), patience).await })
    };
    // On this runtime with one thread every task that can go on has gone on after these yields.
    let all_go_on = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    all_go_on().await;
    assert!(team_budget.queue().is_used() && !company_budget.queue().is_used());
    let held_by_neighbour = ledger.reserve(&neighbour, theirs.clone(), NanoUsd(150)).unwrap();
    // Its own budget has enough now, the company's has not: 150 of 200 are held there.
    held.settle(cost(&first, 0));
    all_go_on().await;
    assert!(!waits.is_finished() && !company_budget.queue().is_used());
    held_by_neighbour.settle(cost(&theirs, 0));
    let outcome = tokio::time::timeout(Duration::from_secs(10), waits).await.expect("woken by the company's budget");
    assert_eq!(outcome.unwrap().unwrap().amount(), NanoUsd(70));
}
