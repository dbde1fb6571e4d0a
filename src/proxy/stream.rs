//! An answer that comes event by event.

use std::time::{Duration, Instant};

use super::metering::StreamMeter;
use crate::{openai::StreamRelay, providers::translator::StreamTranslator};

/// A stream on its way from a provider to a client.
pub struct Stream {
    /// Reads what its events tell, and leaves what the client gets.
    pub relay: StreamRelay,
    /// Puts the events into the client's dialect, where that is another one.
    pub translator: Option<Box<StreamTranslator>>,
    /// Counts its tokens in case the provider does not.
    pub stream_meter: Option<Box<StreamMeter>>,
    /// The gateway ended it because its budget was used up.
    pub stopped: bool,
    /// When the provider had said that the answer is finished, before it told what it counted.
    pub generated: Option<Instant>,
    /// When it was last read.
    pub last_read: Option<Instant>,
    /// How long it may have lain unread when it ended: its client did not take what there was.
    pub unread_for: Duration,
    /// When it came to its end, good or bad.
    pub over: Option<Instant>,
}

impl Stream {
    /// One that begins.
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
