//! The door step from Anthropic's Messages API to Chat Completions: what lets Anthropic's own clients be served by any
//! OpenAI-compatible model.
//!
//! ```text
//! request()   system, messages, tools …  ──▶  Chat Completions body
//! Replies     message, SSE of blocks     ◀──  chat.completion, chunks
//!
//! to_events, to_json, is_good   a stored Messages reply in its other form
//! ```
//!
//! Rules and field names are those of Anthropic's API reference for `POST /v1/messages`, betas included.

mod content;
mod effort;
mod held;
mod read;
mod reply;
mod request;
mod stored;
mod stream;
mod table;
mod tools;
mod turn;
mod write;

#[cfg(test)]
mod tests;

pub use request::request;
pub use stored::{is_good, to_events, to_json};
pub use table::TABLE;
