//! Queries over the log of finished requests. Each is one pass over the entries of its span.

use rusqlite::{Connection, params};

use super::{SqliteSession, has_table};
use crate::{
    store::{CacheRow, CostRow, RefusedRow, Reports, Span, StoreError, Sums, TrafficRow},
    types::NanoUsd,
};

impl Reports for SqliteSession {
    fn costs(&self, span: &Span, each: &mut dyn FnMut(CostRow<'_>)) -> Result<(), StoreError> {
        Ok(costs(&self.0, span, each)?)
    }

    fn traffic(&self, span: &Span, each: &mut dyn FnMut(TrafficRow<'_>)) -> Result<(), StoreError> {
        Ok(traffic(&self.0, span, each)?)
    }

    fn refused(&self, span: &Span, each: &mut dyn FnMut(RefusedRow<'_>)) -> Result<(), StoreError> {
        Ok(refused(&self.0, span, each)?)
    }

    fn cache_use(&self, span: &Span, each: &mut dyn FnMut(CacheRow<'_>)) -> Result<(), StoreError> {
        Ok(cache_use(&self.0, span, each)?)
    }

    fn saved(&self, span: &Span) -> Result<Sums, StoreError> {
        Ok(saved(&self.0, span)?)
    }
}

fn costs(connection: &Connection, span: &Span, each: &mut dyn FnMut(CostRow<'_>)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT tenant, at, cache IN ('HIT', 'STALE'), prompt_tokens, completion_tokens, cost, saved FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    while let Some(row) = rows.next()? {
        each(CostRow {
            tenant: row.get_ref(0)?.as_str()?,
            at: row.get(1)?,
            calls: 1,
            hits: row.get(2)?,
            prompt_tokens: row.get(3)?,
            completion_tokens: row.get(4)?,
            cost: NanoUsd(row.get(5)?),
            saved: NanoUsd(row.get(6)?),
        });
    }

    let nothing = CostRow {
        tenant: "",
        at: 0,
        calls: 0,
        hits: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        cost: NanoUsd::ZERO,
        saved: NanoUsd::ZERO,
    };
    if has_table(connection, "carried")? {
        let mut statement = connection.prepare("SELECT tenant, at, cost FROM carried WHERE at >= ?1 AND at < ?2")?;
        let mut rows = statement.query(params![span.since, span.until])?;
        while let Some(row) = rows.next()? {
            let (tenant, at) = (row.get_ref(0)?.as_str()?, row.get(1)?);
            each(CostRow { tenant, at, cost: NanoUsd(row.get(2)?), ..nothing });
        }
    }

    refused(connection, span, &mut |RefusedRow { tenant, start, count, .. }| {
        each(CostRow { tenant, at: start, calls: count, ..nothing });
    })?;

    let mut statement = connection.prepare(
        "SELECT tenant, day, calls, hits, prompt_tokens, completion_tokens, cost, saved FROM days \
         WHERE day >= ?1 AND day < ?2",
    )?;
    let mut rows = statement.query(params![span.since, span.until])?;
    while let Some(row) = rows.next()? {
        each(CostRow {
            tenant: row.get_ref(0)?.as_str()?,
            at: row.get(1)?,
            calls: row.get(2)?,
            hits: row.get(3)?,
            prompt_tokens: row.get(4)?,
            completion_tokens: row.get(5)?,
            cost: NanoUsd(row.get(6)?),
            saved: NanoUsd(row.get(7)?),
        });
    }
    Ok(())
}

fn traffic(connection: &Connection, span: &Span, each: &mut dyn FnMut(TrafficRow<'_>)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT tenant, provider, model, cost, basis, cache, status, duration_us FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND endpoint NOT IN ('models', 'model')",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    while let Some(row) = rows.next()? {
        each(TrafficRow {
            tenant: row.get_ref(0)?.as_str()?,
            provider: row.get_ref(1)?.as_str()?,
            model: row.get_ref(2)?.as_str()?,
            cost: NanoUsd(row.get(3)?),
            basis: row.get_ref(4)?.as_str()?,
            cache: row.get_ref(5)?.as_str()?,
            status: row.get(6)?,
            duration_us: row.get(7)?,
        });
    }
    Ok(())
}

/// The refusals of a span. A file of an earlier version that no gateway of this version has opened has no table of refusals.
fn refused(connection: &Connection, span: &Span, each: &mut dyn FnMut(RefusedRow<'_>)) -> rusqlite::Result<()> {
    if !has_table(connection, "refusals")? {
        return Ok(());
    }
    let mut statement = connection.prepare(
        "SELECT tenant, start, listing, cache = 'MISS', sum(count) FROM refusals WHERE start >= ?1 AND start < ?2 \
         GROUP BY start, tenant, listing, cache = 'MISS'",
    )?;
    let mut rows = statement.query(span.minutes())?;
    while let Some(row) = rows.next()? {
        each(RefusedRow {
            tenant: row.get_ref(0)?.as_str()?,
            start: row.get(1)?,
            is_listing: row.get(2)?,
            is_miss: row.get(3)?,
            count: row.get(4)?,
        });
    }
    Ok(())
}

fn cache_use(connection: &Connection, span: &Span, each: &mut dyn FnMut(CacheRow<'_>)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT tenant, provider, model, cache, count(*), sum(saved) FROM entries \
         WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND endpoint NOT IN ('models', 'model') \
         GROUP BY tenant, provider, model, cache",
    )?;
    let mut rows = statement.query(params![span.first_id, span.end_id, span.since, span.until])?;
    while let Some(row) = rows.next()? {
        each(CacheRow {
            tenant: row.get_ref(0)?.as_str()?,
            provider: row.get_ref(1)?.as_str()?,
            model: row.get_ref(2)?.as_str()?,
            cache: row.get_ref(3)?.as_str()?,
            count: row.get(4)?,
            saved: NanoUsd(row.get(5)?),
        });
    }
    Ok(())
}

fn saved(connection: &Connection, span: &Span) -> rusqlite::Result<Sums> {
    let mut statement = connection.prepare(
        "SELECT tenant, sum(saved) FROM entries WHERE id >= ?1 AND id < ?2 AND at >= ?3 AND at < ?4 AND saved > 0 \
         GROUP BY tenant",
    )?;
    let rows = statement.query_map(params![span.first_id, span.end_id, span.since, span.until], |row| {
        Ok((row.get_ref(0)?.as_str()?.into(), NanoUsd(row.get(1)?)))
    })?;
    rows.collect()
}
