//! Metrics and the log.

mod access;
mod log;
mod metrics;
mod record;

pub use self::log::init as init_log;
pub use access::{AccessLog, flush as flush_access_log};
pub use metrics::{InFlight, Metrics};
pub use record::{Observer, Record};

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::Record;
    use crate::types::{NanoUsd, RequestId};

    /// The record of a request that a provider has served.
    pub(crate) fn record(provider: &str) -> Record {
        Record {
            id: RequestId::now(),
            method: http::Method::POST,
            uri: http::Uri::from_static("/v1/chat/completions"),
            endpoint: "chat_completions",
            is_understood: true,
            tenant: Some("team".into()),
            token: None,
            route: "-".into(),
            asked: provider.into(),
            provider: provider.into(),
            model: "gpt-4o".into(),
            attempts: 1,
            cache: "MISS",
            status: 200,
            first_byte: None,
            duration: Duration::from_millis(3),
            usage: None,
            cost: None,
            basis: "provider",
            saved: NanoUsd::ZERO,
            beyond: NanoUsd::ZERO,
            doubted: false,
            error: None,
        }
    }
}
