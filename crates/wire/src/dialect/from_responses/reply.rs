//! Replies to one request.

use std::sync::Arc;

use uuid::Uuid;

use super::answer::Answer;
use super::names::Names;
use super::options::Include;
use crate::dialect::Replies;
use crate::dialect::chat::ChatWriter;
use crate::types::unix_now;

/// What is known of other responses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory<'a> {
    /// The response will be kept: it gets ids that nothing else has, and says that it is stored.
    pub kept: bool,
    /// What the request has continued, before the whole conversation took its place.
    pub previous_response_id: Option<&'a str>,
}

/// What a response needs to know about its request.
pub(super) struct Door {
    /// What it repeats, see [`super::echo::echo`].
    pub echo: Box<[u8]>,
    /// The model that was asked, for providers that do not say which one answered.
    pub model: Box<str>,
    /// Functions that stand for tools of another name or kind.
    pub names: Names,
    pub include: Include,
    /// See [`Memory::kept`].
    pub kept: bool,
    pub source: Source,
}

/// Where comes from what a chat reply does not say.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// Seconds since 1970.
    pub now: fn() -> u64,
    /// An id without prefix that nothing else has.
    pub id: fn() -> String,
}

impl Default for Source {
    fn default() -> Self {
        Self { now: || unix_now() / 1000, id: || Uuid::now_v7().simple().to_string() }
    }
}

impl Replies for Arc<Door> {
    fn json(&self, body: &[u8]) -> Option<Vec<u8>> {
        Answer::new(Arc::clone(self)).whole(body)
    }

    fn writer(&self) -> Box<dyn ChatWriter> {
        Box::new(Answer::new(Arc::clone(self)))
    }
}
