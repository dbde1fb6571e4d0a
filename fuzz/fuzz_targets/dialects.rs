//! Any request, reply and stream through every translator: no panic, valid JSON, events in their grammar's order, and an output that
//! does not depend on how the stream was cut.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use chittycan::config::{Config, Provider, Source};
use chittycan::dialect::from_responses::Memory;
use chittycan::dialect::{self, Model};
use chittycan::openai::{Endpoint, Peek};
use chittycan::providers::exchange::{Exchange, is_translated, translate};
use chittycan::sse::Scanner;
use chittycan::types::PromptCaching;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A provider of each dialect.
static PROVIDERS: LazyLock<[Arc<Provider>; 3]> = LazyLock::new(|| {
    let source = Source { file: None, env: Arc::new(|_| None), simulate: false };
    let config = Config::load_text("", &source).expect("the default configuration").config;
    ["groq", "anthropic", "ollama"].map(|name| config.providers[name].clone())
});

const MODELS: [&str; 4] = ["claude-sonnet-4-5", "claude-3-5-sonnet", "claude-opus-4-8", "gpt-oss:20b"];

// The input: a byte that chooses endpoint, provider and model, one for the size of the pieces, the request, a NUL (no JSON has one),
// and the provider's reply. The golden files in `src/dialect/*/golden` make seeds.
fuzz_target!(|input: &[u8]| {
    let [choice, size, rest @ ..] = input else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let (request, reply) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let endpoints = [Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Responses];
    let endpoint = &endpoints[usize::from(choice % 3)];
    let provider = &PROVIDERS[usize::from(choice / 3 % 3)];
    let model = Model {
        name: MODELS[usize::from(choice / 9 % 4)],
        max_output_tokens: (choice & 64 != 0).then_some(64_000),
        default_max_tokens: None,
        context: None,
        prompt_caching: PromptCaching::Auto,
    };
    if !is_translated(endpoint, provider) || Peek::parse(request).is_err() {
        return;
    }
    let Ok((body, exchange)) = translate(endpoint, provider, &model, Memory { kept: choice & 128 != 0, ..Memory::default() }, request) else { return };
    serde_json::from_slice::<Value>(&body).expect("a request is JSON");
    if let Some(json) = exchange.json(reply) {
        serde_json::from_slice::<Value>(&json).expect("a reply is JSON");
        if let Some(events) = dialect::to_events(endpoint, &json) {
            check(endpoint, std::str::from_utf8(&events).expect("a stream is text"));
        }
    }
    let whole = stream(&exchange, reply, reply.len().max(1));
    assert_eq!(settled(&stream(&exchange, reply, usize::from(*size) + 1)), settled(&whole), "the cut shows");
    if check(endpoint, &whole)
        && let Some(json) = dialect::to_json(endpoint, whole.as_bytes())
    {
        serde_json::from_slice::<Value>(&json).expect("a stored reply is JSON");
    }
});

fn stream(exchange: &Exchange, reply: &[u8], size: usize) -> String {
    let mut translator = exchange.stream();
    let mut out = Vec::new();
    for chunk in reply.chunks(size) {
        out.extend_from_slice(&translator.feed(Bytes::copy_from_slice(chunk)).expect("small events"));
    }
    out.extend_from_slice(&translator.finish());
    String::from_utf8(out).expect("a stream is text")
}

/// The stream without what each translation makes anew: times, and ids of 32 hexadecimal digits.
fn settled(stream: &str) -> String {
    let mut out = String::with_capacity(stream.len());
    let mut rest = stream;
    while let Some(first) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_hexdigit()).len();
        let is_time = ["created\":", "created_at\":", "completed_at\":"].iter().any(|key| out.ends_with(key));
        match run {
            0 => out.push(first),
            32.. => out.push_str("ID"),
            _ if is_time => out.push_str("TIME"),
            _ => out.push_str(&rest[..run]),
        }
        rest = &rest[run.max(first.len_utf8())..];
    }
    out
}

/// Every event is JSON or `[DONE]`, nothing follows the end, Anthropic's events come in their order and those of Responses are
/// numbered. True for a stream that has its end.
fn check(endpoint: &Endpoint, stream: &str) -> bool {
    let mut scanner = Scanner::new();
    scanner.push(Bytes::copy_from_slice(stream.as_bytes()));
    let (mut ended, mut started, mut open, mut count) = (false, false, None, 0);
    while let Some(event) = scanner.next_event().expect("small events") {
        let fields = event.fields();
        let Some(data) = fields.data.as_deref() else { continue };
        assert!(!ended, "something follows the end: {stream}");
        if data == b"[DONE]" {
            assert_eq!(*endpoint, Endpoint::ChatCompletions, "a mark of Chat: {stream}");
            ended = true;
            continue;
        }
        let value: Value = serde_json::from_slice(data).expect("an event is JSON");
        if *endpoint == Endpoint::ChatCompletions {
            ended = value.get("error").is_some();
            continue;
        }
        let kind = value["type"].as_str().expect("a type");
        assert_eq!(fields.event, Some(kind.as_bytes()), "the name is not the type: {stream}");
        if *endpoint == Endpoint::Responses {
            assert_eq!(value["sequence_number"], count, "wrong number: {stream}");
            count += 1;
            ended = matches!(kind, "response.completed" | "response.incomplete" | "response.failed" | "error");
            continue;
        }
        let index = value["index"].as_u64();
        match kind {
            "message_start" => assert!(!std::mem::replace(&mut started, true), "two starts: {stream}"),
            "content_block_start" => {
                assert!(started && open.is_none() && index == Some(count), "blocks overlap: {stream}");
                (open, count) = (index, count + 1);
            }
            "content_block_delta" => assert!(open.is_some() && open == index, "a delta outside its block: {stream}"),
            "content_block_stop" => {
                assert!(open.is_some() && open.take() == index, "a stop outside its block: {stream}")
            }
            "message_delta" => assert!(started && open.is_none(), "a block is open at the end: {stream}"),
            "message_stop" | "error" => ended = true,
            "ping" => {}
            other => panic!("{other} is none of the grammar's: {stream}"),
        }
    }
    assert!(scanner.finish().is_none(), "the last event lacks its end: {stream}");
    ended
}
