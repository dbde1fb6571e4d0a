//! Translation between the dialects in which models are asked, with OpenAI's Chat Completions in the middle.
//!
//! ```text
//! client's dialect ──door step──▶ Chat ──provider step──▶ provider's dialect
//!        ◀── Replies (JSON, writer) ──       ◀── Replies (JSON, reader) ──
//!
//! door steps:      from_messages   Anthropic Messages → Chat
//!                  from_responses  OpenAI Responses   → Chat
//! provider steps:  to_anthropic    Chat → Anthropic Messages
//!                  to_ollama       Chat → Ollama's own /api/chat
//! ```
//!
//! A stream comes back through one reader and one writer with typed chat events between them: see [`chat`].
//!
//! A [`Step`] is one request put into the other dialect, with the [`Replies`] that put what comes back into the first one.
//! What a step does with each parameter stands in its table of [`Rule`]s, which drives the code and the documentation:
//! nothing is lost without being named.
//!
//! Everything here is plain Rust over JSON; no socket and no Pingora type appears.

use bytes::Bytes;

use crate::openai::{self, Endpoint};

mod at;
pub mod chat;
pub mod from_messages;
pub mod from_responses;
mod step;
pub mod to_anthropic;
pub mod to_ollama;

mod document;

pub use document::document;
pub use step::{Disposition, Dropped, Events, Model, Refusal, Replies, Rule, Step, apply_rules, note_dropped};

/// Whether a Claude of this name can be kept from thinking with `thinking: {type: disabled}`.
pub fn claude_can_be_kept_from_thinking(model: &str) -> bool {
    to_anthropic::can_be_kept_from_thinking(model)
}

/// Whether a Claude of this name thinks when a request says nothing about it.
pub fn claude_thinks_unasked(model: &str) -> bool {
    to_anthropic::thinks_unasked(model)
}

/// A whole event stream that says what this JSON reply of an endpoint says; `None` for one that is not understood.
pub fn to_events(endpoint: &Endpoint, json: &[u8]) -> Option<Bytes> {
    match endpoint {
        Endpoint::Messages => from_messages::to_events(json),
        _ => openai::to_events(endpoint, json),
    }
}

/// The JSON reply that this whole event stream of an endpoint amounts to; `None` for one that is broken or not understood.
pub fn to_json(endpoint: &Endpoint, events: &[u8]) -> Option<Bytes> {
    match endpoint {
        Endpoint::Messages => from_messages::to_json(events),
        _ => openai::to_json(endpoint, events),
    }
}

/// Whether a whole JSON reply of an endpoint may be given again to whoever asks the same.
pub fn is_good(endpoint: &Endpoint, json: &[u8]) -> bool {
    match endpoint {
        Endpoint::Messages => from_messages::is_good(json),
        _ => openai::is_good(endpoint, json),
    }
}
