//! Replies that the gateway makes itself, in the shape that Anthropic's clients read.

use bytes::Bytes;

use crate::openai::{ErrorBody, error_body};

/// The body of an error reply: `{"type":"error","error":{"type","message"},"request_id"}`. Its type follows from the HTTP
/// status (Anthropic's API reference, "Errors").
pub fn error(status: u16, error: &ErrorBody, request_id: &str) -> Bytes {
    error_body(status, error, Some(request_id), None)
}

/// The reply to `POST /v1/messages/count_tokens`.
pub fn count_reply(tokens: u64) -> Bytes {
    format!("{{\"input_tokens\":{tokens}}}").into()
}
