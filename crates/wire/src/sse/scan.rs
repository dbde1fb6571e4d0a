//! Finds the boundaries of server-sent events in a stream that is cut into chunks anywhere.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// The largest event a [`Scanner`] accepts unless told otherwise: 16 MiB.
pub const DEFAULT_MAX_EVENT: usize = 16 << 20;

/// An event grew beyond the scanner's bound; the stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The bound, in bytes.
    pub max: usize,
}

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a stream event is larger than {} bytes", self.max)
    }
}

impl std::error::Error for EventTooLarge {}

/// Cuts a byte stream into events. Every input byte is in exactly one event, so the events' raw bytes together are the input.
///
/// An event inside one chunk is a slice of that chunk. Only an event that crosses chunks is copied, and no byte is scanned
/// twice, so a line of a megabyte that comes in small pieces costs linear time.
#[derive(Debug)]
pub struct Scanner {
    /// The scanned start of an event whose end has not come yet.
    carry: BytesMut,
    /// The rest of the newest chunk.
    chunk: Bytes,
    /// Number of bytes of `chunk` that are scanned.
    scanned: usize,
    line: Line,
    first: bool,
    max: usize,
}

/// Where the scan stands within a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// At the start of a line: a line end now ends the event.
    Start,
    /// Inside a line that has content.
    Inside,
    /// Behind the CR of a line with content; a LF would belong to it.
    Cr,
    /// Behind the CR of an empty line: the event is over, with or without a LF.
    EmptyCr,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::with_max(DEFAULT_MAX_EVENT)
    }
}

impl Scanner {
    /// A scanner with the default bound on the size of an event.
    pub fn new() -> Self {
        Self::default()
    }

    /// A scanner that refuses events of more than `max` bytes.
    pub fn with_max(max: usize) -> Self {
        Self { carry: BytesMut::new(), chunk: Bytes::new(), scanned: 0, line: Line::Start, first: true, max }
    }

    /// Adds a chunk. Take all events with [`Scanner::next_event`] before adding the next chunk: bytes that are left are copied.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
            self.scanned = 0;
        } else {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// The next complete event, or `None` until another chunk comes.
    ///
    /// A CR that ends a chunk cannot end an event yet, because a LF that follows would belong to it.
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, EventTooLarge> {
        let end = self.find_end();
        let size = self.carry.len() + end.unwrap_or(self.chunk.len());
        if size > self.max {
            return Err(EventTooLarge { max: self.max });
        }
        match end {
            Some(end) => Ok(Some(self.take(end))),
            None => {
                self.carry.extend_from_slice(&self.chunk);
                self.chunk = Bytes::new();
                self.scanned = 0;
                Ok(None)
            }
        }
    }

    /// To be called at the end of the stream: the last event if it lacks its empty line, `None` if nothing is left.
    pub fn finish(&mut self) -> Option<RawEvent> {
        let rest = self.carry.len() + self.chunk.len();
        (rest > 0).then(|| self.take(self.chunk.len()))
    }

    /// Bytes held because their event is not complete.
    pub fn held(&self) -> usize {
        self.carry.len() + self.chunk.len()
    }

    fn take(&mut self, end: usize) -> RawEvent {
        let raw = if self.carry.is_empty() {
            self.chunk.split_to(end)
        } else {
            // The buffer is taken, not split off: an idle stream must not keep a buffer that once held a large event.
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(&self.chunk[..end]);
            self.chunk.advance(end);
            carry.freeze()
        };
        self.scanned = 0;
        self.line = Line::Start;
        let bom = std::mem::replace(&mut self.first, false) && raw.starts_with(b"\xef\xbb\xbf");
        RawEvent { raw, fields_at: if bom { 3 } else { 0 } }
    }

    /// The offset in `chunk` behind the current event.
    fn find_end(&mut self) -> Option<usize> {
        let chunk = &self.chunk[..];
        let mut at = self.scanned;
        while at < chunk.len() {
            match self.line {
                Line::EmptyCr => return Some(if chunk[at] == b'\n' { at + 1 } else { at }),
                Line::Cr => {
                    at += usize::from(chunk[at] == b'\n');
                    self.line = Line::Start;
                    continue;
                }
                Line::Start | Line::Inside => (),
            }
            let Some(length) = memchr::memchr2(b'\n', b'\r', &chunk[at..]) else {
                self.line = Line::Inside;
                at = chunk.len();
                break;
            };
            let empty = length == 0 && self.line == Line::Start;
            let end = at + length;
            at = end + 1;
            match (chunk[end], empty) {
                (b'\n', true) => return Some(at),
                (b'\n', false) => self.line = Line::Start,
                (_, true) => self.line = Line::EmptyCr,
                (_, false) => self.line = Line::Cr,
            }
        }
        self.scanned = at;
        None
    }
}

/// One event: its exact bytes, line ends and the empty line included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// The bytes as they came.
    pub raw: Bytes,
    /// Offset of the first field: 3 behind a byte order mark at the start of the stream, otherwise 0.
    fields_at: usize,
}

/// The fields of an event that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The `data` fields, joined by LF. `None` for a comment, an empty line, or other fields only.
    pub data: Option<Cow<'a, [u8]>>,
    /// The offset of `data` in the raw bytes, if it comes from a single field.
    pub data_at: Option<usize>,
    /// The `event` field; the last one counts.
    pub event: Option<&'a [u8]>,
}

impl RawEvent {
    /// This event with other raw bytes.
    #[must_use]
    pub fn with(&self, raw: &[u8]) -> Self {
        Self { raw: Bytes::copy_from_slice(raw), fields_at: self.fields_at }
    }

    /// Reads the event's fields in one pass.
    pub fn fields(&self) -> Fields<'_> {
        let mut fields = Fields::default();
        for line in self.lines() {
            if let Some((start, end)) = self.field(line, b"data") {
                let value = &self.raw[start..end];
                match &mut fields.data {
                    None => {
                        fields.data = Some(Cow::Borrowed(value));
                        fields.data_at = Some(start);
                    }
                    Some(data) => {
                        let joined = data.to_mut();
                        joined.push(b'\n');
                        joined.extend_from_slice(value);
                        fields.data_at = None;
                    }
                }
            } else if let Some((start, end)) = self.field(line, b"event") {
                fields.event = Some(&self.raw[start..end]);
            }
        }
        fields
    }

    /// The event's payload, see [`Fields::data`].
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        self.fields().data
    }

    /// The byte ranges of the `data` fields' values in the raw bytes, in order; [`Fields::data`] joins these values.
    pub fn data_lines(&self) -> impl Iterator<Item = Range<usize>> {
        self.lines().filter_map(|line| self.field(line, b"data")).map(|(start, end)| start..end)
    }

    /// The event's name, see [`Fields::event`].
    pub fn event_name(&self) -> Option<&[u8]> {
        self.fields().event
    }

    /// Whether the event ends with its empty line. Only the last event of a stream may lack it.
    pub fn is_terminated(&self) -> bool {
        let raw = &self.raw[self.fields_at..];
        let Some(rest) = strip_line_end(raw) else { return false };
        rest.is_empty() || strip_line_end(rest).is_some()
    }

    /// Start and end of every line, without line ends.
    fn lines(&self) -> impl Iterator<Item = (usize, usize)> {
        let raw = &self.raw[..];
        let mut at = self.fields_at;
        std::iter::from_fn(move || {
            if at >= raw.len() {
                return None;
            }
            let start = at;
            let end = memchr::memchr2(b'\n', b'\r', &raw[at..]).map_or(raw.len(), |length| at + length);
            at = if raw[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
            Some((start, end))
        })
    }

    /// The range of a line's value if its field has this name; one space behind the colon is not part of the value.
    fn field(&self, (start, end): (usize, usize), name: &[u8]) -> Option<(usize, usize)> {
        let rest = self.raw[start..end].strip_prefix(name)?;
        let at = start + name.len();
        match rest {
            [] => Some((end, end)),
            [b':', b' ', ..] => Some((at + 2, end)),
            [b':', ..] => Some((at + 1, end)),
            _ => None,
        }
    }
}

fn strip_line_end(text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(b"\r\n").or_else(|| text.strip_suffix(b"\n")).or_else(|| text.strip_suffix(b"\r"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<RawEvent> {
        let mut scanner = Scanner::new();
        let mut all = Vec::new();
        for chunk in chunks {
            scanner.push(Bytes::copy_from_slice(chunk));
            while let Some(event) = scanner.next_event().unwrap() {
                all.push(event);
            }
        }
        all.extend(scanner.finish());
        all
    }

    fn texts(stream: &[u8]) -> Vec<Option<String>> {
        events(&[stream]).iter().map(|e| e.data().map(|d| String::from_utf8_lossy(&d).into_owned())).collect()
    }

    #[test]
    fn all_line_ends_and_mixes() {
        for stream in [
            "data: a\n\ndata:b\n\n",
            "data: a\r\n\r\ndata:b\r\n\r\n",
            "data: a\r\rdata:b\r\r",
            "data: a\r\n\ndata:b\n\r\n",
        ] {
            assert_eq!(texts(stream.as_bytes()), [Some("a".into()), Some("b".into())], "{stream:?}");
        }
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        assert_eq!(texts(b"data: a\ndata:  b\ndata\ndata:\n\n"), [Some("a\n b\n\n".into())]);
        assert_eq!(texts(b": comment\n\n\ndatax: 1\nid: 4\n\n"), [None, None, None]);
        assert_eq!(texts(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n"), [Some("a".into()), None]);
        let all = events(&[b"event: x\nid:1\nevent:y\ndata: 1\n\ndata: 2\n\n"]);
        assert_eq!(all[0].event_name(), Some(&b"y"[..]));
        assert_eq!(all[1].event_name(), None);
        assert_eq!(all[1].fields().data_at, Some(6));
    }

    #[test]
    fn an_event_inside_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let mut scanner = Scanner::new();
        scanner.push(chunk.clone());
        assert_eq!(scanner.next_event().unwrap().unwrap().raw.as_ptr(), chunk.as_ptr());
        assert_eq!(scanner.next_event().unwrap().unwrap().raw.as_ptr(), chunk[9..].as_ptr());
        assert_eq!(scanner.next_event().unwrap(), None);
        assert_eq!(scanner.held(), 0);
    }

    #[test]
    fn an_event_leaves_with_its_last_byte() {
        let mut scanner = Scanner::new();
        for piece in ["dat", "a: x\r", "\n\r"] {
            scanner.push(Bytes::from_static(piece.as_bytes()));
            assert_eq!(scanner.next_event().unwrap(), None);
        }
        scanner.push(Bytes::from_static(b"\n"));
        assert_eq!(&scanner.next_event().unwrap().unwrap().raw[..], b"data: x\r\n\r\n");
    }

    #[test]
    fn the_last_event_may_lack_its_empty_line() {
        for (stream, whole) in
            [("data: a", false), ("data: a\n", false), ("data: a\r", false), ("data: a\r\r", true), (": x\n\n", true)]
        {
            let all = events(&[stream.as_bytes()]);
            assert_eq!((all.len(), all[0].is_terminated()), (1, whole), "{stream:?}");
        }
        assert_eq!(events(&[b"", b""]), []);
        assert!(events(&[b"\n"])[0].is_terminated());
    }

    #[test]
    fn the_bound_holds_for_whole_and_for_split_events() {
        let mut scanner = Scanner::with_max(10);
        scanner.push(Bytes::from_static(b"data: 12\n\ndata: 123\n\n"));
        assert_eq!(scanner.next_event().unwrap().unwrap().raw.len(), 10);
        assert_eq!(scanner.next_event(), Err(EventTooLarge { max: 10 }));
        let mut scanner = Scanner::with_max(10);
        scanner.push(Bytes::from_static(b"data: 1"));
        assert_eq!(scanner.next_event().unwrap(), None);
        scanner.push(Bytes::from_static(b"2345"));
        assert!(scanner.next_event().is_err());
    }

    #[test]
    fn a_long_line_in_small_pieces_is_linear() {
        let mut scanner = Scanner::new();
        let piece = Bytes::from(vec![b'x'; 64]);
        scanner.push(Bytes::from_static(b"data: "));
        // With rescans, 2^18 pieces of 64 bytes would be 2 * 10^12 byte steps and take minutes; one pass takes milliseconds.
        let started = std::time::Instant::now();
        for _ in 0..(1 << 18) - 1 {
            scanner.push(piece.clone());
            assert_eq!(scanner.next_event().unwrap(), None);
        }
        scanner.push(Bytes::from_static(b"\n\n"));
        assert_eq!(scanner.next_event().unwrap().unwrap().data().unwrap().len(), 64 * ((1 << 18) - 1));
        assert!(started.elapsed().as_secs() < 20);
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(
            parts in prop::collection::vec(prop::sample::select(vec!["data: a", "data:b", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", ": c", "event: e", "é", "\u{feff}", "data"]), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let stream = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.push(0);
            cuts.push(stream.len());
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let whole = events(&[&stream]);
            let split = events(&chunks);
            prop_assert_eq!(&split, &whole);
            let raw: Vec<u8> = split.iter().flat_map(|event| event.raw.to_vec()).collect();
            prop_assert_eq!(raw, stream);
        }
    }
}
