//! Any stream in any chunks: the output does not depend on the chunks, on counting its text or on reading each event, and the relay never stays open.
#![no_main]

use bytes::Bytes;
use wire::openai::{RelayOptions, StreamEnd, StreamKind, StreamRelay, StreamState};
use libfuzzer_sys::fuzz_target;

fn relay(
    kind: StreamKind,
    options: RelayOptions,
    stream_meter: bool,
    data: &[u8],
    size: usize,
    end: &StreamEnd,
) -> (Vec<u8>, StreamState) {
    let mut relay = StreamRelay::new(kind, options).tallying(stream_meter);
    if !stream_meter {
        relay = relay.reading_all();
    }
    let mut out = Vec::new();
    for chunk in data.chunks(size) {
        out.extend_from_slice(&relay.feed(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&relay.finish(end));
    (out, relay.state())
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (flags, size, data) = (input.0, usize::from(input.1) + 1, input.2);
    let kind = match flags & 0x11 {
        0 => StreamKind::Chat,
        1 => StreamKind::Responses,
        _ => StreamKind::Messages,
    };
    let options = RelayOptions { hide_usage: flags & 2 != 0, repair_tools: flags & 8 != 0 };
    let end = if flags & 4 == 0 { StreamEnd::Clean } else { StreamEnd::Cut("cut".into()) };
    let whole = relay(kind, options, false, data, data.len().max(1), &end);
    assert_ne!(whole.1, StreamState::Open);
    assert_eq!(relay(kind, options, true, data, size, &end), whole);
});
