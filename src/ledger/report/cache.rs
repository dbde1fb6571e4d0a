//! What the cache has done: hits, misses and savings by tenant and model.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{Covered, NO_MODEL, Span, name, rate, refused};
use crate::types::{NanoUsd, TenantId};

/// What came of requests that a cache stood before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Those that the cache answered (`HIT`, `STALE`).
    pub hits: u64,
    /// Those of them that it answered with an expired answer, because no deployment did.
    pub stale: u64,
    /// Those that it could have answered (`MISS`).
    pub misses: u64,
    /// Those that passed by it (`BYPASS`): what is not deterministic or not wanted from it, refused or of another kind.
    pub bypassed: u64,
    /// What the hits would have cost.
    pub saved: NanoUsd,
}

impl CacheUse {
    /// Hits among what the cache could have answered, as in [`super::Summary::hit_rate`].
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
    /// Who asked.
    pub tenant: TenantId,
    /// What was asked, named as in [`super::Summary::models`].
    pub model: String,
    /// What came of it.
    pub done: CacheUse,
}

/// A span of time, in total and by tenant and model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// All of it.
    pub total: CacheUse,
    /// Each tenant and model; those that saved most come first, then those with most hits and misses.
    pub lines: Vec<CacheLine>,
}

/// What the cache has done from `since_ms` until before `until_ms`, for all tenants that `covers` names. Listings of models are
/// not in it, nor are entries that were rolled up: nobody knows any more what they missed.
///
/// # Errors
/// A file that cannot be read.
pub fn cache(
    connection: &Connection,
    covers: impl Fn(&TenantId) -> bool,
    since_ms: u64,
    until_ms: u64,
) -> rusqlite::Result<CacheReport> {
    let mut covered = Covered::new(covers);
    let span = Span::new(since_ms, until_ms);
    let snapshot = connection.unchecked_transaction()?;
    let mut statement = snapshot.prepare(
        "SELECT tenant, provider, model, cache, count(*), sum(saved) FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND endpoint NOT IN ('models', 'model') \
         GROUP BY tenant, provider, model, cache",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    let mut total = CacheUse::default();
    let mut found: HashMap<(TenantId, String), CacheUse> = HashMap::new();
    while let Some(row) = rows.next()? {
        let tenant = row.get_ref(0)?.as_str()?;
        if !covered.has(tenant) {
            continue;
        }
        let count = row.get(4)?;
        let mut part = CacheUse { saved: NanoUsd(row.get(5)?), ..CacheUse::default() };
        match row.get_ref(3)?.as_str()? {
            "HIT" => part.hits = count,
            "STALE" => (part.hits, part.stale) = (count, count),
            "MISS" => part.misses = count,
            _ => part.bypassed = count,
        }
        total.add(&part);
        let mut model = String::new();
        name(&mut model, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        found.entry((tenant.into(), model)).or_default().add(&part);
    }
    for refused in refused(&snapshot, &span)?.iter().filter(|refused| !refused.is_listing) {
        if !covered.has(&refused.tenant) {
            continue;
        }
        let part = match refused.is_miss {
            true => CacheUse { misses: refused.count, ..CacheUse::default() },
            false => CacheUse { bypassed: refused.count, ..CacheUse::default() },
        };
        total.add(&part);
        found.entry(((&*refused.tenant).into(), NO_MODEL.to_owned())).or_default().add(&part);
    }
    let lines = found.into_iter().map(|((tenant, model), done)| CacheLine { tenant, model, done });
    let mut lines: Vec<_> = lines.collect();
    let worth = |line: &CacheLine| (line.done.saved, line.done.hits, line.done.misses, line.done.bypassed);
    lines.sort_unstable_by(|a, b| {
        worth(b).cmp(&worth(a)).then_with(|| (&a.tenant, &a.model).cmp(&(&b.tenant, &b.model)))
    });
    Ok(CacheReport { total, lines })
}
