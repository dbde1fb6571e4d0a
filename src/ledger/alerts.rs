//! Thresholds that budgets have passed: a row each, and a thread that delivers them.
//!
//! The row's key makes an alert happen once, whatever restarts. It is delivered until it is taken: after a failure again
//! and again at growing intervals, also by the next process, for three days.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use serde_json::json;

use super::{Shared, budget::Crossed, webhook};
use crate::{store::StoreError, types::unix_now};

/// How long an alert is worth delivering.
const WORTH_MS: u64 = 3 * 86_400_000;

/// Before the second attempt; each further one waits twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// Between two looks at the table without a ring.
const LOOK: Duration = Duration::from_secs(30);

/// Rouses the thread that delivers.
pub struct Bell(mpsc::SyncSender<()>);

impl Bell {
    /// There is something to deliver.
    pub fn ring(&self) {
        // One ring is enough for all that wait.
        let _ = self.0.try_send(());
    }
}

/// Writes an alert down; false if it was raised in this period before. Without a webhook it counts as delivered.
///
/// # Errors
/// A file that cannot be written.
pub fn insert(connection: &Connection, crossed: &Crossed, webhook: bool) -> rusqlite::Result<bool> {
    let now = unix_now();
    let key = &crossed.key;
    let rows = connection.execute(
        "INSERT OR IGNORE INTO alerts (tenant, period, hard, period_start, threshold, raised_at, body, delivered_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key.tenant.as_str(),
            key.period.label(),
            key.hard,
            crossed.start,
            crossed.threshold,
            now,
            body(crossed, now).to_string(),
            (!webhook).then_some(now),
        ],
    )?;
    Ok(rows > 0)
}

/// Tells the log.
pub fn log(crossed: &Crossed) {
    tracing::warn!(
        tenant = %crossed.key.tenant,
        period = crossed.key.period.label(),
        hard = crossed.key.hard,
        threshold_percent = crossed.threshold,
        spent_usd = %crossed.spent,
        limit_usd = %crossed.limit,
        "a budget has passed a threshold"
    );
}

fn body(crossed: &Crossed, now: u64) -> serde_json::Value {
    let time = |ms: u64| jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).ok();
    json!({
        "type": "budget.threshold_passed",
        "timestamp": time(now).map(|at| at.to_string()),
        "data": {
            "tenant": crossed.key.tenant,
            "period": crossed.key.period.label(),
            "timezone": crossed.key.timezone,
            "hard": crossed.key.hard,
            "threshold_percent": crossed.threshold,
            "limit_usd": crossed.limit.to_string(),
            "spent_usd": crossed.spent.to_string(),
            "period_start": time(crossed.start).map(|at| at.to_string()),
            "resets_at": crossed.resets_at.and_then(time).map(|at| at.to_string()),
        }
    })
}

struct Undelivered {
    key: (String, String, bool, u64, u32),
    body: String,
    attempts: u32,
}

/// Starts the thread that delivers. It ends with its bell.
///
/// # Errors
/// The system gives no thread.
pub fn start(shared: Arc<Shared>) -> io::Result<Bell> {
    let (bell, heard) = mpsc::sync_channel(1);
    thread::Builder::new().name("alerts".into()).spawn(move || {
        let mut due: HashMap<String, Instant> = HashMap::new();
        loop {
            if let Err(error) = deliver(&shared, &mut due) {
                // The writer has told of the file by then.
                tracing::debug!(%error, "alerts cannot be read");
            }
            // Looks now and then by itself: for what another process left, and for what has to be tried again.
            let wait = if due.is_empty() { LOOK } else { FIRST_WAIT };
            match heard.recv_timeout(wait) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })?;
    Ok(Bell(bell))
}

fn deliver(shared: &Shared, due: &mut HashMap<String, Instant>) -> Result<(), StoreError> {
    let Some(hook) = shared.webhook().filter(|_| shared.ownership.is_held()) else { return Ok(()) };
    let (connection, _) = shared.place.connect()?;
    let mut open = Vec::new();
    for alert in undelivered(&connection)? {
        let id = id(&alert);
        if due.get(&id).is_some_and(|at| *at > Instant::now()) {
            open.push(id);
            continue;
        }
        let (tenant, period, hard, start, threshold) = &alert.key;
        match webhook::call(&hook, &id, &alert.body) {
            Ok(()) => {
                connection.execute(
                    "UPDATE alerts SET delivered_at = ?6, attempts = attempts + 1 WHERE tenant = ?1 AND period = ?2 \
                     AND hard = ?3 AND period_start = ?4 AND threshold = ?5",
                    params![tenant, period, hard, start, threshold, unix_now()],
                )?;
            }
            Err(error) => {
                let wait = FIRST_WAIT.saturating_mul(1 << alert.attempts.min(16)).min(LONGEST_WAIT);
                tracing::warn!(%error, tenant, threshold, again_in_s = wait.as_secs(), "the webhook did not take an alert");
                due.insert(id.clone(), Instant::now() + wait);
                open.push(id);
                connection.execute(
                    "UPDATE alerts SET attempts = attempts + 1 WHERE tenant = ?1 AND period = ?2 AND hard = ?3 \
                     AND period_start = ?4 AND threshold = ?5",
                    params![tenant, period, hard, start, threshold],
                )?;
            }
        }
    }
    due.retain(|id, _| open.contains(id));
    Ok(())
}

fn undelivered(connection: &Connection) -> rusqlite::Result<Vec<Undelivered>> {
    let mut statement = connection.prepare(
        "SELECT tenant, period, hard, period_start, threshold, body, attempts FROM alerts \
         WHERE delivered_at IS NULL AND raised_at > ?1 ORDER BY raised_at, threshold LIMIT 100",
    )?;
    let rows = statement.query_map([unix_now().saturating_sub(WORTH_MS)], |row| {
        Ok(Undelivered {
            key: (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?),
            body: row.get(5)?,
            attempts: row.get(6)?,
        })
    })?;
    rows.collect()
}

/// The same for every attempt, so that a receiver can tell a repetition.
fn id(alert: &Undelivered) -> String {
    let (tenant, period, hard, start, threshold) = &alert.key;
    let kind = if *hard { "hard" } else { "soft" };
    format!("alert_{tenant}_{period}_{kind}_{start}_{threshold}")
}
