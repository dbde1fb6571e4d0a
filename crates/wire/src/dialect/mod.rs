//! Translation between the dialects of clients and providers, with OpenAI's Chat Completions as the common form.
//!
//! ```text
//! client's dialect ──client step──▶ Chat ──provider step──▶ provider's dialect
//!        ◀── Replies (JSON, writer) ──       ◀── Replies (JSON, reader) ──
//!
//! client steps:    from_messages   Anthropic Messages → Chat
//!                  from_responses  OpenAI Responses   → Chat
//! provider steps:  to_anthropic    Chat → Anthropic Messages
//!                  to_ollama       Chat → Ollama's own /api/chat
//! ```
//!
//! A stream comes back through one reader and one writer with typed chat events between them: see [`chat`].
//!
//! A [`Step`] is one request translated into another dialect, with the [`Replies`] that translate its replies back. The
//! disposition of each parameter stands in the step's table of [`Rule`]s, which drives the code and the documentation: whatever
//! is dropped is named.
//!
//! Everything here works on JSON; it uses no socket and no Pingora type.

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

/// The complete event stream of an endpoint's JSON reply; `None` for a reply that is not understood.
pub fn to_events(endpoint: &Endpoint, json: &[u8]) -> Option<Bytes> {
    match endpoint {
        Endpoint::Messages => from_messages::to_events(json),
        _ => openai::to_events(endpoint, json),
    }
}

/// The JSON reply of an endpoint's complete event stream; `None` for a stream that is broken or not understood.
pub fn to_json(endpoint: &Endpoint, events: &[u8]) -> Option<Bytes> {
    match endpoint {
        Endpoint::Messages => from_messages::to_json(events),
        _ => openai::to_json(endpoint, events),
    }
}

/// Whether a complete JSON reply of an endpoint may be stored and given again to an equal request.
pub fn is_good(endpoint: &Endpoint, json: &[u8]) -> bool {
    match endpoint {
        Endpoint::Messages => from_messages::is_good(json),
        _ => openai::is_good(endpoint, json),
    }
}
