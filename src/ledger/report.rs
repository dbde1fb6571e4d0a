//! What the tables tell: costs by day, one span's traffic in a few numbers, what a month comes to.
//!
//! Everything here is a question to the file: it works beside a running gateway, or without one. Each question is one pass
//! over the entries of its span; the days that older entries were rolled up to are laid beside them.

mod cache;

use std::{collections::HashMap, time::Duration};

use jiff::tz::TimeZone;
use rusqlite::{Connection, params};

use super::{
    history::{self, ID_BEFORE_ENTRY_MS},
    period,
};
use crate::{
    config::Period,
    store::has_table,
    types::{NanoUsd, RequestId, TenantId},
};

pub use cache::{CacheLine, CacheReport, CacheUse, cache};

const DAY_MS: u64 = 86_400_000;

/// The longest report by day; of a longer span its end is shown.
const MAX_DAYS: u64 = 3_660;

/// What came to a tenant, or to all, in one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Its first millisecond, UTC.
    pub day: u64,
    /// Requests of any kind: what was refused, and listings of models, too.
    pub calls: u64,
    /// Those that the cache answered, with an expired answer too.
    pub hits: u64,
    /// LLM tokens that were sent.
    pub prompt_tokens: u64,
    /// LLM tokens that were generated.
    pub completion_tokens: u64,
    /// What it cost.
    pub cost: NanoUsd,
    /// What cache hits would have cost.
    pub saved: NanoUsd,
}

impl Day {
    fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.hits = self.hits.saturating_add(other.hits);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cost = self.cost.saturating_add(other.cost);
        self.saved = self.saved.saturating_add(other.saved);
    }
}

/// The traffic of a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests to every endpoint but the listings of models, refused ones too.
    pub requests: u64,
    /// Those that the cache answered, with an expired answer too (`STALE`).
    pub hits: u64,
    /// Those that the cache could have answered. What passes by the cache (`BYPASS`) is neither.
    pub misses: u64,
    /// What all of it cost.
    pub cost: NanoUsd,
    /// What the hits cost; nothing, as a rule.
    pub cached_cost: NanoUsd,
    /// How long the requests with a status of 2xx took; `None` if there was none.
    pub latency: Option<Latency>,
    /// Requests by model, the most asked first. A model is `provider/model`, one of OpenAI's its bare name. Together they are
    /// all [`Self::requests`]: those without a model (refused, recovered, or to a path that has none) are [`NO_MODEL`].
    pub models: Vec<(String, u64)>,
    /// What hits have saved since the first of the UTC month in which the span ends.
    pub savings_month: NanoUsd,
    /// Requests whose process ended before they did: they count as what was reserved.
    pub recovered: u64,
    /// Requests whose LLM tokens we counted, because the provider did not.
    pub counted: u64,
    /// Requests to models that have no price: they count as nothing.
    pub unpriced: u64,
}

/// Stands in [`Summary::models`] for requests without a model.
pub const NO_MODEL: &str = "(no model)";

/// Times that 50, 95 and 99 of 100 requests did not exceed. Each is the time of one of them (nearest rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The median.
    pub p50: Duration,
    /// Of 95 %.
    pub p95: Duration,
    /// Of 99 %.
    pub p99: Duration,
}

/// A calendar month, up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    /// Its first millisecond.
    pub start: u64,
    /// The first one of the next.
    pub end: u64,
    /// What was spent in it.
    pub spent: NanoUsd,
    /// What it comes to if it goes on like this; `None` in its first millisecond.
    pub projected: Option<NanoUsd>,
}

impl Summary {
    /// Hits among what the cache could have answered, from 0 to 1; 0 where there was nothing.
    pub fn hit_rate(&self) -> f64 {
        rate(self.hits, self.misses)
    }

    /// What a request cost.
    pub fn average(&self) -> NanoUsd {
        mean(self.cost, self.requests)
    }

    /// What a request cost that the cache did not answer.
    pub fn average_uncached(&self) -> NanoUsd {
        mean(self.cost.saturating_sub(self.cached_cost), self.requests - self.hits)
    }

    /// What a request cost that the cache answered.
    pub fn average_cached(&self) -> NanoUsd {
        mean(self.cached_cost, self.hits)
    }
}

/// Costs of each UTC day from that of `since_ms` to that of the millisecond before `until_ms`, in order and without gaps, for
/// a tenant or for all. The first day counts from its beginning. What was carried over from a file that was lost stands at the
/// beginning of its period.
///
/// # Errors
/// A file that cannot be read.
pub fn costs(
    connection: &Connection,
    tenant: Option<&TenantId>,
    since_ms: u64,
    until_ms: u64,
) -> rusqlite::Result<Vec<Day>> {
    costs_of(connection, only(tenant), since_ms, until_ms)
}

/// [`costs`] for all tenants that `covers` names: a tenant with those below it, as its budget has them.
///
/// # Errors
/// A file that cannot be read.
pub fn costs_of(
    connection: &Connection,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> rusqlite::Result<Vec<Day>> {
    if since_ms >= until_ms {
        return Ok(Vec::new());
    }
    let last = (until_ms - 1) / DAY_MS;
    let first = (since_ms / DAY_MS).max(last.saturating_sub(MAX_DAYS - 1));
    let mut days: Vec<Day> = (first..=last).map(|day| Day { day: day * DAY_MS, ..Day::default() }).collect();
    let mut add = |at: u64, part: &Day| {
        let day = (at / DAY_MS).checked_sub(first).and_then(|index| days.get_mut(usize::try_from(index).ok()?));
        if let Some(day) = day {
            day.add(part);
        }
    };
    let mut covered = Covered::new(covers);
    let span = Span::new(first * DAY_MS, until_ms);
    // One look at both tables: meanwhile a gateway may move a day from one to the other.
    let snapshot = connection.unchecked_transaction()?;

    let mut statement = snapshot.prepare(
        "SELECT tenant, at, cache IN ('HIT', 'STALE'), prompt_tokens, completion_tokens, cost, saved FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    while let Some(row) = rows.next()? {
        if !covered.has(row.get_ref(0)?.as_str()?) {
            continue;
        }
        let part = Day {
            day: 0,
            calls: 1,
            hits: row.get(2)?,
            prompt_tokens: row.get(3)?,
            completion_tokens: row.get(4)?,
            cost: NanoUsd(row.get(5)?),
            saved: NanoUsd(row.get(6)?),
        };
        add(row.get(1)?, &part);
    }

    if has_table(&snapshot, "carried")? {
        let mut statement = snapshot.prepare("SELECT tenant, at, cost FROM carried WHERE at >= ?1 AND at < ?2")?;
        let mut rows = statement.query(params![span.since, span.until])?;
        while let Some(row) = rows.next()? {
            if covered.has(row.get_ref(0)?.as_str()?) {
                add(row.get(1)?, &Day { cost: NanoUsd(row.get(2)?), ..Day::default() });
            }
        }
    }

    for refused in refused(&snapshot, &span)?.iter().filter(|refused| covered.has(&refused.tenant)) {
        add(refused.start, &Day { calls: refused.count, ..Day::default() });
    }

    let mut statement = snapshot.prepare(
        "SELECT tenant, day, calls, hits, prompt_tokens, completion_tokens, cost, saved FROM days \
         WHERE day >= ?1 AND day < ?2",
    )?;
    let mut rows = statement.query(params![span.since, span.until])?;
    while let Some(row) = rows.next()? {
        if !covered.has(row.get_ref(0)?.as_str()?) {
            continue;
        }
        let part = Day {
            day: 0,
            calls: row.get(2)?,
            hits: row.get(3)?,
            prompt_tokens: row.get(4)?,
            completion_tokens: row.get(5)?,
            cost: NanoUsd(row.get(6)?),
            saved: NanoUsd(row.get(7)?),
        };
        add(row.get(1)?, &part);
    }
    Ok(days)
}

/// The traffic from `since_ms` until before `until_ms`, of a tenant or of all. Entries that were rolled up are not in it:
/// they have no time and no outcome any more.
///
/// # Errors
/// A file that cannot be read.
pub fn summary(
    connection: &Connection,
    tenant: Option<&TenantId>,
    since_ms: u64,
    until_ms: u64,
) -> rusqlite::Result<Summary> {
    summary_of(connection, only(tenant), since_ms, until_ms)
}

/// [`summary`] for all tenants that `covers` names.
///
/// # Errors
/// A file that cannot be read.
pub fn summary_of(
    connection: &Connection,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> rusqlite::Result<Summary> {
    let mut covered = Covered::new(covers);
    let mut summary = Summary::default();
    let mut durations: Vec<u64> = Vec::new();
    let mut models: HashMap<String, u64> = HashMap::new();
    let mut label = String::new();
    let span = Span::new(since_ms, until_ms);
    let snapshot = connection.unchecked_transaction()?;

    let mut statement = snapshot.prepare(
        "SELECT tenant, provider, model, cost, basis, cache, status, duration_us FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND endpoint NOT IN ('models', 'model')",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    while let Some(row) = rows.next()? {
        if !covered.has(row.get_ref(0)?.as_str()?) {
            continue;
        }
        summary.requests += 1;
        let cost = NanoUsd(row.get(3)?);
        summary.cost = summary.cost.saturating_add(cost);
        match row.get_ref(5)?.as_str()? {
            "HIT" | "STALE" => {
                summary.hits += 1;
                summary.cached_cost = summary.cached_cost.saturating_add(cost);
            }
            "MISS" => summary.misses += 1,
            _ => {}
        }
        match row.get_ref(4)?.as_str()? {
            "recovered" => summary.recovered += 1,
            "counted" => summary.counted += 1,
            "unpriced" => summary.unpriced += 1,
            _ => {}
        }
        if (200..300).contains(&row.get::<_, u16>(6)?) {
            durations.push(row.get(7)?);
        }
        name(&mut label, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        match models.get_mut(&label) {
            Some(requests) => *requests += 1,
            None => drop(models.insert(label.clone(), 1)),
        }
    }
    for refused in refused(&snapshot, &span)?.iter().filter(|refused| !refused.is_listing) {
        if covered.has(&refused.tenant) {
            summary.requests += refused.count;
            summary.misses += if refused.is_miss { refused.count } else { 0 };
            *models.entry(NO_MODEL.to_owned()).or_default() += refused.count;
        }
    }
    summary.latency = latency(durations);
    summary.models = models.into_iter().collect();
    summary.models.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));

    let month = Span::new(period::bounds(Period::Monthly, &TimeZone::UTC, until_ms).0, until_ms);
    let mut statement = snapshot.prepare(
        "SELECT tenant, sum(saved) FROM entries WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND saved > 0 \
         GROUP BY tenant",
    )?;
    let mut rows = statement.query(params![month.first_id, month.end_id, month.since, month.until])?;
    while let Some(row) = rows.next()? {
        if covered.has(row.get_ref(0)?.as_str()?) {
            summary.savings_month = summary.savings_month.saturating_add(NanoUsd(row.get(1)?));
        }
    }
    Ok(summary)
}

/// What all tenants that `covers` names have spent since a moment. Entries that were rolled up count where it is 0.
///
/// # Errors
/// A file that cannot be read.
pub fn spent(connection: &Connection, covers: impl Fn(&TenantId) -> bool, start_ms: u64) -> rusqlite::Result<NanoUsd> {
    let sums = history::sum_since(connection, start_ms, history::Rows::All)?;
    Ok(sums.into_iter().filter(|(tenant, _)| covers(tenant)).map(|(_, sum)| sum).sum())
}

/// The month of `now_ms` in a time zone: what was spent, and what it comes to.
///
/// # Errors
/// A file that cannot be read.
pub fn month(
    connection: &Connection,
    covers: impl Fn(&TenantId) -> bool,
    timezone: &str,
    now_ms: u64,
) -> rusqlite::Result<Month> {
    let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
    let (start, end) = period::bounds(Period::Monthly, &zone, now_ms);
    let spent = spent(connection, covers, start)?;
    Ok(Month { start, end, spent, projected: project(spent, start, end, now_ms) })
}

/// What a span comes to as a whole, when `spent` was spent in its part up to `now`.
fn project(spent: NanoUsd, start: u64, end: u64, now: u64) -> Option<NanoUsd> {
    let elapsed = now.min(end).checked_sub(start).filter(|elapsed| *elapsed > 0)?;
    let whole = u128::from(spent.0) * u128::from(end - start);
    let rounded = (whole + u128::from(elapsed) / 2) / u128::from(elapsed);
    Some(NanoUsd(u64::try_from(rounded).unwrap_or(u64::MAX)))
}

fn only(tenant: Option<&TenantId>) -> impl Fn(&TenantId) -> bool {
    move |id| tenant.is_none_or(|tenant| tenant == id)
}

/// The one hit rate there is: hits among what the cache could have answered. Requests that pass by it do not lower it.
fn rate(hits: u64, misses: u64) -> f64 {
    match hits.saturating_add(misses) {
        0 => 0.0,
        cacheable => hits as f64 / cacheable as f64,
    }
}

fn mean(sum: NanoUsd, count: u64) -> NanoUsd {
    let Some(half) = count.checked_div(2).filter(|_| count > 0) else { return NanoUsd::ZERO };
    let rounded = (u128::from(sum.0) + u128::from(half)) / u128::from(count);
    NanoUsd(u64::try_from(rounded).unwrap_or(u64::MAX))
}

/// The nearest-rank percentiles of times in microseconds.
fn latency(mut micros: Vec<u64>) -> Option<Latency> {
    if micros.is_empty() {
        return None;
    }
    micros.sort_unstable();
    let rank = |percent: usize| Duration::from_micros(micros[(percent * micros.len()).div_ceil(100) - 1]);
    Some(Latency { p50: rank(50), p95: rank(95), p99: rank(99) })
}

/// Writes a model's name into `label`.
fn name(label: &mut String, provider: &str, model: &str) {
    label.clear();
    match (provider, model) {
        (_, "-") => label.push_str(NO_MODEL),
        ("openai", model) => label.push_str(model),
        (provider, model) => {
            label.push_str(provider);
            label.push('/');
            label.push_str(model);
        }
    }
}

/// Requests that are only counted: they cost nothing and reached no provider.
struct Refused {
    tenant: Box<str>,
    /// First millisecond of the minute, or of the hour.
    start: u64,
    /// Listings of models.
    is_listing: bool,
    /// The cache could have answered them.
    is_miss: bool,
    count: u64,
}

const MINUTE_MS: u64 = 60_000;

/// What was counted in the minutes of a span; the first one counts as a whole. A file that an earlier version has made and no
/// gateway of this one has opened has no such table.
fn refused(connection: &Connection, span: &Span) -> rusqlite::Result<Vec<Refused>> {
    if !has_table(connection, "refusals")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT tenant, start, listing, cache = 'MISS', sum(count) FROM refusals WHERE start >= ?1 AND start < ?2 \
         GROUP BY start, tenant, listing, cache = 'MISS'",
    )?;
    let rows = statement.query_map(params![span.since - span.since % MINUTE_MS, span.until], |row| {
        Ok(Refused {
            tenant: row.get_ref(0)?.as_str()?.into(),
            start: row.get(1)?,
            is_listing: row.get(2)?,
            is_miss: row.get(3)?,
            count: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// A span of time as the table has it.
struct Span {
    first_id: [u8; 16],
    end_id: [u8; 16],
    since: u64,
    until: u64,
}

impl Span {
    fn new(since: u64, until: u64) -> Self {
        // An id has 48 bits for its time, SQLite 63 for a number.
        let time = |ms: u64| ms.min((1 << 48) - 1);
        let id = |ms: u64| *RequestId::first_at(time(ms)).as_bytes();
        Self {
            first_id: id(since.saturating_sub(ID_BEFORE_ENTRY_MS)),
            // An id is older than its entry, unless the clock was put back in between.
            end_id: id(until.saturating_add(ID_BEFORE_ENTRY_MS)),
            since: time(since),
            until: time(until),
        }
    }
}

/// Asks about each tenant once.
struct Covered<F> {
    covers: F,
    known: HashMap<Box<str>, bool>,
}

impl<F: Fn(&TenantId) -> bool> Covered<F> {
    fn new(covers: F) -> Self {
        Self { covers, known: HashMap::new() }
    }

    fn has(&mut self, tenant: &str) -> bool {
        if let Some(known) = self.known.get(tenant) {
            return *known;
        }
        let covered = (self.covers)(&tenant.into());
        self.known.insert(tenant.into(), covered);
        covered
    }
}

#[cfg(test)]
mod tests;
