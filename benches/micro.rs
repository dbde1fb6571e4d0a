//! What the gateway does to every body and every stream event, measured without a socket.
//!
//! `cargo bench --bench micro`; compare two commits with `-- --save-baseline before` and `-- --baseline before`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chittycan::{
    cache::{self, KeyParts, Shelf},
    config::{self, Period},
    dialect::{Model, from_responses::Memory},
    identity::{Directory, NewToken, Scopes, Tokens},
    ledger::{Basis, Entry, Ledger, Rule, Subject},
    limits::{Meter, Permit, Rules},
    openai::{
        Bound, Edit, Endpoint, Field, Peek, RelayOptions, StreamKind, StreamRelay, canonical, escape_json_string,
        find_service_tier, find_usage, generated_text, include_usage_edit, splice, to_events, to_json,
    },
    providers::exchange,
    tokenizer,
    types::{NanoUsd, PromptCaching, RequestId, TenantId, Usage, unix_now},
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
        group.bench_function("bound", |b| b.iter(|| Bound::of(&Endpoint::ChatCompletions, black_box(&body), &peek)));
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
        group.bench_function("canonical", |b| {
            b.iter(|| {
                let mut out = Vec::new();
                canonical(black_box(&body), |key| key == "model", &mut out);
                out
            });
        });
        let (namespace, endpoint, family) = (&b"tenant"[..], "chat_completions", "gpt-4o-mini");
        let parts = KeyParts { namespace, endpoint, family, query: "", headers: &[], body: &body };
        group.bench_function("cache_key", |b| b.iter(|| black_box(parts).key()));
        let reply = reply(size);
        group.bench_function("find_usage", |b| b.iter(|| find_usage(black_box(reply.as_bytes()))));
        group.bench_function("find_service_tier", |b| b.iter(|| find_service_tier(black_box(reply.as_bytes()))));
        group.bench_function("generated_text", |b| b.iter(|| generated_text(black_box(reply.as_bytes()))));
        group.finish();
    }
}

/// A stored reply in its other form: 1 KiB of JSON as events, a stream of 300 events as JSON.
fn convert(c: &mut Criterion) {
    let endpoint = Endpoint::ChatCompletions;
    let reply = reply(1 << 10);
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{choices}],\"usage\":{usage},\"obfuscation\":\"abcdefgh\"}}\n\n"
        )
    };
    let choice = |delta: &str, reason: &str| {
        format!("{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{reason}}}")
    };
    let mut events = chunk(&choice("\"content\":\" word\"", "null"), "null").repeat(297);
    events.push_str(&chunk(&choice("", "\"stop\""), "null"));
    events.push_str(&chunk("", "{\"prompt_tokens\":9,\"completion_tokens\":297,\"total_tokens\":306}"));
    events.push_str("data: [DONE]\n\n");
    assert!(to_json(&endpoint, events.as_bytes()).is_some());
    let mut group = c.benchmark_group("convert");
    group.throughput(Throughput::Bytes(reply.len() as u64));
    group.bench_function("to_events", |b| b.iter(|| to_events(&endpoint, black_box(reply.as_bytes()))));
    group.throughput(Throughput::Bytes(events.len() as u64));
    group.bench_function("to_json", |b| b.iter(|| to_json(&endpoint, black_box(events.as_bytes()))));
    group.finish();
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
        ("responses", StreamKind::Responses, plain, delta.clone()),
    ] {
        let mut relay = StreamRelay::new(kind, options);
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_function(name, |b| b.iter(|| relay.feed(black_box(event.clone()))));
    }
    // With the generated text kept for counting.
    for (name, kind, event) in
        [("tally", StreamKind::Chat, event("")), ("tally_responses", StreamKind::Responses, delta.clone())]
    {
        let mut relay = StreamRelay::new(kind, plain).tallying(true);
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let out = relay.feed(black_box(event.clone()));
                if relay.generated_pending() > 16 << 10 {
                    black_box(relay.take_generated());
                }
                out
            });
        });
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

fn tokens(c: &mut Criterion) {
    let text = "The dog sleeps in the sun, and it doesn't care about what you say. Schöne Grüße!\n".repeat(200);
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for model in ["gpt-4", "gpt-4o"] {
        tokenizer::count(model, "load");
        group.bench_function(model, |b| b.iter(|| tokenizer::count(model, black_box(&text))));
    }
    group.finish();
}

/// One request past a token's and a tenant's meter, with all limits and with none.
fn limits(c: &mut Criterion) {
    let all = Rules {
        requests_per_second: Some(1 << 40),
        requests_per_minute: Some(1 << 40),
        tokens_per_minute: Some(1 << 50),
        usd_per_minute: Some(NanoUsd(1 << 60)),
        concurrent_requests: Some(1 << 40),
    };
    let mut group = c.benchmark_group("limits");
    for (name, rules) in [("all", all), ("none", Rules::default())] {
        let chain: Arc<[Arc<Meter>]> = Arc::new([Arc::new(Meter::new(rules)), Arc::new(Meter::new(rules))]);
        group.bench_function(format!("{name}_enter_charge_correct"), |b| {
            b.iter(|| {
                let mut permit = Permit::enter(black_box(chain.clone())).unwrap();
                permit.charge(1_000, NanoUsd(5_000)).unwrap();
                permit.correct(800, NanoUsd(4_000));
            });
        });
    }
    group.finish();
}

/// One token found; one reservation in two budgets with its intent on disk, settled with its entry on the way there.
fn money(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("can.db");
    let database = config::Database {
        path: path.clone(),
        on_failure: config::OnFailure::Serve,
        retention: Duration::MAX,
        refusal_retention: Duration::MAX,
    };
    let ledger = Ledger::open(chittycan::store::sqlite::at(&path), &database).unwrap();
    let rule = config::Budget {
        limit: NanoUsd(1 << 62),
        period: Period::Monthly,
        timezone: "UTC".into(),
        hard: true,
        alert_at: vec![50, 80, 100],
    };
    let [team, company] = ["team", "company"].map(TenantId::from);
    let rules = [&team, &company].map(|owner| Rule { owner, budget: &rule, covers: Arc::new(|_| true) });
    let account = ledger.account(&team, &rules);
    let team = NewToken {
        tenant: "team".into(),
        name: None,
        scopes: Scopes::CLIENT,
        models: Vec::new(),
        limits: config::Limits::default(),
        expires_at: None,
    };
    let (_, secret) = Tokens(&mut *chittycan::store::sqlite::at(&path).connect().unwrap().0).create(&team).unwrap();
    let directory = Directory::follow(chittycan::store::sqlite::at(&path));
    let mut group = c.benchmark_group("money");
    group.bench_function("authenticate", |b| b.iter(|| directory.authenticate(black_box(secret.expose())).unwrap()));
    let once = || {
        let subject = Subject {
            id: RequestId::now(),
            at: unix_now(),
            tenant: "team".into(),
            token: None,
            endpoint: "chat_completions",
            route: "gpt-4o".into(),
        };
        let reservation = ledger.reserve(&account, subject.clone(), NanoUsd(5_000)).unwrap();
        reservation.settle(Entry::bare(subject, NanoUsd(3_000), Basis::Provider));
    };
    group.bench_function("reserve_settle", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for round in 0..iterations.div_ceil(10_000) {
                // The writer catches up between the rounds: its time is not the request's.
                ledger.flush(Duration::from_secs(60));
                let begun = Instant::now();
                (0..(iterations - round * 10_000).min(10_000)).for_each(|_| once());
                spent += begun.elapsed();
            }
            spent
        });
    });
    group.finish();
}

/// One reply found in memory, and one that is not there.
fn completion_cache(c: &mut Criterion) {
    let options = cache::StoreOptions { memory: 64 << 20, disk: None, max_entry: 1 << 20 };
    let store = cache::Store::open(&options).unwrap();
    let entry = Arc::new(cache::Entry {
        form: cache::Form::Json,
        body: reply(4 << 10).into(),
        born: unix_now(),
        stored: unix_now(),
        tenant: "team".into(),
        route: "gpt-4o".into(),
        provider: "openai".into(),
        model: "gpt-4o-2024-08-06".into(),
        dropped: "".into(),
        usage: Usage::default(),
        cost: NanoUsd(5_000),
    });
    let key = |number: u64| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        cache::Key(key)
    };
    (0..10_000).for_each(|number| store.insert(key(number), entry.clone(), &Shelf::default()));
    let mut group = c.benchmark_group("completion_cache");
    group.bench_function("peek_hit", |b| b.iter(|| store.peek(black_box(&key(9_999))).unwrap()));
    group.bench_function("peek_miss", |b| b.iter(|| store.peek(black_box(&key(1 << 40)))));
    group.finish();
}

/// One request and one text delta through each translator, and a delta through two.
fn dialects(c: &mut Criterion) {
    let source = config::Source { file: None, env: Arc::new(|_| None), simulate: false };
    let providers = config::Config::load_text("", &source).unwrap().config.providers;
    let chat = request(1 << 10);
    let text = std::str::from_utf8(&chat).unwrap();
    let responses = text.replace("\"messages\"", "\"input\"").replace("max_tokens", "max_output_tokens");
    let chunk = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" dog"},"finish_reason":null}]}"#;
    let delta = r#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" dog"}}"#;
    let line = r#"{"model":"m","created_at":"2026-11-24T00:00:00Z","message":{"role":"assistant","content":" dog"},"done":false}"#;
    let mut group = c.benchmark_group("dialects");
    for (name, endpoint, provider, body, event) in [
        ("chat_to_anthropic", Endpoint::ChatCompletions, "anthropic", text, delta),
        ("chat_to_ollama", Endpoint::ChatCompletions, "ollama", text, line),
        ("messages_to_chat", Endpoint::Messages, "groq", text, chunk),
        ("responses_to_chat", Endpoint::Responses, "groq", &responses, chunk),
        ("responses_to_anthropic", Endpoint::Responses, "anthropic", &responses, delta),
    ] {
        let provider = &providers[provider];
        let model = Model {
            name: "claude-sonnet-4-5",
            max_output_tokens: Some(64_000),
            default_max_tokens: None,
            context: None,
            prompt_caching: PromptCaching::Auto,
        };
        let once =
            || exchange::translate(&endpoint, provider, &model, Memory::default(), black_box(body.as_bytes())).unwrap();
        group.bench_function(format!("{name}/request_1KiB"), |b| b.iter(once));
        let (_, exchange) = once();
        let mut stream = exchange.stream();
        let event = Bytes::from(format!("{event}\n\n"));
        group.bench_function(format!("{name}/text_delta"), |b| b.iter(|| stream.feed(black_box(&event).clone())));
    }
    group.finish();
}

criterion_group!(benches, bodies, convert, dialects, relay, tokens, limits, completion_cache, money);
criterion_main!(benches);
