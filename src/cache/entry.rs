//! One complete reply.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::{NanoUsd, TenantId, Usage};

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON document.
    Json,
    /// An event stream, with its usage and its end.
    Events,
}

/// A complete reply of status 200, in the shape of the endpoint that was asked, in the form in which it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The body's form.
    pub form: Form,
    /// The whole body, without the labels of the request that it was made for ([`Labels`](crate::openai::Labels)).
    pub body: Bytes,
    /// When the request was sent, in milliseconds since 1970: later purges apply to the entry.
    pub born: u64,
    /// When the reply was complete, in milliseconds since 1970: its age counts from here.
    pub stored: u64,
    /// The tenant that paid for the reply.
    pub tenant: TenantId,
    /// The configured route that the request used.
    pub route: Arc<str>,
    /// The provider that served the reply.
    pub provider: Arc<str>,
    /// The provider's name for the model.
    pub model: Arc<str>,
    /// The parameters that a translation of the request dropped, except labels, as the header lists them; mostly empty.
    pub dropped: Arc<str>,
    /// LLM tokens that the reply used.
    pub usage: Usage,
    /// What the reply cost, and so what a hit saves; zero if no price is known.
    pub cost: NanoUsd,
}
