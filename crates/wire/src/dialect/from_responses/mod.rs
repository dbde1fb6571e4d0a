//! The door step from OpenAI's Responses API to Chat Completions: what lets clients of `/v1/responses` be served by
//! providers that have only the older API.
//!
//! ```text
//! request()   instructions, input items, tools …    ──▶  Chat Completions body
//! Replies     a Response, named events              ◀──  chat.completion, chunks
//! ```
//!
//! Nothing is kept here between two requests. What refers to an earlier response comes with the whole conversation in its place
//! (the gateway's `stored_responses`), and [`Memory`] says what the response tells of that. The thinking of a model that signs it
//! travels with the conversation, inside `encrypted_content` of a reasoning item.
//!
//! A whole reply and a stream go through the same `answer::Answer`, so both say the same.
//!
//! Rules and field names are those of OpenAI's API description of `POST /v1/responses`.

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
