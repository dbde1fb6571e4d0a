//! The log of finished requests in SQLite.

use std::time::Duration;

use rusqlite::{CachedStatement, Connection, TransactionBehavior, params};

use super::{SqliteSession, alerts, has_table};
use crate::{
    store::{
        AlertRow, Appended, Entry, EntryLog, ID_BEFORE_ENTRY_MS, MOST, Refusal, RefusalRow, Rows, StoreError, Sums,
    },
    types::{NanoUsd, RequestId, TenantId, TokenId},
};

const DAY_MS: u64 = 86_400_000;

impl EntryLog for SqliteSession {
    fn append(
        &mut self,
        entries: &mut dyn Iterator<Item = (i64, &Entry)>,
        alerts: &[AlertRow],
    ) -> Result<Appended, StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut appended = Appended::default();
        {
            let mut statement = prepare(&transaction)?;
            for (process, entry) in entries {
                appended.entries.push(insert(&mut statement, process, entry)?);
            }
        }
        for alert in alerts {
            appended.alerts.push(alerts::insert(&transaction, alert)?);
        }
        transaction.commit()?;
        Ok(appended)
    }

    fn add_refusals(&mut self, rows: &mut dyn Iterator<Item = RefusalRow<'_>>) -> Result<(), StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO refusals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                 ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?;
            for RefusalRow { start, kind, count } in rows {
                let Refusal { tenant, status, code, is_listing, cache } = kind;
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                statement.execute(params![start, tenant.as_str(), status, code, is_listing, cache, count])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn has_entry(&self, id: &RequestId) -> Result<bool, StoreError> {
        Ok(self.0.prepare_cached("SELECT 1 FROM entries WHERE id = ?1")?.exists(params![id.as_bytes()])?)
    }

    fn sum_since(&self, start: u64, rows: Rows) -> Result<Sums, StoreError> {
        Ok(sum_since(&self.0, start, rows)?)
    }

    fn roll_up_entries(&mut self, before: u64) -> Result<usize, StoreError> {
        Ok(roll_up_entries(&mut self.0, before)?)
    }

    fn roll_up_refusals(&mut self, before: u64) -> Result<usize, StoreError> {
        Ok(roll_up_refusals(&mut self.0, before)?)
    }
}

/// Prepares the statement that [`insert`] runs.
fn prepare(connection: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    connection.prepare_cached(
        "INSERT OR IGNORE INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
         ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
    )
}

/// Writes an entry. False if there is an entry with this id already, which stays as it is.
fn insert(statement: &mut CachedStatement<'_>, process: i64, entry: &Entry) -> rusqlite::Result<bool> {
    let Entry { subject, usage, .. } = entry;
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX).min(MOST);
    let rows = statement.execute(params![
        subject.id.as_bytes(),
        i64::try_from(subject.at).unwrap_or(i64::MAX),
        process,
        subject.tenant.as_str(),
        subject.token.as_ref().map(TokenId::as_str),
        subject.endpoint,
        &*subject.route,
        &*entry.provider,
        &*entry.model,
        count(usage.prompt_tokens),
        count(usage.cached_tokens),
        count(usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens)),
        count(usage.completion_tokens),
        count(usage.reasoning_tokens),
        count(usage.audio_prompt_tokens),
        count(usage.audio_completion_tokens),
        count(usage.image_prompt_tokens),
        count(entry.cost.0),
        count(entry.saved.0),
        entry.basis.label(),
        entry.cache,
        entry.status,
        entry.attempts,
        entry.first_byte.map(micros),
        micros(entry.duration),
    ])?;
    Ok(rows > 0)
}

/// See [`EntryLog::sum_since`].
pub(super) fn sum_since(connection: &Connection, start: u64, rows: Rows) -> rusqlite::Result<Sums> {
    let first = RequestId::first_at(start.saturating_sub(ID_BEFORE_ENTRY_MS));
    let (of, except) = rows.processes();
    let mut statement = connection.prepare(
        "SELECT tenant, sum(cost) FROM entries WHERE id >= ?1 AND at >= ?2 AND (?3 IS NULL OR process = ?3) \
         AND (?4 IS NULL OR process <> ?4) GROUP BY tenant",
    )?;
    let mut sums = Sums::new();
    let mut found = statement.query(params![first.as_bytes(), start, of, except])?;
    while let Some(row) = found.next()? {
        sums.insert(TenantId::from(row.get_ref(0)?.as_str()?), NanoUsd(row.get(1)?));
    }
    // Sums of lost files, as far as the gateway knew them.
    if has_table(connection, "carried")? {
        let mut statement = connection.prepare(
            "SELECT tenant, sum(cost) FROM carried WHERE at >= ?1 AND (?2 IS NULL OR process = ?2) \
             AND (?3 IS NULL OR process <> ?3) GROUP BY tenant",
        )?;
        let mut carried = statement.query(params![start, of, except])?;
        while let Some(row) = carried.next()? {
            let sum = sums.entry(TenantId::from(row.get_ref(0)?.as_str()?)).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(NanoUsd(row.get(1)?));
        }
    }
    if start == 0 && of.is_none() {
        // Rolled-up entries are older than any period that has an end, and than this process.
        let mut statement = connection.prepare("SELECT tenant, sum(cost) FROM days GROUP BY tenant")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sum = sums.entry(TenantId::from(row.get_ref(0)?.as_str()?)).or_insert(NanoUsd::ZERO);
            *sum = sum.saturating_add(NanoUsd(row.get(1)?));
        }
    }
    Ok(sums)
}

/// Rolls up one day at a time, each in its own transaction.
fn roll_up_entries(connection: &mut Connection, before: u64) -> rusqlite::Result<usize> {
    let mut rolled = 0;
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let oldest: Option<u64> = transaction.query_row(
            "SELECT min(at) FROM (SELECT at FROM entries ORDER BY id LIMIT 1000)",
            [],
            |row| row.get(0),
        )?;
        let Some(day) = oldest.map(|at| at / DAY_MS * DAY_MS).filter(|day| *day < before) else { return Ok(rolled) };
        let range = params![day, day + DAY_MS];
        transaction.execute(
            "INSERT INTO days SELECT ?1, tenant, provider, model, count(*), sum(cache IN ('HIT', 'STALE')), sum(prompt_tokens), \
             sum(completion_tokens), sum(cost), sum(saved) FROM entries WHERE at >= ?1 AND at < ?2 \
             GROUP BY tenant, provider, model \
             ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, hits = hits + excluded.hits, \
             prompt_tokens = prompt_tokens + excluded.prompt_tokens, \
             completion_tokens = completion_tokens + excluded.completion_tokens, cost = cost + excluded.cost, \
             saved = saved + excluded.saved",
            range,
        )?;
        rolled += transaction.execute("DELETE FROM entries WHERE at >= ?1 AND at < ?2", range)?;
        transaction.commit()?;
    }
}

/// Like [`roll_up_entries`], for refusals: their sums have neither provider nor model.
fn roll_up_refusals(connection: &mut Connection, before: u64) -> rusqlite::Result<usize> {
    let mut rolled = 0;
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let oldest: Option<u64> = transaction.query_row("SELECT min(start) FROM refusals", [], |row| row.get(0))?;
        let Some(day) = oldest.map(|at| at / DAY_MS * DAY_MS).filter(|day| *day < before) else { return Ok(rolled) };
        let range = params![day, day + DAY_MS];
        transaction.execute(
            "INSERT INTO days SELECT ?1, tenant, '-', '-', sum(count), 0, 0, 0, 0, 0 FROM refusals \
             WHERE start >= ?1 AND start < ?2 GROUP BY tenant \
             ON CONFLICT DO UPDATE SET calls = calls + excluded.calls",
            range,
        )?;
        rolled += transaction.execute("DELETE FROM refusals WHERE start >= ?1 AND start < ?2", range)?;
        transaction.commit()?;
    }
}
