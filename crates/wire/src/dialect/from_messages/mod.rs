//! The client step from Anthropic's Messages API to Chat Completions: it lets any OpenAI-compatible model serve Anthropic's own
//! clients.
//!
//! ```text
//! request()   system, messages, tools …  ──▶  Chat Completions body
//! Replies     message, SSE of blocks     ◀──  chat.completion, chunks
//!
//! to_events, to_json, is_good   a stored Messages reply: as events, as JSON, and whether it may be stored
//! ```
//!
//! Rules and field names follow Anthropic's API reference for `POST /v1/messages`, betas included.

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
