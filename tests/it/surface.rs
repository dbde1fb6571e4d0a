//! What is offered under /v1/: models from the routes, headers on replies, everything else untouched.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;

use crate::support::{Answer, Fake, Gateway, Step, chat, fake::send, gateway::providers, raw::Client};

#[tokio::test(flavor = "multi_thread")]
async fn models_come_from_the_routes() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let list: Value = reqwest::get(gateway.url("/v1/models")).await.unwrap().json().await.unwrap();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    for model in ["gpt-4o", "gpt-4o-mini", "o3-mini", "text-embedding-3-small", "claude-sonnet-4", "llama-3-70b"] {
        assert!(ids.contains(&model), "{model} is missing in {ids:?}");
    }
    for (id, owner) in [("gpt-4o", "openai"), ("claude-opus-9", "anthropic"), ("groq/openai/gpt-oss-20b", "groq")] {
        let model: Value = reqwest::get(gateway.url(&format!("/v1/models/{id}"))).await.unwrap().json().await.unwrap();
        assert_eq!((&model["id"], &model["owned_by"], &model["object"]), (&id.into(), &owner.into(), &"model".into()));
    }
    let unknown = reqwest::get(gateway.url("/v1/models/nothing-like-it")).await.unwrap();
    assert_eq!(unknown.status().as_u16(), 404);
    assert_eq!(unknown.json::<Value>().await.unwrap()["error"]["code"], "model_not_found");
    assert_eq!(fake.count(), 1, "only the default provider can tell of that one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_reply_carries_its_true_cost_and_who_served_it() {
    let fake = Fake::always(
        Answer::completion()
            .header("x-request-id", "req_provider")
            .header("openai-processing-ms", "12")
            .header("x-ratelimit-limit-requests", "10000")
            .header("set-cookie", "__cf_bm=secret")
            .header("alt-svc", "h3=\":443\""),
    )
    .await;
    let gateway = Gateway::over(fake.address);
    let reply =
        reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(chat("gpt-4o", "")).send().await.unwrap();
    let headers = reply.headers();
    // (600 x 2.50 + 400 cached x 1.25 + 100 x 10.00) USD per million.
    assert_eq!(headers["x-chittycan-cost"], "0.003");
    assert_eq!(headers["x-chittycan-model"], "gpt-4o");
    assert_eq!(headers["x-chittycan-provider"], "openai");
    assert_eq!(headers["x-chittycan-cache"], "BYPASS");
    assert_eq!(headers["x-request-id"], "req_provider");
    assert_eq!(headers["openai-processing-ms"], "12");
    assert_eq!(headers["x-ratelimit-limit-requests"], "10000");
    assert!(!headers.contains_key("set-cookie") && !headers.contains_key("alt-svc"));
    assert_eq!(reply.text().await.unwrap(), crate::support::COMPLETION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_has_no_cost_header_and_is_counted() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let body = chat("made-up-model", "");
    let reply = reqwest::Client::new().post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap();
    assert!(!reply.headers().contains_key("x-chittycan-cost"));
    reply.bytes().await.unwrap();
    gateway.metrics_with("can_unpriced_requests_total{model=\"default\",provider=\"openai\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_over_the_bound_passes_whole_without_a_cost() {
    let long = crate::support::COMPLETION.replace("Hello there friend", &"word ".repeat(40_000));
    for sized in [true, false] {
        let steps: Vec<_> = long.as_bytes().chunks(10_000).map(|c| Step::Send(Bytes::copy_from_slice(c))).collect();
        let fake = Fake::always(Answer { sized, steps, ..Answer::completion() }).await;
        let yaml = format!("http: {{max_held_reply: 64KiB}}\n{}", providers(&[("openai", fake.address)]));
        let gateway = Gateway::start(&yaml);
        let reply = reqwest::Client::new()
            .post(gateway.url("/v1/chat/completions"))
            .body(chat("gpt-4o", ""))
            .send()
            .await
            .unwrap();
        assert!(!reply.headers().contains_key("x-chittycan-cost"));
        assert_eq!(reply.text().await.unwrap(), long);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_moderations_completions_and_responses_are_routed_and_priced() {
    let usage = r#"{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":1000,"total_tokens":1000}}"#;
    let response = r#"{"id":"resp_1","object":"response","status":"completed","output":[],"usage":{"input_tokens":1000,"input_tokens_details":{"cached_tokens":0},"output_tokens":100,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":1100}}"#;
    let fake =
        Fake::start(move |seen, _| Answer::json(200, if seen.path == "/v1/responses" { response } else { usage }))
            .await;
    let gateway = Gateway::over(fake.address);
    for (path, model, cost) in [
        ("/v1/embeddings", "text-embedding-3-small", Some("0.00002")),
        ("/v1/moderations", "omni-moderation-latest", Some("0")),
        ("/v1/completions", "gpt-3.5-turbo-instruct", Some("0.0015")),
        ("/v1/responses", "gpt-4o", Some("0.0035")),
    ] {
        let body = format!(r#"{{"model":"{model}","input":"{}"}}"#, "x".repeat(1_200));
        let reply = reqwest::Client::new().post(gateway.url(path)).body(body.clone()).send().await.unwrap();
        let headers = reply.headers();
        assert_eq!(reply.status().as_u16(), 200, "{path}");
        assert_eq!(headers.get("x-chittycan-cost").map(|v| v.to_str().unwrap()), cost, "{path}");
        assert_eq!(headers["x-chittycan-model"], model, "{path}");
        assert_eq!((fake.last().path.as_str(), fake.last().body), (path, Bytes::from(body)), "untouched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_patterns_prefixes_and_default_choose_the_provider() {
    let openai = Fake::always(Answer::completion()).await;
    let other = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", openai.address), ("other", other.address)]).replace(
        "default_provider",
        "  - {model: fast, aliases: [quick, speedy], to: [other/tiny-1]}\n  - {model: \"tiny-*\", to: [other]}\ndefault_provider",
    );
    let gateway = Gateway::start(&yaml);
    for (asked, provider, sent) in [
        ("gpt-4o", "openai", "gpt-4o"),
        ("fast", "other", "tiny-1"),
        ("speedy", "other", "tiny-1"),
        ("tiny-7b", "other", "tiny-7b"),
        ("other/some/model", "other", "some/model"),
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("unheard-of", "openai", "unheard-of"),
    ] {
        let reply = reqwest::Client::new()
            .post(gateway.url("/v1/chat/completions"))
            .body(chat(asked, ""))
            .send()
            .await
            .unwrap();
        assert_eq!(reply.headers()["x-chittycan-provider"], provider, "{asked}");
        assert_eq!(reply.headers()["x-chittycan-model"], sent, "{asked}");
        let fake = if provider == "openai" { &openai } else { &other };
        assert_eq!(fake.last().json()["model"], sent, "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_path_and_method_passes_but_for_unknown_headers() {
    let fake = Fake::always(
        Answer {
            sized: false,
            steps: vec![send("part one "), Step::Wait(Duration::from_millis(30)), send("part two")],
            ..Answer::completion()
        }
        .header("content-type", "application/octet-stream")
        .header("x-custom", "kept"),
    )
    .await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::new();
    for (method, path) in [
        ("GET", "/v1/files?purpose=batch&limit=2"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/audio/transcriptions"),
        ("PUT", "/v1/anything/else"),
        ("PATCH", "/v1/x"),
        ("POST", "/v1/vector_stores/vs_1/search?a=%20b"),
        ("DELETE", "/v1/models/ft:gpt-4o:mine"),
    ] {
        let body = if method == "GET" || method == "DELETE" { "" } else { "\u{0}not json\r\n--boundary" };
        let reply = client
            .request(method.parse().unwrap(), gateway.url(path))
            .header("content-type", "multipart/form-data; boundary=boundary")
            .header("x-mine", "yes")
            .header("openai-beta", "assistants=v2")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!((reply.status().as_u16(), &reply.headers()["x-custom"]), (200, &"kept".parse().unwrap()), "{path}");
        assert_eq!(reply.headers()["x-chittycan-provider"], "openai");
        assert_eq!(reply.text().await.unwrap(), "part one part two", "{method} {path}");
        let seen = fake.last();
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.body.as_ref()), (method, path, body.as_bytes()));
        assert_eq!((seen.header("x-mine"), seen.header("openai-beta")), (None, Some("assistants=v2")));
        assert_eq!(seen.header("host"), Some(fake.address.to_string().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_500_mb_upload_streams_through_in_constant_memory() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const TOTAL: usize = 500 << 20;
    // Counts and hashes in a process-wide constant amount of memory, unlike the recording fake.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, got) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0u8; 256 * 1024];
        let (mut head, mut length) = (Vec::new(), 0);
        let mut hasher = blake3::Hasher::new();
        while length < TOTAL {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the upload broke off after {length} bytes");
            let mut bytes = &buffer[..read];
            if length == 0 && !head.ends_with(b"\r\n\r\n") {
                head.extend_from_slice(bytes);
                let Some(at) = head.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                let rest = head.split_off(at + 4);
                length += rest.len();
                hasher.update(&rest);
                continue;
            }
            length += bytes.len();
            hasher.update(std::mem::take(&mut bytes));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let _ = report.send(hasher.finalize());
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let gateway = Gateway::over(address);
    let piece = Bytes::from((0..1 << 20).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let mut expected = blake3::Hasher::new();
    (0..500).for_each(|_| {
        expected.update(&piece);
    });
    let before = resident();
    let peak = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let pieces = {
        let peak = peak.clone();
        stream::iter(0..500).map(move |_| {
            peak.fetch_max(resident(), std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(piece.clone())
        })
    };
    let reply = reqwest::Client::new()
        .post(gateway.url("/v1/files"))
        .header("content-length", TOTAL)
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status().as_u16(), 200);
    assert_eq!(got.await.unwrap(), expected.finalize());
    let grown = peak.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(before);
    println!("500 MB uploaded, resident memory grew by {} KiB at most (client included)", grown >> 10);
    assert!(grown < 20 << 20, "resident memory grew by {grown} bytes");
}

/// Resident memory of this process, the gateway and the client in it, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_proxied() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, got) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0u8; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
        // A provider is a network away. Pingora 0.9.1 ends a WebSocket at once where the 101 is there before it has looked
        // at the request's empty body (cloudflare/pingora#946), which takes an answer within microseconds.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
            .await
            .unwrap();
        let _ = report.send(head);
        loop {
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    });
    let yaml = providers(&[("openai", address)]).replace("mapped", "mapped, timeouts: {read: 200ms}");
    let gateway = Gateway::start(&format!("http: {{body_timeout: 200ms}}\n{yaml}"));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client
        .write("GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nhost: gw\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer sk-mine\r\n\r\n")
        .await;
    let reply = client.reply().await.expect("a 101");
    assert_eq!((reply.status, reply.header("upgrade")), (101, Some("websocket")));
    let head = got.await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /v1/realtime?model=gpt-realtime http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer sk-gateway") && !head.contains("sk-mine"), "{head}");
    assert!(head.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="), "{head}");
    for frame in [&b"\x81\x05hello"[..], b"\x81\x03you"] {
        // Silence is no fault here, however short the timeouts for requests are.
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.write(frame).await;
        assert_eq!(client.read_some().await, frame);
    }
}
