//! The client step from OpenAI's Responses API to Chat Completions: it lets providers that have only the older API serve clients
//! of `/v1/responses`.
//!
//! ```text
//! request()   instructions, input items, tools …    ──▶  Chat Completions body
//! Replies     a Response, named events              ◀──  chat.completion, chunks
//! ```
//!
//! No state is kept here between two requests. A request that continues an earlier response arrives here with the whole
//! conversation filled in (by the gateway's `stored_responses`), and [`Memory`] has what the response reports of that. Signed
//! thinking travels with the conversation, in the `encrypted_content` of a reasoning item.
//!
//! A complete reply and a stream go through the same `answer::Answer`, so both have the same content.
//!
//! Rules and field names follow OpenAI's API description of `POST /v1/responses`.

mod answer;
mod content;
mod draft;
mod echo;
mod input;
mod item;
mod names;
mod options;
mod read;
mod reply;
mod request;
mod table;
mod thinking;
mod tools;
mod turns;
mod write;

#[cfg(test)]
mod tests;

pub use reply::Memory;
pub use request::request;
pub use table::TABLE;
