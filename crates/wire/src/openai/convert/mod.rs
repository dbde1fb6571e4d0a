//! Turns a complete reply from JSON into an event stream and back, so that one stored reply answers a request with
//! `"stream": true` and one without.
//!
//! ```text
//!              to_events ──▶  data: {…"delta":{"content":"Hi"}…}
//! {"choices":[…]}             data: {…"usage":{…}}
//!              ◀── to_json    data: [DONE]
//! ```
//!
//! Values are copied as raw JSON text: strings are joined and objects taken apart without decoding their content, so numbers,
//! escapes and unknown members come out unchanged, and the depth of nesting does not matter.

mod chat;
mod chunks;
mod merge;
mod parts;
mod responses;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub(super) use parts::one_line;

use super::Endpoint;
use crate::sse::{RawEvent, Scanner};

/// A complete event stream with the content of this JSON reply, usage and end included.
///
/// `None` for a document that is not understood: a reply of another endpoint, an error, an unfinished reply, audio.
///
/// A chat or legacy completion that has a count ends with a usage chunk, and its other chunks have `"usage": null`, as
/// OpenAI does for `include_usage`; a [`StreamRelay`](super::StreamRelay) hides both where the client did not ask for usage.
pub fn to_events(endpoint: &Endpoint, json: &[u8]) -> Option<Bytes> {
    let convert: fn(&str) -> Option<Bytes> = match endpoint {
        Endpoint::ChatCompletions => chat::to_events,
        Endpoint::Completions => chat::legacy_to_events,
        Endpoint::Responses => responses::to_events,
        _ => return None,
    };
    convert(std::str::from_utf8(json).ok()?)
}

/// The JSON reply with the content of this complete event stream.
///
/// `None` where the stream is not understood, is not complete, or reports an error. A Responses reply is copied
/// unchanged from the terminal event.
pub fn to_json(endpoint: &Endpoint, events: &[u8]) -> Option<Bytes> {
    match endpoint {
        Endpoint::ChatCompletions => merge::to_json(merge::CompletionKind::Chat, &scan(events)?),
        Endpoint::Completions => merge::to_json(merge::CompletionKind::Legacy, &scan(events)?),
        Endpoint::Responses => responses::to_json(&scan(events)?),
        _ => None,
    }
}

/// All events of a complete stream; `None` when an event is too large.
fn scan(stream: &[u8]) -> Option<Vec<RawEvent>> {
    let mut scanner = Scanner::new();
    scanner.push(Bytes::copy_from_slice(stream));
    let mut events = Vec::new();
    while let Some(event) = scanner.next_event().ok()? {
        events.push(event);
    }
    events.extend(scanner.finish());
    Some(events)
}
