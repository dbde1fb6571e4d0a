//! Anthropic's Messages stream: every event passes, usage is read in its portions.

use std::borrow::Cow;

use serde::Deserialize;

use super::{StreamRelay, StreamState, Verdict};
use crate::openai::error::ErrorBody;
use crate::openai::generated::append_delta;
use crate::openai::usage::Portion;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    usage: Option<Portion>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<Portion>,
}

impl StreamRelay {
    /// Every event's payload says what it is; its name only repeats that.
    pub(super) fn messages(&mut self, data: &[u8]) -> Verdict {
        // The usual event is told by its beginning, without a parse.
        if data.starts_with(br#"{"type":"content_block_delta""#) {
            return self.delta(data);
        }
        let Ok(head) = serde_json::from_slice::<Head<'_>>(data) else { return Verdict::Pass };
        match head.r#type.as_deref() {
            Some("message_start") => {
                let Some(message) = head.message else { return Verdict::Pass };
                self.seen.model = message.model.filter(|model| !model.is_empty()).map(Cow::into_owned);
                self.count(message.usage);
            }
            Some("content_block_start") => {
                self.seen.first_token = true;
                if self.tally {
                    append_delta(data, &mut self.generated);
                }
            }
            Some("content_block_delta") => return self.delta(data),
            Some("message_delta") => self.count(head.usage),
            Some("message_stop") => self.state = StreamState::Complete,
            Some("error") => {
                self.state = StreamState::Failed;
                let value = serde_json::from_slice(data).ok();
                self.seen.error = value.and_then(|value| ErrorBody::read(500, &value));
                return Verdict::Last;
            }
            _ => {}
        }
        Verdict::Pass
    }

    fn delta(&mut self, data: &[u8]) -> Verdict {
        self.seen.first_token = true;
        if self.tally {
            append_delta(data, &mut self.generated);
        }
        Verdict::Pass
    }

    /// Counts are cumulative, and what a portion does not name stays as it was.
    fn count(&mut self, portion: Option<Portion>) {
        let Some(portion) = portion else { return };
        let counts = portion.or(self.seen.counts);
        self.seen.counts = counts;
        self.seen.usage = counts.usage();
        self.seen.service_tier = counts.service_tier();
    }
}
