//! Any request, reply and stream through every translator: no panic, valid JSON, events in their grammar's order, and an output that
//! does not depend on how the stream was cut.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use chittycan::config::{Config, Dialect, Provider, Source};
use chittycan::dialect::{self, Model};
use chittycan::openai::{Endpoint, Peek};
use chittycan::providers::exchange::{Exchange, is_translated, translate};
use chittycan::sse::Scanner;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A provider of each dialect.
static PROVIDERS: LazyLock<[Arc<Provider>; 3]> = LazyLock::new(|| {
    let source = Source { file: None, env: Arc::new(|_| None), simulate: false };
    let config = Config::load_text("", &source).expect("the default configuration").config;
    ["groq", "anthropic", "ollama"].map(|name| config.providers[name].clone())
});

const MODELS: [&str; 4] = ["claude-sonnet-4-5", "claude-3-5-sonnet", "claude-opus-4-8", "gpt-oss:20b"];

fuzz_target!(|input: (u8, u8, &[u8], &[u8])| {
    let (choice, size, request, reply) = (input.0, usize::from(input.1) + 1, input.2, input.3);
    let endpoints = [Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Responses];
    let endpoint = &endpoints[usize::from(choice) % 3];
    let provider = &PROVIDERS[usize::from(choice / 3) % 3];
    let model = Model {
        name: MODELS[usize::from(choice / 9) % 4],
        max_output_tokens: (choice & 64 != 0).then_some(64_000),
        default_max_tokens: None,
        context: None,
    };
    if !is_translated(endpoint, provider) || Peek::parse(request).is_err() {
        return;
    }
    let Ok((body, exchange)) = translate(endpoint, provider, &model, request) else { return };
    serde_json::from_slice::<Value>(&body).expect("a request is JSON");
    if let Some(json) = exchange.json(reply) {
        serde_json::from_slice::<Value>(&json).expect("a reply is JSON");
    }
    let whole = stream(&exchange, reply, reply.len().max(1));
    if provider.dialect != Dialect::Ollama {
        // Ollama names no reply, so each gets an id of its own.
        assert_eq!(undated(&stream(&exchange, reply, size)), undated(&whole), "the cut shows");
    }
    check(endpoint, &whole);
});

fn stream(exchange: &Exchange, reply: &[u8], size: usize) -> String {
    let mut translator = exchange.stream();
    let mut out = Vec::new();
    for chunk in reply.chunks(size) {
        out.extend_from_slice(&translator.feed(Bytes::copy_from_slice(chunk)).expect("small events"));
    }
    out.extend_from_slice(&translator.finish().expect("small events"));
    String::from_utf8(out).expect("a stream is text")
}

/// The stream without the second in which it began.
fn undated(stream: &str) -> String {
    let undated = |piece: &str| match piece.split_once(':') {
        Some((key, rest)) => format!("{key}{}", rest.trim_start_matches(|digit: char| digit.is_ascii_digit())),
        None => piece.to_owned(),
    };
    stream.split("\"created").map(undated).collect()
}

/// Every event is JSON or `[DONE]`, nothing follows the end, and Anthropic's events come in their order.
fn check(endpoint: &Endpoint, stream: &str) {
    let mut scanner = Scanner::new();
    scanner.push(Bytes::copy_from_slice(stream.as_bytes()));
    let (mut ended, mut started, mut open) = (false, false, None);
    while let Some(event) = scanner.next_event().expect("small events") {
        let fields = event.fields();
        let Some(data) = fields.data.as_deref() else { continue };
        assert!(!ended, "something follows the end: {stream}");
        if data == b"[DONE]" {
            ended = true;
            continue;
        }
        let value: Value = serde_json::from_slice(data).expect("an event is JSON");
        ended |= value.get("error").is_some_and(|error| error.is_object()) && *endpoint != Endpoint::Responses;
        if *endpoint != Endpoint::Messages {
            continue;
        }
        let index = value["index"].as_u64();
        match value["type"].as_str().expect("a type") {
            "message_start" => assert!(!std::mem::replace(&mut started, true), "two starts: {stream}"),
            "content_block_start" => assert!(started && open.replace(index).is_none(), "blocks overlap: {stream}"),
            "content_block_delta" => assert_eq!(open, Some(index), "a delta outside its block: {stream}"),
            "content_block_stop" => assert_eq!(open.take(), Some(index), "a stop outside its block: {stream}"),
            "message_delta" => assert!(started && open.is_none(), "a block is open at the end: {stream}"),
            "message_stop" => ended = true,
            "ping" | "error" => {}
            other => panic!("{other} is none of the grammar's: {stream}"),
        }
    }
    if *endpoint == Endpoint::Messages && ended {
        let _ = dialect::to_json(endpoint, stream.as_bytes());
    }
}
