//! Metrics and the log.

mod log;
mod metrics;

pub use self::log::init as init_log;
pub use metrics::{InFlight, Metrics};
