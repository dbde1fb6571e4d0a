//! What is known of a finished request, and who is told.

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::types::{NanoUsd, RequestId, TenantId, TokenId, Usage};

/// A finished request: assembled once, at its end.
#[derive(Clone, Debug)]
pub struct Record {
    /// The gateway's id for it.
    pub id: RequestId,
    /// What was asked for, and how.
    pub method: http::Method,
    /// As the client wrote it.
    pub uri: http::Uri,
    /// The endpoint, one of a closed set of words.
    pub endpoint: &'static str,
    /// The endpoint is one that the cache may have a part in.
    pub is_understood: bool,
    /// Who pays; `None` where that was not found out.
    pub tenant: Option<TenantId>,
    /// With which token; `None` for a client that presented none.
    pub token: Option<TokenId>,
    /// The configured route, one of a closed set of words; `-` for none.
    pub route: Arc<str>,
    /// The provider that was asked last; `-` for none.
    pub asked: Arc<str>,
    /// Who served it, also where that was the cache; `-` for nobody.
    pub provider: Arc<str>,
    /// The provider's name for the model; `-` for none.
    pub model: Arc<str>,
    /// Attempts at providers.
    pub attempts: u32,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'static str,
    /// The status the client got; 499 for one that left.
    pub status: u16,
    /// Until the reply's first byte.
    pub first_byte: Option<Duration>,
    /// Until its last.
    pub duration: Duration,
    /// LLM tokens, as far as anybody knows.
    pub usage: Option<Usage>,
    /// What it cost; `None` where the model has no price.
    pub cost: Option<NanoUsd>,
    /// Where the cost comes from.
    pub basis: &'static str,
    /// What a cache hit would have cost.
    pub saved: NanoUsd,
    /// What it cost beyond the most that was expected.
    pub beyond: NanoUsd,
    /// The provider's count was not possible: it is settled at its bound.
    pub doubted: bool,
    /// Why it failed: the code of the gateway's own error, or what broke.
    pub error: Option<Cow<'static, str>>,
}

/// Is told of every request at its end, once, also if its client has left. It must not block.
pub trait Observer: Send + Sync {
    /// A request has ended.
    fn finished(&self, record: &Record);
}
