//! Exchange: ask one deployment after the other until one has answered, and bring its answer to the client.
//!
//! For every request that the gateway has whole. What streams up to a provider (uploads), and WebSockets, go through Pingora's
//! own loop. The connection comes from Pingora's pool, and both ends are its sessions: their parsers and their framing.

use std::{
    mem,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Version, header};
use pingora_core::{
    protocols::http::{
        HttpTask,
        client::HttpSession,
        v1::client::HttpSession as Http1Session,
        v2::{self, client::Http2Session},
    },
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_error::{Error, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::FailToProxy;
use tokio::sync::oneshot;

use super::{attempt, cache, finish, inspect, recover, relay, respond};
use crate::{
    cache::{Lead, Outcome},
    capacity::Turns,
    engines::UPSTREAM_IDLE,
    proxy::{
        apart::{self, Local},
        caller::Caller,
        context::{Context, Delivery, Handed},
        duplex::{Duplex, Sent},
        upstream::Upstream,
    },
    routing::AttemptOutcome,
};

/// One `write_timeout` covers one piece of a body, so a slow provider may take a large one at its own pace.
const PIECE: usize = 256 * 1024;

/// A smaller body is sent without a look at what the provider says meanwhile: it finds room in the buffers of the connection.
const LISTENED: usize = 64 << 10;

/// How long an answer may take that a provider gave before it stopped taking the request: it is there, or it does not come.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whether the request is here whole, so that it is carried here.
pub fn carries(caller: &mut Caller<'_>, ctx: &Context) -> bool {
    let read = ctx.ask.body.is_some() || ctx.ask.forwarded.is_some();
    read || caller.is_body_done() && !ctx.ask.websocket
}

/// Asks deployments until one has answered, and brings the answer to the client.
///
/// # Errors
/// No deployment has answered, or the client has left: for `recover::give_up`.
pub async fn run(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Arc<Upstream>) -> Result<()> {
    match cache::leads(ctx) {
        // Boxed, as it is seldom needed: every stream would carry its size along.
        Some((lead, finish)) => Box::pin(lead_apart(caller, ctx, upstream, lead, finish)).await,
        None => attempts(caller, ctx, upstream).await,
    }
}

async fn attempts(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Upstream) -> Result<()> {
    attempt::arm(caller, ctx);
    while let Err(error) = once(caller, ctx, upstream).await {
        if !error.retry() {
            return Err(error);
        }
    }
    match caller.is_gone() {
        true => Err(Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()),
        false => Ok(()),
    }
}

/// How an exchange that was a task of its own has ended. Whoever comes to own it records the request; dropped, it does so itself:
/// the client has left.
struct Ended {
    caller: Caller<'static>,
    ctx: Option<Context>,
    failed: Option<(Box<Error>, FailToProxy)>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(mut ctx) = self.ctx.take() {
            let error = self.failed.as_ref().map(|(error, _)| &**error);
            finish::record(&mut self.caller, &mut ctx, error);
        }
    }
}

/// Others may wait for the same answer: the exchange is a task of its own, and its client a reader of it.
async fn lead_apart(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    upstream: &Arc<Upstream>,
    lead: Arc<Lead>,
    finish: bool,
) -> Result<()> {
    let (remote, local) = apart::pair(caller.request().clone(), lead, finish);
    let stand_in = Context::stand_in(ctx);
    let mut own = mem::replace(ctx, stand_in);
    let (done, ended) = oneshot::channel();
    let upstream = upstream.clone();
    tokio::spawn(async move {
        let mut caller = Caller::apart(remote);
        let failed = match attempts(&mut caller, &mut own, &upstream).await {
            Ok(()) => None,
            Err(error) => {
                let end = recover::give_up(&mut caller, &mut own, &error).await;
                Some((error, end))
            }
        };
        // Where its client has left, it is recorded by being dropped.
        let _ = done.send(Ended { caller, ctx: Some(own), failed });
    });
    let mut ended = match read_along(caller, &local, ended).await {
        Err(error) if error.etype() == &ErrorType::InternalError => {
            // The task has panicked: what is left of the request is here.
            ctx.handed = Handed::Here;
            return Err(error);
        }
        ended => ended?,
    };
    if let Some(own) = ended.ctx.take() {
        ctx.come_back(own);
    }
    match ended.failed.take() {
        None => Ok(()),
        Some((error, end)) => {
            ctx.handed = Handed::Back(end);
            Err(error)
        }
    }
}

/// Gives the client what the exchange writes for it, until that has ended.
async fn read_along(caller: &mut Caller<'_>, local: &Local, mut ended: oneshot::Receiver<Ended>) -> Result<Ended> {
    loop {
        let (tasks, closes) = tokio::select! {
            biased;
            next = local.next() => next,
            end = &mut ended => {
                let (tasks, closes) = local.now();
                deliver(caller, local, tasks, closes).await?;
                return end.map_err(|_| Error::explain(ErrorType::InternalError, "the exchange has come to no end"));
            }
            left = caller.departure() => return Err(left),
        };
        deliver(caller, local, tasks, closes).await?;
    }
}

async fn deliver(caller: &mut Caller<'_>, local: &Local, tasks: Vec<HttpTask>, closes: bool) -> Result<()> {
    if closes {
        caller.close_after();
    }
    let bytes = apart::size(&tasks);
    if !tasks.is_empty() {
        caller.write(tasks).await?;
    }
    local.written(bytes);
    Ok(())
}

/// One attempt. Its error says whether another one follows.
async fn once(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Upstream) -> Result<()> {
    // Boxed, and gone before the answer comes: a stream would carry its size along for as long as it is open.
    let mut connected = Box::pin(connect(caller, ctx, upstream)).await?;
    let outcome = converse(caller, ctx, &mut connected).await;
    let Connected { peer, provider, reused } = *connected;
    let http2 = matches!(provider, HttpSession::H2(_));
    if http2 || matches!(outcome, Ok(true)) {
        Box::pin(upstream.connector.release_http_session(provider, &*peer, Some(UPSTREAM_IDLE))).await;
    }
    match outcome {
        Ok(_) => {
            ctx.dispatch.end(AttemptOutcome::Answered, &ctx.metrics);
            Ok(())
        }
        Err(mut error) => {
            if matches!(error.etype(), ErrorType::H2Downgrade | ErrorType::InvalidH2) {
                match peer.get_alpn().is_none_or(|alpn| alpn.get_min_http_version() == 1) {
                    true => upstream.connector.prefer_h1(&*peer),
                    false => error.set_retry(false),
                }
            }
            Err(recover::from_exchange(caller, ctx, error, reused))
        }
    }
}

/// A connection to the deployment that is asked.
pub(super) struct Connected {
    pub(super) peer: Arc<HttpPeer>,
    pub(super) provider: HttpSession,
    /// It has served other requests.
    pub(super) reused: bool,
}

async fn connect(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Upstream) -> Result<Box<Connected>> {
    unless_left(caller, pin!(dial(ctx, upstream))).await
}

/// Connects to the deployment that is asked next.
///
/// # Errors
/// It cannot be reached within its time, marked for the next one where there is one.
pub(super) async fn dial(ctx: &mut Context, upstream: &Upstream) -> Result<Box<Connected>> {
    let peer = attempt::begin(ctx, &upstream.resolver).await?;
    match upstream.connector.get_http_session(&*peer).await {
        Ok((provider, reused)) => Ok(Box::new(Connected { peer, provider, reused })),
        Err(error) => Err(recover::from_connect(ctx, error.into_up(), &upstream.resolver)),
    }
}

/// What comes of some work for a client that waits for it. Pinned by whoever asks: moved in here it would be copied each time.
///
/// # Errors
/// Those of the work; the client has left.
pub(super) async fn unless_left<T>(
    caller: &mut Caller<'_>,
    work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        left = caller.left() => Err(left),
    }
}

/// What comes of some work until a deadline.
async fn until<T>(
    deadline: Option<Instant>,
    missed: fn() -> Box<Error>,
    work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| Err(missed())),
    }
}

fn not_taken() -> Box<Error> {
    Error::explain(ErrorType::WriteTimedout, "the provider does not take the request")
}

fn silent() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the provider is silent").into_up()
}

fn deadline(patience: Option<Duration>) -> Option<Instant> {
    patience.map(|patience| Instant::now() + patience)
}

/// Sends the request and brings its answer to the client. Returns whether the connection can serve another request. What a stream
/// is done with before its first event is boxed: it would carry its size along for as long as it is open.
async fn converse(caller: &mut Caller<'_>, ctx: &mut Context, connected: &mut Connected) -> Result<bool> {
    let Connected { peer, provider, .. } = connected;
    let Answer { mut header, ended, is_sent } = Box::pin(ask(caller, ctx, provider, peer)).await?;
    respond::receive(caller.request(), &mut header, ctx)?;
    if let Delivery::Hold = ctx.reply.delivery {
        respond::downgrade(caller, &mut header);
        Box::pin(hold(caller, ctx, provider, header, ended)).await?;
        return Ok(is_sent);
    }
    frame(caller.request(), &mut header, ended)?;
    respond::downgrade(caller, &mut header);
    if let Delivery::Pass = ctx.reply.delivery {
        inspect::refuse_unread(ctx, &header)?;
        ctx.reply.first_byte.get_or_insert_with(Instant::now);
    }
    let is_all = ended && matches!(ctx.reply.delivery, Delivery::Pass);
    let tasks = vec![HttpTask::Header(Box::new(header), is_all)];
    match is_all {
        true => caller.write(tasks).await?,
        false => pass(caller, ctx, provider, tasks, ended).await?,
    }
    Ok(is_sent)
}

/// The header of an answer.
struct Answer {
    header: ResponseHeader,
    /// That is all there is of it.
    ended: bool,
    /// The whole request was sent.
    is_sent: bool,
}

/// Sends the request, and waits for the header of its answer. What comes before it is passed on.
async fn ask(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    peer: &HttpPeer,
) -> Result<Answer> {
    let request = attempt::header(caller.request(), ctx, matches!(provider, HttpSession::H2(_)))?;
    let body = ctx.dispatch.attempt.as_ref().and_then(|attempt| attempt.body.clone()).unwrap_or_default();
    let sent = unless_left(caller, pin!(send(provider, peer, request, body))).await?;
    let mut wait = Wait::new(peer, sent);
    loop {
        let mut header = unless_left(caller, pin!(wait.header(provider))).await?;
        if header.status.is_informational() {
            respond::receive(caller.request(), &mut header, ctx)?;
            caller.write(vec![HttpTask::Header(Box::new(header), false)]).await?;
            continue;
        }
        provider.set_read_timeout(peer.options.read_timeout);
        let ended = is_over(provider)?;
        if ended && matches!(provider, HttpSession::H2(_)) && promises_body(caller.request(), &header) {
            let why = "a length without a body";
            return Err(Error::explain(ErrorType::H2Error, why).into_up());
        }
        return Ok(Answer { header, ended, is_sent: wait.is_sent });
    }
}

/// How far a request was sent.
pub(super) enum Progress {
    /// To its end.
    Whole,
    /// Until the provider refused it.
    Refused,
    /// Until this error. The provider may have answered before it had read all of it.
    Broken(Box<Error>),
}

/// Sends a request. The header and the first piece of the body have `write_timeout` to be taken, and so has each further piece:
/// the timeouts of a session would begin anew with each write, and with each byte of window in HTTP/2.
///
/// A provider may answer before it has read all of a large body. An error (or redirect) ends the sending of it (RFC 9112 §9.5, RFC
/// 9113 §8.1). Where it begins a good answer early it reads on to finish it: the body is sent to its end, and then the answer read.
///
/// # Errors
/// The header could not be sent, or the provider has said that it does not process the request.
pub(super) async fn send(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    body: Bytes,
) -> Result<Progress> {
    // Within the deadlines each read and write has its own time as well. Without these timers the process kept 30 MiB after a load of
    // large bodies (tests/it/memory.rs); the cause is not known.
    provider.set_read_timeout(peer.options.read_timeout);
    provider.set_write_timeout(peer.options.write_timeout);
    // A session that has not sent the header itself does not know that the answer to it has no body.
    let large = body.len() > LISTENED && request.method != Method::HEAD;
    match provider {
        // Boxed, as they are seldom needed: every request would carry their size along.
        HttpSession::H2(http2) => Box::pin(send_http2(http2, peer, request, body)).await,
        _ if large => Box::pin(send_large(provider, peer, request, body)).await,
        _ => send_small(provider, peer, request, body).await,
    }
}

async fn send_small(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    body: Bytes,
) -> Result<Progress> {
    let mut begun = false;
    let sent = async {
        provider.write_request_header(Box::new(request)).await?;
        begun = true;
        if !body.is_empty() {
            provider.write_request_body(body, true).await?;
        }
        provider.finish_request_body().await
    };
    let sent = until(deadline(peer.options.write_timeout), not_taken, pin!(sent)).await;
    match sent {
        Ok(()) => Ok(Progress::Whole),
        Err(error) if begun => Ok(Progress::Broken(error.into_up())),
        Err(error) => Err(error.into_up()),
    }
}

async fn send_large(
    provider: &mut HttpSession,
    peer: &HttpPeer,
    request: RequestHeader,
    mut body: Bytes,
) -> Result<Progress> {
    let patience = peer.options.write_timeout;
    let header = provider.write_request_header(Box::new(request));
    until(deadline(patience), not_taken, pin!(header)).await.map_err(Error::into_up)?;
    let HttpSession::H1(http1) = mem::replace(provider, HttpSession::Custom(())) else {
        return Error::e_explain(ErrorType::InternalError, "no HTTP/1");
    };
    let (mut duplex, mut turns) = (Duplex::new(http1.into_inner()), Turns::default());
    let progress = loop {
        let piece = body.split_to(body.len().min(PIECE));
        let size = piece.len();
        match until(deadline(patience), not_taken, pin!(duplex.send(piece))).await {
            Ok(Sent::Whole) if body.is_empty() => break Progress::Whole,
            Ok(Sent::Whole) => turns.took(size).await,
            Ok(Sent::Refused) => break Progress::Refused,
            Err(error) => break Progress::Broken(error.into_up()),
        }
    };
    *provider = HttpSession::H1(Http1Session::new_with_options(duplex.into_stream(), peer));
    Ok(progress)
}

async fn send_http2(
    http2: &mut Http2Session,
    peer: &HttpPeer,
    request: RequestHeader,
    mut body: Bytes,
) -> Result<Progress> {
    http2.write_request_header(Box::new(request), false).map_err(|mut error| {
        if error.etype() == &ErrorType::H2Error {
            // The connection has closed since it was taken from the pool: no stream was opened, so nothing was processed.
            error.set_retry(true);
        }
        error.into_up()
    })?;
    // Where it is dropped before its end, the stream is reset once its answer is read.
    let Some(mut writer) = http2.take_request_body_writer() else {
        return Error::e_explain(ErrorType::InternalError, "no stream to write to");
    };
    let mut turns = Turns::default();
    loop {
        let piece = body.split_to(body.len().min(PIECE));
        let (size, ends) = (piece.len(), body.is_empty());
        let mut dead = false;
        let sent = async {
            let mut write = pin!(v2::write_body(&mut writer, piece, ends, None));
            loop {
                tokio::select! {
                    biased;
                    sent = &mut write => return sent.map(|()| Sent::Whole),
                    read = http2.read_response_header(), if http2.response_header().is_none() => {
                        dead = read.is_err();
                        read?;
                        if http2.response_header().is_some_and(|header| !header.status.is_success()) {
                            return Ok(Sent::Refused);
                        }
                    }
                }
            }
        };
        let sent = until(deadline(peer.options.write_timeout), not_taken, pin!(sent)).await;
        match sent {
            Ok(Sent::Whole) if ends => return Ok(Progress::Whole),
            Ok(Sent::Whole) => turns.took(size).await,
            Ok(Sent::Refused) => return Ok(Progress::Refused),
            // There is no second look at what a stream has come to.
            Err(error) if dead => return Err(error.into_up()),
            Err(error) => return Ok(Progress::Broken(error.into_up())),
        }
    }
}

/// The wait for the header of an answer: one deadline for all that comes before the end of it.
pub(super) struct Wait {
    deadline: Option<Instant>,
    broken: Option<Box<Error>>,
    /// The whole request was sent.
    is_sent: bool,
}

impl Wait {
    /// It begins where the request ends, or where it broke off.
    pub(super) fn new(peer: &HttpPeer, progress: Progress) -> Self {
        let patience = peer.options.read_timeout;
        match progress {
            Progress::Whole => Self { deadline: deadline(patience), broken: None, is_sent: true },
            Progress::Refused => Self { deadline: deadline(patience), broken: None, is_sent: false },
            Progress::Broken(error) => {
                let patience = patience.map(|most| most.min(LAST_WORDS));
                Self { deadline: deadline(patience), broken: Some(error), is_sent: false }
            }
        }
    }

    /// The next header: one before the answer (1xx), or that of the answer.
    ///
    /// # Errors
    /// There is none until the deadline, the connection broke, or it has become an upgrade.
    pub(super) async fn header(&mut self, provider: &mut HttpSession) -> Result<ResponseHeader> {
        // HTTP/2 shows one header, and it may have come while the body was sent.
        let is_read = matches!(provider, HttpSession::H2(http2) if http2.response_header().is_some());
        if !is_read && let Err(error) = until(self.deadline, silent, pin!(provider.read_response_header())).await {
            // One that says that the request was not processed says more than the one that broke it off.
            let unprocessed = matches!(error.retry, RetryType::Decided(true));
            return Err(self.broken.take().filter(|_| !unprocessed).unwrap_or(error).into_up());
        }
        let Some(header) = provider.response_header() else {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "no header").into_up());
        };
        if header.status == http::StatusCode::SWITCHING_PROTOCOLS {
            // Nobody has asked for that.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade that nobody asked for").into_up());
        }
        // What is there already is read without a look at the clock.
        if header.status.is_informational() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(silent());
        }
        Ok(header.clone())
    }
}

/// RFC 9113 §8.1.1 with RFC 9110 §8.6: a length other than zero is followed by data.
fn promises_body(request: &RequestHeader, header: &ResponseHeader) -> bool {
    let length = header.headers.get(header::CONTENT_LENGTH);
    has_body(request, header) && length.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}

/// Whether a reply with this header has a body at all (RFC 9110 §6.4.1).
fn has_body(request: &RequestHeader, header: &ResponseHeader) -> bool {
    request.method != Method::HEAD && !matches!(header.status.as_u16(), 204 | 304)
}

/// True once the whole reply was read.
///
/// # Errors
/// It broke off, which HTTP/2 tells in no other way.
fn is_over(provider: &mut HttpSession) -> Result<bool> {
    match provider {
        HttpSession::H2(http2) => http2.check_response_end_or_error().map_err(Error::into_up),
        other => Ok(other.response_done()),
    }
}

/// The client is told where the body ends also where only the end of the connection told us.
fn frame(request: &RequestHeader, header: &mut ResponseHeader, ended: bool) -> Result<()> {
    let told = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH].iter().any(|name| header.headers.contains_key(name));
    // HTTP/1.0 knows no chunks, HTTP/2 has its own.
    header.set_version(Version::HTTP_11);
    if !told && !ended && has_body(request, header) {
        header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}

/// More of the reply's body; `None` at its end.
async fn next(caller: &mut Caller<'_>, provider: &mut HttpSession) -> Result<Option<Bytes>> {
    unless_left(caller, pin!(piece(provider))).await
}

/// The next piece of an answer's body; `None` at its end. What brings nothing of it (an empty frame, a byte of a trailer) is
/// silence, though it begins the read timeout anew: with all of that it takes twice that long at most.
///
/// # Errors
/// The provider is silent, or the connection broke.
pub(super) async fn piece(provider: &mut HttpSession) -> Result<Option<Bytes>> {
    let mut since = None;
    loop {
        let chunk = provider.read_response_body().await.map_err(Error::into_up)?;
        if chunk.as_ref().is_none_or(|chunk| !chunk.is_empty()) {
            return Ok(chunk);
        }
        let patience = match provider {
            HttpSession::H1(http1) => http1.read_timeout,
            HttpSession::H2(http2) => http2.read_timeout,
            HttpSession::Custom(()) => None,
        };
        let since: &mut Instant = since.get_or_insert_with(Instant::now);
        if patience.is_some_and(|patience| since.elapsed() >= patience) {
            return Err(silent());
        }
    }
}

/// Keeps a reply back until it is complete, and gives the client what becomes of it.
async fn hold(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    header: ResponseHeader,
    mut ended: bool,
) -> Result<()> {
    let (mut held, publish) = respond::hold(ctx, Box::new(header));
    let mut turns = Turns::default();
    while !ended {
        let chunk = next(caller, provider).await?;
        turns.took(chunk.as_ref().map_or(0, Bytes::len)).await;
        ended = chunk.is_none() || is_over(provider)?;
        if held.push(chunk.unwrap_or_default())? {
            continue;
        }
        if let Some(fill) = ctx.fill() {
            // Too large to be kept for those who wait.
            fill.end(Outcome::Solo);
        }
        let (mut header, chunks) = held.let_through();
        frame(caller.request(), &mut header, false)?;
        respond::downgrade(caller, &mut header);
        let mut tasks = vec![HttpTask::Header(header, false)];
        tasks.extend(chunks.into_iter().map(|chunk| HttpTask::Body(Some(chunk), false)));
        return pass(caller, ctx, provider, tasks, ended).await;
    }
    let (mut header, mut body) = held.complete();
    if !ctx.engines.guards.is_empty() {
        Box::pin(inspect::reply(caller, ctx, &mut header, &mut body)).await?;
    }
    publish.reply(&header, &body);
    header.set_version(Version::HTTP_11);
    let tasks = vec![HttpTask::Header(header, false), HttpTask::Body(Some(body), true)];
    caller.write(tasks).await
}

/// Passes a reply on as it arrives, event by event where it is a stream. `tasks` are what goes before.
async fn pass(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    mut tasks: Vec<HttpTask>,
    mut ended: bool,
) -> Result<()> {
    let mut turns = Turns::default();
    loop {
        // What came along with the header leaves with it.
        let ready = if ended { Some(Ok(None)) } else { provider.read_response_body().now_or_never() };
        let ready = ready.filter(|read| !matches!(read, Ok(Some(chunk)) if chunk.is_empty()));
        if !matches!(ready, Some(Ok(_))) && !tasks.is_empty() {
            caller.write(mem::take(&mut tasks)).await?;
        }
        let chunk = match ready {
            Some(chunk) => chunk.map_err(Error::into_up)?,
            None => next(caller, provider).await?,
        };
        turns.took(chunk.as_ref().map_or(0, Bytes::len)).await;
        ended = ended || chunk.is_none() || is_over(provider)?;
        let trailers = match ctx.reply.delivery {
            Delivery::Pass if chunk.is_none() => read_trailers(provider).await?,
            _ => None,
        };
        let mut body = chunk;
        if let (Some(keeper), Some(bytes)) = (&mut ctx.reply.keeper, &body) {
            keeper.pass(bytes);
        }
        if let Some(parting) = relay::events(&mut body, ended, ctx)? {
            caller.outlived(parting);
        }
        if !ctx.engines.guards.is_empty() {
            Box::pin(inspect::events(caller, ctx, &mut tasks, body.as_ref())).await?;
        }
        relay::share(&mut body, ctx);
        tasks.extend(body.map(|body| HttpTask::Body(Some(body), false)));
        if ended {
            tasks.push(trailers.map_or(HttpTask::Done, |trailers| HttpTask::Trailer(Some(trailers))));
        }
        if !tasks.is_empty() {
            caller.write(mem::take(&mut tasks)).await?;
        }
        if ended {
            return Ok(());
        }
    }
}

async fn read_trailers(provider: &mut HttpSession) -> Result<Option<Box<HeaderMap>>> {
    match provider {
        HttpSession::H2(http2) => Ok(http2.read_trailers().await.map_err(Error::into_up)?.map(Box::new)),
        _ => Ok(None),
    }
}
