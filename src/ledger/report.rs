//! Reports from the tables: costs by day, the traffic of a span in a few numbers, the projection of a month.
//!
//! Every report only reads the store, so it works beside a running gateway or without one. Each report is one pass over the
//! entries of its span; the daily sums of older, rolled-up entries are added to them.

mod cache;

use std::{collections::HashMap, time::Duration};

use jiff::tz::TimeZone;

use super::period;
use crate::{
    config::Period,
    store::{Rows, Session, Span, StoreError},
    types::{NanoUsd, TenantId},
};

pub use cache::{CacheLine, CacheReport, CacheUse, cache};

const DAY_MS: u64 = 86_400_000;

/// The longest report by day; of a longer span only the last days are shown.
const MAX_DAYS: u64 = 3_660;

/// The costs of one day, for one tenant or for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// The first millisecond of the day in UTC, since 1970.
    pub day: u64,
    /// Requests of any kind, including refused ones and listings of models.
    pub calls: u64,
    /// Requests that the cache answered, including those with an expired answer.
    pub hits: u64,
    /// LLM tokens that were sent.
    pub prompt_tokens: u64,
    /// LLM tokens that were generated.
    pub completion_tokens: u64,
    /// What the requests of the day cost.
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
    /// Requests that the cache answered, including those with an expired answer (`STALE`).
    pub hits: u64,
    /// Requests that the cache could have answered but did not. Requests that bypass the cache (`BYPASS`) are in neither number.
    pub misses: u64,
    /// What all requests of the span cost.
    pub cost: NanoUsd,
    /// What the cache hits cost: nothing, as a rule.
    pub cached_cost: NanoUsd,
    /// How long the requests with a status of 2xx took; `None` if there was none.
    pub latency: Option<Latency>,
    /// Requests by model, the most requested model first. A model is named `provider/model`, a model of OpenAI by its bare name.
    /// The numbers add up to [`Self::requests`]: requests without a model (refused, recovered, or to a path that has none) are
    /// listed as [`NO_MODEL`].
    pub models: Vec<(String, u64)>,
    /// What cache hits have saved since the first of the UTC month in which the span ends.
    pub savings_month: NanoUsd,
    /// Requests whose process ended before they were recorded: they count at the reserved amount, or at their cost if they had
    /// been settled.
    pub recovered: u64,
    /// Requests whose LLM tokens the gateway counted, because the provider's count did not come.
    pub counted: u64,
    /// Requests to models without a price: they count as costing nothing.
    pub unpriced: u64,
}

/// Stands in [`Summary::models`] for requests without a model.
pub const NO_MODEL: &str = "(no model)";

/// Latency percentiles: durations that 50, 95 and 99 of 100 requests did not exceed. Each is the duration of one actual request
/// (nearest rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The 50th percentile, which is the median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// A calendar month, from its beginning up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    /// The first millisecond of the month, since 1970.
    pub start: u64,
    /// The first millisecond of the next month.
    pub end: u64,
    /// What was spent in the month so far.
    pub spent: NanoUsd,
    /// What the whole month costs at the present rate; `None` in the first millisecond of the month.
    pub projected: Option<NanoUsd>,
}

impl Summary {
    /// The share of hits among the requests that the cache could have answered, from 0 to 1; 0 if there were none.
    pub fn hit_rate(&self) -> f64 {
        rate(self.hits, self.misses)
    }

    /// The mean cost of a request.
    pub fn average(&self) -> NanoUsd {
        mean(self.cost, self.requests)
    }

    /// The mean cost of a request that the cache did not answer.
    pub fn average_uncached(&self) -> NanoUsd {
        mean(self.cost.saturating_sub(self.cached_cost), self.requests - self.hits)
    }

    /// The mean cost of a request that the cache answered.
    pub fn average_cached(&self) -> NanoUsd {
        mean(self.cached_cost, self.hits)
    }
}

/// The costs of each UTC day, from the day of `since_ms` to the day of the millisecond before `until_ms`, in order and without
/// gaps, for one tenant or for all. The first day counts from its beginning. A sum that was carried over from a lost file
/// counts on the first day of its period.
///
/// # Errors
/// A store that cannot be read.
pub fn costs(
    session: &dyn Session,
    tenant: Option<&TenantId>,
    since_ms: u64,
    until_ms: u64,
) -> Result<Vec<Day>, StoreError> {
    costs_of(session, only(tenant), since_ms, until_ms)
}

/// [`costs`] for all tenants that `covers` accepts: for example a tenant with the tenants below it, as its budget covers them.
///
/// # Errors
/// A store that cannot be read.
pub fn costs_of(
    session: &dyn Session,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> Result<Vec<Day>, StoreError> {
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
    // One snapshot of all tables: a gateway may roll up a day, from one table to another, meanwhile.
    session.at_once(|tables| {
        tables.costs(&span, &mut |row| {
            if covered.has(row.tenant) {
                let part = Day {
                    day: 0,
                    calls: row.calls,
                    hits: row.hits,
                    prompt_tokens: row.prompt_tokens,
                    completion_tokens: row.completion_tokens,
                    cost: row.cost,
                    saved: row.saved,
                };
                add(row.at, &part);
            }
        })
    })?;
    Ok(days)
}

/// The traffic from `since_ms` until before `until_ms` (milliseconds since 1970), for one tenant or for all. Entries that were
/// rolled up are not included: their time and outcome are no longer known.
///
/// # Errors
/// A store that cannot be read.
pub fn summary(
    session: &dyn Session,
    tenant: Option<&TenantId>,
    since_ms: u64,
    until_ms: u64,
) -> Result<Summary, StoreError> {
    summary_of(session, only(tenant), since_ms, until_ms)
}

/// [`summary`] for all tenants that `covers` accepts.
///
/// # Errors
/// A store that cannot be read.
pub fn summary_of(
    session: &dyn Session,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> Result<Summary, StoreError> {
    let mut covered = Covered::new(covers);
    let mut summary = Summary::default();
    let mut durations: Vec<u64> = Vec::new();
    let mut models: HashMap<String, u64> = HashMap::new();
    let mut label = String::new();
    let span = Span::new(since_ms, until_ms);
    let month = Span::new(period::bounds(Period::Monthly, &TimeZone::UTC, until_ms).0, until_ms);
    let saved = session.at_once(|tables| {
        tables.traffic(&span, &mut |row| {
            if !covered.has(row.tenant) {
                return;
            }
            summary.requests += 1;
            summary.cost = summary.cost.saturating_add(row.cost);
            match row.cache {
                "HIT" | "STALE" => {
                    summary.hits += 1;
                    summary.cached_cost = summary.cached_cost.saturating_add(row.cost);
                }
                "MISS" => summary.misses += 1,
                _ => {}
            }
            match row.basis {
                "recovered" => summary.recovered += 1,
                "counted" => summary.counted += 1,
                "unpriced" => summary.unpriced += 1,
                _ => {}
            }
            if (200..300).contains(&row.status) {
                durations.push(row.duration_us);
            }
            name(&mut label, row.provider, row.model);
            match models.get_mut(&label) {
                Some(requests) => *requests += 1,
                None => drop(models.insert(label.clone(), 1)),
            }
        })?;
        tables.refused(&span, &mut |row| {
            if !row.is_listing && covered.has(row.tenant) {
                summary.requests += row.count;
                summary.misses += if row.is_miss { row.count } else { 0 };
                *models.entry(NO_MODEL.to_owned()).or_default() += row.count;
            }
        })?;
        tables.saved(&month)
    })?;
    summary.latency = latency(durations);
    summary.models = models.into_iter().collect();
    summary.models.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    for (tenant, saved) in saved {
        if covered.has(tenant.as_str()) {
            summary.savings_month = summary.savings_month.saturating_add(saved);
        }
    }
    Ok(summary)
}

/// What all tenants that `covers` accepts have spent since `start_ms`. Entries that were rolled up count only if `start_ms` is 0.
///
/// # Errors
/// A store that cannot be read.
pub fn spent(session: &dyn Session, covers: impl Fn(&TenantId) -> bool, start_ms: u64) -> Result<NanoUsd, StoreError> {
    let sums = session.sum_since(start_ms, Rows::All)?;
    Ok(sums.into_iter().filter(|(tenant, _)| covers(tenant)).map(|(_, sum)| sum).sum())
}

/// The month of `now_ms` in a time zone: what was spent so far, and the projection of the whole month.
///
/// # Errors
/// A store that cannot be read.
pub fn month(
    session: &dyn Session,
    covers: impl Fn(&TenantId) -> bool,
    timezone: &str,
    now_ms: u64,
) -> Result<Month, StoreError> {
    let zone = TimeZone::get(timezone).unwrap_or(TimeZone::UTC);
    let (start, end) = period::bounds(Period::Monthly, &zone, now_ms);
    let spent = spent(session, covers, start)?;
    Ok(Month { start, end, spent, projected: project(spent, start, end, now_ms) })
}

/// Projects the cost of a whole span from what was spent in its part up to `now`.
fn project(spent: NanoUsd, start: u64, end: u64, now: u64) -> Option<NanoUsd> {
    let elapsed = now.min(end).checked_sub(start).filter(|elapsed| *elapsed > 0)?;
    let whole = u128::from(spent.0) * u128::from(end - start);
    let rounded = (whole + u128::from(elapsed) / 2) / u128::from(elapsed);
    Some(NanoUsd(u64::try_from(rounded).unwrap_or(u64::MAX)))
}

fn only(tenant: Option<&TenantId>) -> impl Fn(&TenantId) -> bool {
    move |id| tenant.is_none_or(|tenant| tenant == id)
}

/// The definition of the hit rate for all reports: hits among the requests that the cache could have answered. Requests that
/// bypass the cache do not lower it.
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

/// The nearest-rank percentiles of durations in microseconds.
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

/// Calls `covers` once for each tenant.
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
