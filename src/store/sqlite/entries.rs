//! The log of finished requests in SQLite.

use std::{sync::LazyLock, time::Duration};

use rusqlite::{CachedStatement, Connection, ToSql, TransactionBehavior, params};

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
        let entries: Vec<_> = entries.collect();
        // Nearly always every entry is new, and a statement for many rows says so. If not, single rows say which ones are.
        let grouped = append(&mut self.0, &entries, alerts, GROUP)?;
        match grouped {
            Some(appended) => Ok(appended),
            None => Ok(append(&mut self.0, &entries, alerts, 1)?.unwrap_or_default()),
        }
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

/// Rows per statement: with eight a row costs a sixth less than alone, and more make no difference.
const GROUP: usize = 8;

/// Columns of the table.
const COLUMNS: usize = 25;

/// The statements that [`insert`] runs, for [`GROUP`] rows and for one.
static INSERT: LazyLock<[String; 2]> = LazyLock::new(|| {
    let row = format!("({})", ["?"; COLUMNS].join(", "));
    [GROUP, 1].map(|rows| format!("INSERT OR IGNORE INTO entries VALUES {}", vec![&*row; rows].join(", ")))
});

/// Writes a batch in one transaction, up to `group` entries per statement. `None`, and nothing is written, if a statement for
/// several rows has met an id that was there already.
fn append(
    connection: &mut Connection,
    entries: &[(i64, &Entry)],
    alerts: &[AlertRow],
    group: usize,
) -> rusqlite::Result<Option<Appended>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut appended = Appended::default();
    {
        let [many, one] = &*INSERT;
        let (mut many, mut one) = (transaction.prepare_cached(many)?, transaction.prepare_cached(one)?);
        for entries in entries.chunks(group) {
            if entries.len() == GROUP {
                if insert(&mut many, entries)? != GROUP {
                    return Ok(None);
                }
                appended.entries.extend([true; GROUP]);
                continue;
            }
            for entry in entries {
                appended.entries.push(insert(&mut one, std::slice::from_ref(entry))? > 0);
            }
        }
    }
    for alert in alerts {
        appended.alerts.push(alerts::insert(&transaction, alert)?);
    }
    transaction.commit()?;
    Ok(Some(appended))
}

/// Writes entries with one statement, which has room for exactly these. Returns how many were new: an entry whose id is there
/// already stays as it is.
fn insert(statement: &mut CachedStatement<'_>, entries: &[(i64, &Entry)]) -> rusqlite::Result<usize> {
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX).min(MOST);
    let mut at = 0;
    for (process, entry) in entries {
        let Entry { subject, usage, .. } = entry;
        let values: [&dyn ToSql; COLUMNS] = [
            subject.id.as_bytes(),
            &i64::try_from(subject.at).unwrap_or(i64::MAX),
            process,
            &subject.tenant.as_str(),
            &subject.token.as_ref().map(TokenId::as_str),
            &subject.endpoint,
            &&*subject.route,
            &&*entry.provider,
            &&*entry.model,
            &count(usage.prompt_tokens),
            &count(usage.cached_tokens),
            &count(usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens)),
            &count(usage.completion_tokens),
            &count(usage.reasoning_tokens),
            &count(usage.audio_prompt_tokens),
            &count(usage.audio_completion_tokens),
            &count(usage.image_prompt_tokens),
            &count(entry.cost.0),
            &count(entry.saved.0),
            &entry.basis.label(),
            &entry.cache,
            &entry.status,
            &entry.attempts,
            &entry.first_byte.map(micros),
            &micros(entry.duration),
        ];
        for value in values {
            at += 1;
            statement.raw_bind_parameter(at, value)?;
        }
    }
    statement.raw_execute()
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
