//! What a request asks for.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cache::Known,
    openai::{Bound, Endpoint, Hosted, Peek},
};

/// What a request asks for.
pub struct Ask {
    /// `Other` until identified.
    pub endpoint: Endpoint,
    /// The client wants to become a WebSocket.
    pub websocket: bool,
    /// The client speaks Anthropic's API, and reads errors in that shape.
    pub anthropic: bool,
    /// The body, where the gateway reads it.
    pub body: Option<Box<Body>>,
    /// The body of a request that is only forwarded, where it was read to find the objects that it refers to.
    pub forwarded: Option<Forwarded>,
    /// Tools of the request that a provider runs itself.
    pub hosted: Option<Arc<Hosted>>,
    /// The response that the request continued, before the whole conversation was put in its place.
    pub previous_response_id: Option<Arc<str>>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Other,
            websocket: false,
            anthropic: false,
            body: None,
            forwarded: None,
            hosted: None,
            previous_response_id: None,
        }
    }
}

/// A body that was read before it is forwarded.
pub struct Forwarded {
    /// As the client sent it.
    pub bytes: Bytes,
    /// The body was read as JSON.
    pub is_json: bool,
}

/// A body that was read whole.
#[derive(Clone)]
pub struct Body {
    /// As the client sent it.
    pub bytes: Bytes,
    /// Upper bound of the number of JSON values in the body, keys included; 0 for a small body, whose values are not counted.
    pub values: usize,
    /// The fields the gateway acts on.
    pub peek: Peek,
    /// The most tokens that a provider can count for this body.
    pub bound: Bound,
    /// Tools in the body that a provider runs itself.
    pub hosted: Option<Arc<Hosted>>,
    /// The body was answered from the cache before.
    pub known: Option<Arc<Known>>,
}
