//! The exchange with a provider that is slow on purpose, answers before it was asked whole, or takes its connection away.

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
};

use crate::support::{Answer, COMPLETION, Fake, Gateway, Step, chat, fake::send, gateway::providers};

const PATH: &str = "/v1/chat/completions";

/// What a busy machine takes on top of a deadline.
const SOON: Duration = Duration::from_secs(5);

/// A provider that does with each connection what `serve` does; told the number of the connection, from 0.
async fn raw_provider<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// Reads a request with a length; its size, or `None` when the connection ends before.
async fn read_request(stream: &mut TcpStream) -> Option<usize> {
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut whole = None;
    loop {
        if whole.is_none()
            && let Some(head) = seen.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
        {
            let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            whole = Some(head + length.unwrap_or(0));
        }
        if whole.is_some_and(|whole| seen.len() >= whole) {
            return whole;
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// Writes `first`, and then `again` for as long as the other side is there.
async fn drip(stream: &mut TcpStream, first: &[u8], again: &[u8], pause: Duration) {
    if stream.write_all(first).await.is_err() {
        return;
    }
    while stream.write_all(again).await.is_ok() {
        tokio::time::sleep(pause).await;
    }
}

/// Frames of HTTP/2, written by hand.
mod http2 {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;

    pub struct Frame {
        pub kind: u8,
        pub flags: u8,
        pub stream: u32,
        pub payload: Vec<u8>,
    }

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The header of an answer: `:status` and `content-type`, as HPACK literals without a table (RFC 7541 §6.2.2).
    pub fn headers(stream: u32, status: &str, kind: &str, flags: u8) -> Vec<u8> {
        let mut block = vec![0x08, 3];
        block.extend_from_slice(status.as_bytes());
        block.extend([0x0f, 31 - 15, u8::try_from(kind.len()).unwrap()]);
        block.extend_from_slice(kind.as_bytes());
        frame(HEADERS, END_HEADERS | flags, stream, &block)
    }

    pub fn go_away(last: u32, reason: u32) -> Vec<u8> {
        frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat())
    }

    /// A server's end of a connection. It answers settings and pings, and gives no window of its own accord.
    pub struct Server(pub TcpStream);

    impl Server {
        /// `None` if the client does not speak HTTP/2.
        pub async fn accept(mut stream: TcpStream) -> Option<Self> {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.ok().filter(|_| preface.starts_with(b"PRI * HTTP/2.0"))?;
            let mut server = Self(stream);
            server.write(&frame(SETTINGS, 0, 0, &[])).await.then_some(server)
        }

        pub async fn write(&mut self, bytes: &[u8]) -> bool {
            self.0.write_all(bytes).await.is_ok()
        }

        /// The next frame of a stream, or one that ends the connection.
        pub async fn next(&mut self) -> Option<Frame> {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                self.0.read_exact(&mut payload).await.ok()?;
                let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
                match (head[3], head[4] & ACK) {
                    (SETTINGS, 0) => self.write(&frame(SETTINGS, ACK, 0, &[])).await,
                    (PING, 0) => self.write(&frame(PING, ACK, 0, &payload)).await,
                    (SETTINGS | PING | WINDOW_UPDATE, _) => true,
                    (kind, _) => return Some(Frame { kind, flags: head[4], stream, payload }),
                };
            }
        }

        /// The stream of the next request that is there whole.
        pub async fn request(&mut self) -> Option<u32> {
            loop {
                let frame = self.next().await?;
                if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM > 0 {
                    return Some(frame.stream);
                }
            }
        }
    }
}

/// One provider at this address with these timeouts.
fn with_timeouts(address: SocketAddr, timeouts: &str) -> String {
    providers(&[("openai", address)]).replace("mapped", &format!("mapped, timeouts: {{{timeouts}}}"))
}

/// What a request comes to, once it is over.
async fn outcome(gateway: &Gateway, body: String) -> (u16, String) {
    let reply = reqwest::Client::new().post(gateway.url(PATH)).body(body).send();
    let whole = async {
        let reply = reply.await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap_or_default())
    };
    tokio::time::timeout(Duration::from_secs(20), whole).await.expect("the exchange is never left")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drips_the_header_of_an_answer_is_left_at_the_deadline() {
    const BYTE: Duration = Duration::from_millis(20);
    for (name, first, again, pause) in [
        ("a header without an end", "HTTP/1.1 200 OK\r\nx-a: ", "a", BYTE),
        ("hints for ever", "", "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n", BYTE),
        ("hints as fast as can be", "", "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n", Duration::ZERO),
    ] {
        let address = raw_provider(move |mut stream, _| async move {
            if read_request(&mut stream).await.is_some() {
                drip(&mut stream, first.as_bytes(), again.as_bytes(), pause).await;
            }
        })
        .await;
        let gateway = Gateway::start(&with_timeouts(address, "read: 400ms"));
        let begun = Instant::now();
        let (status, text) = outcome(&gateway, chat("gpt-4o", "")).await;
        assert_eq!(status, 504, "{name}: {text}");
        assert!(begun.elapsed() < SOON, "{name}: after {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_sending_what_is_no_part_of_a_body_is_silent() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{COMPLETION}\r\n", COMPLETION.len());
    for (name, first) in [
        ("trailers without an end", format!("{HEAD}{chunk}0\r\nx-a: ")),
        ("an extension of a chunk without an end", format!("{HEAD}{chunk}5;x=")),
    ] {
        let address = raw_provider(move |mut stream, _| {
            let first = first.clone();
            async move {
                if read_request(&mut stream).await.is_some() {
                    drip(&mut stream, first.as_bytes(), b"a", Duration::from_millis(20)).await;
                }
            }
        })
        .await;
        let gateway = Gateway::start(&with_timeouts(address, "read: 400ms"));
        let begun = Instant::now();
        let (status, text) = outcome(&gateway, chat("gpt-4o", "")).await;
        assert!(matches!(status, 502 | 504), "{name}: {status} {text}");
        assert!(begun.elapsed() < SOON, "{name}: after {:?}", begun.elapsed());
    }
    // HTTP/2 has frames with nothing in them.
    for kind in ["application/json", "text/event-stream"] {
        let address = raw_provider(move |stream, _| async move {
            let Some(mut server) = http2::Server::accept(stream).await else { return };
            let Some(stream) = server.request().await else { return };
            let head = http2::headers(stream, "200", kind, 0);
            drip(&mut server.0, &head, &http2::frame(http2::DATA, 0, stream, b""), Duration::from_millis(20)).await;
        })
        .await;
        let gateway = Gateway::start(&with_timeouts(address, "read: 400ms").replace("mapped", "mapped, http2: true"));
        let begun = Instant::now();
        let stream = if kind == "text/event-stream" { r#","stream":true"# } else { "" };
        let (status, text) = outcome(&gateway, chat("gpt-4o", stream)).await;
        assert!(status == 504 || text.contains("stream_interrupted"), "{kind}: {status} {text}");
        assert!(begun.elapsed() < SOON, "{kind}: after {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_legal() {
    let address = raw_provider(|mut stream, _| async move {
        if read_request(&mut stream).await.is_none() {
            return;
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            COMPLETION.len()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        for piece in COMPLETION.as_bytes().chunks(40) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = stream.write_all(piece).await;
        }
    })
    .await;
    let gateway = Gateway::start(&with_timeouts(address, "read: 500ms"));
    let begun = Instant::now();
    assert_eq!(outcome(&gateway, chat("gpt-4o", "")).await, (200, COMPLETION.to_owned()));
    assert!(begun.elapsed() > Duration::from_millis(500), "it lasted longer than one read may");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_request_a_byte_at_a_time_is_left_at_the_deadline() {
    let (large, timeouts) = (chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(16 << 20))), "write: 400ms");
    let address = raw_provider(|mut stream, _| async move {
        let mut byte = [0];
        while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let gateway = Gateway::start(&with_timeouts(address, timeouts));
    let begun = Instant::now();
    let (status, text) = outcome(&gateway, large).await;
    assert_eq!(status, 504, "HTTP/1: {text}");
    assert!(begun.elapsed() < SOON, "HTTP/1: after {:?}", begun.elapsed());

    // Less than a piece, more than the first window.
    let body = chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(200 << 10)));
    let address = raw_provider(|stream, _| async move {
        let Some(mut server) = http2::Server::accept(stream).await else { return };
        let Some(first) = server.next().await else { return };
        let window = http2::frame(http2::WINDOW_UPDATE, 0, first.stream, &1u32.to_be_bytes());
        let both = [window, http2::frame(http2::WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())].concat();
        drip(&mut server.0, b"", &both, Duration::from_millis(20)).await;
    })
    .await;
    let gateway = Gateway::start(&with_timeouts(address, timeouts).replace("mapped", "mapped, http2: true"));
    let begun = Instant::now();
    let (status, text) = outcome(&gateway, body).await;
    assert_eq!(status, 504, "HTTP/2: {text}");
    assert!(begun.elapsed() < SOON, "HTTP/2: after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drips_the_handshake_is_left_at_the_deadline() {
    let address = raw_provider(|mut stream, _| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        // A handshake record of 16 KiB, a byte at a time.
        drip(&mut stream, &[22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc], &[3], Duration::from_millis(20)).await;
    })
    .await;
    for http2 in ["", ", http2: true"] {
        let yaml = with_timeouts(address, "connect: 400ms").replace("http:", "https:");
        let gateway = Gateway::start(&yaml.replace("mapped", &format!("mapped{http2}")));
        let begun = Instant::now();
        let (status, text) = outcome(&gateway, chat("gpt-4o", "")).await;
        assert_eq!(status, 502, "{text}");
        assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
    }
}

const LARGE: usize = 16 << 20;

fn large() -> String {
    chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(LARGE)))
}

const REFUSAL: &str =
    r#"{"error":{"message":"too large for me","type":"invalid_request_error","param":null,"code":null}}"#;

fn refusal() -> String {
    format!(
        "HTTP/1.1 413 Payload Too Large\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{REFUSAL}",
        REFUSAL.len()
    )
}

fn completion() -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{COMPLETION}",
        COMPLETION.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_reaches_the_client_at_once_and_ends_the_body() {
    for before in ["", "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"] {
        let address = raw_provider(move |mut stream, number| async move {
            if number > 0 {
                while read_request(&mut stream).await.is_some() {
                    let _ = stream.write_all(completion().as_bytes()).await;
                }
                return;
            }
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(format!("{before}{}", refusal()).as_bytes()).await;
            // It neither reads nor closes.
            std::future::pending::<()>().await;
        })
        .await;
        let gateway = Gateway::over(address);
        let begun = Instant::now();
        let (status, text) = outcome(&gateway, large()).await;
        assert!(status == 413 && text.contains("too large for me"), "{status} {text}");
        assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
        // Not on the connection that still waits for the rest.
        assert_eq!(outcome(&gateway, chat("gpt-4o", "")).await, (200, COMPLETION.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_a_good_answer_early_gets_the_whole_request() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let address = raw_provider(move |mut stream, _| {
        let taken = counter.clone();
        async move {
            let reply = completion();
            let (first, rest) = reply.split_at(reply.len() / 2);
            let mut byte = [0];
            // What is peeked at is read once more.
            let _ = stream.peek(&mut byte).await;
            let _ = stream.write_all(first.as_bytes()).await;
            let Some(size) = read_request(&mut stream).await else { return };
            taken.fetch_add(size, Ordering::SeqCst);
            let _ = stream.write_all(rest.as_bytes()).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let gateway = Gateway::over(address);
    assert_eq!(outcome(&gateway, large()).await, (200, COMPLETION.to_owned()));
    assert!(taken.load(Ordering::SeqCst) > LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_too_an_early_refusal_ends_the_body_and_its_stream_alone() {
    const CANCEL: [u8; 4] = 8u32.to_be_bytes();
    for says_stop in [false, true] {
        let (reset, mut was_reset) = tokio::sync::mpsc::unbounded_channel();
        let address = raw_provider(move |stream, _| {
            let reset = reset.clone();
            async move {
                let Some(mut server) = http2::Server::accept(stream).await else { return };
                let Some(first) = server.next().await else { return };
                let mut answer = http2::headers(first.stream, "413", "application/json", 0);
                answer.extend(http2::frame(http2::DATA, http2::END_STREAM, first.stream, REFUSAL.as_bytes()));
                if says_stop {
                    answer.extend(http2::frame(http2::RST_STREAM, 0, first.stream, &[0; 4]));
                }
                // For those who come later.
                answer.extend(http2::frame(http2::WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes()));
                server.write(&answer).await;
                while let Some(frame) = server.next().await {
                    if frame.kind == http2::RST_STREAM {
                        let _ = reset.send(frame.payload);
                    }
                    if frame.stream > first.stream && frame.flags & http2::END_STREAM > 0 {
                        let mut answer = http2::headers(frame.stream, "200", "application/json", 0);
                        let body = COMPLETION.as_bytes();
                        answer.extend(http2::frame(http2::DATA, http2::END_STREAM, frame.stream, body));
                        server.write(&answer).await;
                    }
                }
            }
        })
        .await;
        let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
        let begun = Instant::now();
        let (status, text) = outcome(&gateway, large()).await;
        assert!(status == 413 && text.contains("too large for me"), "{says_stop}: {status} {text}");
        assert!(begun.elapsed() < SOON, "{says_stop}: after {:?}", begun.elapsed());
        if !says_stop {
            assert_eq!(was_reset.recv().await.unwrap(), CANCEL, "the stream has no end");
        }
        assert_eq!(outcome(&gateway, chat("gpt-4o", "")).await, (200, COMPLETION.to_owned()), "{says_stop}");
    }
}

/// The answer to a request that is there whole.
fn http2_completion(stream: u32) -> Vec<u8> {
    let mut answer = http2::headers(stream, "200", "application/json", 0);
    answer.extend(http2::frame(http2::DATA, http2::END_STREAM, stream, COMPLETION.as_bytes()));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_going_connection_did_not_take_is_sent_on_a_fresh_one() {
    for body in [chat("gpt-4o", ""), chat("gpt-4o", &format!(r#","user":"{}""#, "x".repeat(1 << 20)))] {
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let address = raw_provider(move |stream, number| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move {
                let Some(mut server) = http2::Server::accept(stream).await else { return };
                if number == 0 {
                    // In the middle of the request, where it is large.
                    let _ = server.next().await;
                    server.write(&http2::go_away(0, 0)).await;
                    while server.next().await.is_some() {}
                    return;
                }
                let Some(first) = server.next().await else { return };
                for stream in [0, first.stream] {
                    server.write(&http2::frame(http2::WINDOW_UPDATE, 0, stream, &(8u32 << 20).to_be_bytes())).await;
                }
                while let Some(stream) = server.request().await {
                    server.write(&http2_completion(stream)).await;
                }
            }
        })
        .await;
        let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
        let size = body.len();
        assert_eq!(outcome(&gateway, body).await, (200, COMPLETION.to_owned()), "{size}");
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_going_connection_finishes_what_it_took() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let address = raw_provider(move |stream, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let Some(mut server) = http2::Server::accept(stream).await else { return };
            let Some(stream) = server.request().await else { return };
            server.write(&http2::go_away(stream, 0)).await;
            server.write(&http2_completion(stream)).await;
            while server.next().await.is_some() {}
        }
    })
    .await;
    let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
    for number in 1..4 {
        assert_eq!(outcome(&gateway, chat("gpt-4o", "")).await, (200, COMPLETION.to_owned()));
        assert_eq!(connections.load(Ordering::SeqCst), number, "the next request has a connection of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_its_connection_takes_along_is_a_broken_one() {
    for (name, end) in [
        ("a connection that goes with an error", http2::go_away(1, 2)),
        ("a connection that goes and closes", http2::go_away(1, 0)),
        ("a reset", http2::frame(http2::RST_STREAM, 0, 1, &2u32.to_be_bytes())),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let address = raw_provider(move |stream, _| {
            let (asked, end) = (counter.clone(), end.clone());
            async move {
                let Some(mut server) = http2::Server::accept(stream).await else { return };
                let Some(stream) = server.request().await else { return };
                asked.fetch_add(1, Ordering::SeqCst);
                let chunk = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hey"},"finish_reason":null}]}"#;
                let mut answer = http2::headers(stream, "200", "text/event-stream", 0);
                answer.extend(http2::frame(http2::DATA, 0, stream, format!("data: {chunk}\n\n").as_bytes()));
                server.write(&answer).await;
                server.write(&end).await;
            }
        })
        .await;
        let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
        let (status, text) = outcome(&gateway, chat("gpt-4o", r#","stream":true"#)).await;
        assert!(
            status == 200 && text.contains("hey") && text.contains("stream_interrupted"),
            "{name}: {status} {text}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_going_connection_took_is_not_sent_twice() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = raw_provider(move |stream, _| {
        let asked = counter.clone();
        async move {
            let Some(mut server) = http2::Server::accept(stream).await else { return };
            let Some(stream) = server.request().await else { return };
            asked.fetch_add(1, Ordering::SeqCst);
            server.write(&http2::go_away(stream, 0)).await;
        }
    })
    .await;
    let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
    let (status, text) = outcome(&gateway, chat("gpt-4o", "")).await;
    assert_eq!((status, asked.load(Ordering::SeqCst)), (502, 1), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_sees_that_a_connection_was_closed_in_the_pool() {
    let address = raw_provider(|stream, _| async move {
        let Some(mut server) = http2::Server::accept(stream).await else { return };
        let Some(stream) = server.request().await else { return };
        server.write(&http2_completion(stream)).await;
        let _ = server.0.shutdown().await;
        while server.next().await.is_some() {}
    })
    .await;
    let gateway = Gateway::start(&providers(&[("openai", address)]).replace("mapped", "mapped, http2: true"));
    for _ in 0..10 {
        assert_eq!(outcome(&gateway, chat("gpt-4o", "")).await, (200, COMPLETION.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_without_a_length_that_is_reset_is_a_broken_one() {
    let address = raw_provider(|mut stream, _| async move {
        if read_request(&mut stream).await.is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
        let chunk = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hey"},"finish_reason":null}]}"#;
        let _ = stream.write_all(format!("{head}data: {chunk}\n\n").as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })
    .await;
    let gateway = Gateway::over(address);
    let (status, text) = outcome(&gateway, chat("gpt-4o", r#","stream":true"#)).await;
    assert!(status == 200 && text.contains("hey") && text.contains("stream_interrupted"), "{status} {text}");
}

/// A provider that keeps files, over both versions of HTTP, and a gateway in front of it.
async fn with_files(list: Answer, http2: bool) -> (Fake, Gateway) {
    let fake = Fake::start(move |seen, _| match seen.method {
        http::Method::POST => Answer::json(200, r#"{"id":"file-1","object":"file","purpose":"x"}"#),
        _ => list.clone(),
    })
    .await;
    let provider =
        format!("{{base_url: \"http://{}/v1\", api_key: sk-gateway, credentials: auto, http2: {http2}}}", fake.address);
    let gateway = Gateway::start(&format!("providers: {{openai: {provider}}}\n{}\n", crate::objects::TENANTS));
    (fake, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_over_http2_too() {
    let list = r#"{"object":"list","data":[{"id":"file-1","object":"file"},{"id":"file-2","object":"file"}],"has_more":false}"#;
    for http2 in [false, true] {
        let (fake, gateway) = with_files(Answer::json(200, list), http2).await;
        let client = reqwest::Client::new();
        let form = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nx\r\n--b\r\ncontent-disposition: form-data; \
                    name=\"file\"; filename=\"a\"\r\n\r\nhi\r\n--b--\r\n";
        let upload = client.post(gateway.url("/v1/files")).header("content-type", "multipart/form-data; boundary=b");
        assert_eq!(upload.body(form).send().await.unwrap().status().as_u16(), 200, "{http2}");
        let before = fake.connections();
        for _ in 0..2 {
            let got = client.get(gateway.url("/v1/files")).send().await.unwrap();
            let (status, text) = (got.status().as_u16(), got.text().await.unwrap());
            assert!(status == 200 && text.contains("file-1") && !text.contains("file-2"), "{http2}: {status} {text}");
        }
        // HTTP/2 names the host in its address alone.
        assert_eq!(fake.last().header("host").is_some(), !http2, "{http2}");
        assert!(fake.connections() <= before + 1, "{http2}: a list has a connection for each page");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_a_list_is_read_ends_that() {
    for http2 in [false, true] {
        let stalls = Answer { steps: vec![send(r#"{"object":"#), Step::Stall], sized: false, ..Answer::json(200, "") };
        let (fake, gateway) = with_files(stalls, http2).await;
        let url = gateway.url("/v1/files");
        let client = tokio::spawn(async move { reqwest::get(url).await.map(|reply| reply.status()) });
        fake.until_asked(1).await;
        client.abort();
        fake.until_broken().await;
        gateway.metrics_with("can_requests_in_flight 0").await;
    }
}
