//! OpenAI's Chat Completions as the common form of every translated stream: typed events, never text that is parsed again.
//!
//! ```text
//! provider's events ──ChatReader──▶ ChatEvent ──ChatWriter──▶ client's events
//!
//! readers:  chat (this module), to_anthropic, to_ollama
//! writers:  chat (this module), from_messages, from_responses
//! ```
//!
//! `wire` alone reads what "OpenAI-compatible" providers send: chunks and complete replies.

mod event;
mod read;
#[cfg(test)]
mod tests;
mod text;
pub(super) mod wire;

pub use event::{
    Annotation, CallPiece, ChatEvent, ChatOut, ChatReader, ChatWriter, Counted, Details, Head, Listed, Logprob, Piece,
    Thought, ThoughtBlock, TopLogprob, UrlCitation,
};
pub use read::ChunkReader;
pub use text::ChunkWriter;
