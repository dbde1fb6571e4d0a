//! A store in memory: it shows that the contract can be kept without a file and without SQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::types::{NanoUsd, RequestId, TenantId, TokenId};

/// The counterpart of a file system: where processes find the tables and the right to own them.
#[derive(Default)]
pub struct Shelf {
    tables: Mutex<Option<Place>>,
    owner: Mutex<Option<u64>>,
    numbers: AtomicU64,
}

impl Shelf {
    /// Takes the tables from their place; open sessions go on with them.
    pub fn clear(&self) {
        *lock(&self.tables) = None;
    }

    /// The store as another process sees it.
    pub fn process(self: &Arc<Self>) -> Arc<dyn Store> {
        let me = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Memory {
            shelf: self.clone(),
            known: Mutex::default(),
            followers: Mutex::default(),
            told: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            right: Right { shelf: self.clone(), me, handed_over: AtomicBool::new(false) },
        })
    }

    fn place(&self) -> Option<Place> {
        lock(&self.tables).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Tables that several processes have open.
#[derive(Clone)]
struct Place {
    id: StoreId,
    tables: Arc<Mutex<Tables>>,
    writer: Arc<Writer>,
}

impl Place {
    fn new(id: u64) -> Self {
        Self { id: StoreId([id, 0, 0]), tables: Arc::default(), writer: Arc::default() }
    }
}

/// One session writes at a time.
#[derive(Default)]
struct Writer {
    busy: Mutex<bool>,
    free: Condvar,
}

struct Turn(Arc<Writer>);

impl Writer {
    fn turn(self: &Arc<Self>) -> Result<Turn, StoreError> {
        let (mut busy, waited) =
            self.free.wait_timeout_while(lock(&self.busy), Duration::from_secs(2), |busy| *busy).unwrap();
        if waited.timed_out() {
            return Err(StoreError::Busy("somebody else writes".into()));
        }
        *busy = true;
        Ok(Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.0.busy) = false;
        self.0.free.notify_one();
    }
}

type Spent = (TenantId, NanoUsd);

#[derive(Clone, Default)]
struct Tables {
    tokens: Vec<TokenRow>,
    versions: [i64; 2],
    purges: BTreeMap<[String; 3], u64>,
    objects: BTreeMap<i64, ObjectRow>,
    numbered: i64,
    alerts: Vec<(AlertRow, u32)>,
    entries: BTreeMap<[u8; 16], (i64, Entry)>,
    refusals: Vec<(u64, Refusal, u64)>,
    carried: Vec<(u64, i64, Spent)>,
    days: Vec<Rolled>,
}

/// The sums of a rolled-up day for one tenant, provider and model.
#[derive(Clone)]
struct Rolled {
    tenant: TenantId,
    row: CostRow<'static>,
}

struct Memory {
    shelf: Arc<Shelf>,
    known: Mutex<Option<StoreId>>,
    followers: Mutex<Vec<Weak<TableFollower>>>,
    told: AtomicBool,
    lost: AtomicU64,
    right: Right,
}

impl Memory {
    fn error() -> StoreError {
        StoreError::Lost("the tables were taken away".into())
    }
}

impl Store for Memory {
    fn location(&self) -> &str {
        "memory"
    }

    fn connect(&self) -> Result<(Box<dyn Session>, StoreId), StoreError> {
        self.check()?;
        let number = self.shelf.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let place = lock(&self.shelf.tables).get_or_insert_with(|| Place::new(number)).clone();
        let known = *lock(&self.known).get_or_insert(place.id);
        let id = place.id;
        if known == id { Ok((Box::new(Open { place, writes: true }), id)) } else { Err(Self::error()) }
    }

    fn connect_to_read(&self) -> Result<Box<dyn Session>, StoreError> {
        self.check()?;
        let place = self.shelf.place().ok_or_else(|| StoreError::Failed("there are no tables".into()))?;
        Ok(Box::new(Open { place, writes: false }))
    }

    fn holds(&self, id: &StoreId) -> bool {
        self.shelf.place().is_some_and(|place| place.id == *id)
    }

    fn is_absent(&self) -> bool {
        self.shelf.place().is_none()
    }

    fn register(&self, follower: Weak<TableFollower>) {
        lock(&self.followers).push(follower);
    }

    fn name(&self) -> Option<String> {
        Some(format!("{:p}", self.shelf))
    }

    fn check(&self) -> Result<(), StoreError> {
        let known = *lock(&self.known);
        if known.is_some_and(|id| !self.holds(&id)) { Err(Self::error()) } else { Ok(()) }
    }

    fn accept(
        &self,
        carry: &mut dyn FnMut(&mut dyn Standings) -> Result<(), StoreError>,
    ) -> Result<(Box<dyn Session>, StoreId), StoreError> {
        let number = self.shelf.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let place = lock(&self.shelf.tables).get_or_insert_with(|| Place::new(number)).clone();
        let turn = place.writer.turn()?;
        let mut standings = Carried(lock(&place.tables).clone());
        carry(&mut standings)?;
        for follower in lock(&self.followers).iter().filter_map(Weak::upgrade) {
            follower.carry(&mut standings)?;
        }
        *lock(&place.tables) = standings.0;
        drop(turn);
        let id = place.id;
        *lock(&self.known) = Some(id);
        self.told.store(false, Ordering::Relaxed);
        Ok((Box::new(Open { place, writes: true }), id))
    }

    fn tell_lost(&self) -> bool {
        let first = lock(&self.known).is_some() && !self.told.swap(true, Ordering::Relaxed);
        self.lost.fetch_add(u64::from(first), Ordering::Relaxed);
        first
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn ownership(&self) -> &dyn Ownership {
        &self.right
    }
}

struct Right {
    shelf: Arc<Shelf>,
    me: u64,
    handed_over: AtomicBool,
}

impl Ownership for Right {
    fn claim(&self) -> Result<(), StoreError> {
        if self.handed_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        match *lock(&self.shelf.owner).get_or_insert(self.me) {
            owner if owner == self.me => Ok(()),
            other => Err(StoreError::Owned(format!("process {other} owns the tables"))),
        }
    }

    fn is_held(&self) -> bool {
        *lock(&self.shelf.owner) == Some(self.me)
    }

    fn may_write(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed) || self.is_held()
    }

    fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
        self.release();
    }

    fn take_back(&self, patience: Duration) -> Result<(), StoreError> {
        self.handed_over.store(false, Ordering::Relaxed);
        self.claim_within(patience)
    }

    fn release(&self) {
        lock(&self.shelf.owner).take_if(|owner| *owner == self.me);
    }

    fn announce(&self, _addresses: Vec<String>) {}
}

impl Drop for Right {
    fn drop(&mut self) {
        self.release();
    }
}

struct Open {
    place: Place,
    writes: bool,
}

impl Open {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.place.tables)
    }

    /// Runs `work` on a copy, which takes the place of the tables if `work` succeeds.
    fn write<T>(&mut self, work: impl FnOnce(&mut Tables) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if !self.writes {
            return Err(StoreError::Failed("the session only reads".into()));
        }
        let _turn = self.place.writer.turn()?;
        let mut tables = self.tables().clone();
        let done = work(&mut tables)?;
        *self.tables() = tables;
        Ok(done)
    }
}

impl Session for Open {
    fn version(&self, topic: Topic) -> Result<i64, StoreError> {
        Ok(self.tables().versions[topic as usize])
    }

    fn snapshot(&self, read: &mut dyn FnMut(&dyn Session) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let tables = Arc::new(Mutex::new(self.tables().clone()));
        read(&Open { place: Place { tables, ..self.place.clone() }, writes: false })
    }

    fn leave(self: Box<Self>) {}
}

impl Tables {
    fn changed(&mut self, topic: Topic) {
        self.versions[topic as usize] += 1;
    }

    fn add_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        if self.tokens.iter().any(|known| known.id == token.id || known.hash == token.hash) {
            return Err(StoreError::Failed("the token is there".into()));
        }
        self.tokens.push(token.clone());
        self.changed(Topic::Tokens);
        Ok(())
    }

    fn token(&mut self, id: &str) -> Option<&mut TokenRow> {
        self.tokens.iter_mut().find(|token| token.id.as_str() == id)
    }

    fn put_purge(&mut self, PurgeRow { tenant, model, key, at }: &PurgeRow) -> u64 {
        let known = self.purges.entry([tenant.clone(), model.clone(), key.clone()]).or_default();
        *known = (*known).max(*at);
        let at = *known;
        self.changed(Topic::Purges);
        at
    }

    /// Deletes the stamps that a stamp for all answers of a tenant covers.
    fn forget(&mut self, tenant: &str, until: u64) {
        self.purges.retain(|[owner, model, key], at| {
            let is_narrow = !(model.is_empty() && key.is_empty());
            let covered = if tenant.is_empty() { is_narrow || !owner.is_empty() } else { owner == tenant && is_narrow };
            !(covered && *at <= until)
        });
    }

    fn add_alert(&mut self, alert: &AlertRow) -> bool {
        let is_new = !self.alerts.iter().any(|(known, _)| known.key == alert.key);
        if is_new {
            self.alerts.push((alert.clone(), 0));
        }
        is_new
    }

    fn sum_since(&self, start: u64, rows: Rows) -> Sums {
        let counts = |process: i64| match rows {
            Rows::All => true,
            Rows::Of(only) => process == only,
            Rows::Except(other) => process != other,
        };
        let mut sums = Sums::new();
        let mut add = |tenant: &TenantId, cost: NanoUsd| {
            let sum = sums.entry(tenant.clone()).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(cost);
        };
        let entries = self.entries.values().filter(|(process, entry)| entry.subject.at >= start && counts(*process));
        entries.for_each(|(_, entry)| add(&entry.subject.tenant, entry.cost));
        let carried = self.carried.iter().filter(|(at, process, _)| *at >= start && counts(*process));
        carried.for_each(|(_, _, (tenant, cost))| add(tenant, *cost));
        if start == 0 && !matches!(rows, Rows::Of(_)) {
            self.days.iter().for_each(|day| add(&day.tenant, day.row.cost));
        }
        sums
    }

    fn in_span(&self, span: &Span) -> impl Iterator<Item = &Entry> {
        let Span { since, until, .. } = *span;
        self.entries.values().map(|(_, entry)| entry).filter(move |entry| (since..until).contains(&entry.subject.at))
    }

    fn is_listing(entry: &Entry) -> bool {
        matches!(entry.subject.endpoint, "models" | "model")
    }
}

const NOTHING: CostRow<'static> = CostRow {
    tenant: "",
    at: 0,
    calls: 0,
    hits: 0,
    prompt_tokens: 0,
    completion_tokens: 0,
    cost: NanoUsd::ZERO,
    saved: NanoUsd::ZERO,
};

fn cost_of(entry: &Entry) -> CostRow<'_> {
    CostRow {
        tenant: entry.subject.tenant.as_str(),
        at: entry.subject.at,
        calls: 1,
        hits: u64::from(matches!(entry.cache, "HIT" | "STALE")),
        prompt_tokens: entry.usage.prompt_tokens,
        completion_tokens: entry.usage.completion_tokens,
        cost: entry.cost,
        saved: entry.saved,
    }
}

impl TokenTable for Open {
    fn tokens(&self, tenant: Option<&TenantId>) -> Result<Vec<TokenRow>, StoreError> {
        let mut tokens = self.tables().tokens.clone();
        tokens.retain(|token| tenant.is_none_or(|tenant| token.tenant == *tenant));
        tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(tokens)
    }

    fn token(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        Ok(self.tables().token(id).cloned())
    }

    fn add_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        self.write(|tables| tables.add_token(token))
    }

    fn revoke_token(&mut self, id: &str, at: u64) -> Result<(), StoreError> {
        self.write(|tables| {
            if let Some(token) = tables.token(id) {
                token.revoked_at.get_or_insert(at);
                tables.changed(Topic::Tokens);
            }
            Ok(())
        })
    }

    fn rotate_token(
        &mut self,
        id: &str,
        rotate: &mut dyn FnMut(&TokenRow) -> Option<Rotation>,
    ) -> Result<bool, StoreError> {
        self.write(|tables| {
            let Some(old) = tables.token(id) else { return Ok(false) };
            let Some(Rotation { successor, ends_at }) = rotate(old) else { return Ok(true) };
            (old.expires_at, old.replaced_by) = (Some(ends_at), Some(TokenId::clone(&successor.id)));
            tables.add_token(&successor)?;
            Ok(true)
        })
    }
}

impl PurgeTable for Open {
    fn purges(&self) -> Result<Vec<PurgeRow>, StoreError> {
        let row = |([tenant, model, key], at): (&[String; 3], &u64)| PurgeRow {
            tenant: tenant.clone(),
            model: model.clone(),
            key: key.clone(),
            at: *at,
        };
        Ok(self.tables().purges.iter().map(row).collect())
    }

    fn purge(&mut self, stamp: &PurgeRow, bounds: PurgeBounds) -> Result<Purged, StoreError> {
        self.write(|tables| {
            let at = tables.put_purge(stamp);
            let tenant = &stamp.tenant;
            let mut folded = false;
            if stamp.model.is_empty() && stamp.key.is_empty() {
                tables.forget(tenant, at);
            } else {
                let own = tables
                    .purges
                    .iter()
                    .filter(|([owner, model, key], _)| owner == tenant && !(model.is_empty() && key.is_empty()));
                let mut narrow: Vec<u64> = own.map(|(_, at)| *at).collect();
                narrow.sort_unstable();
                folded = narrow.len() > bounds.narrow;
                if folded {
                    let at = narrow[bounds.narrow / 2];
                    let all = PurgeRow { model: String::new(), key: String::new(), at, ..stamp.clone() };
                    let all = tables.put_purge(&all);
                    tables.forget(tenant, all);
                }
            }
            tables.purges.retain(|_, at| *at >= bounds.since);
            Ok(Purged { at, folded })
        })
    }
}

impl ObjectTable for Open {
    fn objects_behind(&self, seen: i64, each: &mut dyn FnMut(ObjectRow)) -> Result<i64, StoreError> {
        let behind: Vec<_> = self.tables().objects.range(seen + 1..).map(|(at, row)| (*at, row.clone())).collect();
        let last = behind.last().map_or(seen, |(at, _)| *at);
        behind.into_iter().for_each(|(_, row)| each(row));
        Ok(last)
    }

    fn add_objects(
        &mut self,
        seen: i64,
        rows: &[ObjectRow],
        gone: &[ObjectKey],
        each: &mut dyn FnMut(ObjectRow),
    ) -> Result<i64, StoreError> {
        self.write(|tables| {
            tables.objects.range(seen + 1..).for_each(|(_, row)| each(row.clone()));
            for row in rows {
                if !tables.objects.values().any(|known| known.key == row.key) {
                    tables.numbered += 1;
                    tables.objects.insert(tables.numbered, row.clone());
                }
            }
            tables.objects.retain(|_, row| !gone.contains(&row.key));
            Ok(tables.objects.last_key_value().map_or(seen, |(last, _)| *last).max(seen))
        })
    }
}

impl AlertTable for Open {
    fn undelivered_alerts(&self, raised_after: u64) -> Result<Vec<Undelivered>, StoreError> {
        let tables = self.tables();
        let open =
            tables.alerts.iter().filter(|(alert, _)| alert.delivered_at.is_none() && alert.raised_at > raised_after);
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|(alert, _)| (alert.raised_at, alert.key.threshold));
        let undelivered = |(alert, attempts): &(AlertRow, u32)| Undelivered {
            key: alert.key.clone(),
            body: alert.body.clone(),
            attempts: *attempts,
        };
        Ok(open.into_iter().take(100).map(undelivered).collect())
    }

    fn count_attempt(&mut self, alert: &AlertKey, delivered_at: Option<u64>) -> Result<(), StoreError> {
        self.write(|tables| {
            for (known, attempts) in tables.alerts.iter_mut().filter(|(known, _)| known.key == *alert) {
                *attempts += 1;
                known.delivered_at = known.delivered_at.or(delivered_at);
            }
            Ok(())
        })
    }
}

impl EntryLog for Open {
    fn append(
        &mut self,
        entries: &mut dyn Iterator<Item = (i64, &Entry)>,
        alerts: &[AlertRow],
    ) -> Result<Appended, StoreError> {
        self.write(|tables| {
            let mut appended = Appended::default();
            for (process, entry) in entries {
                let most = MOST.cast_unsigned();
                let mut entry = entry.clone();
                for amount in [&mut entry.cost, &mut entry.saved] {
                    amount.0 = amount.0.min(most);
                }
                for tokens in [&mut entry.usage.prompt_tokens, &mut entry.usage.completion_tokens] {
                    *tokens = (*tokens).min(most);
                }
                let id = *entry.subject.id.as_bytes();
                appended.entries.push(!tables.entries.contains_key(&id));
                tables.entries.entry(id).or_insert((process, entry));
            }
            appended.alerts = alerts.iter().map(|alert| tables.add_alert(alert)).collect();
            Ok(appended)
        })
    }

    fn add_refusals(&mut self, rows: &mut dyn Iterator<Item = RefusalRow<'_>>) -> Result<(), StoreError> {
        self.write(|tables| {
            for RefusalRow { start, kind, count } in rows {
                match tables.refusals.iter_mut().find(|(at, known, _)| *at == start && known == kind) {
                    Some((_, _, sum)) => *sum += count,
                    None => tables.refusals.push((start, kind.clone(), count)),
                }
            }
            Ok(())
        })
    }

    fn has_entry(&self, id: &RequestId) -> Result<bool, StoreError> {
        Ok(self.tables().entries.contains_key(id.as_bytes()))
    }

    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError> {
        Ok(self.tables().sum_since(start, rows))
    }

    fn roll_up_entries(&mut self, before: u64) -> Result<usize, StoreError> {
        self.write(|tables| {
            let old = |entry: &Entry| entry.subject.at < before;
            let rolled: Vec<_> = tables.entries.values().filter(|(_, entry)| old(entry)).cloned().collect();
            for (_, entry) in &rolled {
                let day = entry.subject.at / DAY_MS * DAY_MS;
                let row = CostRow { tenant: "", at: day, ..cost_of(entry) };
                tables.days.push(Rolled { tenant: entry.subject.tenant.clone(), row });
            }
            tables.entries.retain(|_, (_, entry)| !old(entry));
            Ok(rolled.len())
        })
    }

    fn roll_up_refusals(&mut self, before: u64) -> Result<usize, StoreError> {
        self.write(|tables| {
            let (old, young) =
                std::mem::take(&mut tables.refusals).into_iter().partition(|(start, ..)| *start < before);
            tables.refusals = young;
            let old: Vec<_> = old;
            for (start, kind, count) in &old {
                let row = CostRow { at: start / DAY_MS * DAY_MS, calls: *count, ..NOTHING };
                tables.days.push(Rolled { tenant: kind.tenant.clone(), row });
            }
            Ok(old.len())
        })
    }
}

impl Reports for Open {
    fn costs(&self, span: &Span, each: &mut dyn FnMut(CostRow<'_>)) -> Result<(), StoreError> {
        let within = |at: u64| (span.since..span.until).contains(&at);
        self.tables().in_span(span).for_each(|entry| each(cost_of(entry)));
        let tables = self.tables();
        for (at, _, (tenant, cost)) in tables.carried.iter().filter(|(at, ..)| within(*at)) {
            each(CostRow { tenant: tenant.as_str(), at: *at, cost: *cost, ..NOTHING });
        }
        for Rolled { tenant, row } in tables.days.iter().filter(|day| within(day.row.at)) {
            each(CostRow { tenant: tenant.as_str(), ..*row });
        }
        drop(tables);
        self.refused(span, &mut |RefusedRow { tenant, start, count, .. }| {
            each(CostRow { tenant, at: start, calls: count, ..NOTHING });
        })
    }

    fn traffic(&self, span: &Span, each: &mut dyn FnMut(TrafficRow<'_>)) -> Result<(), StoreError> {
        for entry in self.tables().in_span(span).filter(|entry| !Tables::is_listing(entry)) {
            each(TrafficRow {
                tenant: entry.subject.tenant.as_str(),
                provider: &entry.provider,
                model: &entry.model,
                cost: entry.cost,
                basis: entry.basis.label(),
                cache: entry.cache,
                status: entry.status,
                duration_us: u64::try_from(entry.duration.as_micros()).unwrap(),
            });
        }
        Ok(())
    }

    fn refused(&self, span: &Span, each: &mut dyn FnMut(RefusedRow<'_>)) -> Result<(), StoreError> {
        let [since, until] = span.minutes();
        let tables = self.tables();
        for (start, kind, count) in tables.refusals.iter().filter(|(start, ..)| (since..until).contains(start)) {
            let (is_listing, is_miss) = (kind.is_listing, kind.cache == "MISS");
            each(RefusedRow { tenant: kind.tenant.as_str(), start: *start, is_listing, is_miss, count: *count });
        }
        Ok(())
    }

    fn cache_use(&self, span: &Span, each: &mut dyn FnMut(CacheRow<'_>)) -> Result<(), StoreError> {
        for entry in self.tables().in_span(span).filter(|entry| !Tables::is_listing(entry)) {
            each(CacheRow {
                tenant: entry.subject.tenant.as_str(),
                provider: &entry.provider,
                model: &entry.model,
                cache: entry.cache,
                count: 1,
                saved: entry.saved,
            });
        }
        Ok(())
    }

    fn saved(&self, span: &Span) -> Result<Sums, StoreError> {
        let mut sums = Sums::new();
        for entry in self.tables().in_span(span).filter(|entry| entry.saved > NanoUsd::ZERO) {
            let sum = sums.entry(entry.subject.tenant.clone()).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(entry.saved);
        }
        Ok(sums)
    }
}

struct Carried(Tables);

impl Standings for Carried {
    fn keep_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        let Some(known) = self.0.token(token.id.as_str()) else {
            // A token with another id and the same hash stays, as does a token with the same id.
            let _ = self.0.add_token(token);
            return Ok(());
        };
        known.revoked_at = known.revoked_at.or(token.revoked_at);
        known.expires_at = BTreeSet::from_iter(known.expires_at.into_iter().chain(token.expires_at)).first().copied();
        self.0.changed(Topic::Tokens);
        Ok(())
    }

    fn keep_purge(&mut self, purge: &PurgeRow) -> Result<(), StoreError> {
        self.0.put_purge(purge);
        Ok(())
    }

    fn keep_alert(&mut self, alert: &AlertRow) -> Result<(), StoreError> {
        self.0.add_alert(alert);
        Ok(())
    }

    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError> {
        Ok(self.0.sum_since(start, rows))
    }

    fn carry_over(&mut self, start: u64, process: i64, tenant: &TenantId, cost: NanoUsd) -> Result<(), StoreError> {
        self.0.carried.push((start, process, (tenant.clone(), cost)));
        Ok(())
    }
}
