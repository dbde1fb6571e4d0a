//! Writes chat events as the server-sent events that a client of Chat Completions reads.

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use super::event::{ChatEvent, ChatWriter, Head, Listed, Logprob, Piece};
use crate::sse::{DONE, write_data};

/// Writes the chunks of one stream, each with one choice or with the usage.
#[derive(Default)]
pub struct ChunkWriter {
    /// `data: {"id":…,"object":…,"created":…,"model":…,"choices":[`, which is the same in all chunks.
    start: BytesMut,
}

type Logprobs<'a> = Option<Listed<'a, Logprob<'a>>>;

impl ChatWriter for ChunkWriter {
    fn event(&mut self, event: ChatEvent<'_>, out: &mut BytesMut) {
        match event {
            ChatEvent::Delta { piece, logprobs } => self.piece(piece, logprobs, out),
            ChatEvent::Head(head) => self.head(&head),
            ChatEvent::Begin => {
                self.open(out);
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":\"\"");
                close(None, None, out);
            }
            ChatEvent::Finish(reason) => {
                self.open(out);
                close(None, Some(reason), out);
            }
            ChatEvent::Usage(counts) => {
                out.extend_from_slice(&self.start);
                out.extend_from_slice(b"],\"usage\":");
                write(&counts, out);
                out.extend_from_slice(b"}\n\n");
            }
            ChatEvent::Error(error) => write_data(out, &error.to_bytes()),
            ChatEvent::Ping => out.extend_from_slice(b": ping\n\n"),
            ChatEvent::End => out.extend_from_slice(DONE),
        }
    }
}

impl ChunkWriter {
    fn head(&mut self, head: &Head<'_>) {
        #[derive(Serialize)]
        struct Chunk<'a> {
            id: &'a str,
            object: &'static str,
            created: u64,
            model: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            service_tier: &'a str,
        }
        let Head { id, model, service_tier, .. } = *head;
        let created = head.created.unwrap_or_default();
        self.start.clear();
        self.start.extend_from_slice(b"data: ");
        write(&Chunk { id, object: "chat.completion.chunk", created, model, service_tier }, &mut self.start);
        self.start.truncate(self.start.len() - 1);
        self.start.extend_from_slice(b",\"choices\":[");
    }

    fn piece(&self, piece: Piece<'_>, logprobs: Logprobs<'_>, out: &mut BytesMut) {
        self.open(out);
        match piece {
            Piece::Nothing => {}
            Piece::Text(text) => member(b"\"content\":", &text, out),
            Piece::Reasoning(text) => member(b"\"reasoning_content\":", &text, out),
            Piece::Thoughts { blocks, .. } => member(b"\"thinking_blocks\":", &blocks, out),
            Piece::Refusal(text) => member(b"\"refusal\":", &text, out),
            Piece::Annotations(annotations) => member(b"\"annotations\":", &annotations, out),
            Piece::Calls(calls) => member(b"\"tool_calls\":", &calls, out),
            Piece::Function(call) => member(b"\"function_call\":", &call.function(), out),
        }
        close(logprobs, None, out);
    }

    /// Begins a chunk, up to its delta's members.
    fn open(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.start);
        out.extend_from_slice(b"{\"index\":0,\"delta\":{");
    }
}

/// Ends a chunk behind its delta's members.
fn close(logprobs: Logprobs<'_>, finish_reason: Option<&str>, out: &mut BytesMut) {
    match (logprobs, finish_reason) {
        (None, None) => out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"),
        (logprobs, finish_reason) => {
            #[derive(Serialize)]
            struct Lists<'a> {
                content: Listed<'a, Logprob<'a>>,
                refusal: (),
            }
            member(b"},\"logprobs\":", &logprobs.map(|content| Lists { content, refusal: () }), out);
            member(b",\"finish_reason\":", &finish_reason, out);
            out.extend_from_slice(b"}],\"usage\":null}\n\n");
        }
    }
}

fn member(name: &[u8], value: &impl Serialize, out: &mut BytesMut) {
    out.extend_from_slice(name);
    write(value, out);
}

fn write(value: &impl Serialize, out: &mut BytesMut) {
    // A buffer takes everything, and these values always serialise.
    let _ = serde_json::to_writer(out.writer(), value);
}
