//! Why a request goes no further towards a provider.

use std::borrow::Cow;

use crate::error::{Fault, GatewayError};

/// Why a request goes no further towards a provider.
pub enum Stop {
    /// The client gets this error.
    Error(GatewayError),
    /// The client is gone; nobody reads an answer.
    Gone,
}

impl From<GatewayError> for Stop {
    fn from(error: GatewayError) -> Self {
        Self::Error(error)
    }
}

/// The refusal of a check that has nothing to check, because an earlier phase did not work it out. Never an admission.
pub fn incomplete() -> GatewayError {
    GatewayError::new(Fault::Internal, "The request was not worked out far enough to be checked.")
}

/// An error about the request itself.
pub fn invalid(message: impl Into<Cow<'static, str>>) -> GatewayError {
    GatewayError::new(Fault::InvalidRequest, message)
}
