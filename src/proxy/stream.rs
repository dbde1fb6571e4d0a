//! An answer that is a stream of events.

use std::time::{Duration, Instant};

use super::metering::StreamMeter;
use crate::{openai::StreamRelay, providers::translator::StreamTranslator};

/// A stream on its way from a provider to a client.
pub struct Stream {
    /// Reads the events, and rewrites them for the client.
    pub relay: StreamRelay,
    /// Translates the events into the client's dialect, if the provider's is another.
    pub translator: Option<Box<StreamTranslator>>,
    /// Counts the stream's tokens in case the provider does not.
    pub stream_meter: Option<Box<StreamMeter>>,
    /// The gateway ended the stream because its budget was used up.
    pub stopped: bool,
    /// When the provider had said that the answer is finished, before it sent its token count.
    pub generated: Option<Instant>,
    /// When the stream was last read.
    pub last_read: Option<Instant>,
    /// How long the provider's events may have lain unread when the stream ended, because the client did not take them.
    pub unread_for: Duration,
    /// When the stream came to its end, good or bad.
    pub over: Option<Instant>,
}

impl Stream {
    /// A stream that begins.
    pub fn new(relay: StreamRelay, translator: Option<Box<StreamTranslator>>) -> Self {
        Self {
            relay,
            translator,
            stream_meter: None,
            stopped: false,
            generated: None,
            last_read: None,
            unread_for: Duration::ZERO,
            over: None,
        }
    }
}
