//! The Responses API's stream: every event passes, and the terminal one is read.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::{EventVerdict, StreamRelay, StreamState, is_done};
use crate::openai::error::ErrorBody;
use crate::openai::generated::append_delta;
use crate::openai::locate::hits;
use crate::openai::usage::{find_service_tier, find_usage};

static SEQUENCE_NUMBER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"sequence_number\""));

/// Events in which the model's name is looked for: `response.created` is the first.
const MODEL_WITHIN: u64 = 2;

impl StreamRelay {
    pub(super) fn responses(&mut self, name: Option<&[u8]>, data: &[u8]) -> EventVerdict {
        if is_done(data) {
            return EventVerdict::Pass;
        }
        if let Some(number) = sequence_number(data) {
            self.seen.last_sequence = Some(number);
        }
        let name = name.map_or_else(|| type_of(data), String::from_utf8_lossy);
        match name.as_ref() {
            "response.completed" | "response.incomplete" | "response.cancelled" => {
                self.end(data, StreamState::Complete)
            }
            "response.failed" => self.end(data, StreamState::Failed),
            "error" => self.state = StreamState::Failed,
            name if name.ends_with(".delta") => {
                self.seen.first_token = true;
                // The delta of an audio event is sound in base64; its text comes as a transcript.
                match name.ends_with("audio.delta") {
                    true => self.media += data.len() as u64,
                    false if self.tallies => append_delta(data, &mut self.generated),
                    false => {}
                }
            }
            _ => (),
        }
        if self.seen.model.is_none() && self.seen.events <= MODEL_WITHIN {
            let head = serde_json::from_slice::<Head<'_>>(data).unwrap_or_default();
            self.seen.model = head.response.and_then(|r| r.model).map(Cow::into_owned);
        }
        EventVerdict::Pass
    }

    fn end(&mut self, data: &[u8], state: StreamState) {
        self.state = state;
        self.seen.usage = find_usage(data).or(self.seen.usage);
        self.seen.service_tier = find_service_tier(data).or(self.seen.service_tier);
    }
}

/// The event that ends a broken stream: the Responses API's own `error` event, with the `error` object that SDKs look
/// for in any stream.
pub fn responses_error_event(error: &ErrorBody, last_sequence: Option<u64>) -> Bytes {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'static str,
        code: Option<&'a str>,
        message: &'a str,
        param: Option<&'a str>,
        sequence_number: u64,
        error: &'a ErrorBody,
    }
    let event = Event {
        r#type: "error",
        code: error.code.as_deref(),
        message: &error.message,
        param: error.param.as_deref(),
        sequence_number: last_sequence.map_or(0, |last| last.saturating_add(1)),
        error,
    };
    let json = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("event: error\ndata: {json}\n\n"))
}

/// The event's number: the first `sequence_number` with a number, which is the event's own in every known event.
fn sequence_number(data: &[u8]) -> Option<u64> {
    hits(data, &SEQUENCE_NUMBER).find_map(|hit| {
        let digits = data[hit.value_at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&data[hit.value_at..hit.value_at + digits]).ok()?.parse().ok()
    })
}

fn type_of(data: &[u8]) -> Cow<'_, str> {
    serde_json::from_slice::<Head<'_>>(data).ok().and_then(|head| head.r#type).unwrap_or_default()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
}
