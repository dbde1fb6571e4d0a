//! One complete reply.

use std::sync::Arc;

use bytes::Bytes;

use crate::types::{NanoUsd, TenantId, Usage};

/// How a reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON document.
    Json,
    /// An event stream, with its usage and its end.
    Events,
}

/// A complete reply of status 200, in the shape of the endpoint it was asked at, in the form in which it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// How it is written.
    pub form: Form,
    /// The whole body, without the labels of the request that it was made for ([`Labels`](crate::openai::Labels)).
    pub body: Bytes,
    /// When its request was sent, in milliseconds since 1970: a purge after that counts for it.
    pub born: u64,
    /// When it was complete, in milliseconds since 1970: its age counts from here.
    pub stored: u64,
    /// Who paid for it.
    pub tenant: TenantId,
    /// The configured route it was asked under.
    pub route: Arc<str>,
    /// The account that served it.
    pub provider: Arc<str>,
    /// The provider's name for the model.
    pub model: Arc<str>,
    /// What a translation of the request left out, labels excepted, as the header tells it; mostly empty.
    pub dropped: Arc<str>,
    /// LLM tokens that it used.
    pub usage: Usage,
    /// What it cost, and so what a hit saves; zero where nobody knows a price.
    pub cost: NanoUsd,
}
