//! Exchange: asks one deployment after the other until one has answered, and brings its answer to the client.
//!
//! Used for every request that the gateway has whole. Requests that stream up to a provider (uploads), and WebSockets, go through
//! Pingora's own loop. The connection comes from Pingora's pool, and both ends are Pingora's sessions, with their parsers and
//! framing.

use std::{
    mem,
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use http::{Version, header};
use pingora_core::{
    protocols::http::{HttpTask, client::HttpSession},
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{attempt, inspect, recover, relay, respond};
use crate::{
    cache::Outcome,
    capacity::Turns,
    proxy::{
        caller::Caller,
        context::{Context, Delivery},
        upstream::{self, Pieces, Upstream, Wait, has_body, is_over},
    },
    routing::AttemptOutcome,
    snapshot::UPSTREAM_IDLE,
};

/// Whether the gateway has the whole request, so that this module carries it.
pub fn carries(caller: &mut Caller<'_>, ctx: &Context) -> bool {
    let read = ctx.ask.body.is_some() || ctx.ask.forwarded.is_some();
    read || caller.is_body_done() && !ctx.ask.websocket
}

/// Asks deployments until one has answered, and brings the answer to the client.
///
/// # Errors
/// No deployment has answered, or the client has left: for `recover::give_up`.
pub async fn run(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Upstream) -> Result<()> {
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

/// Makes one attempt. Its error says whether another attempt follows.
async fn once(caller: &mut Caller<'_>, ctx: &mut Context, upstream: &Upstream) -> Result<()> {
    let mut connected = {
        // Boxed, and dropped before the answer comes: a stream would carry its size along for as long as it is open.
        let mut dialling = Box::pin(dial(ctx, upstream));
        unless_left(caller, dialling.as_mut()).await?
    };
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

/// A connection to the deployment that the attempt asks.
pub struct Connected {
    pub peer: Arc<HttpPeer>,
    pub provider: HttpSession,
    /// The connection has served other requests.
    pub reused: bool,
}

/// Connects to the deployment that is asked next.
///
/// # Errors
/// The deployment cannot be reached in time; marked for a retry if another one is ready.
pub async fn dial(ctx: &mut Context, upstream: &Upstream) -> Result<Box<Connected>> {
    let peer = attempt::begin(ctx, &upstream.resolver).await?;
    match upstream.connector.get_http_session(&*peer).await {
        Ok((provider, reused)) => Ok(Box::new(Connected { peer, provider, reused })),
        Err(error) => Err(recover::from_connect(ctx, error.into_up(), &upstream.resolver)),
    }
}

/// Does some work for a client that waits for it. The caller pins the work: moved in here it would be copied each time.
///
/// # Errors
/// The error of the work, or the client has left.
pub async fn unless_left<T>(caller: &mut Caller<'_>, work: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        left = caller.left() => Err(left),
    }
}

/// Sends the request and brings its answer to the client. Returns whether the connection can serve another request. Steps that a
/// stream is done with before its first event are boxed: it would carry their size along for as long as it is open.
async fn converse(caller: &mut Caller<'_>, ctx: &mut Context, connected: &mut Connected) -> Result<bool> {
    let Connected { peer, provider, .. } = connected;
    let Answer { mut header, ended, is_sent } = Box::pin(ask(caller, ctx, provider, peer)).await?;
    let pieces = Pieces::new(peer);
    respond::receive(caller.request(), &mut header, ctx)?;
    if let Delivery::Hold = ctx.reply.delivery {
        respond::downgrade(caller, &mut header);
        Box::pin(hold(caller, ctx, provider, pieces, header, ended)).await?;
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
        false => pass(caller, ctx, provider, pieces, tasks, ended).await?,
    }
    Ok(is_sent)
}

/// The header of an answer.
struct Answer {
    header: ResponseHeader,
    /// The answer ends with its header.
    ended: bool,
    /// The whole request was sent.
    is_sent: bool,
}

/// Sends the request, and waits for the header of its answer. Interim headers are passed on.
async fn ask(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    peer: &HttpPeer,
) -> Result<Answer> {
    let request = attempt::header(caller.request(), ctx, matches!(provider, HttpSession::H2(_)))?;
    let body = ctx.dispatch.attempt.as_ref().and_then(|attempt| attempt.body.clone()).unwrap_or_default();
    let sent = unless_left(caller, pin!(upstream::send(provider, peer, request, body))).await?;
    let mut wait = Wait::new(peer, sent);
    loop {
        let mut header = unless_left(caller, pin!(wait.header(provider))).await?;
        if header.status.is_informational() {
            respond::receive(caller.request(), &mut header, ctx)?;
            caller.write(vec![HttpTask::Header(Box::new(header), false)]).await?;
            continue;
        }
        let ended = is_over(provider)?;
        if ended && matches!(provider, HttpSession::H2(_)) && upstream::promises_body(caller.request(), &header) {
            let why = "a length without a body";
            return Err(Error::explain(ErrorType::H2Error, why).into_up());
        }
        return Ok(Answer { header, ended, is_sent: wait.is_sent });
    }
}

/// States the framing of the body to the client even if the provider ends it only by closing the connection.
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
async fn next(caller: &mut Caller<'_>, provider: &mut HttpSession, pieces: &mut Pieces) -> Result<Option<Bytes>> {
    unless_left(caller, pin!(pieces.next(provider))).await
}

/// Holds a reply until it is complete, and writes the result to the client.
async fn hold(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    mut pieces: Pieces,
    header: ResponseHeader,
    mut ended: bool,
) -> Result<()> {
    let (mut held, publish) = respond::hold(ctx, Box::new(header));
    let mut turns = Turns::default();
    while !ended {
        let chunk = next(caller, provider, &mut pieces).await?;
        turns.took(chunk.as_ref().map_or(0, Bytes::len)).await;
        ended = chunk.is_none() || is_over(provider)?;
        if held.push(chunk.unwrap_or_default())? {
            continue;
        }
        if let Some(flight) = ctx.flight() {
            // The reply is too large to be kept for followers.
            flight.end(Outcome::Solo);
        }
        let (mut header, chunks) = held.let_through();
        frame(caller.request(), &mut header, false)?;
        respond::downgrade(caller, &mut header);
        let mut tasks = vec![HttpTask::Header(header, false)];
        tasks.extend(chunks.into_iter().map(|chunk| HttpTask::Body(Some(chunk), false)));
        return pass(caller, ctx, provider, pieces, tasks, ended).await;
    }
    let (mut header, mut body) = held.complete();
    if !ctx.snapshot.guards.is_empty() {
        Box::pin(inspect::reply(caller, ctx, &mut header, &mut body)).await?;
    }
    publish.reply(&header, &body);
    header.set_version(Version::HTTP_11);
    let tasks = vec![HttpTask::Header(header, false), HttpTask::Body(Some(body), true)];
    caller.write(tasks).await
}

/// Passes a reply on as it arrives, event by event if it is a stream. `tasks` are written before the reply's body.
async fn pass(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    provider: &mut HttpSession,
    mut pieces: Pieces,
    mut tasks: Vec<HttpTask>,
    mut ended: bool,
) -> Result<()> {
    let mut turns = Turns::default();
    loop {
        // A piece of the body that has arrived already is written together with the header.
        let ready = if ended { Some(Ok(None)) } else { pieces.ready(provider) };
        if !matches!(ready, Some(Ok(_))) && !tasks.is_empty() {
            caller.write(mem::take(&mut tasks)).await?;
        }
        let chunk = match ready {
            Some(chunk) => chunk?,
            None => next(caller, provider, &mut pieces).await?,
        };
        turns.took(chunk.as_ref().map_or(0, Bytes::len)).await;
        ended = ended || chunk.is_none() || is_over(provider)?;
        let trailers = match ctx.reply.delivery {
            Delivery::Pass if chunk.is_none() => upstream::read_trailers(provider).await?,
            _ => None,
        };
        let mut body = chunk;
        if let (Some(keeper), Some(bytes)) = (&mut ctx.reply.keeper, &body) {
            keeper.pass(bytes);
        }
        if let Some(parting) = relay::events(&mut body, ended, ctx)? {
            caller.outlived(parting);
        }
        if !ctx.snapshot.guards.is_empty() {
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
