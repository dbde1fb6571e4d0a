//! Clients that hold connections and send nothing, little or too slowly; and clients that are refused while they send.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, Fake, Gateway, SelfSigned, chat, gateway::providers, raw::Client};

/// Longer than any of the timeouts below, and shorter than those that the gateway has without them.
const SOON: Duration = Duration::from_secs(5);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn yaml(fake: &Fake, more: &str) -> String {
    format!("{more}{}", providers(&[("openai", fake.address)]))
}

const IMPATIENT: &str = "http: {header_timeout: 400ms, keepalive: 1500ms}\n";

/// When the gateway closes a connection that gets these bytes, one every 20 ms, after these at once.
async fn closed_after(address: SocketAddr, at_once: &[u8], dripped: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(at_once).await.unwrap();
    let mut buffer = [0; 4096];
    let mut bytes = dripped.iter();
    while begun.elapsed() < SOON {
        match timeout(Duration::from_millis(20), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return begun.elapsed(),
            Ok(Ok(_)) => {}
            Err(_) => {
                if let Some(byte) = bytes.next() {
                    let _ = stream.write_all(&[*byte]).await;
                }
            }
        }
    }
    panic!("open after {SOON:?}: {:?}", String::from_utf8_lossy(at_once));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_nothing_or_too_little_is_shown_out() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake, IMPATIENT));
    let address = gateway.addresses[0];
    let drip = vec![b'x'; 1000];
    let half = [PREFACE, SETTINGS].concat();
    let open_stream = [&half[..], &[0, 0, 9, 1, 0, 0, 0, 0, 1]].concat();
    let cases: [(&str, &[u8], &[u8]); 7] = [
        ("silence", b"", b""),
        ("one byte", b"P", b""),
        ("a dripped request line", b"POST /", &drip),
        ("a dripped header", b"POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\nx: ", &drip),
        ("a half preface", &PREFACE[..20], b""),
        ("a session of HTTP/2 without a request", &half, b""),
        ("the header of a stream that never comes", &open_stream, &drip[..8]),
    ];
    let all = cases.map(|(name, at_once, dripped)| async move {
        let after = closed_after(address, at_once, dripped).await;
        println!("{name}: closed after {after:?}");
        assert!(after >= Duration::from_millis(300), "{name}: {after:?}");
    });
    futures::future::join_all(all).await;
    gateway.metrics_with("can_connections_closed_total{cause=\"header_timeout\"} 7").await;
    assert_eq!(fake.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_has_no_more_time_than_the_first() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake, IMPATIENT));
    let mut client = Client::connect(gateway.addresses[0]).await;
    client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
    assert_eq!(client.reply().await.unwrap().status, 200);
    // Longer than a header may take: between two requests a client may be silent.
    tokio::time::sleep(Duration::from_millis(800)).await;
    client.post("/v1/chat/completions", "", chat("gpt-4o", "").as_bytes()).await;
    assert_eq!(client.reply().await.unwrap().status, 200);
    client.write("POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\nx: ").await;
    let begun = Instant::now();
    while client.try_write("y").await && begun.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("a dripped second header: closed after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON);
    gateway.metrics_with("can_connections_closed_total{cause=\"header_timeout\"} 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_http2_is_closed_when_it_was_idle_for_long() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake, IMPATIENT));
    let tcp = TcpStream::connect(gateway.addresses[0]).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(tcp)).await.unwrap();
    let connection = tokio::spawn(connection);
    let body = || http_body_util::Full::new(bytes::Bytes::from(chat("gpt-4o", "")));
    let request = || http::Request::post("http://gw/v1/chat/completions").body(body()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200, "idle is not slow");
    let begun = Instant::now();
    let _ = timeout(SOON, connection).await.expect("the session is closed");
    println!("an idle session of HTTP/2: closed after {:?}", begun.elapsed());
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_never_ends_is_given_up() {
    let own = SelfSigned::make();
    let fake = Fake::always(Answer::completion()).await;
    let tls = own.yaml();
    let gateway = Gateway::start(&yaml(&fake, &format!("listen: [{{address: 127.0.0.1:0, {tls}}}]\n{IMPATIENT}")));
    for begun in [&b""[..], &[22, 3, 1, 0, 200, 1]] {
        println!("closed after {:?}", closed_after(gateway.addresses[0], begun, b"").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_there_is_no_room_the_oldest_idle_connection_goes() {
    let fake = Fake::start(|seen, _| match seen.json()["model"] == "gpt-4o-mini" {
        true => Answer::completion().after(Duration::from_secs(2)),
        false => Answer::completion(),
    })
    .await;
    let limits = "server: {threads: 2, shutdown_grace: 1s, max_connections: 8, max_connections_per_address: 8}\n";
    let gateway = Gateway::start(&yaml(&fake, limits));
    let address = gateway.addresses[0];
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(Client::connect(address).await);
    }
    gateway.metrics_with("can_connections{part=\"waiting\"} 8").await;
    let post = |mut client: Client, model: &'static str| async move {
        client.post("/v1/chat/completions", "", chat(model, "").as_bytes()).await;
        client.reply().await.map(|reply| reply.status)
    };
    assert_eq!(post(Client::connect(address).await, "gpt-4o").await, Some(200), "it gets a place");
    let mut closed = 0;
    for client in &mut silent {
        closed += usize::from(client.closes_within(Duration::from_millis(50)).await);
    }
    assert_eq!(closed, 1);
    drop(silent);
    // All places serve a request: none of them goes.
    let busy: Vec<_> = futures::future::join_all((0..8).map(|_| Client::connect(address))).await;
    let busy: Vec<_> = busy.into_iter().map(|client| tokio::spawn(post(client, "gpt-4o-mini"))).collect();
    gateway.metrics_with("can_connections{part=\"busy\"} 8").await;
    assert!(Client::connect(address).await.closes_within(SOON).await);
    gateway.metrics_with("can_connections_refused_total{bound=\"address\"} 1").await;
    for request in busy {
        assert_eq!(request.await.unwrap(), Some(200));
    }
}

/// What a client does that knows nothing of early replies, as Node's and Go's do: it sends all, then it reads.
fn send_all_then_read(address: SocketAddr, head: &str, length: usize) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(head.as_bytes())?;
    let piece = vec![b' '; 64 << 10];
    let mut left = length;
    while left > 0 {
        let part = left.min(piece.len());
        stream.write_all(&piece[..part])?;
        left -= part;
    }
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let fake = Fake::always(Answer::completion()).await;
    let limit = "http: {max_body: 1MiB}\n";
    let gateway = Gateway::start(&yaml(&fake, limit));
    let address = gateway.addresses[0];
    let token = gateway.token("default").await;
    let cases = [("Bearer chitty_wrong", 300_000, 401), ("Bearer chitty_wrong", 66_000_000, 401)];
    let too_large = [(format!("Bearer {token}"), 3_000_000, 413), (format!("Bearer {token}"), 66_000_000, 413)];
    let cases = cases.map(|(key, length, status)| (key.to_owned(), length, status)).into_iter().chain(too_large);
    for (key, length, status) in cases {
        for framing in ["content-length", "transfer-encoding"] {
            // The chunk never ends: nothing after it is looked at.
            let framing = match framing {
                "content-length" => format!("content-length: {length}\r\n\r\n"),
                _ => format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n"),
            };
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\nauthorization: {key}\r\n\
                 content-type: application/json\r\n{framing}"
            );
            let reply = tokio::task::spawn_blocking(move || send_all_then_read(address, &head, length)).await.unwrap();
            let reply = reply.unwrap_or_else(|error| panic!("{status} to {length} bytes is lost: {error}"));
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
            assert!(reply.to_ascii_lowercase().contains("connection: close") && reply.contains("\"error\""), "{reply}");
        }
    }
    assert_eq!(fake.count(), 0);
    // It is not waited for for ever.
    let begun = Instant::now();
    while gateway.metrics().await.contains("can_connections{part=\"waiting\"} 1") {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_over_tls_reaches_a_client_that_is_still_sending() {
    use tokio_rustls::{TlsConnector, rustls};
    let own = SelfSigned::make();
    let fake = Fake::always(Answer::completion()).await;
    let tls = own.yaml();
    let more = format!("listen: [{{address: 127.0.0.1:0, {tls}}}]\n");
    let gateway = Gateway::start(&yaml(&fake, &more));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.der.clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(gateway.addresses[0]).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gw\r\nauthorization: Bearer chitty_wrong\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b' '; 60_000];
    for _ in 0..150 {
        stream.write_all(&piece).await.expect("the gateway goes on reading");
    }
    let mut reply = String::new();
    timeout(SOON, stream.read_to_string(&mut reply)).await.unwrap().expect("a reply, and a proper end of TLS");
    assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_silent_clients_do_not_disturb_others() {
    let fake = Fake::always(Answer::completion()).await;
    let gateway = Gateway::start(&yaml(&fake, "server: {threads: 2, shutdown_grace: 1s, max_connections: 1500}\n"));
    let address = gateway.addresses[0];
    let mut held = Vec::new();
    let half = [PREFACE, SETTINGS].concat();
    for number in 0..2_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun: &[u8] = match number % 10 {
            0 => b"POST /v1/chat",
            1 => &half,
            _ => b"",
        };
        // One whose place is needed may be closed already.
        let _ = stream.write_all(begun).await;
        held.push(stream);
    }
    let ask = |client: reqwest::Client, url: String| async move {
        for _ in 0..10 {
            let reply = client.post(&url).body(chat("gpt-4o", "")).send().await.unwrap();
            assert_eq!(reply.status(), 200);
            reply.bytes().await.unwrap();
        }
    };
    let asked = (0..64).map(|_| tokio::spawn(ask(reqwest::Client::new(), gateway.url("/v1/chat/completions"))));
    for client in futures::future::join_all(asked).await {
        client.unwrap();
    }
    assert_eq!(fake.count(), 640);
    let metrics = gateway.metrics().await;
    let refused =
        ["can_connections_refused_total{bound=\"all\"} 0", "can_connections_refused_total{bound=\"address\"} 0"];
    assert!(refused.iter().all(|line| metrics.lines().any(|found| found == *line)), "{metrics}");
    drop(held);
}
