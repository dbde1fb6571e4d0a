//! Writes server-sent events.

use bytes::{Bytes, BytesMut};

/// The event that ends an OpenAI stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Appends one event whose payload is `data`; each line of the payload gets its own `data:` field.
pub fn write_data(out: &mut BytesMut, data: &[u8]) {
    out.reserve(data.len() + 8);
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"\n");
}

/// One event whose payload is `data`.
pub fn data_event(data: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    write_data(&mut out, data);
    out.freeze()
}

/// Concatenates two pieces; copies only if neither is empty.
pub fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        (false, false) => {
            let mut whole = BytesMut::with_capacity(first.len() + second.len());
            whole.extend_from_slice(&first);
            whole.extend_from_slice(&second);
            whole.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_its_field() {
        assert_eq!(&data_event(b"{}")[..], b"data: {}\n\n");
        assert_eq!(&data_event(b"a\r\nb\n")[..], b"data: a\ndata: b\ndata: \n\n");
    }
}
