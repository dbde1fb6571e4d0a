//! The purges in SQLite. An empty name stands for any.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::SqliteSession;
use crate::store::{PurgeBounds, PurgeRow, PurgeTable, Purged, StoreError};

impl PurgeTable for SqliteSession {
    fn purges(&self) -> Result<Vec<PurgeRow>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT tenant, model, key, at FROM purges")?;
        let rows = statement.query_map([], |row| {
            Ok(PurgeRow { tenant: row.get(0)?, model: row.get(1)?, key: row.get(2)?, at: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn purge(&mut self, stamp: &PurgeRow, bounds: PurgeBounds) -> Result<Purged, StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let PurgeRow { tenant, model, key, at } = stamp;
        let at = put(&transaction, tenant, model, key, *at)?;
        let mut folded = false;
        if model.is_empty() && key.is_empty() {
            forget(&transaction, tenant, at)?;
        } else if let Some(middle) = middle(&transaction, tenant, bounds.narrow)? {
            let all = put(&transaction, tenant, "", "", middle)?;
            forget(&transaction, tenant, all)?;
            folded = true;
        }
        transaction.execute("DELETE FROM purges WHERE at < ?1", [bounds.since])?;
        transaction.commit()?;
        Ok(Purged { at, folded })
    }
}

/// Writes a stamp to another file than the one it was read from. A newer stamp that is there already stays.
pub(super) fn keep(connection: &Connection, stamp: &PurgeRow) -> rusqlite::Result<()> {
    put(connection, &stamp.tenant, &stamp.model, &stamp.key, stamp.at).map(drop)
}

fn put(connection: &Connection, tenant: &str, model: &str, key: &str, at: u64) -> rusqlite::Result<u64> {
    connection.query_row(
        "INSERT INTO purges VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET at = max(at, excluded.at) RETURNING at",
        params![tenant, model, key, at],
        |row| row.get(0),
    )
}

/// Deletes the stamps that a purge of all answers of a tenant covers; an empty `tenant` stands for a purge of everything.
fn forget(transaction: &Transaction<'_>, tenant: &str, at: u64) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM purges WHERE at <= ?2 AND CASE ?1 WHEN '' THEN tenant || model || key <> '' \
         ELSE tenant = ?1 AND model || key <> '' END",
        params![tenant, at],
    )?;
    Ok(())
}

/// If a tenant has more than `most` stamps for models and keys: the time of the stamp in the middle of them.
fn middle(transaction: &Transaction<'_>, tenant: &str, most: usize) -> rusqlite::Result<Option<u64>> {
    let narrow = "FROM purges WHERE tenant = ?1 AND model || key <> ''";
    let count: usize = transaction.query_row(&format!("SELECT count(*) {narrow}"), [tenant], |row| row.get(0))?;
    if count <= most {
        return Ok(None);
    }
    let sql = format!("SELECT at {narrow} ORDER BY at LIMIT 1 OFFSET ?2");
    transaction.query_row(&sql, params![tenant, most / 2], |row| row.get(0)).optional()
}
