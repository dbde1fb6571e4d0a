//! Any bytes in any chunks: the events' raw bytes are the input, and the events do not depend on the chunks.
#![no_main]

use bytes::Bytes;
use wire::sse::{RawEvent, Scanner};
use libfuzzer_sys::fuzz_target;

fn events(data: &[u8], size: usize) -> Vec<RawEvent> {
    let mut scanner = Scanner::new();
    let mut events = Vec::new();
    for chunk in data.chunks(size) {
        scanner.push(Bytes::copy_from_slice(chunk));
        while let Ok(Some(event)) = scanner.next_event() {
            events.push(event);
        }
        assert!(scanner.held() <= data.len());
    }
    events.extend(scanner.finish());
    events
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, data) = (usize::from(input.0) + 1, input.1);
    let whole = events(data, data.len().max(1));
    let raw: Vec<u8> = whole.iter().flat_map(|event| event.raw.to_vec()).collect();
    assert_eq!(raw, data);
    assert_eq!(events(data, size), whole);
    for event in &whole {
        let fields = event.fields();
        if let (Some(data), Some(at)) = (&fields.data, fields.data_at) {
            assert_eq!(&event.raw[at..at + data.len()], &data[..]);
        }
    }
});
