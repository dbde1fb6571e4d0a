//! What shows a provider that a request comes from the gateway.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, request};

/// How long an attempt waits for a credential.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no credential: a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoCredential(pub String);

impl fmt::Display for NoCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoCredential {}

/// The gateway's own credential for a provider: a key that never changes, a token that is fetched anew before it expires, or a
/// signature over each request.
///
/// For each attempt: [`ready`](Self::ready) before its connection is made, [`header`](Self::header) while its headers are put together,
/// [`sign`](Self::sign) once URL, headers and body are final.
pub trait Authorizer: Send + Sync {
    /// Something to wait for where there is no credential yet, or none that is still valid: at most [`PATIENCE`]. An attempt without
    /// one counts as one that did not reach its provider.
    fn ready(&self) -> Option<BoxFuture<'_, Result<(), NoCredential>>> {
        None
    }

    /// The header that presents it, if one does. A header of that name in the configuration takes its place.
    fn header(&self) -> Option<(HeaderName, HeaderValue)>;

    /// Signs a request. `body` is `None` where it streams through the gateway, which does not have it.
    ///
    /// # Errors
    /// It cannot be signed: the attempt ends here.
    fn sign(&self, head: &mut request::Parts, body: Option<&Bytes>) -> Result<(), NoCredential> {
        let (_, _) = (head, body);
        Ok(())
    }
}

/// A key that never changes, in its header.
pub struct ConstantHeader(pub HeaderName, pub HeaderValue);

impl Authorizer for ConstantHeader {
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        Some((self.0.clone(), self.1.clone()))
    }
}
