//! The gateway's own credentials for providers.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, request};

/// How long an attempt waits for a credential.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no credential, as a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoCredential(pub String);

impl fmt::Display for NoCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoCredential {}

/// The gateway's own credential for a provider: a key that never changes, a token that is fetched again before it expires, or a
/// signature over each request.
///
/// Called for each attempt: [`ready`](Self::ready) before its connection is made, [`header`](Self::header) while its headers are
/// put together, [`sign`](Self::sign) once URL, headers and body are final.
pub trait Authorizer: Send + Sync {
    /// A future to wait for, at most [`PATIENCE`], if there is no valid credential yet; `None` if there is one. An attempt
    /// without a credential counts as one that did not reach its provider.
    fn ready(&self) -> Option<BoxFuture<'_, Result<(), NoCredential>>> {
        None
    }

    /// The header that presents the credential; `None` if no header does. A configured header of that name replaces it.
    fn header(&self) -> Option<(HeaderName, HeaderValue)>;

    /// Signs a request. `body` is `None` if it streams through the gateway, which does not have the whole of it.
    ///
    /// # Errors
    /// The request cannot be signed: the attempt ends.
    fn sign(&self, head: &mut request::Parts, body: Option<&Bytes>) -> Result<(), NoCredential> {
        let (_, _) = (head, body);
        Ok(())
    }
}

/// A key that never changes, as a header.
pub struct ConstantHeader(pub HeaderName, pub HeaderValue);

impl Authorizer for ConstantHeader {
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        Some((self.0.clone(), self.1.clone()))
    }
}
