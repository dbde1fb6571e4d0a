//! Faults on demand: the directives of `x-simulate` and of a model name's suffix, and their effect on a reply.
//!
//! The table of directives is in the documentation of [`super`].

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::dialect::Dialect;
use super::errors::ApiError;

/// Longest pause that a directive may ask for.
const LONGEST: Duration = Duration::from_secs(600);

/// Largest answer that `big` may ask for, in KiB.
const BIGGEST: usize = 65_536;

/// A place in a reply: after a number of events of a stream or bytes of a JSON body, or half-way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum At {
    /// Half of the events or bytes.
    Half,
    /// After this many events or bytes.
    Count(usize),
}

impl At {
    fn of(self, total: usize) -> usize {
        match self {
            At::Half => total / 2,
            At::Count(n) => n.min(total),
        }
    }
}

/// The parsed directives of one request. The default does nothing.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Faults {
    pub(super) latency: Option<Duration>,
    pub(super) pace: Option<Duration>,
    pub(super) status: Option<u16>,
    pub(super) quota: bool,
    pub(super) html: bool,
    pub(super) empty: bool,
    pub(super) early: bool,
    pub(super) retry_after: Option<String>,
    pub(super) retry_after_ms: Option<String>,
    pub(super) reset: bool,
    pub(super) cut: Option<At>,
    pub(super) stall: Option<At>,
    pub(super) error: Option<At>,
    pub(super) no_done: bool,
    pub(super) crlf: bool,
    pub(super) comments: bool,
    pub(super) no_space: bool,
    pub(super) split: Option<usize>,
    pub(super) big: Option<usize>,
    pub(super) line: Option<usize>,
    pub(super) no_usage: bool,
    pub(super) cached: Option<u64>,
    pub(super) fail_first: Option<u32>,
    pub(super) key: Option<String>,
}

impl Faults {
    /// Adds the directives of `text`, separated by `separator`. An unknown or malformed directive is refused with 400.
    pub(super) fn add(&mut self, text: &str, separator: char) -> Result<(), ApiError> {
        for directive in text.split(separator).map(str::trim).filter(|d| !d.is_empty()) {
            self.directive(directive)
                .ok_or_else(|| ApiError::directive(format!("Unknown or malformed directive '{directive}'.")))?;
        }
        Ok(())
    }

    /// Removes the directives that make a request fail, for a request beyond the count of its `fail-first`.
    pub(super) fn disarm(&mut self) {
        (self.status, self.cut, self.stall, self.error) = (None, None, None, None);
        (self.reset, self.early, self.no_done, self.quota) = (false, false, false, false);
    }

    /// Whether a directive makes the request fail.
    pub(super) fn is_armed(&self) -> bool {
        self.status.is_some()
            || self.cut.is_some()
            || self.stall.is_some()
            || self.error.is_some()
            || self.reset
            || self.no_done
    }

    /// The steps of sending a JSON body, or any other body known in full.
    pub(super) fn script_body(&self, body: Bytes) -> Vec<BodyStep> {
        let mut steps = Vec::new();
        let (cut, end) = match (self.cut, self.stall) {
            (Some(at), _) => (at.of(body.len().saturating_sub(1)), Some(self.abort())),
            (None, Some(at)) => (at.of(body.len().saturating_sub(1)), Some(BodyStep::Stall)),
            (None, None) => (body.len(), None),
        };
        self.push(&mut steps, body.slice(..cut));
        steps.extend(end);
        steps
    }

    /// The steps of sending a stream of events, with pauses of `interval` unless `pace` says otherwise.
    pub(super) fn script_events(&self, events: &[Event], interval: Duration) -> Vec<BodyStep> {
        let interval = self.pace.unwrap_or(interval);
        let place = |at: Option<At>| at.map(|at| at.of(events.len()));
        let (cut, stall, error) = (place(self.cut), place(self.stall), place(self.error));
        let mut steps = Vec::with_capacity(2 * events.len() + 2);
        for (i, event) in events.iter().enumerate() {
            if stall == Some(i) {
                steps.push(BodyStep::Stall);
                return steps;
            }
            if cut == Some(i) {
                steps.push(self.abort());
                return steps;
            }
            if error == Some(i) || (error.is_some() && event.ends) {
                self.push(&mut steps, self.encode(&Event::error(event.dialect, event.name.is_some(), i)));
                return steps;
            }
            if event.ends && self.no_done {
                continue;
            }
            if i > 0 && !interval.is_zero() {
                steps.push(BodyStep::Pause(interval));
            }
            self.push(&mut steps, self.encode(event));
        }
        if stall.is_some() {
            steps.push(BodyStep::Stall);
        } else if cut.is_some() {
            steps.push(self.abort());
        } else if error.is_some() {
            self.push(&mut steps, self.encode(&Event::error(Dialect::OpenAi, true, events.len())));
        }
        steps
    }

    fn push(&self, steps: &mut Vec<BodyStep>, bytes: Bytes) {
        match self.split {
            Some(size) => {
                for chunk in bytes.chunks(size) {
                    steps.push(BodyStep::Send(bytes.slice_ref(chunk)));
                    steps.push(BodyStep::Flush);
                }
            }
            None if bytes.is_empty() => {}
            None => steps.push(BodyStep::Send(bytes)),
        }
    }

    fn abort(&self) -> BodyStep {
        if self.reset { BodyStep::Reset } else { BodyStep::Cut }
    }

    fn encode(&self, event: &Event) -> Bytes {
        let end = if self.crlf { "\r\n" } else { "\n" };
        if event.dialect == Dialect::Ollama {
            return Bytes::from([event.data.as_str(), end].concat());
        }
        let space = if self.no_space { "" } else { " " };
        let mut text = String::with_capacity(event.data.len() + 64);
        if self.comments {
            text.extend([": SIMULATED PROCESSING", end, end]);
        }
        if let Some(name) = event.name {
            text.extend(["event:", space, name, end]);
        }
        text.extend(["data:", space, &event.data, end, end]);
        Bytes::from(text)
    }

    /// Adds one directive; `None` if it is unknown or its value is malformed.
    fn directive(&mut self, text: &str) -> Option<()> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (text, None),
        };
        match (name, value) {
            ("latency", Some(v)) => self.latency = Some(duration(v)?),
            ("pace", Some(v)) => self.pace = Some(duration(v)?),
            ("retry-after", Some(v)) => self.retry_after = Some(header_value(v)?),
            ("retry-after-ms", Some(v)) => self.retry_after_ms = Some(header_value(v)?),
            ("cut", v) => self.cut = Some(at(v)?),
            ("stall", v) => self.stall = Some(at(v)?),
            ("error", v) => self.error = Some(at(v)?),
            ("split", Some(v)) => self.split = Some(v.parse().ok().filter(|n| *n > 0)?),
            ("big", Some(v)) => self.big = Some(v.parse().ok().filter(|n| *n <= BIGGEST)?),
            ("line", Some(v)) => self.line = Some(v.parse().ok().filter(|n| (1..=BIGGEST).contains(n))?),
            ("cached", Some(v)) => self.cached = Some(v.parse().ok()?),
            ("fail-first", Some(v)) => self.fail_first = Some(v.parse().ok()?),
            ("key", Some(v)) => self.key = Some(v.to_owned()),
            ("quota", None) => (self.status, self.quota) = (Some(429), true),
            ("html", None) => self.html = true,
            ("empty", None) => self.empty = true,
            ("early", None) => self.early = true,
            ("reset", None) => self.reset = true,
            ("no-done", None) => self.no_done = true,
            ("no-usage", None) => self.no_usage = true,
            ("crlf", None) => self.crlf = true,
            ("comments", None) => self.comments = true,
            ("no-space", None) => self.no_space = true,
            (code, None) => self.status = Some(code.parse().ok().filter(|n| (200..=599).contains(n))?),
            _ => return None,
        }
        Some(())
    }
}

/// One event of a stream before it is encoded: a server-sent event, or a line of Ollama's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) name: Option<&'static str>,
    pub(super) data: String,
    /// The dialect of the stream, which decides the shape of an error that breaks it.
    pub(super) dialect: Dialect,
    /// The event ends the stream, which is incomplete without it; `no-done` leaves it out.
    pub(super) ends: bool,
}

impl Event {
    /// An event without a name, as chat and legacy completions send them.
    pub(super) fn data(data: &Value) -> Self {
        Self { name: None, data: data.to_string(), dialect: Dialect::OpenAi, ends: false }
    }

    /// The event that ends a chat stream.
    pub(super) fn done() -> Self {
        Self { name: None, data: "[DONE]".to_owned(), dialect: Dialect::OpenAi, ends: true }
    }

    /// An event with a name, as the Responses API and Messages send them.
    pub(super) fn named(dialect: Dialect, name: &'static str, data: &Value) -> Self {
        let ends = dialect == Dialect::Anthropic && name == "message_stop";
        Self { name: Some(name), data: data.to_string(), dialect, ends }
    }

    /// A line of Ollama's; the last one has `ends`.
    pub(super) fn line(data: &Value, ends: bool) -> Self {
        Self { name: None, data: data.to_string(), dialect: Dialect::Ollama, ends }
    }

    /// The error event that breaks a stream; for OpenAI, `named` selects the flat shape of the Responses API.
    fn error(dialect: Dialect, named: bool, sequence: usize) -> Self {
        let error = ApiError::mid_stream();
        match dialect {
            Dialect::Anthropic => {
                let data = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
                return Self::named(dialect, "error", &data);
            }
            Dialect::Ollama => return Self::line(&json!({"error": error.message}), false),
            Dialect::OpenAi if !named => return Self::data(&error.body()),
            Dialect::OpenAi => {}
        }
        let data = json!({
            "type": "error", "code": "server_error", "message": error.message, "param": null, "sequence_number": sequence
        });
        Self::named(dialect, "error", &data)
    }
}

/// One step of sending a reply's body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BodyStep {
    /// Send these bytes.
    Send(Bytes),
    /// Flush the bytes sent so far before the next ones.
    Flush,
    /// Wait for this time.
    Pause(Duration),
    /// Send nothing more and keep the connection open until the client leaves.
    Stall,
    /// Close the connection although the body is not complete.
    Cut,
    /// Reset the connection although the body is not complete.
    Reset,
}

fn at(value: Option<&str>) -> Option<At> {
    match value {
        None => Some(At::Half),
        Some(n) => n.parse().ok().map(At::Count),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let scale = match &text[unit..] {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    let seconds: f64 = text[..unit].parse().ok()?;
    let duration = Duration::try_from_secs_f64(seconds * scale).ok()?;
    (duration <= LONGEST).then_some(duration)
}

fn header_value(text: &str) -> Option<String> {
    (text.len() <= 64 && text.bytes().all(|b| (b' '..0x7f).contains(&b))).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Faults {
        let mut faults = Faults::default();
        faults.add(text, ',').unwrap();
        faults
    }

    fn three() -> Vec<Event> {
        vec![Event::data(&json!(1)), Event::data(&json!(2)), Event::done()]
    }

    fn sent(steps: &[BodyStep]) -> String {
        steps.iter().map(|s| if let BodyStep::Send(b) = s { str::from_utf8(b).unwrap() } else { "" }).collect()
    }

    #[test]
    fn directives_parse() {
        let f = faults("latency=200ms, 429 ,retry-after=2,pace=1.5s,cut=3,stall,fail-first=2,key=a");
        assert_eq!(f.latency, Some(Duration::from_millis(200)));
        assert_eq!((f.status, f.retry_after.as_deref()), (Some(429), Some("2")));
        assert_eq!(f.pace, Some(Duration::from_millis(1500)));
        assert_eq!((f.cut, f.stall), (Some(At::Count(3)), Some(At::Half)));
        assert_eq!((f.fail_first, f.key.as_deref()), (Some(2), Some("a")));
        assert!(faults("quota").quota);
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        for bad in [
            "nope",
            "99",
            "600",
            "latency",
            "latency=x",
            "latency=2h",
            "latency=-1s",
            "big=99999999",
            "split=0",
            "429=1",
            "html=1",
        ] {
            let error = Faults::default().add(bad, ',').unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(bad), "{bad}");
        }
    }

    #[test]
    fn a_stream_without_faults() {
        let steps = Faults::default().script_events(&three(), Duration::from_millis(1));
        assert_eq!(sent(&steps), "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
        assert_eq!(steps.iter().filter(|s| matches!(s, BodyStep::Pause(_))).count(), 2);
    }

    #[test]
    fn a_stream_with_each_fault() {
        let run = |text: &str| faults(text).script_events(&three(), Duration::ZERO);
        assert_eq!(run("cut=1").last(), Some(&BodyStep::Cut));
        assert_eq!(sent(&run("cut=1")), "data: 1\n\n");
        assert_eq!(run("cut=1,reset").last(), Some(&BodyStep::Reset));
        assert_eq!(run("cut=9").last(), Some(&BodyStep::Cut));
        assert_eq!(run("stall=2").last(), Some(&BodyStep::Stall));
        assert_eq!(sent(&run("no-done")), "data: 1\n\ndata: 2\n\n");
        assert_eq!(sent(&run("crlf,no-space,cut=1")), "data:1\r\n\r\n");
        assert!(sent(&run("comments")).starts_with(": SIMULATED PROCESSING\n\ndata: 1\n\n:"));
        for text in ["error=1", "error=9"] {
            let got = sent(&run(text));
            assert!(got.contains(r#"data: {"error":{"message""#) && !got.contains("[DONE]"), "{got}");
        }
    }

    #[test]
    fn a_body_with_each_fault() {
        let run = |text: &str| faults(text).script_body(Bytes::from_static(b"0123456789"));
        assert_eq!(run(""), [BodyStep::Send(Bytes::from_static(b"0123456789"))]);
        assert_eq!(run("cut=4"), [BodyStep::Send(Bytes::from_static(b"0123")), BodyStep::Cut]);
        assert_eq!(run("cut=99"), [BodyStep::Send(Bytes::from_static(b"012345678")), BodyStep::Cut]);
        assert_eq!(run("stall"), [BodyStep::Send(Bytes::from_static(b"0123")), BodyStep::Stall]);
        assert_eq!(run("cut=0,reset"), [BodyStep::Reset]);
        assert_eq!(run("split=4").len(), 6);
    }

    #[test]
    fn disarming_keeps_the_harmless() {
        let mut f = faults("latency=1ms,503,reset,cut=1,big=2");
        assert!(f.is_armed());
        f.disarm();
        assert_eq!(f, faults("latency=1ms,big=2"));
    }
}
