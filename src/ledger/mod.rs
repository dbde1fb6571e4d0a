//! The ledger: what tenants have spent, and what they may still spend.
//!
//! ```text
//! admit ─▶ reserve the worst case in every budget ─▶ note the intent ─▶ provider ─▶ settle the truth ─▶ entry
//!                     │ one does not have enough                          │ failed
//!                     ▼                                                   ▼
//!                  Exceeded, nothing held                        release, entry without a cost
//! ```
//!
//! Money is an integer number of billionths of a dollar. A [`Reservation`] is a guard: however a request ends, the amount it
//! held is settled or given back, once. The counters are in memory and exact; SQLite is behind a channel, and never on a
//! request's path.
//!
//! | file | contents |
//! |---|---|
//! | `period` | when a day, week or month begins in a time zone |
//! | `budget` | spent and reserved in one budget |
//! | `account` | a tenant's budgets, its open requests, what this process has settled for it |
//! | `treasury` | the seam for several gateways: the source of a budget's money; one process grants itself everything |
//! | `queue` | requests that wait for money that other requests hold |
//! | `reservation` | the guard over all budgets of a request |
//! | `refusals` | requests that cost nothing and reached no provider, counted by minute |
//! | `journal` | intents on disk, so that a killed process leaves a trace |
//! | `writer` | the thread that writes entries in batches, recovers and rolls up |
//! | `alerts`, `webhook` | thresholds that were crossed: raised once, delivered until the webhook accepts them |
//! | `history` | what was spent through other processes |
//! | `carry` | what is written to a fresh file after the old one was deleted or replaced |
//! | `handover` | what a successor has to hold for the process before it |
//! | `report` | reports from the tables: costs by day, latency percentiles |

mod account;
mod alerts;
mod budget;
mod carry;
mod handover;
mod history;
mod journal;
mod period;
mod queue;
mod refusals;
pub mod report;
mod reservation;
#[cfg(test)]
mod tests;
mod treasury;
mod webhook;
mod writer;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

pub use account::{Account, Budgets};
pub use budget::{Budget, BudgetKey, Covers, Exceeded, Standing, ThresholdAlert};
pub use handover::{HandoverSnapshot, NoHandover, OpenRequest};
pub use reservation::Reservation;
pub use treasury::{Drawn, Grant, Local, Purse, Treasury};

pub use crate::store::{Basis, Entry, Refusal, Subject};

use account::Short;
use handover::Predecessor;
use history::History;
use journal::{Journal, Pin};
use refusals::Refusals;
use writer::{Message, Retention};

use crate::{
    config::{self, OnFailure},
    store::{Store, StoreError},
    types::{NanoUsd, TenantId, unix_now},
};

/// How many entries may wait in memory while the file cannot be written. Beyond this number requests are refused, whatever the
/// configuration says, because an entry with a cost is never discarded. The refused requests are only counted then.
const MAX_WAITING: usize = 500_000;

/// How long [`Ledger::read_history`] waits for the writer.
const READ: Duration = Duration::from_secs(5);

/// How long a starting gateway waits for an ending one to let go of the database.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// Why no money could be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A budget does not have enough left, and waiting does not help before its next period.
    Exceeded(Exceeded),
    /// A budget would have enough, but requests under way hold it at the moment.
    Held(Exceeded),
    /// The database or the journal cannot be written (and the configuration refuses requests then), another gateway owns the
    /// database, or too many entries wait in memory.
    Unavailable,
}

/// All accounts and budgets: the counters are in memory, the rows on disk.
pub struct Ledger {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    to_writer: mpsc::Sender<Message>,
    on_failure: OnFailure,
}

/// The state that requests, the writer and the reports share.
struct Shared {
    /// Only the owner of the store writes to it.
    store: Arc<dyn Store>,
    treasury: Arc<dyn Treasury>,
    process: i64,
    books: Mutex<Books>,
    webhook: Mutex<Option<config::Webhook>>,
    waiting: AtomicUsize,
    refusals: Mutex<Refusals>,
    written: AtomicU64,
    up: AtomicBool,
    /// The file has another owner, which grants what is left in its budgets.
    lost: AtomicBool,
    alerts: AtomicU64,
    unrecorded: AtomicU64,
}

/// All accounts and budgets, and what was spent through other processes.
#[derive(Default)]
struct Books {
    accounts: HashMap<TenantId, Arc<Account>>,
    budgets: HashMap<BudgetKey, Arc<Budget>>,
    history: History,
    /// The tenants in the history that have no account (yet).
    strangers: HashSet<TenantId>,
    /// The predecessor of this process, while it still has requests under way.
    predecessor: Option<Predecessor>,
    /// A successor takes over: budgets that are new grant nothing here.
    frozen: bool,
}

impl Books {
    /// Replaces the record of what was spent through other processes.
    fn set_history(&mut self, history: History) {
        let strangers = history.tenants().filter(|tenant| !self.accounts.contains_key(*tenant));
        self.strangers = strangers.cloned().collect();
        self.history = history;
    }

    /// Adds a cost to the record of what was spent through other processes.
    fn add_history(&mut self, tenant: &TenantId, at: u64, cost: NanoUsd) {
        self.history.add(tenant, at, cost);
        if !self.accounts.contains_key(tenant) {
            self.strangers.insert(tenant.clone());
        }
    }
}

/// A budget that a tenant's requests count in.
pub struct Rule<'a> {
    /// The owner of the budget: the tenant, or one of its ancestors.
    pub owner: &'a TenantId,
    /// The budget as the configuration has it.
    pub budget: &'a config::Budget,
    /// Whose spend counts in the budget.
    pub covers: Covers,
}

/// The state of the ledger, for health checks and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The last write to the file succeeded.
    pub database: bool,
    /// Intents can be written.
    pub journal: bool,
    /// The number of entries plus the number of kinds of refusals that are not in the file yet.
    pub waiting: usize,
    /// Requests written by this process: entries, and those that are only counted.
    pub written: u64,
    /// Alerts raised by this process.
    pub alerts: u64,
    /// How often the file was deleted or replaced.
    pub lost: u64,
    /// Requests without a cost that were not recorded, because memory had no room for more waiting entries or kinds of refusals.
    pub unrecorded: u64,
}

impl Ledger {
    /// Opens the ledger: recovers the intents of processes that have ended, and starts the writer.
    ///
    /// # Errors
    /// Another gateway owns the file; with `on_failure: refuse` also a file that cannot be used for any other reason. With
    /// `serve` the writer tries such a file again and again, and writes nothing before this process owns it.
    pub fn open(store: Arc<dyn Store>, database: &config::Database) -> Result<Arc<Self>, StoreError> {
        Self::open_after(store, database, Arc::new(Local), None)
    }

    /// Like [`Self::open`], with budgets that draw on a treasury, and as the successor of the process that wrote `before`. After
    /// a hand-over call [`Self::inherit`], once there are accounts.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_after(
        store: Arc<dyn Store>,
        database: &config::Database,
        treasury: Arc<dyn Treasury>,
        before: Option<&HandoverSnapshot>,
    ) -> Result<Arc<Self>, StoreError> {
        let process = random_process();
        let mut folder = database.path.clone().into_os_string();
        folder.push("-intents");
        let journal = Arc::new(Journal::new(folder.into(), process));
        let shared = Arc::new(Shared {
            store,
            treasury,
            process,
            books: Mutex::new(Books { predecessor: before.map(Predecessor::new), ..Books::default() }),
            webhook: Mutex::default(),
            waiting: AtomicUsize::new(0),
            refusals: Mutex::default(),
            written: AtomicU64::new(0),
            up: AtomicBool::new(true),
            lost: AtomicBool::new(false),
            alerts: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
        });
        // A store that cannot be owned for another reason cannot be opened either: the writer reports that.
        if let Err(error @ StoreError::Owned(_)) = shared.store.ownership().claim_within(LAST_MOMENTS) {
            return Err(error);
        }
        let (to_writer, inbox) = mpsc::channel();
        let retention = Retention { entries: database.retention, refusals: database.refusal_retention };
        let opened = writer::start(shared.clone(), journal.clone(), retention, inbox)?;
        match opened {
            Err(error @ StoreError::Owned(_)) => return Err(error),
            Err(error) if database.on_failure == OnFailure::Refuse => return Err(error),
            _ => {}
        }
        Ok(Arc::new(Self { shared, journal, to_writer, on_failure: database.on_failure }))
    }

    /// The source of the budgets' money and of the meters' part of a limit.
    pub fn treasury(&self) -> &dyn Treasury {
        &*self.shared.treasury
    }

    /// Sets the webhook that alerts are delivered to from now on.
    pub fn set_webhook(&self, webhook: Option<config::Webhook>) {
        *self.shared.webhook.lock() = webhook;
    }

    /// Reads what was spent in the current periods of these rules, so that budgets created from now on begin with these sums.
    /// Blocks on the file, so it is meant for a start and a reload.
    pub fn read_history(&self, rules: &[config::Budget]) {
        let keys = rules.iter().map(|rule| (rule.period, rule.timezone.clone())).collect();
        let (done, read) = mpsc::sync_channel(1);
        let asked = self.to_writer.send(Message::History(keys, done)).is_ok();
        if !asked || !read.recv_timeout(READ).unwrap_or(false) {
            match self.shared.books().history.complete {
                true => tracing::error!("the ledger cannot be read: new budgets begin with what this process knows"),
                false => tracing::error!("the ledger cannot be read: budgets begin with nothing until it can"),
            }
        }
    }

    /// The account of a tenant, from now on with these budgets. Known budgets keep their counters; new ones begin with what
    /// was spent in their period and with what open requests hold. Call this method for every tenant whose rules may have
    /// changed, after [`Self::read_history`].
    pub fn account(&self, tenant: &TenantId, rules: &[Rule<'_>]) -> Arc<Account> {
        let now = unix_now();
        let mut books = self.shared.books();
        let Books { accounts, budgets, history, strangers, predecessor, frozen } = &mut *books;
        let mut fresh = Vec::new();
        let mut chain = Vec::with_capacity(rules.len());
        for Rule { owner, budget: rule, covers } in rules {
            let (period, timezone) = (rule.period, rule.timezone.clone());
            let key = BudgetKey { tenant: (*owner).clone(), period, timezone, hard: rule.hard };
            let budget = match budgets.get(&key) {
                Some(budget) => {
                    budget.set_rule(rule, covers.clone());
                    budget.clone()
                }
                None => {
                    // Tenants with an account add their own spend in `Account::set_budgets`.
                    let covered = strangers.iter().filter(|id| covers(id));
                    let spent = history.spent_by(period, &rule.timezone, now, covered);
                    let budget = Arc::new(Budget::new(
                        key.clone(),
                        rule,
                        covers.clone(),
                        spent,
                        now,
                        self.shared.treasury.clone(),
                    ));
                    if *frozen {
                        budget.freeze(now, |_| NanoUsd::ZERO);
                    }
                    if let Some(predecessor) = predecessor {
                        predecessor.hold_allowance(&budget, now);
                    }
                    budgets.insert(key, budget.clone());
                    fresh.push(budget.clone());
                    budget
                }
            };
            chain.push(budget);
        }
        let account = match accounts.get(tenant) {
            Some(account) => {
                let before = |budget: &Budget| {
                    let BudgetKey { period, timezone, .. } = budget.key();
                    history.spent(*period, timezone, now, tenant)
                };
                account.set_budgets(chain.into(), now, Some(&before));
                account.clone()
            }
            None => {
                let account = Arc::new(Account::new(tenant.clone()));
                account.set_budgets(chain.into(), now, None);
                accounts.insert(tenant.clone(), account.clone());
                strangers.remove(tenant);
                account
            }
        };
        drop(books);
        self.raise(fresh.iter().flat_map(|budget| budget.take_up()).collect());
        account
    }

    /// Holds the most that a request may cost in all of its budgets, or in none, and writes the intent down.
    ///
    /// # Errors
    /// A budget does not have enough left, or the ledger cannot be written (see [`Refused`]).
    pub fn reserve(
        self: &Arc<Self>,
        account: &Arc<Account>,
        subject: Subject,
        amount: NanoUsd,
    ) -> Result<Reservation, Refused> {
        self.try_reserve(account, &subject, amount, false).map_err(|(refused, _)| refused)
    }

    /// Like [`Self::reserve`], but waits while requests under way hold the money that is missing: in the order of arrival, and no
    /// longer than `patience`.
    ///
    /// # Errors
    /// As for [`Self::reserve`]; [`Refused::Held`] after `patience`, or at once if too many requests wait already.
    pub async fn reserve_within(
        self: &Arc<Self>,
        account: &Arc<Account>,
        subject: Subject,
        amount: NanoUsd,
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        let budgets = account.budgets();
        let queued = budgets.iter().find(|budget| budget.queue().is_used()).cloned();
        let (mut refused, budget) = match queued {
            Some(budget) => (None, budget),
            None => match self.try_reserve(account, &subject, amount, true) {
                Err((refused @ Refused::Held(_), Some(budget))) => (Some(refused), budget),
                outcome => return outcome.map_err(|(refused, _)| refused),
            },
        };
        if let Some(place) = budget.queue().enter() {
            let line = async {
                let _turn = place.turn().await;
                let _claim = place.claim(amount);
                // Any budget of the chain may turn out to be the short one.
                let _listening: Vec<_> = budgets.iter().map(|budget| budget.queue().listen()).collect();
                loop {
                    // Enabled before the try: money that comes free during the try wakes this request, too.
                    let mut freed: Vec<_> = budgets.iter().map(|budget| Box::pin(budget.queue().freed())).collect();
                    for freed in &mut freed {
                        freed.as_mut().enable();
                    }
                    let tried = match account.short_of(subject.at, amount) {
                        Some(short) => Err(refusal(short)),
                        None => self.try_reserve(account, &subject, amount, true),
                    };
                    match tried {
                        Err((Refused::Held(exceeded), short)) => {
                            let drawn = match &short {
                                Some(short) => short.draw(subject.at, amount).await,
                                None => Drawn::Held,
                            };
                            match drawn {
                                Drawn::More(_) => continue,
                                Drawn::Held => refused = Some(Refused::Held(exceeded)),
                                Drawn::Spent => return Err(Refused::Exceeded(exceeded)),
                            }
                        }
                        outcome => return outcome.map_err(|(refused, _)| refused),
                    }
                    futures::future::select_all(freed).await;
                }
            };
            if let Ok(outcome) = tokio::time::timeout(patience, line).await {
                return outcome;
            }
        }
        // The request never was at the head of the queue, or the queue was full: one more try tells the state of the budget.
        match refused {
            Some(refused) => Err(refused),
            None => self.reserve(account, subject, amount),
        }
    }

    /// Like [`Self::reserve`]; a refusal also names the budget that refused.
    fn try_reserve(
        self: &Arc<Self>,
        account: &Arc<Account>,
        subject: &Subject,
        amount: NanoUsd,
        in_line: bool,
    ) -> Result<Reservation, (Refused, Option<Arc<Budget>>)> {
        if !self.is_open() {
            return Err((Refused::Unavailable, None));
        }
        let slot = account.hold(subject.id, subject.at, amount, in_line).map_err(refusal)?;
        let mut reservation = Reservation::new(self.clone(), account.clone(), slot, subject.clone(), amount);
        match self.journal.note(subject, amount) {
            Ok(pin) => reservation.keep(pin),
            Err(_) if self.on_failure == OnFailure::Refuse => {
                reservation.cancel();
                return Err((Refused::Unavailable, None));
            }
            // The request goes on without an intent: the writer's log and the metric say that the journal is down.
            Err(_) => {}
        }
        Ok(reservation)
    }

    /// Writes the entry of a request that reserved nothing.
    pub fn record(&self, entry: Entry) {
        self.write(entry, None);
    }

    /// Counts a request that cost nothing and reached no provider, admitted at `at` (milliseconds since 1970).
    pub fn refuse(&self, refusal: Refusal, at: u64) {
        let mut refusals = self.shared.refusals();
        let idle = refusals.len() == 0;
        if !refusals.add(refusal, at, unix_now()) {
            self.shared.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        drop(refusals);
        if idle {
            let _ = self.to_writer.send(Message::Refusals);
        }
    }

    /// Whether requests may be served: the file can be written, or the configuration does without it for now.
    pub fn is_open(&self) -> bool {
        let full = self.shared.waiting.load(Ordering::Relaxed) >= MAX_WAITING;
        // Two gateways with the same budgets would grant the same money twice, whatever `database.on_failure` says.
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let up = || self.shared.up.load(Ordering::Relaxed) && self.journal.is_up();
        !full && !lost && (self.on_failure == OnFailure::Serve || up())
    }

    /// The state of the ledger.
    pub fn health(&self) -> Health {
        Health {
            database: self.shared.up.load(Ordering::Relaxed),
            journal: self.journal.is_up(),
            waiting: self.shared.waiting.load(Ordering::Relaxed) + self.shared.refusals().waiting(),
            written: self.shared.written.load(Ordering::Relaxed),
            alerts: self.shared.alerts.load(Ordering::Relaxed),
            lost: self.shared.store.lost(),
            unrecorded: self.shared.unrecorded.load(Ordering::Relaxed),
        }
    }

    /// The state of every configured budget, in the order of the keys.
    pub fn standings(&self) -> Vec<Standing> {
        let now = unix_now();
        let books = self.shared.books();
        let mut standings: Vec<_> = books.budgets.values().map(|budget| budget.standing(now)).collect();
        standings.sort_by(|a, b| a.key.cmp(&b.key));
        standings
    }

    /// Waits until everything recorded so far is in the file; false if that takes longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, written) = mpsc::sync_channel(1);
        let begun = Instant::now();
        self.to_writer.send(Message::Flush(done)).is_ok()
            && written.recv_timeout(patience).is_ok()
            && begun.elapsed() <= patience
    }

    /// Does the last writes of a process that ends, deletes its intents unless requests are still open, and gives unused grants
    /// back to the treasury. False if the writes took longer than `patience`; the next process recovers what is missing.
    pub fn close(&self, patience: Duration) -> bool {
        let written = self.flush(patience);
        if written {
            self.journal.retire();
        }
        let budgets: Vec<_> = self.shared.books().budgets.values().cloned().collect();
        budgets.iter().for_each(|budget| budget.give_back());
        written
    }

    /// Removes the budgets that are no longer configured.
    pub fn retain(&self, configured: impl Fn(&BudgetKey) -> bool) {
        self.shared.books().budgets.retain(|key, _| configured(key));
    }

    /// Publishes the addresses where this gateway listens, for the message to a gateway that is refused the same database.
    pub fn announce(&self, addresses: Vec<String>) {
        self.shared.store.ownership().announce(addresses);
    }

    /// The store that keeps the ledger's entries, and the other tables.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    fn write(&self, entry: Entry, pin: Option<Pin>) {
        if entry.cost == NanoUsd::ZERO && pin.is_none() && self.shared.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            // An entry without a cost changes no sum; memory must stay bounded.
            self.shared.unrecorded.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        // The send cannot fail: the writer ends only with the ledger.
        let _ = self.to_writer.send(Message::Entry(Box::new(entry), pin));
    }

    fn raise(&self, crossed: Vec<ThresholdAlert>) {
        for crossed in crossed {
            let _ = self.to_writer.send(Message::Alert(Box::new(crossed)));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Others may still read the store, but nobody writes to the ledger any more.
        self.store.ownership().release();
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock()
    }

    /// Counts a cost that was spent elsewhere in every budget that it belongs to.
    fn adopt(&self, tenant: &TenantId, at: u64, cost: NanoUsd) -> Vec<ThresholdAlert> {
        let now = unix_now();
        let mut books = self.books();
        // The history that will be read contains this cost; existing budgets get it then, too.
        if !books.history.complete {
            return Vec::new();
        }
        books.add_history(tenant, at, cost);
        books.budgets.values().flat_map(|budget| budget.adopt(tenant, at, cost, now)).collect()
    }

    fn webhook(&self) -> Option<config::Webhook> {
        self.webhook.lock().clone()
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger in {}: {:?}", self.shared.store.location(), self.health())
    }
}

/// Why a request cannot have its money now, and the budget that lacks it.
fn refusal(Short { budget, exceeded }: Short) -> (Refused, Option<Arc<Budget>>) {
    let refused = if exceeded.is_passing() { Refused::Held(exceeded) } else { Refused::Exceeded(exceeded) };
    (refused, Some(budget))
}

/// A number that no other process has.
fn random_process() -> i64 {
    let id = uuid::Uuid::now_v7();
    // The random half of a time-ordered UUID.
    let mut half = [0; 8];
    half.copy_from_slice(&id.as_bytes()[8..]);
    i64::from_be_bytes(half)
}
