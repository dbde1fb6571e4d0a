//! The table of alerts: thresholds that budgets have passed.

use super::StoreError;

/// What makes an alert happen once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertKey {
    /// Whose budget it is.
    pub tenant: String,
    /// The word for its period.
    pub period: String,
    /// Whether it refuses.
    pub hard: bool,
    /// First millisecond of the period, since 1970.
    pub period_start: u64,
    /// Percent of the limit.
    pub threshold: u32,
}

/// An alert that is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRow {
    /// Which threshold of which budget, in which period.
    pub key: AlertKey,
    /// When, in milliseconds since 1970.
    pub raised_at: u64,
    /// What the webhook gets.
    pub body: String,
    /// When the webhook took it; `None`: it has to be delivered.
    pub delivered_at: Option<u64>,
}

/// An alert that has to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Which it is.
    pub key: AlertKey,
    /// What the webhook gets.
    pub body: String,
    /// Attempts that failed.
    pub attempts: u32,
}

/// Every alert that was raised. [`super::EntryLog::append`] adds them.
pub trait AlertTable {
    /// Alerts that were raised after a moment and are not delivered: the oldest hundred, in the order in which they were raised.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn undelivered_alerts(&self, raised_after: u64) -> Result<Vec<Undelivered>, StoreError>;

    /// Counts an attempt to deliver one, which has succeeded where `delivered_at` says when.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn count_attempt(&mut self, alert: &AlertKey, delivered_at: Option<u64>) -> Result<(), StoreError>;
}
