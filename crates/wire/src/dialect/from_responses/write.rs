//! Writes the events of a Responses stream.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::openai::{ErrorBody, responses_error_event};

/// Writes events and numbers them.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    next: u64,
}

impl Numbered {
    /// Writes an event of type `kind` with the members of `body`, which must have at least one.
    pub(super) fn event(&mut self, kind: &str, body: &impl Serialize, out: &mut BytesMut) {
        self.start(kind, out);
        let brace = out.len();
        // A buffer takes everything, and these values always serialise.
        let _ = serde_json::to_writer((&mut *out).writer(), body);
        // The brace of `body` becomes the comma behind the members that are written already.
        out[brace] = b',';
        out.extend_from_slice(b"\n\n");
    }

    /// Writes an event with a complete response, given as JSON.
    pub(super) fn response(&mut self, kind: &str, response: &[u8], out: &mut BytesMut) {
        self.start(kind, out);
        for piece in [b",\"response\":", response, b"}\n\n"] {
            out.extend_from_slice(piece);
        }
    }

    /// Writes the event that ends a broken stream: the API's own `error` event, with the `error` object that SDKs look for in any
    /// stream.
    pub(super) fn error(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        out.extend_from_slice(&responses_error_event(error, self.next.checked_sub(1)));
    }

    fn start(&mut self, kind: &str, out: &mut BytesMut) {
        for piece in ["event: ", kind, "\ndata: {\"type\":\"", kind, "\",\"sequence_number\":"] {
            out.extend_from_slice(piece.as_bytes());
        }
        let _ = write!(out, "{}", self.next);
        self.next += 1;
    }
}
