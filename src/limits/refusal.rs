//! Which limit refuses a request, and when the request would fit.

use std::{fmt, time::Duration};

use super::Quota;
use crate::types::NanoUsd;

/// The kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests per second.
    RequestsPerSecond,
    /// Requests per minute.
    RequestsPerMinute,
    /// LLM tokens per minute, prompt and completion together.
    TokensPerMinute,
    /// Money per minute, counted in billionths of a US dollar.
    UsdPerMinute,
    /// Requests that are in flight at one time.
    ConcurrentRequests,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::RequestsPerSecond,
        Self::RequestsPerMinute,
        Self::TokensPerMinute,
        Self::UsdPerMinute,
        Self::ConcurrentRequests,
    ];

    /// The name in configuration and metrics: `requests_per_second`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::UsdPerMinute => "usd_per_minute",
            Self::ConcurrentRequests => "concurrent_requests",
        }
    }

    /// The unit in words, for use after a number: `requests per second`.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests per second",
            Self::RequestsPerMinute => "requests per minute",
            Self::TokensPerMinute => "tokens per minute",
            Self::UsdPerMinute => "US dollars per minute",
            Self::ConcurrentRequests => "concurrent requests",
        }
    }
}

/// Why a request is refused now. If several limits refuse, this is the one that refuses longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of limit.
    pub kind: Kind,
    /// The limit, in the unit of `kind`: billionths of a US dollar for money.
    pub limit: u64,
    /// When the request would fit if no other request came: from one millisecond to two windows. One second for concurrency,
    /// whose end is not known. `None` if the request alone is larger than the limit, so that no retry helps.
    pub retry_after: Option<Duration>,
    /// The index in the chain of the meter that refuses.
    pub meter: usize,
    /// The tightest limit on requests over the chain, as in [`Permit::requests_quota`](super::Permit::requests_quota).
    pub requests: Option<Quota>,
    /// The tightest limit on LLM tokens over the chain.
    pub tokens: Option<Quota>,
}

impl Refusal {
    /// Whether this refusal lasts longer than `other`.
    pub(super) fn outlasts(&self, other: &Self) -> bool {
        let key = |refusal: &Self| (refusal.retry_after.is_none(), refusal.retry_after);
        key(self) > key(other)
    }
}

impl fmt::Display for Refusal {
    /// A sentence for the client that names the limit, without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.retry_after {
            Some(_) => "the limit of ",
            None => "the request alone is larger than the limit of ",
        })?;
        match self.kind {
            Kind::UsdPerMinute => NanoUsd(self.limit).fmt(f)?,
            _ => self.limit.fmt(f)?,
        }
        write!(f, " {}", self.kind.unit())?;
        f.write_str(if self.retry_after.is_some() { " is reached" } else { "" })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: Kind, limit: u64, retry_after: Option<Duration>) -> Refusal {
        Refusal { kind, limit, retry_after, meter: 0, requests: None, tokens: None }
    }

    #[test]
    fn says_which_limit() {
        let second = Some(Duration::from_secs(1));
        let cases = [
            (Kind::RequestsPerSecond, 3, second, "the limit of 3 requests per second is reached"),
            (Kind::UsdPerMinute, 500_000_000, second, "the limit of 0.5 US dollars per minute is reached"),
            (
                Kind::TokensPerMinute,
                1_000,
                None,
                "the request alone is larger than the limit of 1000 tokens per minute",
            ),
        ];
        for (kind, limit, retry_after, text) in cases {
            assert_eq!(refusal(kind, limit, retry_after).to_string(), text);
        }
    }

    #[test]
    fn labels_are_the_units_in_snake_case() {
        for kind in Kind::ALL {
            assert_eq!(kind.label(), kind.unit().replace("US dollars", "usd").replace(' ', "_"));
        }
    }

    #[test]
    fn what_no_retry_cures_lasts_longest() {
        let lasting = |retry| refusal(Kind::RequestsPerSecond, 1, retry);
        let (short, long) = (Some(Duration::from_millis(1)), Some(Duration::from_secs(60)));
        assert!(lasting(long).outlasts(&lasting(short)));
        assert!(lasting(None).outlasts(&lasting(long)));
        assert!(!lasting(long).outlasts(&lasting(None)));
        assert!(!lasting(long).outlasts(&lasting(long)));
    }
}
