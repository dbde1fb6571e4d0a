//! Writing the events of a Responses stream.

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
    /// An event of this type with the members of `body`, of which there must be one at least.
    pub(super) fn event(&mut self, kind: &str, body: &impl Serialize, out: &mut BytesMut) {
        self.start(kind, out);
        let brace = out.len();
        // A buffer takes everything, and these values always serialise.
        let _ = serde_json::to_writer((&mut *out).writer(), body);
        // The members go on where those of the start ended.
        out[brace] = b',';
        out.extend_from_slice(b"\n\n");
    }

    /// An event that carries a whole response, given as JSON.
    pub(super) fn response(&mut self, kind: &str, response: &[u8], out: &mut BytesMut) {
        self.start(kind, out);
        for piece in [b",\"response\":", response, b"}\n\n"] {
            out.extend_from_slice(piece);
        }
    }

    /// The event that ends a broken stream: the API's own, with the `error` object that SDKs look for in any stream.
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
