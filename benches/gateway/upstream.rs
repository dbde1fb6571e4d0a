//! The mock upstream: a provider that answers at once with fixed bytes, or streams events at a set pace.
//!
//! A request orders its reply by a marker in its first message, which every proxy passes on untouched:
//! `bench:events=300;gap_us=5000;`, `bench:reply_bytes=1048576;`, `bench:hold=1;`. Each event carries the time
//! at which it was written, as `t=<nanoseconds>`.

use std::io::Write as _;
use std::time::Duration;

use memchr::memmem;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::wire::{Wire, now_ns};
use crate::{Failure, children};

/// The start of a body, where the order stands; the rest of a large one is counted and thrown away.
const KEPT: usize = 4096;

/// Plays the upstream until the parent process goes away. Tells it the address as one line on stdout.
pub async fn run() -> Result<(), Failure> {
    children::exit_with_parent();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that goes away ends its own conversation and nothing else.
        tokio::spawn(async move { converse(stream).await.ok() });
    }
}

async fn converse(stream: TcpStream) -> std::io::Result<()> {
    let mut wire = Wire::over(stream)?;
    let mut start = Vec::with_capacity(KEPT);
    while let Some(head) = wire.head().await? {
        let (mut body, mut length) = (head.body, 0);
        start.clear();
        while let Some(piece) = wire.piece(&mut body).await? {
            length += piece.len();
            start.extend_from_slice(&piece[..piece.len().min(KEPT - start.len())]);
        }
        let order = Order::read(&start);
        if head.start_line.contains("/v1/messages") {
            send_messages(&mut wire, &order).await?;
        } else if !head.start_line.contains("/chat/completions") {
            wire.send(&json(&format!(r#"{{"id":"file-bench","object":"file","bytes":{length}}}"#))).await?;
        } else if order.stream {
            send_events(&mut wire, &order).await?;
        } else {
            wire.send(&completion(order.reply_bytes)).await?;
        }
    }
    Ok(())
}

/// What a chat request asks the mock for.
#[derive(Debug, PartialEq)]
struct Order {
    stream: bool,
    /// Somebody asked for usage: a null in each chunk and a chunk of its own at the end.
    usage: bool,
    events: u64,
    gap: Duration,
    /// Leave the stream open, silent, after the events.
    hold: bool,
    /// The length of the answer's text.
    reply_bytes: usize,
}

impl Order {
    fn read(body: &[u8]) -> Self {
        let number = |key: &str| number_after(body, key).unwrap_or(0);
        Self {
            stream: has(body, br#""stream":true"#),
            usage: has(body, br#""include_usage":true"#),
            events: number("events="),
            gap: Duration::from_micros(number("gap_us=")),
            hold: number("hold=") > 0,
            reply_bytes: usize::try_from(number("reply_bytes=")).unwrap_or(0).max(300),
        }
    }
}

async fn send_events(wire: &mut Wire, order: &Order) -> std::io::Result<()> {
    wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let usage = if order.usage { r#","usage":null"# } else { "" };
    let gap = order.gap.max(Duration::from_micros(1));
    let mut ticks = interval_at(Instant::now() + gap, gap);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..order.events {
        ticks.tick().await;
        let delta = format!(r#"{{"index":0,"delta":{{"content":"t={} "}},"finish_reason":null}}"#, now_ns());
        wire.send(&event(&chunk(&delta, usage))).await?;
    }
    if order.hold {
        wire.closed().await;
        return Ok(());
    }
    wire.send(&event(&chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, usage))).await?;
    if order.usage {
        let counts = r#","usage":{"prompt_tokens":200,"completion_tokens":300,"total_tokens":500}"#;
        wire.send(&event(&chunk("", counts))).await?;
    }
    let mut end = event("[DONE]");
    end.extend_from_slice(b"0\r\n\r\n");
    wire.send(&end).await
}

/// The same stream in Anthropic's grammar.
async fn send_messages(wire: &mut Wire, order: &Order) -> std::io::Result<()> {
    wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let gap = order.gap.max(Duration::from_micros(1));
    let mut ticks = interval_at(Instant::now() + gap, gap);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = concat!(
        r#"{"type":"message_start","message":{"id":"msg_bench","type":"message","role":"assistant","#,
        r#""model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,"#,
        r#""usage":{"input_tokens":200,"output_tokens":1}}}"#
    );
    wire.send(&named("message_start", start)).await?;
    let block = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    wire.send(&named("content_block_start", block)).await?;
    for _ in 0..order.events {
        ticks.tick().await;
        let delta = format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"t={} "}}}}"#,
            now_ns()
        );
        wire.send(&named("content_block_delta", &delta)).await?;
    }
    wire.send(&named("content_block_stop", r#"{"type":"content_block_stop","index":0}"#)).await?;
    let last = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":300}}"#;
    wire.send(&named("message_delta", last)).await?;
    let mut end = named("message_stop", r#"{"type":"message_stop"}"#);
    end.extend_from_slice(b"0\r\n\r\n");
    wire.send(&end).await
}

/// One named event in an HTTP chunk of its own.
fn named(name: &str, data: &str) -> Vec<u8> {
    let event = format!("event: {name}\ndata: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

fn chunk(choice: &str, usage: &str) -> String {
    let head = r#""id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini""#;
    format!(r#"{{{head},"choices":[{choice}]{usage}}}"#)
}

/// One event in an HTTP chunk of its own.
fn event(data: &str) -> Vec<u8> {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// A JSON reply whose text has `length` bytes: at the default of 300 its body is about 0.7 KiB.
fn completion(length: usize) -> Vec<u8> {
    let text = "lorem ipsum ".repeat(length.div_ceil(12));
    json(&format!(
        concat!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1,"model":"gpt-4o-mini-2024-07-18","#,
            r#""choices":[{{"index":0,"message":{{"role":"assistant","content":"{}","refusal":null}},"#,
            r#""logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":200,"completion_tokens":60,"#,
            r#""total_tokens":260,"prompt_tokens_details":{{"cached_tokens":0}}}},"system_fingerprint":"fp_bench"}}"#
        ),
        &text[..length]
    ))
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// The decimal number right behind the first `key`.
pub fn number_after(bytes: &[u8], key: &str) -> Option<u64> {
    let digits = &bytes[memmem::find(bytes, key.as_bytes())? + key.len()..];
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    memmem::find(bytes, what).is_some()
}
