//! What the gateway does to every body and every stream event, measured without a socket.
//!
//! `cargo bench --bench micro`; compare two commits with `-- --save-baseline before` and `-- --baseline before`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use chittycan::openai::{
    Edit, Field, Peek, RelayOptions, StreamKind, StreamRelay, escape_json_string, find_service_tier, find_usage,
    include_usage_edit, splice,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A chat request of about `size` bytes whose prompt is prose with some line breaks and quotes.
fn request(size: usize) -> Bytes {
    let prose = "Tell me about the \"lazy\" dog.\nIt sleeps a lot, and it does so in the sun. ".repeat(size / 72 + 1);
    let content = escape_json_string(&prose[..size - 140]);
    Bytes::from(format!(
        "{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":{content}}}],\"temperature\":0,\"max_tokens\":256,\"stream\":true}}"
    ))
}

/// A chat reply of about `size` bytes with its usage behind the text, as OpenAI sends it.
fn reply(size: usize) -> String {
    let prose = "The dog is \"lazy\".\nIt sleeps a lot, and it does so in the sun. ".repeat(size / 62 + 1);
    let content = escape_json_string(&prose[..size.saturating_sub(500).max(1)]);
    format!(
        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":{content},\"refusal\":null}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21,\"prompt_tokens_details\":{{\"cached_tokens\":0,\"audio_tokens\":0}},\"completion_tokens_details\":{{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}}},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\"}}"
    )
}

fn bodies(c: &mut Criterion) {
    for (name, size) in [("1KiB", 1 << 10), ("64KiB", 64 << 10)] {
        let body = request(size);
        let peek = Peek::parse(&body).unwrap();
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("peek", |b| b.iter(|| Peek::parse(black_box(&body))));
        group.bench_function("splice_model", |b| {
            b.iter(|| splice(black_box(&body), &peek, &[Edit::Set(Field::Model, "\"gpt-4o-mini-2024-07-18\"".into())]));
        });
        group.bench_function("splice_model_and_include_usage", |b| {
            b.iter(|| {
                let mut edits = vec![Edit::Set(Field::Model, "\"gpt-4o-mini-2024-07-18\"".into())];
                edits.extend(include_usage_edit(black_box(&body), &peek));
                splice(&body, &peek, &edits)
            });
        });
        group.bench_function("splice_rename", |b| {
            b.iter(|| splice(black_box(&body), &peek, &[Edit::Rename(Field::MaxTokens, "max_completion_tokens")]));
        });
        let reply = reply(size);
        group.bench_function("find_usage", |b| b.iter(|| find_usage(black_box(reply.as_bytes()))));
        group.bench_function("find_service_tier", |b| b.iter(|| find_service_tier(black_box(reply.as_bytes()))));
        group.finish();
    }
}

/// Each iteration relays one event that comes as one chunk, as providers send them.
fn relay(c: &mut Criterion) {
    let event = |usage: &str| {
        Bytes::from(format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word\"}},\"logprobs\":null,\"finish_reason\":null}}]{usage},\"obfuscation\":\"abcdefgh\"}}\n\n"
        ))
    };
    let delta = Bytes::from_static(
        b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\" word\",\"logprobs\":[],\"obfuscation\":\"abcdefgh\"}\n\n",
    );
    let mut group = c.benchmark_group("relay_event");
    let (plain, hide) = (RelayOptions::default(), RelayOptions { hide_usage: true, repair_tools: false });
    for (name, kind, options, event) in [
        ("plain", StreamKind::Chat, plain, event("")),
        ("hide_usage_nothing_to_cut", StreamKind::Chat, hide, event("")),
        ("hide_usage_cut_null", StreamKind::Chat, hide, event(",\"usage\":null")),
        ("repair_tools_no_call", StreamKind::Chat, RelayOptions { repair_tools: true, ..plain }, event("")),
        ("responses", StreamKind::Responses, plain, delta),
    ] {
        let mut relay = StreamRelay::new(kind, options);
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_function(name, |b| b.iter(|| relay.feed(black_box(event.clone()))));
    }
    // The same event split over two chunks, which costs the copy.
    let event = event("");
    let (head, tail) = (event.slice(..100), event.slice(100..));
    let mut relay = StreamRelay::new(StreamKind::Chat, RelayOptions::default());
    group.bench_function("plain_split", |b| {
        b.iter(|| {
            black_box(relay.feed(head.clone()));
            relay.feed(tail.clone())
        });
    });
    group.finish();
}

criterion_group!(benches, bodies, relay);
criterion_main!(benches);
