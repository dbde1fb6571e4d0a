//! The table of alerts: thresholds that budgets have crossed.

use super::StoreError;

/// The key of an alert: no two alerts have the same, so each happens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertKey {
    /// The tenant that owns the budget.
    pub tenant: String,
    /// The name of the budget's period.
    pub period: String,
    /// True if the budget refuses requests; false if it only alerts.
    pub hard: bool,
    /// First millisecond of the period, since 1970.
    pub period_start: u64,
    /// Percent of the limit.
    pub threshold: u32,
}

/// An alert that was raised, as the table keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRow {
    /// Which threshold of which budget, in which period.
    pub key: AlertKey,
    /// When the alert was raised, in milliseconds since 1970.
    pub raised_at: u64,
    /// The body that is sent to the webhook.
    pub body: String,
    /// When the webhook accepted the alert, in milliseconds since 1970; `None`: it is not delivered yet.
    pub delivered_at: Option<u64>,
}

/// An alert that is not delivered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The key of the alert.
    pub key: AlertKey,
    /// The body that is sent to the webhook.
    pub body: String,
    /// Attempts that failed.
    pub attempts: u32,
}

/// The table of raised alerts. [`super::EntryLog::append`] adds rows to it.
pub trait AlertTable {
    /// Undelivered alerts that were raised after a moment (milliseconds since 1970): the oldest hundred, in the order in which
    /// they were raised.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn undelivered_alerts(&self, raised_after: u64) -> Result<Vec<Undelivered>, StoreError>;

    /// Counts an attempt to deliver an alert. `delivered_at` is the time of success; `None` if the attempt failed.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn count_attempt(&mut self, alert: &AlertKey, delivered_at: Option<u64>) -> Result<(), StoreError>;
}
