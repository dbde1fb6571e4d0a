//! The record of a finished request, and the observers that receive it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::types::{NanoUsd, RequestId, TenantId, TokenId, Usage};

/// The record of a finished request, assembled once, at the request's end.
#[derive(Clone, Debug)]
pub struct Record {
    /// The gateway's id of the request.
    pub id: RequestId,
    /// The HTTP method.
    pub method: http::Method,
    /// The URI as the client wrote it.
    pub uri: http::Uri,
    /// The endpoint, one of a closed set of words.
    pub endpoint: &'static str,
    /// True if the cache may serve the endpoint.
    pub is_understood: bool,
    /// The tenant that pays; `None` if it was not determined.
    pub tenant: Option<TenantId>,
    /// The token of the request; `None` if the client presented none.
    pub token: Option<TokenId>,
    /// The configured route, one of a closed set of words; `-` for none.
    pub route: Arc<str>,
    /// The provider that was asked last; `-` for none.
    pub asked: Arc<str>,
    /// The provider that served the request, or whose answer the cache served; `-` for none.
    pub provider: Arc<str>,
    /// The provider's name for the model; `-` for none.
    pub model: Arc<str>,
    /// The number of attempts at providers.
    pub attempts: u32,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'static str,
    /// The status that the client got; 499 if the client left.
    pub status: u16,
    /// The time until the first byte of the reply; `None` if there was none.
    pub first_byte: Option<Duration>,
    /// The time until the last byte of the reply.
    pub duration: Duration,
    /// LLM tokens, if they are known.
    pub usage: Option<Usage>,
    /// The cost of the request; `None` if the model has no price.
    pub cost: Option<NanoUsd>,
    /// Where the cost comes from.
    pub basis: &'static str,
    /// What a cache hit would have cost.
    pub saved: NanoUsd,
    /// The part of the cost that exceeds the expected maximum.
    pub beyond: NanoUsd,
    /// True if the provider's count was impossible, so that the request was settled at its bound.
    pub doubted: bool,
    /// Why the request failed: the code of the gateway's own error, or what broke.
    pub error: Option<Cow<'static, str>>,
}

/// Receives the record of every request once, at the request's end, even if the client has left. It must not block.
pub trait Observer: Send + Sync {
    /// Called when a request has ended.
    fn finished(&self, record: &Record);
}
