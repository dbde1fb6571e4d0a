//! The access log: one line for each finished request.
//!
//! ```text
//! worker: line in a buffer of its own ──appended under a lock──▶ buffer, at most 1 MiB ──one write for many──▶ standard error
//! ```
//!
//! No worker writes. One that finds the writer asleep wakes it, at most once in [`GATHER`]. When standard error does not take lines
//! as fast as they come, the buffer fills, further lines are dropped and counted, and no request waits.
//!
//! The lines look as [`tracing_subscriber`] would write them, in its text format without colours or in its JSON. A program around the
//! gateway that has a subscriber of its own gets events with the target `chittycan::access` instead.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::{self, Write as _},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::{Metrics, Observer, Record};

/// Lines that wait to be written, in bytes.
const MOST: usize = 1 << 20;

/// What comes within this time after the first line is written with it.
const GATHER: Duration = Duration::from_millis(5);

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines go in a process that has set up its log; see [`install`].
static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// Writes the access log.
pub struct AccessLog {
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// An access log that counts the lines it drops.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Observer for AccessLog {
    fn finished(&self, record: &Record) {
        match SINK.get() {
            Some(sink) => {
                if !sink.add(record) {
                    self.metrics.access_line_dropped();
                }
            }
            None => event(record),
        }
    }
}

/// Lines of the access log go to standard error from now on, written by a thread of their own.
pub(super) fn install(json: bool) {
    let sink = Arc::new(Sink { json, ..Sink::default() });
    let writer = sink.clone();
    let started = thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&mut io::stderr()));
    // Without a thread, tracing writes the lines.
    if started.is_ok() {
        let _ = SINK.set(sink);
    }
}

/// Waits until the lines so far are written, for at most a second.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        let mut state = sink.state.lock();
        sink.written.wait_while_for(&mut state, |state| state.writing || !state.lines.is_empty(), LAST_LINES);
    }
}

#[derive(Default)]
struct Sink {
    json: bool,
    state: Mutex<State>,
    /// A first line has come.
    come: Condvar,
    /// All lines are written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// The writer has lines that are not written yet.
    writing: bool,
}

thread_local! {
    /// The clock and the line of this thread, kept for their memory.
    static LINE: RefCell<(Clock, Vec<u8>)> = RefCell::default();
}

impl Sink {
    /// Appends the line of a record; `false` where there is no room for it.
    fn add(&self, record: &Record) -> bool {
        LINE.with_borrow_mut(|(clock, line)| {
            line.clear();
            let now = clock.text(SystemTime::now());
            match self.json {
                true => json_line(record, now, line),
                false => text_line(record, now, line),
            }
            self.append(line)
        })
    }

    fn append(&self, line: &[u8]) -> bool {
        let mut state = self.state.lock();
        if state.lines.len() >= MOST {
            return false;
        }
        let is_first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if is_first {
            self.come.notify_one();
        }
        true
    }

    /// Writes lines for as long as the process lives.
    fn run(&self, out: &mut dyn io::Write) {
        let mut taken = Vec::new();
        loop {
            {
                let mut state = self.state.lock();
                state.writing = false;
                if state.lines.is_empty() {
                    self.written.notify_all();
                    self.come.wait_while(&mut state, |state| state.lines.is_empty());
                }
                state.writing = true;
            }
            thread::sleep(GATHER);
            std::mem::swap(&mut taken, &mut self.state.lock().lines);
            // Nobody can be told that the log cannot be written.
            let _ = out.write_all(&taken);
            taken.clear();
        }
    }
}

/// Writes moments as RFC 3339 with microseconds. The text of the second is kept: most lines share it.
#[derive(Default)]
struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn text(&mut self, now: SystemTime) -> &str {
        const SECONDS: usize = "2026-11-29T09:50:33".len();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() || self.text.is_empty() {
            self.second = since.as_secs();
            let at = jiff::Timestamp::from_second(i64::try_from(self.second).unwrap_or_default()).unwrap_or_default();
            self.text.clear();
            let _ = write!(self.text, "{at}");
        }
        self.text.truncate(SECONDS);
        let mut digits = *b".000000Z";
        let mut micros = since.subsec_micros();
        for digit in digits[1..7].iter_mut().rev() {
            *digit = b'0' + (micros % 10) as u8;
            micros /= 10;
        }
        self.text.extend(digits.map(char::from));
        &self.text
    }
}

/// What a line says, in its order; `None` is left out.
fn fields(record: &Record, each: &mut dyn FnMut(&'static str, Field<'_>)) {
    let usage = record.usage.unwrap_or_default();
    each("id", Field::Word(&record.id));
    each("method", Field::Text(record.method.as_str()));
    each("path", Field::Text(record.uri.path()));
    each("status", Field::Number(record.status.into()));
    each("endpoint", Field::Text(record.endpoint));
    if let Some(tenant) = &record.tenant {
        each("tenant", Field::Text(tenant.as_str()));
    }
    if let Some(token) = &record.token {
        each("token", Field::Text(token.as_str()));
    }
    each("provider", Field::Text(&record.provider));
    each("model", Field::Text(&record.model));
    each("attempts", Field::Number(record.attempts.into()));
    each("cache", Field::Text(record.cache));
    each("prompt_tokens", Field::Number(usage.prompt_tokens));
    each("completion_tokens", Field::Number(usage.completion_tokens));
    if let Some(cost) = &record.cost {
        each("cost_usd", Field::Quoted(cost));
    }
    each("cost_basis", Field::Text(record.basis));
    if let Some(after) = record.first_byte {
        each("first_byte_ms", Field::Milliseconds(after));
    }
    each("duration_ms", Field::Milliseconds(record.duration));
    if let Some(error) = &record.error {
        each("error", Field::Text(error));
    }
}

enum Field<'a> {
    /// What prints only letters, digits and underscores: bare in text, a string in JSON.
    Word(&'a dyn std::fmt::Display),
    /// The same as a string in both.
    Quoted(&'a dyn std::fmt::Display),
    Text(&'a str),
    Number(u64),
    Milliseconds(Duration),
}

fn text_line(record: &Record, now: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(now.as_bytes());
    out.extend_from_slice(b"  INFO chittycan::access:");
    fields(record, &mut |name, field| {
        out.push(b' ');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        // Writing to a `Vec` cannot fail.
        let _ = match field {
            Field::Word(word) => write!(out, "{word}"),
            Field::Quoted(word) => write!(out, "\"{word}\""),
            Field::Text(text) if is_plain(text) => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
                Ok(())
            }
            Field::Text(text) => write!(out, "{text:?}"),
            Field::Number(number) => push_number(number, out),
            Field::Milliseconds(time) => push_milliseconds(time, out),
        };
    });
    out.push(b'\n');
}

fn json_line(record: &Record, now: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(now.as_bytes());
    out.extend_from_slice(b"\",\"level\":\"INFO\"");
    fields(record, &mut |name, field| {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        let _ = match field {
            Field::Word(word) | Field::Quoted(word) => write!(out, "\"{word}\""),
            // Texts always serialise.
            Field::Text(text) => text.serialize(&mut serde_json::Serializer::new(&mut *out)).map_err(io::Error::from),
            Field::Number(number) => push_number(number, out),
            Field::Milliseconds(time) => push_milliseconds(time, out),
        };
    });
    out.extend_from_slice(b",\"target\":\"chittycan::access\"}\n");
}

/// Whether `{:?}` would write the text as it is, between quotes.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\')
}

fn push_number(number: u64, out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Ok(())
}

/// With three decimal places, and at least one digit before them.
fn push_milliseconds(time: Duration, out: &mut Vec<u8>) -> io::Result<()> {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    push_number(micros / 1_000, out)?;
    let rest = (micros % 1_000) as u16;
    out.extend([b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8]);
    Ok(())
}

/// The line as an event of tracing.
fn event(record: &Record) {
    let usage = record.usage.unwrap_or_default();
    tracing::info!(
        target: "chittycan::access",
        id = %record.id,
        method = record.method.as_str(),
        path = record.uri.path(),
        status = record.status,
        endpoint = record.endpoint,
        tenant = record.tenant.as_ref().map(|tenant| tenant.as_str()),
        token = record.token.as_ref().map(|token| token.as_str()),
        provider = &*record.provider,
        model = &*record.model,
        attempts = record.attempts,
        cache = record.cache,
        prompt_tokens = usage.prompt_tokens,
        completion_tokens = usage.completion_tokens,
        cost_usd = record.cost.map(|cost| cost.to_string()),
        cost_basis = record.basis,
        first_byte_ms = record.first_byte.map(|after| after.as_secs_f64() * 1e3),
        duration_ms = record.duration.as_secs_f64() * 1e3,
        error = record.error.as_deref(),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use serde_json::{Value, json};
    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;
    use crate::{
        telemetry::tests::record,
        types::{NanoUsd, Usage},
    };

    fn samples() -> [Record; 3] {
        let whole = Record {
            token: Some("tok_1".into()),
            usage: Some(Usage { prompt_tokens: 1_000, completion_tokens: u64::MAX, ..Usage::default() }),
            cost: Some(NanoUsd(3_000_001)),
            first_byte: Some(Duration::from_micros(1_500)),
            duration: Duration::from_micros(1_250_500),
            error: Some("upstream_timeout".into()),
            ..record("openai")
        };
        let odd = Record {
            tenant: Some("t\"\\\u{1b}\n\u{e9}\u{2028}".into()),
            model: "\u{1f600}\u{7f}\t{}".into(),
            duration: Duration::from_micros(500),
            ..record("\0")
        };
        [whole, odd, Record { tenant: None, ..record("-") }]
    }

    /// Takes what a subscriber writes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn by_tracing(record: &Record, json: bool) -> String {
        let written = Written::default();
        let out = written.clone();
        let layer = fmt::layer().with_writer(move || out.clone()).with_ansi(false);
        let run = || event(record);
        match json {
            true => {
                let layer = layer.json().flatten_event(true).with_current_span(false).with_span_list(false);
                tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), run);
            }
            false => tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), run),
        }
        String::from_utf8(written.0.lock().clone()).unwrap()
    }

    #[test]
    fn lines_are_those_that_tracing_writes() {
        for record in samples() {
            let mut line = Vec::new();
            text_line(&record, "2026-11-29T09:50:33.000001Z", &mut line);
            let (line, theirs) = (String::from_utf8(line).unwrap(), by_tracing(&record, false));
            // Milliseconds have three decimal places here.
            let settled =
                |line: &str| line[27..].replace("1.500 ", "1.5 ").replace("0.500", "0.5").replace("3.000", "3.0");
            assert_eq!(settled(&line), settled(&theirs));
            assert_eq!(line.matches('\n').count(), 1, "{line}");

            let mut line = Vec::new();
            json_line(&record, "2026-11-29T09:50:33.000001Z", &mut line);
            let settled = |line: &str| {
                let mut value: Value = serde_json::from_str(line).unwrap();
                value["timestamp"] = json!(value["timestamp"].as_str().unwrap().len());
                value
            };
            let line = String::from_utf8(line).unwrap();
            assert_eq!(settled(&line), settled(&by_tracing(&record, true)));
            assert_eq!(line.matches('\n').count(), 1, "{line}");
        }
    }

    #[test]
    fn a_moment_is_written_to_the_microsecond() {
        let mut clock = Clock::default();
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_785_000_033_000_042, "2026-07-25T17:20:33.000042Z"),
            (1_785_000_033_999_999, "2026-07-25T17:20:33.999999Z"),
            (1_785_000_034_000_000, "2026-07-25T17:20:34.000000Z"),
        ] {
            assert_eq!(clock.text(UNIX_EPOCH + Duration::from_micros(micros)), text);
        }
    }

    /// A standard error that takes nothing before it is told to.
    struct Stuck(Arc<Barrier>, mpsc::Sender<Vec<u8>>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.wait();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_costs_lines_and_holds_nobody_up() {
        let (sink, go) = (Arc::new(Sink::default()), Arc::new(Barrier::new(2)));
        let (sender, received) = mpsc::channel();
        let (writer, mut out) = (sink.clone(), Stuck(go.clone(), sender));
        thread::spawn(move || writer.run(&mut out));
        let record = record("openai");
        let mut line = Vec::new();
        text_line(&record, "2026-11-29T09:50:33.000001Z", &mut line);
        // Twice what there is room for: at most one buffer is with the writer, and one waits.
        let added = (0..3 * MOST / line.len()).filter(|_| sink.add(&record)).count();
        assert!((MOST / line.len()..=2 * MOST / line.len() + 2).contains(&added), "{added}");
        // What was added is written, whole.
        let mut written = 0;
        while written < added {
            go.wait();
            let bytes = received.recv().unwrap();
            assert!(bytes.ends_with(b"\n") && bytes.len().is_multiple_of(line.len()));
            written += bytes.len() / line.len();
        }
        assert_eq!(written, added);
        assert!(sink.add(&record), "there is room again");
        go.wait();
        received.recv().unwrap();
    }
}
