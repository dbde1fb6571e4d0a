//! The faults that the gateway answers itself. Each says three things: who has to act, whether a retry may help, and what
//! the client may read.

use std::{borrow::Cow, time::Duration};

/// Who has to act for the request to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request itself is wrong; never a 5xx.
    Client,
    /// The provider failed or cannot be reached.
    Provider,
    /// The gateway failed or is misconfigured.
    Gateway,
}

impl Blame {
    /// The name used as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Provider => "provider",
            Self::Gateway => "gateway",
        }
    }
}

/// The faults that the gateway answers itself, in the place of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body or a parameter cannot be used: 400.
    InvalidRequest,
    /// The provider's dialect has no equivalent of a parameter that the client relies on: 400.
    UnsupportedParameter,
    /// The client presented no credential and the gateway has none for the provider: 401.
    MissingCredential,
    /// The token is unknown, has expired or was revoked, or only tokens are served: 401.
    InvalidToken,
    /// The token's tenant is not configured (any more): 403.
    UnknownTenant,
    /// The token lacks a scope: 403.
    MissingScope,
    /// The tenant or the token may not ask for this model: 403.
    ModelNotAllowed,
    /// A budget applies, and the price of the model is not known: 403.
    ModelNotPriced,
    /// A budget applies, and the gateway cannot tell what the path costs: 403.
    PathNotMetered,
    /// The path is not served to this tenant with the gateway's key: 403.
    PathNotAllowed,
    /// A web page of an origin that is not allowed sent the request without a token: 403.
    OriginNotAllowed,
    /// The object does not exist or belongs to another tenant, which look the same: 404.
    ObjectNotFound,
    /// The response that a request continues is not kept, or not for this client, which look the same: 400, as with OpenAI.
    PreviousResponseNotFound,
    /// A limit of the tenant or the token is reached: 429.
    RateLimited,
    /// A budget does not have enough left: 402, or 429 where the configuration says so.
    BudgetExceeded,
    /// A budget has enough left, but requests under way hold it: 429, and a retry helps.
    BudgetHeld,
    /// Tokens could not be read yet: 503, because the gateway cannot tell whether the token is valid.
    IdentityUnavailable,
    /// The ledger cannot be written, and the configuration refuses requests then: 503.
    LedgerUnavailable,
    /// Other requests have the memory or the threads that this one needs: 503, and a retry helps.
    Overloaded,
    /// There is no such path: 404.
    UnknownPath,
    /// The path exists, but does not have this method: 405.
    MethodNotAllowed,
    /// No route and no default provider serves the model: 404.
    ModelNotFound,
    /// The prompt cannot fit the model's context: 400.
    ContextLengthExceeded,
    /// A guard blocks the prompt or the reply: 400.
    ContentBlocked,
    /// The body is larger than the limit: 413.
    BodyTooLarge,
    /// The body is compressed in a way that is not decoded: 415.
    UnsupportedEncoding,
    /// The body did not arrive in time: 408.
    BodyTimeout,
    /// The provider refused the gateway's own key: 502, and no retry helps.
    UpstreamAuthentication,
    /// No provider could be reached: 502.
    UpstreamUnreachable,
    /// The provider was silent for too long: 504.
    UpstreamTimeout,
    /// The provider broke off before or within its reply: 502.
    UpstreamInterrupted,
    /// The client wants only a cached answer, and there is none (`Cache-Control: only-if-cached`): 504 (RFC 9111 §5.2.1.7).
    NotCached,
    /// The gateway itself failed: 500.
    Internal,
}

impl Fault {
    /// The HTTP status of the fault.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest
            | Self::UnsupportedParameter
            | Self::ContextLengthExceeded
            | Self::ContentBlocked
            | Self::PreviousResponseNotFound => 400,
            Self::MissingCredential | Self::InvalidToken => 401,
            Self::BudgetExceeded => 402,
            Self::UnknownTenant
            | Self::MissingScope
            | Self::ModelNotAllowed
            | Self::ModelNotPriced
            | Self::PathNotMetered
            | Self::PathNotAllowed
            | Self::OriginNotAllowed => 403,
            Self::RateLimited | Self::BudgetHeld => 429,
            Self::IdentityUnavailable | Self::LedgerUnavailable | Self::Overloaded => 503,
            Self::UnknownPath | Self::ModelNotFound | Self::ObjectNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UnsupportedEncoding => 415,
            Self::Internal => 500,
            Self::UpstreamAuthentication | Self::UpstreamUnreachable | Self::UpstreamInterrupted => 502,
            Self::UpstreamTimeout | Self::NotCached => 504,
        }
    }

    /// The value of `error.type`, as in OpenAI's API.
    pub fn kind(self) -> &'static str {
        match self.blame() {
            _ if matches!(self, Self::RateLimited | Self::BudgetHeld) => "rate_limit_error",
            _ if self == Self::BudgetExceeded => "insufficient_quota",
            Blame::Client => "invalid_request_error",
            Blame::Provider | Blame::Gateway => "server_error",
        }
    }

    /// The value of `error.code`, as in OpenAI's API, which is also the metric label.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::MissingCredential => "missing_api_key",
            Self::InvalidToken => "invalid_api_key",
            Self::UnknownTenant => "unknown_tenant",
            Self::MissingScope => "missing_scope",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::ModelNotPriced => "model_not_priced",
            Self::PathNotMetered => "path_not_metered",
            Self::PathNotAllowed => "path_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::ObjectNotFound => "object_not_found",
            Self::PreviousResponseNotFound => "previous_response_not_found",
            Self::RateLimited => "rate_limit_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::BudgetHeld => "budget_held",
            Self::IdentityUnavailable => "identity_unavailable",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Overloaded => "gateway_overloaded",
            Self::UnknownPath => "unknown_url",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ModelNotFound => "model_not_found",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::ContentBlocked => "content_blocked",
            Self::BodyTooLarge => "request_too_large",
            Self::UnsupportedEncoding => "unsupported_content_encoding",
            Self::BodyTimeout => "request_timeout",
            Self::UpstreamAuthentication => "upstream_authentication",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamInterrupted => "upstream_interrupted",
            Self::NotCached => "not_cached",
            Self::Internal => "internal_error",
        }
    }

    /// Who has to act for the request to succeed.
    pub fn blame(self) -> Blame {
        match self {
            Self::InvalidRequest
            | Self::UnsupportedParameter
            | Self::MissingCredential
            | Self::InvalidToken
            | Self::UnknownTenant
            | Self::MissingScope
            | Self::ModelNotAllowed
            | Self::ModelNotPriced
            | Self::PathNotMetered
            | Self::PathNotAllowed
            | Self::OriginNotAllowed
            | Self::ObjectNotFound
            | Self::PreviousResponseNotFound
            | Self::RateLimited
            | Self::BudgetExceeded
            | Self::BudgetHeld
            | Self::UnknownPath
            | Self::MethodNotAllowed
            | Self::ModelNotFound
            | Self::ContextLengthExceeded
            | Self::ContentBlocked
            | Self::BodyTooLarge
            | Self::UnsupportedEncoding
            | Self::NotCached
            | Self::BodyTimeout => Blame::Client,
            Self::UpstreamUnreachable | Self::UpstreamTimeout | Self::UpstreamInterrupted => Blame::Provider,
            Self::UpstreamAuthentication
            | Self::IdentityUnavailable
            | Self::LedgerUnavailable
            | Self::Overloaded
            | Self::Internal => Blame::Gateway,
        }
    }

    /// Whether the same request, sent again unchanged, may succeed. Official SDKs obey `x-should-retry: false`.
    pub fn retry_may_help(self) -> bool {
        matches!(
            self,
            Self::BodyTimeout
                | Self::RateLimited
                | Self::BudgetHeld
                | Self::IdentityUnavailable
                | Self::LedgerUnavailable
                | Self::Overloaded
                | Self::UpstreamUnreachable
                | Self::UpstreamTimeout
                | Self::UpstreamInterrupted
                | Self::Internal
        )
    }
}

/// A fault with what the client may read about it. It never contains a credential or a provider's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayError {
    /// What went wrong.
    pub fault: Fault,
    /// One or two sentences that tell the reader what to do.
    pub message: Cow<'static, str>,
    /// The parameter at fault, if there is one.
    pub param: Option<Cow<'static, str>>,
    /// How long to wait before a retry.
    pub retry_after: Option<Duration>,
    /// Parts that only some errors have.
    pub extra: Option<Box<Extra>>,
}

/// Parts of an error that only some errors have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// A status instead of the fault's own.
    pub status: Option<u16>,
    /// True if no retry helps, although a retry helps with other errors of the same fault.
    pub hopeless: bool,
    /// Additional headers.
    pub headers: Vec<(&'static str, String)>,
    /// An additional member of the `error` object.
    pub member: Option<(&'static str, serde_json::Value)>,
}

impl GatewayError {
    /// An error without a parameter.
    pub fn new(fault: Fault, message: impl Into<Cow<'static, str>>) -> Self {
        Self { fault, message: message.into(), param: None, retry_after: None, extra: None }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.extra.as_ref().and_then(|extra| extra.status).unwrap_or(self.fault.status())
    }

    /// Whether the same request, sent again unchanged, may succeed.
    pub fn retry_may_help(&self) -> bool {
        self.fault.retry_may_help() && !self.extra.as_ref().is_some_and(|extra| extra.hopeless)
    }

    /// Names the parameter at fault.
    pub fn with_param(mut self, param: Option<impl Into<Cow<'static, str>>>) -> Self {
        self.param = param.map(Into::into);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Fault; 33] = [
        Fault::ContentBlocked,
        Fault::PathNotAllowed,
        Fault::OriginNotAllowed,
        Fault::PreviousResponseNotFound,
        Fault::ObjectNotFound,
        Fault::UnsupportedParameter,
        Fault::NotCached,
        Fault::InvalidRequest,
        Fault::MissingCredential,
        Fault::UnknownPath,
        Fault::MethodNotAllowed,
        Fault::ModelNotFound,
        Fault::ContextLengthExceeded,
        Fault::BodyTooLarge,
        Fault::UnsupportedEncoding,
        Fault::BodyTimeout,
        Fault::UpstreamAuthentication,
        Fault::UpstreamUnreachable,
        Fault::UpstreamTimeout,
        Fault::UpstreamInterrupted,
        Fault::Internal,
        Fault::InvalidToken,
        Fault::UnknownTenant,
        Fault::MissingScope,
        Fault::ModelNotAllowed,
        Fault::ModelNotPriced,
        Fault::PathNotMetered,
        Fault::RateLimited,
        Fault::BudgetExceeded,
        Fault::BudgetHeld,
        Fault::IdentityUnavailable,
        Fault::LedgerUnavailable,
        Fault::Overloaded,
    ];

    #[test]
    fn a_callers_fault_is_never_5xx_and_the_others_always_are() {
        for fault in ALL {
            // RFC 9111 requires a 504, although only the client can change the request.
            let expected = fault.status() < 500 || fault == Fault::NotCached;
            assert_eq!(fault.blame() == Blame::Client, expected, "{fault:?}");
        }
    }

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::BTreeSet<_> = ALL.iter().map(|f| f.code()).collect();
        assert_eq!(codes.len(), ALL.len());
    }
}
