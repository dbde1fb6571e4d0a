//! The cache report: hits, misses and savings by tenant and model.

use std::collections::HashMap;

use super::{Covered, NO_MODEL, name, rate};
use crate::{
    store::{Session, Span, StoreError},
    types::{NanoUsd, TenantId},
};

/// Numbers of requests by what the cache did with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Requests that the cache answered (`HIT`, `STALE`).
    pub hits: u64,
    /// The part of `hits` that was answered with an expired answer, because no deployment answered.
    pub stale: u64,
    /// Requests that the cache could have answered but did not (`MISS`).
    pub misses: u64,
    /// Requests that bypassed the cache (`BYPASS`): not deterministic, not wanted from the cache, refused, or of a kind that it
    /// does not keep.
    pub bypassed: u64,
    /// What the hits would have cost.
    pub saved: NanoUsd,
}

impl CacheUse {
    /// The share of hits among the requests that the cache could have answered, as in [`super::Summary::hit_rate`].
    pub fn hit_rate(&self) -> f64 {
        rate(self.hits, self.misses)
    }

    fn add(&mut self, other: &Self) {
        self.hits = self.hits.saturating_add(other.hits);
        self.stale = self.stale.saturating_add(other.stale);
        self.misses = self.misses.saturating_add(other.misses);
        self.bypassed = self.bypassed.saturating_add(other.bypassed);
        self.saved = self.saved.saturating_add(other.saved);
    }
}

/// One tenant's use of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLine {
    /// The tenant whose requests these are.
    pub tenant: TenantId,
    /// The requested model, named as in [`super::Summary::models`].
    pub model: String,
    /// What the cache did with the requests.
    pub done: CacheUse,
}

/// The use of the cache in a span of time, in total and by tenant and model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// The whole use in the span.
    pub total: CacheUse,
    /// One line for each tenant and model; those that saved most come first, then those with most hits and misses.
    pub lines: Vec<CacheLine>,
}

/// The use of the cache from `since_ms` until before `until_ms` (milliseconds since 1970), for all tenants that `covers`
/// accepts. Listings of models are not included, nor are entries that were rolled up: their misses are no longer known.
///
/// # Errors
/// A store that cannot be read.
pub fn cache(
    session: &dyn Session,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> Result<CacheReport, StoreError> {
    let mut covered = Covered::new(covers);
    let span = Span::new(since_ms, until_ms);
    let mut total = CacheUse::default();
    let mut found: HashMap<(TenantId, String), CacheUse> = HashMap::new();
    session.at_once(|tables| {
        tables.cache_use(&span, &mut |row| {
            if !covered.has(row.tenant) {
                return;
            }
            let mut part = CacheUse { saved: row.saved, ..CacheUse::default() };
            match row.cache {
                "HIT" => part.hits = row.count,
                "STALE" => (part.hits, part.stale) = (row.count, row.count),
                "MISS" => part.misses = row.count,
                _ => part.bypassed = row.count,
            }
            total.add(&part);
            let mut model = String::new();
            name(&mut model, row.provider, row.model);
            found.entry((row.tenant.into(), model)).or_default().add(&part);
        })?;
        tables.refused(&span, &mut |row| {
            if row.is_listing || !covered.has(row.tenant) {
                return;
            }
            let part = match row.is_miss {
                true => CacheUse { misses: row.count, ..CacheUse::default() },
                false => CacheUse { bypassed: row.count, ..CacheUse::default() },
            };
            total.add(&part);
            found.entry((row.tenant.into(), NO_MODEL.to_owned())).or_default().add(&part);
        })
    })?;
    let lines = found.into_iter().map(|((tenant, model), done)| CacheLine { tenant, model, done });
    let mut lines: Vec<_> = lines.collect();
    let worth = |line: &CacheLine| (line.done.saved, line.done.hits, line.done.misses, line.done.bypassed);
    lines.sort_unstable_by(|a, b| {
        worth(b).cmp(&worth(a)).then_with(|| (&a.tenant, &a.model).cmp(&(&b.tenant, &b.model)))
    });
    Ok(CacheReport { total, lines })
}
