//! Replies to one request.

use std::sync::Arc;

use uuid::Uuid;

use super::answer::Answer;
use super::names::Names;
use super::options::Include;
use crate::dialect::Replies;
use crate::dialect::chat::ChatWriter;
use crate::types::unix_now;

/// How a response relates to stored responses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory<'a> {
    /// The response will be stored: it gets unique ids and reports `store` as true.
    pub kept: bool,
    /// The id of the response that the request continued, before the whole conversation was filled in.
    pub previous_response_id: Option<&'a str>,
}

/// What is needed of a request to write its response.
pub(super) struct Door {
    /// The members that the response repeats, see [`super::echo::echo`].
    pub echo: Box<[u8]>,
    /// The requested model, for providers that do not report which model answered.
    pub model: Box<str>,
    /// Functions that stand for tools of another name or kind.
    pub names: Names,
    pub include: Include,
    /// See [`Memory::kept`].
    pub kept: bool,
    pub source: Source,
}

/// Sources of values that a chat reply may lack.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// The current time, in seconds since 1970.
    pub now: fn() -> u64,
    /// A new unique id without prefix.
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
