//! Chat Completions → Ollama's own `POST /api/chat`, and back.
//!
//! Ollama's `/v1` endpoint has no way to set the context length, so it cuts long prompts silently, and it supports
//! only some of the models' abilities. The native endpoint takes `options.num_ctx`, `think`, and an instruction not to cut.
//!
//! ```text
//! request    table     the disposition of each parameter
//!            request   the body: options, format, think
//!            messages  roles, tool calls, thinking
//!            content   text, images and files of a message
//!            tools     definitions and the choice among them
//! and back   line      Ollama's objects: a complete reply, and each line of a stream
//!            reply     a complete reply
//!            stream    a stream: one JSON object a line, `done` in the last
//!            error     Ollama's errors
//! ```
//!
//! The rules follow `api/types.go` and `server/routes.go` in Ollama 0.12 to 0.40. Older versions ignore fields they
//! do not know, such as `truncate`, `logprobs` and the ids of tool calls.

mod content;
mod error;
mod line;
mod messages;
mod reply;
mod request;
mod stream;
mod table;
mod tools;

pub use error::read_error;
pub use request::request;
pub use table::TABLE;

#[cfg(test)]
mod tests;
