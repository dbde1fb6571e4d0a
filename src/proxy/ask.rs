//! What is asked.

use std::sync::Arc;

use bytes::Bytes;

use crate::openai::{Bound, Endpoint, Hosted, Peek};

/// What is asked.
pub struct Ask {
    /// `Other` until identified.
    pub endpoint: Endpoint,
    /// The client wants to become a WebSocket.
    pub websocket: bool,
    /// The client is one of Anthropic's: it reads errors in that shape.
    pub anthropic: bool,
    /// The body, where the gateway reads it.
    pub body: Option<Box<Body>>,
    /// The body of a request that is only forwarded, where it was read for what it refers to.
    pub forwarded: Option<Forwarded>,
    /// The tools in it that a provider runs itself.
    pub hosted: Option<Arc<Hosted>>,
    /// What it has continued, before the whole conversation took its place.
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
    /// It was read as JSON.
    pub is_json: bool,
}

/// A body that was read whole.
#[derive(Clone)]
pub struct Body {
    /// As the client sent it.
    pub bytes: Bytes,
    /// Upper bound of the JSON values in it, keys counted as well; 0 for a small one, where nobody has counted.
    pub values: usize,
    /// The fields the gateway acts on.
    pub peek: Peek,
    /// How much it can make a provider count.
    pub bound: Bound,
    /// The tools in it that a provider runs itself.
    pub hosted: Option<Arc<Hosted>>,
}
