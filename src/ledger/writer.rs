//! The one thread that writes to the ledger: entries and alerts in batches, and periodic work (recovery, roll-up).

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Shared,
    account::Settled,
    alerts::{self, Bell},
    budget::ThresholdAlert,
    carry, history,
    journal::{self, Abandoned, Intent, Journal, Noted, Pin},
};
use crate::{
    store::{AlertRow, Basis, Entry, Rows, Session, StoreError, StoreId, Subject},
    types::{NanoUsd, RequestId, TenantId, unix_now},
};

/// After the first entry of a batch the writer sleeps this long: entries that come meanwhile share the batch's commit, and
/// need not wake the writer.
const GATHER: Duration = Duration::from_millis(20);

/// The interval of the periodic work. A quarter of it passes before another try at a file that cannot be written.
const TICK: Duration = Duration::from_secs(1);

/// The shortest interval of the periodic work while the predecessor still spends.
const FOLLOW: Duration = Duration::from_millis(200);

/// The most rows in one transaction, so that other writers get their turn.
const BATCH: usize = 2_000;

/// The interval between two roll-ups.
const ROLL_UP: Duration = Duration::from_secs(3_600);

const DAY_MS: u64 = 86_400_000;

/// A message to the writer.
pub enum Message {
    /// Write this entry, then let go of the request's intent.
    Entry(Box<Entry>, Option<Pin>),
    /// There are refusals to write.
    Refusals,
    /// A budget has passed a threshold.
    Alert(Box<ThresholdAlert>),
    /// Say when everything before this is written.
    Flush(SyncSender<()>),
    /// Read what was spent in these periods before, and say whether that was possible.
    History(BTreeSet<history::Key>, SyncSender<bool>),
}

/// How long rows are kept before they are rolled up.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Single entries.
    pub entries: Duration,
    /// Refusals by minute.
    pub refusals: Duration,
}

struct Writer {
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    retention: Retention,
    session: Option<Box<dyn Session>>,
    /// The tables that `session` is open on.
    tables: Option<StoreId>,
    /// What this process has written to these tables, by tenant.
    spent: HashMap<TenantId, Settled>,
    bell: Bell,
    waiting: VecDeque<(Box<Entry>, Option<Pin>)>,
    alerts: VecDeque<Box<ThresholdAlert>>,
    flushes: Vec<SyncSender<()>>,
    histories: Vec<(BTreeSet<history::Key>, SyncSender<bool>)>,
    /// The last try to write refusals failed.
    stuck: bool,
    /// Another gateway owned the file at the last try.
    owned: bool,
    /// The last try to begin a segment failed.
    no_intents: bool,
    ticked: Instant,
    /// How long the last look at the spend of the predecessor took.
    follow_took: Duration,
    rolled_up: Option<Instant>,
}

/// Recovers the intents of processes that have ended, and starts the writer's thread, which ends when the ledger does. The inner
/// result says whether the file could be used.
///
/// # Errors
/// The system cannot start a thread.
pub fn start(
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    retention: Retention,
    inbox: Receiver<Message>,
) -> Result<Result<(), StoreError>, StoreError> {
    let bell = alerts::start(shared.clone()).map_err(StoreError::Io)?;
    let mut writer = Writer {
        shared,
        journal,
        retention,
        session: None,
        tables: None,
        spent: HashMap::new(),
        bell,
        waiting: VecDeque::new(),
        alerts: VecDeque::new(),
        flushes: Vec::new(),
        histories: Vec::new(),
        stuck: false,
        owned: false,
        no_intents: false,
        ticked: Instant::now(),
        follow_took: Duration::ZERO,
        rolled_up: None,
    };
    let outcome = writer.attempt(|writer| {
        writer.journal.renew()?;
        writer.recover()
    });
    thread::Builder::new().name("ledger".into()).spawn(move || writer.run(&inbox)).map_err(StoreError::Io)?;
    Ok(outcome)
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            match inbox.recv_timeout(self.pause()) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.answer_histories();
            let written = loop {
                if self.flushes.is_empty() {
                    thread::sleep(GATHER);
                }
                inbox.try_iter().for_each(|message| self.take(message));
                if self.is_idle() {
                    break true;
                }
                self.answer_histories();
                if self.attempt(Self::commit).is_err() {
                    // Nothing is lost: the rows wait in memory.
                    thread::sleep(TICK / 4);
                    break false;
                }
                // Under steady load there is always more to write; the periodic work must not wait for a lull.
                if self.ticked.elapsed() >= self.pause() {
                    break true;
                }
            };
            // A flush does not wait for entries that came after it: under steady load there is always another one.
            if written {
                for done in self.flushes.drain(..) {
                    // Whoever asked may have lost patience.
                    let _ = done.try_send(());
                }
            }
            if self.ticked.elapsed() >= self.pause() {
                self.ticked = Instant::now();
                self.tick();
            }
        }
        inbox.try_iter().for_each(|message| self.take(message));
        let _ = self.attempt(Self::commit);
    }

    /// True if nothing waits to be written.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.alerts.is_empty() && self.shared.refusals().len() == 0
    }

    /// The time between two ticks.
    fn pause(&self) -> Duration {
        match self.shared.books().predecessor {
            // Looking takes at most a tenth of the time; the rest is for writing.
            Some(_) => FOLLOW.max(self.follow_took * 10),
            None => TICK,
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Entry(entry, pin) => self.waiting.push_back((entry, pin)),
            // The commit takes the refusals from the shared state.
            Message::Refusals => {}
            Message::Alert(crossed) => self.alerts.push_back(crossed),
            Message::Flush(done) => self.flushes.push(done),
            Message::History(keys, done) => self.histories.push((keys, done)),
        }
    }

    /// Runs `action` on the file, which is opened first if it is not open. Logs once when attempts begin to fail, and once when
    /// they succeed again and nothing waits any more. (On a full disk reads still succeed, so a success alone does not mean that
    /// the file can be written.)
    fn attempt(&mut self, action: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        if self.tables.as_ref().is_some_and(|tables| !self.shared.store.holds(tables)) {
            self.lose();
        }
        let opened = match self.session {
            Some(_) => Ok(()),
            None => self.open(),
        };
        let outcome = opened.and_then(|()| action(self));
        if outcome.is_ok() {
            self.shared.lost.store(false, Ordering::Relaxed);
        }
        match &outcome {
            Err(error) => {
                // The next attempt opens the file again: by then it may be another one.
                self.session = None;
                let owned = matches!(error, StoreError::Owned(_));
                if owned {
                    self.shared.lost.store(true, Ordering::Relaxed);
                }
                if owned && !std::mem::replace(&mut self.owned, owned) {
                    tracing::error!(%error, "nothing is written to the ledger: its file has another owner");
                }
                if self.shared.up.swap(false, Ordering::Relaxed) {
                    tracing::error!(%error, file = %self.shared.store.location(), "the ledger cannot be written; entries wait in memory");
                }
            }
            Ok(()) if self.waiting.is_empty() && !self.stuck => {
                self.owned = false;
                if !self.shared.up.swap(true, Ordering::Relaxed) {
                    tracing::info!("the ledger is written again");
                }
            }
            Ok(()) => {}
        }
        outcome
    }

    /// Opens the file once this process owns it.
    fn open(&mut self) -> Result<(), StoreError> {
        if let Err(error @ StoreError::Lost(_)) = self.shared.store.check() {
            self.say_lost(&error);
        }
        self.shared.store.ownership().claim()?;
        let (session, tables) = match self.shared.store.connect() {
            Err(error @ StoreError::Lost(_)) => {
                self.say_lost(&error);
                // A process that has handed over gives up at once: its successor recovers what it cannot write.
                if !self.shared.store.ownership().is_held() {
                    return Err(error);
                }
                self.go_on()?
            }
            outcome => outcome?,
        };
        (self.session, self.tables) = (Some(session), Some(tables));
        Ok(())
    }

    /// Gives up the session on a file that is no longer in its place. [`Session::leave`] completes the file first, in case it was
    /// only moved away.
    fn lose(&mut self) {
        if let Some(lost) = self.session.take() {
            lost.leave();
        }
        self.tables = None;
    }

    fn say_lost(&self, error: &StoreError) {
        self.shared.up.store(false, Ordering::Relaxed);
        if self.shared.store.tell_lost() {
            tracing::error!(%error, "nothing is written to it any more; a fresh one gets what this process knows");
        }
    }

    /// Goes on in the file that lies in the place of the lost one, or in a new file, after writing what this process knows to it.
    fn go_on(&mut self) -> Result<(Box<dyn Session>, StoreId), StoreError> {
        let opened = self.shared.store.accept(&mut |standings| carry::write(standings, &self.shared, &self.spent))?;
        // Requests that were settled in the lost file must not be recovered from intents.
        self.journal.retire();
        self.journal.renew()?;
        tracing::warn!(
            file = %self.shared.store.location(),
            "the ledger goes on in a fresh file: what is spent of the current periods is in it, single entries are lost"
        );
        Ok(opened)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.commit_entries()?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let waiting = self.shared.refusals().take();
        let written = match waiting.is_empty() {
            true => Ok(()),
            false => session.add_refusals(&mut waiting.rows()),
        };
        self.stuck = written.is_err();
        match written {
            Ok(()) => {
                self.shared.refusals().written();
                self.shared.written.fetch_add(waiting.requests(), Ordering::Relaxed);
            }
            Err(_) => {
                let lost = self.shared.refusals().put_back(waiting);
                self.shared.unrecorded.fetch_add(lost, Ordering::Relaxed);
            }
        }
        written
    }

    fn commit_entries(&mut self) -> Result<(), StoreError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while !self.waiting.is_empty() || !self.alerts.is_empty() {
            let rows = self.waiting.len().min(BATCH);
            let process = self.shared.process;
            let mut entries = self.waiting.iter().take(rows).map(|(entry, _)| (process, &**entry));
            let webhook = self.shared.webhook().is_some();
            let alerts: Vec<AlertRow> = self.alerts.iter().map(|crossed| alerts::row(crossed, webhook)).collect();
            let appended = session.append(&mut entries, &alerts)?;
            for (entry, _) in self.waiting.iter().take(rows).filter(|(entry, _)| entry.cost > NanoUsd::ZERO) {
                let Subject { tenant, at, .. } = &entry.subject;
                self.spent.entry(tenant.clone()).or_default().add(*at, entry.cost);
            }
            // The intents are let go only now that the entries are in the file.
            self.waiting.drain(..rows);
            let alerts = self.alerts.drain(..).zip(appended.alerts);
            let raised: Vec<_> = alerts.filter_map(|(crossed, raised)| raised.then_some(crossed)).collect();
            self.shared.waiting.fetch_sub(rows, Ordering::Relaxed);
            self.shared.written.fetch_add(rows as u64, Ordering::Relaxed);
            self.shared.alerts.fetch_add(raised.len() as u64, Ordering::Relaxed);
            for crossed in &raised {
                alerts::log(crossed);
            }
            if webhook && !raised.is_empty() {
                self.bell.ring();
            }
        }
        Ok(())
    }

    /// Does the periodic work.
    fn tick(&mut self) {
        // Without ownership of the file nothing is written beside it either: its folder may be waiting to be mounted.
        let renewed = self.shared.store.ownership().claim().and_then(|()| Ok(self.journal.renew()?));
        if let Err(error) = &renewed
            && !self.no_intents
        {
            tracing::error!(%error, "intents cannot be written: requests under way would be lost with the process");
        }
        self.no_intents = renewed.is_err();
        if !self.shared.store.ownership().may_write() {
            // The lock file was deleted or replaced: whoever locks the new one owns the database.
            self.session = None;
        }
        let due = self.rolled_up.is_none_or(|at| at.elapsed() >= ROLL_UP);
        let _ = self.attempt(|writer| {
            writer.catch_up()?;
            writer.recover()?;
            if due {
                writer.roll_up()?;
                writer.rolled_up = Some(Instant::now());
            }
            Ok(())
        });
    }

    fn alert(&mut self, crossed: Vec<ThresholdAlert>) {
        self.alerts.extend(crossed.into_iter().map(Box::new));
    }

    fn answer_histories(&mut self) {
        for (keys, done) in std::mem::take(&mut self.histories) {
            let read = self.attempt(|writer| writer.catch_up().and_then(|()| writer.read_history(&keys)));
            // Whoever asked may have lost patience.
            let _ = done.try_send(read.is_ok());
        }
    }

    /// Reads the history for budgets that began without it.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let keys: BTreeSet<_> = {
            let books = self.shared.books();
            if books.history.complete || books.budgets.is_empty() {
                return Ok(());
            }
            books.budgets.keys().map(|key| (key.period, key.timezone.clone())).collect()
        };
        self.read_history(&keys)?;
        tracing::info!("what was spent before is read now");
        Ok(())
    }

    /// Reads what other processes have spent in the current periods, and adds it to budgets that began without it.
    fn read_history(&mut self, keys: &BTreeSet<history::Key>) -> Result<(), StoreError> {
        let Some(session) = &self.session else { return Ok(()) };
        let mut crossed = Vec::new();
        // One snapshot for all sums, and for the look at what the predecessor has spent.
        let read = session.at_once(|tables| {
            crossed = follow(tables, &self.shared)?;
            history::read(tables, keys, self.shared.process)
        });
        self.alert(crossed);
        let history = read?;
        let mut books = self.shared.books();
        let crossed = if books.history.complete { Vec::new() } else { books.catch_up(&history) };
        books.set_history(history);
        drop(books);
        self.alert(crossed);
        Ok(())
    }

    /// Turns the intents of processes that have ended into entries, and counts what the predecessor has spent.
    fn recover(&mut self) -> Result<(), StoreError> {
        let before = self.shared.books().predecessor.as_ref().map(|known| (known.process, known.ended));
        let (mut gone, mut dead, mut lives) = (Vec::new(), false, before.is_some_and(|(_, ended)| !ended));
        for path in self.journal.others()? {
            match Abandoned::take(&path) {
                Ok(Some(segment)) => {
                    dead |= before.is_some_and(|(process, _)| segment.process() == Some(process));
                    gone.push(segment);
                }
                Ok(None) => lives |= before.is_some_and(|(process, _)| journal::process_of(&path) == Some(process)),
                // The segment's process, or another process that recovers it, has just deleted it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let begun = Instant::now();
        self.follow_predecessor()?;
        self.follow_took = begun.elapsed();
        self.settle_abandoned(gone)?;
        // The lock on a segment goes with its process, perhaps before the end of the connection is noticed.
        if before.is_some() && (dead || !lives) {
            self.shared.books().release_inherited();
            tracing::info!("the gateway before this one has ended; nothing is held for it any more");
        }
        Ok(())
    }

    /// Counts what the predecessor has spent since the last look, and then gives back what is held for its requests that have
    /// ended.
    fn follow_predecessor(&mut self) -> Result<(), StoreError> {
        let open = match &self.shared.books().predecessor {
            Some(predecessor) => predecessor.open(),
            None => return Ok(()),
        };
        let Some(session) = &self.session else { return Ok(()) };
        let mut crossed = Vec::new();
        // One snapshot: the requests found to have ended are in the sums.
        let ended = session.at_once(|tables| {
            crossed = follow(tables, &self.shared)?;
            let mut ended = Vec::new();
            for id in open {
                if tables.has_entry(&id)? {
                    ended.push(id);
                }
            }
            Ok(ended)
        });
        self.alert(crossed);
        let ended = ended?;
        if let Some(predecessor) = &mut self.shared.books().predecessor {
            ended.into_iter().for_each(|id| predecessor.release(id));
        }
        Ok(())
    }

    fn settle_abandoned(&mut self, segments: Vec<Abandoned>) -> Result<(), StoreError> {
        if segments.is_empty() {
            return Ok(());
        }
        let mut segments = segments;
        let mut broken = 0;
        // A request whose reservation has grown has several lines, perhaps in several segments: its recorded cost counts, or else
        // the largest amount.
        let mut intents: HashMap<RequestId, (i64, Intent)> = HashMap::new();
        let mut costs: HashMap<RequestId, NanoUsd> = HashMap::new();
        for segment in &mut segments {
            let process = segment.process().unwrap_or(self.shared.process);
            let (noted, torn) = segment.read()?;
            broken += torn;
            for noted in noted {
                match noted {
                    Noted::Intent(intent) => {
                        let (_, known) = intents.entry(intent.id).or_insert_with(|| (process, intent.clone()));
                        known.estimate = known.estimate.max(intent.estimate);
                    }
                    Noted::Settled(id, cost) => {
                        costs.insert(id, cost);
                    }
                }
            }
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let recovered: Vec<(i64, Entry)> = intents
            .values()
            .map(|(process, intent)| (*process, recovered_entry(intent, costs.get(&intent.id).copied())))
            .collect();
        // A request that its process had written to the file has an entry already. A recovered row belongs to the dead process,
        // because this one has not settled it.
        let appended = session.append(&mut recovered.iter().map(|(process, entry)| (*process, entry)), &[])?;
        let new = recovered.into_iter().zip(appended.entries);
        let recovered: Vec<Entry> = new.filter_map(|((_, entry), is_new)| is_new.then_some(entry)).collect();
        segments.into_iter().try_for_each(Abandoned::delete)?;
        let sum: NanoUsd = recovered.iter().map(|entry| entry.cost).sum();
        if !recovered.is_empty() || broken > 0 {
            tracing::warn!(requests = recovered.len(), usd = %sum, broken, "a process ended with requests under way: they count as what was reserved for them, or as what they had cost");
        }
        for entry in recovered {
            let crossed = self.shared.adopt(&entry.subject.tenant, entry.subject.at, entry.cost);
            self.alert(crossed);
        }
        Ok(())
    }

    /// Turns rows that are older than their retention into sums per day.
    fn roll_up(&mut self) -> Result<(), StoreError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        // Whole days, so that a day is either rolled up or not.
        let before = |keep: Duration| {
            let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
            unix_now().saturating_sub(keep) / DAY_MS * DAY_MS
        };
        let entries = session.roll_up_entries(before(self.retention.entries))?;
        let refusals = session.roll_up_refusals(before(self.retention.refusals))?;
        if entries > 0 || refusals > 0 {
            tracing::info!(entries, refusals, "rows older than the retention became sums per day");
        }
        Ok(())
    }
}

/// Counts what the predecessor has spent since the last look; the history contains what it had spent before the history was
/// read. Returns the thresholds that the spend has crossed.
fn follow(tables: &dyn Session, shared: &Shared) -> Result<Vec<ThresholdAlert>, StoreError> {
    let (known, process, since) = {
        let books = shared.books();
        let Some(predecessor) = &books.predecessor else { return Ok(Vec::new()) };
        (books.history.complete, predecessor.process, predecessor.since)
    };
    let now = tables.sum_since(since, Rows::Of(process))?;
    let before = match &mut shared.books().predecessor {
        Some(predecessor) => std::mem::replace(&mut predecessor.seen, now.clone()),
        None => return Ok(Vec::new()),
    };
    if !known {
        // The history, once it is read, contains this spend.
        return Ok(Vec::new());
    }
    let mut crossed = Vec::new();
    for (tenant, sum) in &now {
        let more = sum.saturating_sub(before.get(tenant).copied().unwrap_or_default());
        if more > NanoUsd::ZERO {
            crossed.extend(shared.adopt(tenant, unix_now(), more));
        }
    }
    Ok(crossed)
}

/// The entry of a recovered request: at `cost` if the request had been settled, otherwise at the reserved amount.
fn recovered_entry(intent: &Intent, cost: Option<NanoUsd>) -> Entry {
    let subject = Subject {
        id: intent.id,
        at: intent.at,
        tenant: intent.tenant.as_str().into(),
        token: intent.token.as_deref().map(Into::into),
        endpoint: endpoint(&intent.endpoint),
        route: intent.route.as_str().into(),
    };
    Entry::bare(subject, cost.unwrap_or(intent.estimate), Basis::Recovered)
}

/// The endpoint's name as the metrics have it; a journal of another version may contain names unknown here.
fn endpoint(text: &str) -> &'static str {
    let known = ["chat_completions", "completions", "embeddings", "moderations", "responses"];
    known.into_iter().find(|word| *word == text).unwrap_or("other")
}
