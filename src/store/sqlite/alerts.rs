//! The alerts in SQLite.

use rusqlite::{Connection, params};

use super::SqliteSession;
use crate::store::{AlertKey, AlertRow, AlertTable, StoreError, Undelivered};

impl AlertTable for SqliteSession {
    fn undelivered_alerts(&self, raised_after: u64) -> Result<Vec<Undelivered>, StoreError> {
        let mut statement = self.0.prepare(
            "SELECT tenant, period, hard, period_start, threshold, body, attempts FROM alerts \
             WHERE delivered_at IS NULL AND raised_at > ?1 ORDER BY raised_at, threshold LIMIT 100",
        )?;
        let rows = statement.query_map([raised_after], |row| {
            let key = AlertKey {
                tenant: row.get(0)?,
                period: row.get(1)?,
                hard: row.get(2)?,
                period_start: row.get(3)?,
                threshold: row.get(4)?,
            };
            Ok(Undelivered { key, body: row.get(5)?, attempts: row.get(6)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn count_attempt(&mut self, alert: &AlertKey, delivered_at: Option<u64>) -> Result<(), StoreError> {
        let AlertKey { tenant, period, hard, period_start, threshold } = alert;
        match delivered_at {
            Some(at) => self.0.execute(
                "UPDATE alerts SET delivered_at = ?6, attempts = attempts + 1 WHERE tenant = ?1 AND period = ?2 \
                 AND hard = ?3 AND period_start = ?4 AND threshold = ?5",
                params![tenant, period, hard, period_start, threshold, at],
            )?,
            None => self.0.execute(
                "UPDATE alerts SET attempts = attempts + 1 WHERE tenant = ?1 AND period = ?2 AND hard = ?3 \
                 AND period_start = ?4 AND threshold = ?5",
                params![tenant, period, hard, period_start, threshold],
            )?,
        };
        Ok(())
    }
}

/// Writes an alert; false if it was raised in its period before.
pub(super) fn insert(connection: &Connection, alert: &AlertRow) -> rusqlite::Result<bool> {
    let AlertRow { key, raised_at, body, delivered_at } = alert;
    let rows = connection.execute(
        "INSERT OR IGNORE INTO alerts (tenant, period, hard, period_start, threshold, raised_at, body, delivered_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![key.tenant, key.period, key.hard, key.period_start, key.threshold, raised_at, body, delivered_at],
    )?;
    Ok(rows > 0)
}
