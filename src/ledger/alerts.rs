//! Alerts for thresholds that budgets have crossed: one row each, and a thread that delivers them.
//!
//! The row's key makes an alert happen once, even after restarts. A delivery that fails is repeated at growing intervals,
//! also by the next process, until the webhook accepts the alert or three days have passed.

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

use serde_json::json;

use super::{Shared, budget::ThresholdAlert, webhook};
use crate::{
    store::{AlertKey, AlertRow, StoreError},
    types::unix_now,
};

/// Age, in milliseconds, at which an alert is no longer delivered.
const WORTH_MS: u64 = 3 * 86_400_000;

/// The wait before the second attempt; before each further attempt it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// The interval at which the thread reads the table when nobody rings.
const LOOK: Duration = Duration::from_secs(30);

/// Wakes the thread that delivers.
pub struct Bell(mpsc::SyncSender<()>);

impl Bell {
    /// Says that there is an alert to deliver.
    pub fn ring(&self) {
        // One ring is enough for all alerts that wait.
        let _ = self.0.try_send(());
    }
}

/// The row of an alert that is raised now. Without a webhook it counts as delivered.
pub fn row(crossed: &ThresholdAlert, webhook: bool) -> AlertRow {
    let now = unix_now();
    let key = AlertKey {
        tenant: crossed.key.tenant.to_string(),
        period: crossed.key.period.label().to_owned(),
        hard: crossed.key.hard,
        period_start: crossed.start,
        threshold: crossed.threshold,
    };
    AlertRow { key, raised_at: now, body: body(crossed, now).to_string(), delivered_at: (!webhook).then_some(now) }
}

/// Writes an alert to the log.
pub fn log(crossed: &ThresholdAlert) {
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

fn body(crossed: &ThresholdAlert, now: u64) -> serde_json::Value {
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

/// Starts the thread that delivers. The thread ends when its [`Bell`] is dropped.
///
/// # Errors
/// The system cannot start a thread.
pub fn start(shared: Arc<Shared>) -> io::Result<Bell> {
    let (bell, heard) = mpsc::sync_channel(1);
    thread::Builder::new().name("alerts".into()).spawn(move || {
        let mut due: HashMap<String, Instant> = HashMap::new();
        loop {
            if let Err(error) = deliver(&shared, &mut due) {
                // The writer has logged by then what is wrong with the file.
                tracing::debug!(%error, "alerts cannot be read");
            }
            // The thread also looks without a ring: for alerts that another process left, and for deliveries to repeat.
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
    let Some(hook) = shared.webhook().filter(|_| shared.store.ownership().is_held()) else { return Ok(()) };
    let (mut session, _) = shared.store.connect()?;
    let mut open = Vec::new();
    for alert in session.undelivered_alerts(unix_now().saturating_sub(WORTH_MS))? {
        let id = id(&alert.key);
        if due.get(&id).is_some_and(|at| *at > Instant::now()) {
            open.push(id);
            continue;
        }
        match webhook::call(&hook, &id, &alert.body) {
            Ok(()) => session.count_attempt(&alert.key, Some(unix_now()))?,
            Err(error) => {
                let wait = FIRST_WAIT.saturating_mul(1 << alert.attempts.min(16)).min(LONGEST_WAIT);
                let AlertKey { tenant, threshold, .. } = &alert.key;
                tracing::warn!(%error, tenant, threshold, again_in_s = wait.as_secs(), "the webhook did not take an alert");
                due.insert(id.clone(), Instant::now() + wait);
                open.push(id);
                session.count_attempt(&alert.key, None)?;
            }
        }
    }
    due.retain(|id, _| open.contains(id));
    Ok(())
}

/// The alert's id: equal in every attempt, so that a receiver can recognise a repetition.
fn id(AlertKey { tenant, period, hard, period_start: start, threshold }: &AlertKey) -> String {
    let kind = if *hard { "hard" } else { "soft" };
    format!("alert_{tenant}_{period}_{kind}_{start}_{threshold}")
}
