//! A recording fake provider: it answers by script and remembers what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};

/// One request as the provider saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.body)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the provider got JSON")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a printable header"))
    }
}

/// One step of a reply's body.
#[derive(Clone, Debug)]
pub enum Step {
    Send(Bytes),
    Wait(Duration),
    /// Wait until the test says so.
    Until(Arc<tokio::sync::Notify>),
    /// Break the connection (HTTP/1.1) or reset the stream (HTTP/2).
    Cut,
    /// Send nothing more and keep the connection open.
    Stall,
    /// End with trailers.
    Trailers,
}

/// A scripted reply.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub before: Duration,
    pub steps: Vec<Step>,
    /// Send the body with a length instead of in chunks.
    pub sized: bool,
}

impl Answer {
    pub fn json(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".into())],
            before: Duration::ZERO,
            steps: vec![Step::Send(Bytes::copy_from_slice(body.as_bytes()))],
            sized: true,
        }
    }

    pub fn completion() -> Self {
        Self::json(200, super::COMPLETION)
    }

    pub fn stream(steps: Vec<Step>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream; charset=utf-8".into())],
            before: Duration::ZERO,
            steps,
            sized: false,
        }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(mut self, wait: Duration) -> Self {
        self.before = wait;
        self
    }
}

/// Text as a step.
pub fn send(text: &str) -> Step {
    Step::Send(Bytes::copy_from_slice(text.as_bytes()))
}

type Script = Arc<dyn Fn(&Seen, usize) -> Answer + Send + Sync>;

/// A provider on port 0, for HTTP/1.1 and HTTP/2 by prior knowledge. Ends with the test's runtime.
#[derive(Clone)]
pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    broken: Arc<Mutex<Vec<Instant>>>,
    connections: Arc<Mutex<usize>>,
}

impl Fake {
    /// Answers every request with what `script` makes of it and of its number, from 0.
    pub async fn start(script: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let fake = Self {
            address: listener.local_addr().expect("an address"),
            seen: Arc::default(),
            broken: Arc::default(),
            connections: Arc::default(),
        };
        let (state, script): (Fake, Script) = (fake.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                *state.connections.lock().unwrap() += 1;
                let (state, script) = (state.clone(), script.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let (state, script) = (state.clone(), script.clone());
                        async move { Ok::<_, Infallible>(state.answer(request, &script).await) }
                    });
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        fake
    }

    /// Answers everything alike.
    pub async fn always(answer: Answer) -> Self {
        Self::start(move |_, _| answer.clone()).await
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Those behind the first so many.
    pub fn seen_since(&self, number: usize) -> Vec<Seen> {
        self.seen.lock().unwrap()[number..].to_vec()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the provider was asked")
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Waits until so many requests have come.
    pub async fn until_asked(&self, times: usize) {
        let begun = Instant::now();
        while self.count() < times {
            assert!(begun.elapsed() < Duration::from_secs(5), "{} of {times} requests within 5 s", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// When replies were broken off by the other side.
    pub fn broken(&self) -> Vec<Instant> {
        self.broken.lock().unwrap().clone()
    }

    /// Waits until a reply was broken off by the other side.
    pub async fn until_broken(&self) -> Instant {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.broken().first() {
                return *at;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "no reply was broken off within 5 s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, script: &Script) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("", |p| p.as_str()).to_owned();
        let mut seen = Seen { method: head.method, path, headers: head.headers, body: Bytes::new() };
        let number = self.seen.lock().unwrap().len();
        let guard = Watch { broken: self.broken.clone(), done: false };
        match body.collect().await {
            Ok(collected) => seen.body = collected.to_bytes(),
            Err(_) => return Response::new(boxed(stream::empty())),
        }
        let answer = script(&seen, number);
        self.seen.lock().unwrap().push(seen);
        tokio::time::sleep(answer.before).await;
        let mut response = Response::builder().status(answer.status);
        for (name, value) in &answer.headers {
            response = response.header(*name, value);
        }
        let sent: usize = answer.steps.iter().map(|s| if let Step::Send(b) = s { b.len() } else { 0 }).sum();
        if answer.sized && !answer.headers.iter().any(|(name, _)| *name == "content-length") {
            response = response.header("content-length", sent);
        }
        response.body(boxed(play(answer.steps, guard))).expect("a valid answer")
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;
type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>;

fn boxed(frames: impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static) -> Body {
    let frames: Frames = Box::pin(frames);
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// Dropped before the reply is complete: the other side broke off.
struct Watch {
    broken: Arc<Mutex<Vec<Instant>>>,
    done: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.done {
            self.broken.lock().unwrap().push(Instant::now());
        }
    }
}

fn play(steps: Vec<Step>, guard: Watch) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> {
    let steps: Vec<Option<Step>> = steps.into_iter().map(Some).chain([None]).collect();
    stream::iter(steps)
        .scan(guard, |guard, step| {
            let out = match &step {
                None => {
                    guard.done = true;
                    None
                }
                Some(Step::Cut) => {
                    guard.done = true;
                    Some(Some(Err(std::io::Error::other("cut by script"))))
                }
                Some(Step::Trailers) => {
                    let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
                    Some(Some(Ok(Frame::trailers(trailers))))
                }
                Some(Step::Send(bytes)) => Some(Some(Ok(Frame::data(bytes.clone())))),
                Some(_) => Some(None),
            };
            async move {
                match step {
                    Some(Step::Wait(wait)) => tokio::time::sleep(wait).await,
                    Some(Step::Until(told)) => told.notified().await,
                    Some(Step::Stall) => std::future::pending().await,
                    // Hyper gathers frames that are ready at once; each of ours is to leave on its own.
                    Some(Step::Send(_)) => tokio::task::yield_now().await,
                    _ => {}
                }
                out
            }
        })
        .filter_map(|item| async move { item })
}
