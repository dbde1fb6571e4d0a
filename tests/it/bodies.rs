//! Every body arrives at the provider as it should: any size, any framing, also on a second attempt.

use std::time::{Duration, Instant};

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers, raw::Client};

const SIZES: [usize; 6] = [1 << 10, 63 << 10, 64 << 10, (64 << 10) + 1, 1 << 20, 50 << 20];

/// A chat request of exactly `size` bytes.
fn body_of(size: usize) -> Vec<u8> {
    let frame = chat("gpt-4o", r#","user":"""#);
    let pad: String = (0..size - frame.len()).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let body = chat("gpt-4o", &format!(r#","user":"{pad}""#));
    assert_eq!(body.len(), size);
    body.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_arrives_intact_over_one_http1_connection() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for size in SIZES {
        let body = body_of(size);
        for chunk in [None, Some(16 << 10), Some(1000)] {
            match chunk {
                None => client.post("/v1/chat/completions", "", &body).await,
                Some(chunk) => client.post_chunked("/v1/chat/completions", &body, chunk).await,
            }
            let reply = client.reply().await.expect("the connection stays open");
            assert_eq!(reply.status, 200, "{size} bytes, chunk {chunk:?}: {}", String::from_utf8_lossy(&reply.body));
            assert_eq!(fake.last().hash(), blake3::hash(&body), "{size} bytes, chunk {chunk:?}");
            assert_eq!(fake.last().header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(fake.last().header("transfer-encoding"), None);
        }
    }
    assert_eq!(fake.connections(), 1, "the upstream connection is reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_arrives_intact_over_http2() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for size in SIZES {
        let body = body_of(size);
        let reply = client.post(gateway.url("/v1/chat/completions")).body(body.clone()).send().await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2), "{size} bytes");
        assert!(reply.bytes().await.unwrap().starts_with(b"{\"id\""));
        assert_eq!(fake.last().hash(), blake3::hash(&body), "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_arrives_intact_at_an_http2_provider() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml =
        providers(&[("openai", fake.address)]).replace("credentials: mapped", "credentials: mapped, http2: true");
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for size in [1 << 10, 64 << 10, (64 << 10) + 1, 256 << 10, (256 << 10) + 1, 1 << 20, 50 << 20] {
        let body = body_of(size);
        client.post("/v1/chat/completions", "", &body).await;
        assert_eq!(client.reply().await.expect("an answer").status, 200, "{size} bytes");
        assert_eq!(fake.last().hash(), blake3::hash(&body), "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_gets_the_whole_body_rewritten_for_it() {
    let busy = Fake::always(Answer::json(
        429,
        r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
    ))
    .await;
    let good = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", busy.address), ("other", good.address)])
        .replace("to: [openai, other]", "to: [openai, other/another-name]");
    let gateway = Gateway::start(&yaml);
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let mut client = Client::connect(gateway.addresses[0]).await;
    for size in SIZES {
        let body = body_of(size);
        let expected = String::from_utf8(body.clone()).unwrap().replacen("\"gpt-4o\"", "\"another-name\"", 1);
        for way in ["length", "chunked", "http2"] {
            match way {
                "length" => client.post("/v1/chat/completions", "", &body).await,
                "chunked" => client.post_chunked("/v1/chat/completions", &body, 16 << 10).await,
                _ => {
                    let sent = http2.post(gateway.url("/v1/chat/completions")).body(body.clone()).send().await.unwrap();
                    assert_eq!(sent.status().as_u16(), 200, "{size} bytes, {way}");
                    assert_eq!(sent.headers()["x-chittycan-provider"], "other");
                }
            }
            if way != "http2" {
                let reply = client.reply().await.expect("the connection stays open");
                assert_eq!((reply.status, reply.header("x-chittycan-provider")), (200, Some("other")), "{size}, {way}");
                assert_eq!(reply.header("x-chittycan-attempts"), Some("2"));
            }
            assert_eq!(busy.last().hash(), blake3::hash(&body), "first attempt, {size} bytes, {way}");
            assert_eq!(good.last().hash(), blake3::hash(expected.as_bytes()), "second attempt, {size} bytes, {way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_a_413_before_it_is_read() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&format!("http: {{max_body: 64KiB}}\n{}", providers(&[("openai", fake.address)])));

    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: 70000\r\n\r\n").await;
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &"request_too_large".into()));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    assert!(client.closes_within(Duration::from_secs(2)).await);

    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for _ in 0..5 {
        client.try_write(format!("4000\r\n{}\r\n", "x".repeat(0x4000))).await;
    }
    assert_eq!(client.reply().await.expect("an answer").status, 413);

    let gateway = Gateway::start(&format!("http: {{max_body: 1KiB}}\n{}", providers(&[("openai", fake.address)])));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post_chunked("/v1/chat/completions", &body_of(2 << 10), 4 << 10).await;
    assert_eq!(client.reply().await.expect("an answer").status, 413, "one chunk over the limit");
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered_at_once() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let body = body_of(2 << 10);
    let begun = Instant::now();
    client
        .write(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    assert_eq!(client.reply().await.expect("a 100").status, 100);
    assert!(begun.elapsed() < Duration::from_millis(500), "took {:?}", begun.elapsed());
    client.write(&body).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
    assert_eq!((fake.last().hash(), fake.last().header("expect")), (blake3::hash(&body), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_a_408_and_a_half_sent_one_leaves_no_trace() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&format!("http: {{body_timeout: 300ms}}\n{}", providers(&[("openai", fake.address)])));

    let mut client = Client::connect(gateway.addresses[0]).await;
    let begun = Instant::now();
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: 100\r\n\r\n{\"model\"").await;
    let reply = client.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (408, &"request_timeout".into()));
    assert!(begun.elapsed() >= Duration::from_millis(250) && begun.elapsed() < Duration::from_secs(3));
    assert!(client.closes_within(Duration::from_secs(2)).await);

    // Drip: each byte in time, the whole too late.
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: 100\r\n\r\n").await;
    let drip = async {
        loop {
            if !client.try_write("x").await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(900), drip).await;
    assert_eq!(client.reply().await.expect("an answer").status, 408);

    let mut client = Client::connect(gateway.addresses[0]).await;
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\ncontent-length: 100\r\n\r\n{\"model\"").await;
    drop(client);

    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post("/v1/chat/completions", "", &body_of(1000)).await;
    assert_eq!(client.reply().await.expect("the gateway goes on").status, 200);
    assert_eq!(fake.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let fake = Fake::start(|seen, _| {
        let slow = seen.json()["user"] == "0";
        Answer::completion().after(Duration::from_millis(if slow { 150 } else { 0 }))
    })
    .await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    for i in 0..4 {
        client.post("/v1/chat/completions", "", chat("gpt-4o", &format!(r#","user":"{i}""#)).as_bytes()).await;
    }
    for i in 0..4 {
        let reply = client.reply().await.unwrap_or_else(|| panic!("reply {i} is missing"));
        assert_eq!(reply.status, 200, "reply {i}: {}", String::from_utf8_lossy(&reply.body));
    }
    let users: Vec<_> = fake.seen().iter().map(|seen| seen.json()["user"].as_str().unwrap().to_owned()).collect();
    assert_eq!(users, ["0", "1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_get_a_clear_error_and_keep_the_connection() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::over(fake.address);
    let mut client = Client::connect(gateway.addresses[0]).await;
    let cases: [(&[u8], &str); 8] = [
        (b"", "empty"),
        (b"[]", "object"),
        (b"{\"model\":\"gpt-4o\"", "JSON"),
        (b"{\"model\":\"gpt-4o\"} trailing", "JSON"),
        (b"{\"model\":\"\xff\xfe\"}", "UTF-8"),
        (b"{\"model\":\"gpt-4o\",\"model\":\"gpt-4\"}", "model"),
        (b"{\"model\":7}", "model"),
        (b"{\"messages\":[]}", "model"),
    ];
    for (body, word) in cases {
        client.post("/v1/chat/completions", "", body).await;
        let reply = client.reply().await.expect("the connection stays open");
        assert_eq!(reply.status, 400, "{}", String::from_utf8_lossy(body));
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(word), "{word:?} is not in {message:?}");
        assert!(error.get("param").is_some() && error.get("code").is_some());
    }
    assert_eq!(fake.count(), 0);

    let deep = format!(r#"{{"model":"gpt-4o","messages":[],"x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    client.post("/v1/chat/completions", "", deep.as_bytes()).await;
    let status = client.reply().await.expect("the connection stays open").status;
    assert!(status == 200 || status == 400, "{status}");
    if status == 200 {
        assert_eq!(fake.last().hash(), blake3::hash(deep.as_bytes()));
    }
    // A model that is spelled with escapes is the same model.
    client.post("/v1/chat/completions", "", br#"{"mod\u0065l":"gpt\u002d4o","messages":[]}"#).await;
    assert_eq!(client.reply().await.expect("an answer").status, 200);
}
