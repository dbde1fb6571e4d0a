//! What is asked.

use std::sync::Arc;

use bytes::Bytes;

use crate::openai::{Bound, Hosted, Peek};

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
