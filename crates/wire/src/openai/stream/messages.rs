//! Anthropic's Messages stream: every event passes, and usage is read from its portions.
//!
//! The output count is final only with the `message_delta` that has the `stop_reason`, or when the stream is over: the count in
//! `message_start` is a first token, or a zero that a translation had to put there. A stream that ends earlier has the counts of
//! its prompt and of the output so far.

use std::borrow::Cow;

use serde::Deserialize;

use super::{EventVerdict, StreamRelay, StreamState};
use crate::openai::error::ErrorBody;
use crate::openai::generated::append_delta;
use crate::openai::usage::Portion;
use crate::types::{ServiceTier, Usage};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    usage: Option<Portion>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<Portion>,
}

/// The usage that an Anthropic stream reports.
#[derive(Clone, Debug, Default)]
pub struct MessageUsage {
    /// Boxed: every stream has room for it, and only Anthropic's use it.
    counts: Option<Box<Portion>>,
    /// `counts` includes the output.
    counts_output: bool,
    whole: bool,
}

impl MessageUsage {
    /// Reads the payload of one event.
    pub fn read(&mut self, data: &[u8]) {
        if !is_delta(data)
            && let Ok(head) = serde_json::from_slice::<Head<'_>>(data)
        {
            self.note(&head);
        }
    }

    fn note(&mut self, head: &Head<'_>) {
        let (portion, last) = match head.r#type.as_deref() {
            Some("message_start") => (head.message.as_ref().and_then(|message| message.usage), false),
            Some("message_delta") => (head.usage, true),
            Some("message_stop") => {
                self.whole = self.counts_output;
                return;
            }
            _ => return,
        };
        // Counts are cumulative; a count that a portion does not have stays as it was.
        if let Some(portion) = portion {
            self.counts_output |= last && portion.counts_output();
            let stops = head.delta.as_ref().is_some_and(|delta| delta.stop_reason.is_some());
            self.whole |= self.counts_output && stops;
            let before = self.counts.as_deref().copied().unwrap_or_default();
            self.counts = Some(Box::new(portion.or(before)));
        }
    }

    /// The whole count; `None` before it has come.
    pub fn whole(&self) -> Option<Usage> {
        self.counts.as_ref()?.usage().filter(|_| self.whole)
    }

    /// The counts so far; generated tokens that are not reported yet must be added.
    pub fn so_far(&self) -> Option<Usage> {
        self.counts.as_ref()?.usage().filter(|usage| usage.prompt_tokens > 0)
    }

    /// Searches that Anthropic made so far.
    pub fn searches(&self) -> u64 {
        self.counts.as_ref().map_or(0, |counts| counts.searches())
    }

    /// The service tier that the counts contain.
    fn service_tier(&self) -> Option<ServiceTier> {
        self.counts.as_ref()?.service_tier()
    }
}

/// Whether an event is a delta, the most frequent type; recognised by its first bytes, without parsing.
fn is_delta(data: &[u8]) -> bool {
    data.starts_with(br#"{"type":"content_block_delta""#)
}

impl StreamRelay {
    /// Reads one event. The payload of every event has its type; the event's name only repeats it.
    pub(super) fn messages(&mut self, data: &[u8]) -> EventVerdict {
        if is_delta(data) {
            return self.delta(data);
        }
        let Ok(head) = serde_json::from_slice::<Head<'_>>(data) else { return EventVerdict::Pass };
        match head.r#type.as_deref() {
            Some("message_start" | "message_delta") => {
                let counts = &mut self.seen.counts;
                counts.note(&head);
                self.seen.usage = counts.whole();
                self.seen.service_tier = counts.service_tier();
                if let Some(model) = head.message.and_then(|message| message.model).filter(|model| !model.is_empty()) {
                    self.seen.model = Some(model.into_owned());
                }
            }
            Some("content_block_start") => {
                self.seen.first_token = true;
                if self.tallies {
                    append_delta(data, &mut self.generated);
                }
            }
            Some("content_block_delta") => return self.delta(data),
            Some("message_stop") => {
                self.state = StreamState::Complete;
                self.seen.counts.note(&head);
                self.seen.usage = self.seen.counts.whole();
            }
            Some("error") => {
                self.state = StreamState::Failed;
                let value = serde_json::from_slice(data).ok();
                self.seen.error = value.and_then(|value| ErrorBody::read(500, &value));
                return EventVerdict::Last;
            }
            _ => {}
        }
        EventVerdict::Pass
    }

    fn delta(&mut self, data: &[u8]) -> EventVerdict {
        self.seen.first_token = true;
        if self.tallies {
            append_delta(data, &mut self.generated);
        }
        EventVerdict::Pass
    }
}
