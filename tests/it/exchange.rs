//! The exchange with a provider at its edges: who leaves when, how replies are framed, and what a connection is good for after.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::support::{
    Answer, COMPLETION, Fake, Gateway, Step, chat, fake::send, free_port, gateway::providers, raw::Client,
};

const PATH: &str = "/v1/chat/completions";

fn event(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// A provider that does with each connection what `serve` does.
async fn raw_provider<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads a request with a length; false when the connection ends before.
async fn read_request(stream: &mut TcpStream) -> bool {
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let head = seen.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            if seen.len() >= head + length.unwrap_or(0) {
                return true;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
            _ => return false,
        }
    }
}

/// Reads whatever comes until the other side closes.
async fn until_closed(stream: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_exchange_at_every_stage() {
    for stage in ["connecting", "sending", "waiting", "streaming"] {
        for http2 in [false, true] {
            let (reached, mut at_stage) = mpsc::unbounded_channel();
            let (closed, mut at_end) = mpsc::unbounded_channel();
            let address = raw_provider(move |mut stream| {
                let (reached, closed) = (reached.clone(), closed.clone());
                async move {
                    let mut byte = [0];
                    let is_there = match stage {
                        // A greeting that is not answered: TLS stays in its handshake.
                        "connecting" => stream.read(&mut byte).await.is_ok_and(|read| read > 0),
                        "sending" => stream.read(&mut byte).await.is_ok_and(|read| read > 0),
                        _ => read_request(&mut stream).await,
                    };
                    if stage == "streaming" {
                        let head =
                            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                        let event = event("x");
                        let _ = stream.write_all(format!("{head}{:x}\r\n{event}\r\n", event.len()).as_bytes()).await;
                    }
                    if is_there {
                        let _ = reached.send(());
                    }
                    if stage == "sending" {
                        // It does not read on, until the other side is stuck.
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    until_closed(&mut stream).await;
                    let _ = closed.send(());
                }
            })
            .await;
            let scheme = if stage == "connecting" { "https" } else { "http" };
            let yaml = providers(&[("openai", address)]).replace("http:", &format!("{scheme}:"));
            let gateway = Gateway::start(&yaml);
            let size = if stage == "sending" { 16 << 20 } else { 10 };
            let body = chat("gpt-4o", &format!(r#","stream":true,"user":"{}""#, "x".repeat(size)));
            let client = match http2 {
                true => reqwest::Client::builder().http2_prior_knowledge().build().unwrap(),
                false => reqwest::Client::new(),
            };
            let request = client.post(gateway.url(PATH)).body(body);
            let task = tokio::spawn(async move {
                let mut reply = request.send().await.unwrap();
                while let Ok(Some(_)) = reply.chunk().await {}
            });
            let within = Duration::from_secs(20);
            timeout(within, at_stage.recv()).await.unwrap_or_else(|_| panic!("{stage}, HTTP/2 {http2}: not reached"));
            if stage == "streaming" {
                gateway.metrics_with("can_requests_in_flight 1").await;
            }
            task.abort();
            let left = Instant::now();
            let ended = timeout(within, at_end.recv()).await;
            assert!(ended.is_ok(), "{stage}, HTTP/2 {http2}: the provider is left alone");
            // 100 ms, and what a busy machine takes.
            let most = Duration::from_millis(if stage == "sending" { 2_500 } else { 1_000 });
            assert!(left.elapsed() < most, "{stage}, HTTP/2 {http2}: after {:?}", left.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_charged_for_a_request_that_never_left() {
    let (reached, mut at_stage) = mpsc::unbounded_channel();
    let address = raw_provider(move |mut stream| {
        let reached = reached.clone();
        async move {
            let mut byte = [0];
            if stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
                let _ = reached.send(());
            }
            until_closed(&mut stream).await;
        }
    })
    .await;
    let yaml = providers(&[("openai", address)]).replace("http:", "https:");
    let gateway = Gateway::start(&format!("{yaml}tenants: {{default: {{budgets: [{{usd: 1}}]}}}}\n"));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post(PATH, "", chat("gpt-4o", "").as_bytes()).await;
    at_stage.recv().await.unwrap();
    drop(client);
    let begun = Instant::now();
    while gateway.query(crate::support::gateway::RECORDED).await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it was not written down");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gateway.query("SELECT coalesce(sum(cost), 0) FROM entries").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_after_a_stream_that_broke_and_after_a_failure() {
    let fake = Fake::start(|_, number| match number {
        0 => Answer::stream(vec![send(&event("x")), Step::Wait(Duration::from_millis(50)), Step::Cut]),
        _ => Answer::completion(),
    })
    .await;
    let down = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let yaml = providers(&[("openai", fake.address), ("down", down)]);
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post(PATH, "", chat("openai/gpt-4o", r#","stream":true"#).as_bytes()).await;
    let broken = client.reply().await.expect("a stream");
    let text = String::from_utf8_lossy(&broken.body).into_owned();
    assert!(broken.status == 200 && text.contains("stream_interrupted"), "{text}");
    client.post(PATH, "", chat("down/gpt-4o", "").as_bytes()).await;
    let failed = client.reply().await.expect("the connection was kept after a stream that broke");
    assert_eq!((failed.status, failed.json()["error"]["code"].as_str()), (502, Some("upstream_unreachable")));
    client.post(PATH, "", chat("openai/gpt-4o", "").as_bytes()).await;
    assert_eq!(client.reply().await.expect("the connection was kept after a failure").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_every_framing_arrive_whole_and_are_paid_for() {
    const HEAD: &str = "200 OK\r\ncontent-type: application/json\r\n";
    let length = COMPLETION.len();
    let (first, second) = COMPLETION.split_at(100);
    let chunks = format!("64\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n", second.len());
    for (name, reply) in [
        ("a length", format!("HTTP/1.1 {HEAD}content-length: {length}\r\n\r\n{COMPLETION}")),
        ("chunks", format!("HTTP/1.1 {HEAD}transfer-encoding: chunked\r\n\r\n{chunks}\r\n")),
        (
            "trailers",
            format!("HTTP/1.1 {HEAD}transfer-encoding: chunked\r\ntrailer: x-a\r\n\r\n{chunks}x-a: b\r\n\r\n"),
        ),
        ("the end of the connection", format!("HTTP/1.1 {HEAD}connection: close\r\n\r\n{COMPLETION}")),
        ("HTTP/1.0", format!("HTTP/1.0 {HEAD}\r\n{COMPLETION}")),
        (
            "a hint before",
            format!(
                "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 {HEAD}content-length: {length}\r\n\r\n{COMPLETION}"
            ),
        ),
    ] {
        let address = raw_provider(move |mut stream| {
            let reply = reply.clone();
            async move {
                while read_request(&mut stream).await {
                    let _ = stream.write_all(reply.as_bytes()).await;
                    if reply.contains("close") || reply.starts_with("HTTP/1.0") {
                        return;
                    }
                }
            }
        })
        .await;
        let gateway = Gateway::over(address);
        let mut client = Client::connect(gateway.addresses[0]).await;
        for _ in 0..2 {
            client.post(PATH, "", chat("gpt-4o", "").as_bytes()).await;
            let mut reply = client.reply().await.unwrap_or_else(|| panic!("{name}: no reply"));
            while reply.status < 200 {
                reply = client.reply().await.unwrap_or_else(|| panic!("{name}: no final reply"));
            }
            assert_eq!(
                (reply.status, reply.header("x-chittycan-cost")),
                (200, Some("0.003")),
                "{name}: {}",
                reply.head
            );
            assert_eq!(reply.body, COMPLETION.as_bytes(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_too_a_reply_arrives_whole_or_another_deployment_answers() {
    let ends_with_trailers =
        Answer { sized: false, steps: vec![send(COMPLETION), Step::Trailers], ..Answer::completion() };
    let is_reset = Answer { sized: false, steps: vec![send(&COMPLETION[..50]), Step::Cut], ..Answer::completion() };
    for (answer, provider) in [(ends_with_trailers, "openai"), (is_reset, "other")] {
        let (first, other) = (Fake::always(answer).await, Fake::always(Answer::completion()).await);
        let yaml =
            providers(&[("openai", first.address), ("other", other.address)]).replace("mapped", "mapped, http2: true");
        let gateway = Gateway::start(&yaml);
        for _ in 0..3 {
            let reply = reqwest::Client::new().post(gateway.url(PATH)).body(chat("gpt-4o", "")).send().await.unwrap();
            assert_eq!(reply.status().as_u16(), 200);
            assert_eq!(reply.headers()["x-chittycan-provider"], provider);
            assert_eq!(reply.bytes().await.unwrap(), COMPLETION.as_bytes());
        }
        // One connection for all of them.
        assert_eq!(first.connections(), 1, "{provider}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_50_mb_reaches_the_second_deployment_whole() {
    let first = Fake::always(Answer::json(503, "{}")).await;
    let second = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", first.address), ("other", second.address)]);
    let gateway = Gateway::start(&format!("{yaml}http: {{max_body: 64MiB}}\nserver: {{memory_budget: 1GiB}}\n"));
    let filler = "x".repeat(50 << 20);
    let body = chat("gpt-4o", &format!(r#","user":"{filler}""#));
    let reply = reqwest::Client::new().post(gateway.url(PATH)).body(body).send().await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["x-chittycan-provider"]), (200, &"other".parse().unwrap()));
    for fake in [first, second] {
        let seen = fake.last().json();
        assert!(seen["user"].as_str() == Some(&filler), "the body is not the client's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_its_own_provider_and_nobody_else() {
    const ALL: usize = 64 << 20;
    for http2 in [false, true] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let address = raw_provider(move |mut stream| {
            let sent = counter.clone();
            async move {
                if !read_request(&mut stream).await {
                    return;
                }
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                let event = event(&"y".repeat(32 << 10));
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                while sent.load(Ordering::Relaxed) < ALL {
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                    sent.fetch_add(event.len(), Ordering::Relaxed);
                }
                let _ = stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
            }
        })
        .await;
        let fast = Fake::always(Answer::completion()).await;
        let yaml = providers(&[("openai", address), ("fast", fast.address)]);
        let gateway = Gateway::start(&yaml);
        let client = match http2 {
            true => reqwest::Client::builder().http2_prior_knowledge().build().unwrap(),
            false => reqwest::Client::new(),
        };
        let request = client.post(gateway.url(PATH)).body(chat("openai/gpt-4o", r#","stream":true"#));
        let mut reply = request.send().await.unwrap();
        // Until nothing moves any more.
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = sent.load(Ordering::Relaxed);
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
        assert!(before < ALL / 2, "HTTP/2 {http2}: {before} bytes went somewhere");
        for _ in 0..20 {
            let begun = Instant::now();
            let other =
                reqwest::Client::new().post(gateway.url(PATH)).body(chat("fast/gpt-4o", "")).send().await.unwrap();
            assert_eq!(other.status().as_u16(), 200);
            assert!(begun.elapsed() < Duration::from_secs(2), "HTTP/2 {http2}: {:?}", begun.elapsed());
        }
        let mut read = 0;
        while let Some(chunk) = reply.chunk().await.unwrap() {
            read += chunk.len();
        }
        assert!(read >= ALL, "HTTP/2 {http2}: {read} bytes came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_a_websocket_does_not_make_a_silent_body_endless() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&format!("{}http: {{body_timeout: 300ms}}\n", providers(&[("openai", fake.address)])));
    for body in ["transfer-encoding: chunked", "content-length: 5"] {
        let mut client = Client::connect(gateway.addresses[0]).await;
        let offer = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
        client.write(format!("GET /v1/realtime?model=m HTTP/1.1\r\nhost: gw\r\n{offer}\r\n{body}\r\n\r\n")).await;
        let begun = Instant::now();
        let status = client.reply().await.map(|reply| reply.status);
        assert!(status.is_none_or(|status| status == 408), "{body}: {status:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{body}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_body_and_leaves_its_connections_usable() {
    let fake = Fake::always(Answer::json(200, "{\"bytes\":5}")).await;
    let gateway = Gateway::start(&providers(&[("openai", fake.address)]).replace("mapped", "auto"));
    let client = reqwest::Client::new();
    for _ in 0..2 {
        let url = gateway.url("/v1/files/file-1/content");
        let head = client.head(&url).bearer_auth("sk-own").send().await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"11".parse().unwrap()));
        assert_eq!(head.bytes().await.unwrap().len(), 0);
        let got = client.get(&url).bearer_auth("sk-own").send().await.unwrap();
        assert_eq!(got.text().await.unwrap(), "{\"bytes\":5}");
    }
    assert_eq!(fake.connections(), 1);
}
