//! List: answers a list with the objects that the tenant may see, and inspects a file before a batch is made of it.
//!
//! Both ask the provider themselves, outside of Pingora's loop, since one request of a client may take several requests to the
//! provider.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_core::{protocols::http::client::HttpSession, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    capacity::SMALL,
    error::{Fault, GatewayError},
    objects::{self, Batch, Class, Collected, Cursor, Page, PageStep, Rule},
    proxy::{
        caller::Caller,
        conceal::conceal,
        context::Context,
        headers,
        heavy::{self, Load},
        phase::{
            attempt,
            exchange::{self, Connected},
            respond, visible,
        },
        reply::{self, Reader},
        stop::{Stop, invalid},
        upstream::{self, Pieces, Upstream, Wait},
    },
    routing::{AttemptOutcome, Target},
    snapshot::UPSTREAM_IDLE,
    tenants::Principal,
    types::Api,
};

/// Pages that are read for one request. At a hundred elements each, that covers a list of ten thousand.
const MAX_PAGES: usize = 100;

/// How long pages are read for one request, and the longest time for one body.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The largest page, in bytes.
const MAX_PAGE: usize = 32 << 20;

/// How long the inspection of a batch's file may take.
const MAX_INSPECTION: Duration = Duration::from_secs(300);

/// A reply whose header has come.
struct Reply {
    session: HttpSession,
    pieces: Pieces,
    peer: Arc<HttpPeer>,
    header: ResponseHeader,
}

/// Asks the first target of the plan for something that the gateway reads whole. Returns header and body of the reply.
///
/// # Errors
/// A provider that cannot be reached, or whose reply has more than `limit` bytes.
pub async fn fetch(
    request: &RequestHeader,
    ctx: &mut Context,
    path: &str,
    query: Option<&str>,
    limit: usize,
    upstream: &Upstream,
) -> Result<(ResponseHeader, Bytes), GatewayError> {
    let mut reply = get(request, ctx, path, query, upstream).await?;
    let body = read_all(&mut reply, limit).await;
    let header = reply.header.clone();
    release(reply, body.is_ok(), upstream).await;
    Ok((header, body.map_err(|error| failed(ctx, &error))?))
}

/// Answers a list.
///
/// # Errors
/// A provider that cannot be reached, or that sends no list; a client that left.
pub async fn answer(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    target: &Target,
    rule: &'static Rule,
    upstream: &Upstream,
) -> Result<(), Stop> {
    let request = caller.request().clone();
    let uri = &request.uri;
    let path = uri.path().trim_end_matches('/');
    let anthropic = target.provider.api() == Api::Anthropic;
    let cursor = Cursor::of(uri.query().unwrap_or_default(), anthropic).map_err(visible::unreadable)?;
    let mut collected = Collected::new(cursor);
    let begun = Instant::now();
    for page in 1.. {
        let query = collected.cursor().query();
        let fetched = unless_gone(caller, fetch(&request, ctx, path, Some(&query), MAX_PAGE, upstream)).await;
        let (header, body) = note_gone(ctx, fetched)?;
        let status = header.status.as_u16();
        if !(200..300).contains(&status) {
            if page > 1 && status != 401 {
                // From here on the cursor is the gateway's, and the provider's error may name another tenant's objects.
                let message = format!("Provider '{}' broke its list off (status {status}).", ctx.provider());
                return Err(GatewayError::new(Fault::UpstreamInterrupted, message).into());
            }
            return pass_on(caller, ctx, header, conceal(body)).await;
        }
        let page_read = Page::read(&body).ok_or_else(|| misunderstood(ctx))?;
        let step = collected.add(page_read, |id, element| {
            let owner = ctx.shared.objects.owner(&target.provider.name, id);
            let Some(owner) = owner.filter(|owner| ctx.snapshot.tenants.may_see(principal, owner)) else {
                return false;
            };
            note(ctx, target, rule, element, &owner);
            true
        });
        if step == PageStep::Done {
            break;
        }
        if page >= MAX_PAGES || begun.elapsed() > MAX_TIME {
            if collected.is_empty() {
                let message = format!(
                    "None of the first {MAX_PAGES} pages of the provider's list holds anything of tenant '{}'. Narrow the list \
                     down, or ask for the objects by their ids.",
                    principal.policy.id
                );
                return Err(GatewayError::new(Fault::UpstreamTimeout, message).into());
            }
            collected.break_off();
            break;
        }
    }
    reply::json(caller, ctx, 200, collected.into_body()).await.map_err(|_| Stop::Gone)
}

/// Records the objects that an element of the list names: they belong to the element's owner.
fn note(ctx: &Context, target: &Target, rule: &Rule, element: &serde_json::Value, owner: &objects::Owner) {
    if rule.answer.is_empty() {
        return;
    }
    let ids = objects::find(&serde_json::to_vec(element).unwrap_or_default(), rule.answer);
    ctx.shared.objects.record(&target.provider.name, ids.iter().map(String::as_str), owner, Class::Kept);
}

/// Inspects the file that a batch is to be made of: each of its lines is a request, and may refer to another tenant's objects.
/// The provider does not check that. A file does not change after the inspection.
///
/// # Errors
/// A line that refers to an object that is not the tenant's, or a file that cannot be read.
pub async fn inspect_batch(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    target: &Target,
    batch: &Batch,
    upstream: &Upstream,
) -> Result<(), Stop> {
    let path = format!("/v1/files/{}/content", batch.file);
    let request = caller.request().clone();
    let asked = unless_gone(caller, get(&request, ctx, &path, None, upstream)).await;
    let mut reply = note_gone(ctx, asked)?;
    let inspected = unless_gone(caller, inspect_file(ctx, principal, target, batch, &mut reply)).await;
    release(reply, inspected.is_ok(), upstream).await;
    note_gone(ctx, inspected)
}

async fn inspect_file(
    ctx: &mut Context,
    principal: &Principal,
    target: &Target,
    batch: &Batch,
    reply: &mut Reply,
) -> Result<(), GatewayError> {
    let status = reply.header.status.as_u16();
    if !(200..300).contains(&status) {
        let body = read_all(reply, MAX_PAGE).await.map_err(|error| failed(ctx, &error))?;
        // The provider's error is the answer to the batch, and names the file that the client has named.
        return Err(provider_error(ctx, &reply.header, &body));
    }
    let longest = ctx.snapshot.config.http.max_body_bytes;
    let (mut line, mut number, begun) = (BytesMut::new(), 1_u64, Instant::now());
    let mut room = None;
    while let Some(chunk) = reply.pieces.next(&mut reply.session).await.map_err(|error| failed(ctx, &error))? {
        let mut rest = &chunk[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            line.extend_from_slice(&rest[..end]);
            inspect_line(ctx, principal, target, batch, &mut line, number).await?;
            number += 1;
            rest = &rest[end + 1..];
        }
        line.extend_from_slice(rest);
        match line.len() {
            0..=SMALL => room = None,
            length => heavy::fit(&ctx.shared.capacity, &mut room, 2 * length)?,
        }
        if line.len() > longest || begun.elapsed() > MAX_INSPECTION {
            return Err(line_error(number, "it is too large to be checked"));
        }
        // Other requests have their turn between two chunks.
        tokio::task::yield_now().await;
    }
    inspect_line(ctx, principal, target, batch, &mut line, number).await
}

/// Checks a line, and takes it out of the buffer.
async fn inspect_line(
    ctx: &Context,
    principal: &Principal,
    target: &Target,
    batch: &Batch,
    line: &mut BytesMut,
    number: u64,
) -> Result<(), GatewayError> {
    if line.iter().all(u8::is_ascii_whitespace) {
        line.clear();
        return Ok(());
    }
    let read = |batch: &Batch, line: &[u8]| batch.check(line).and_then(|()| objects::scan(line, Api::OpenAi));
    let load = Load::reading(line.len());
    let found = match load.is_light() {
        true => {
            let found = read(batch, line);
            line.clear();
            found
        }
        false => {
            let (batch, line) = (batch.clone(), line.split().freeze());
            heavy::run(&ctx.shared.capacity, load, move |_share| read(&batch, &line)).await?
        }
    };
    let checked = found.map_err(visible::unreadable).and_then(|found| visible::check(ctx, principal, target, &found));
    checked.map_err(|error| line_error(number, &error.message))
}

fn line_error(number: u64, why: &str) -> GatewayError {
    let why = why.trim_end_matches('.');
    invalid(format!("Line {number} of the batch's input file cannot be served: {why}."))
        .with_param(Some("input_file_id"))
}

/// Asks the provider, with the headers of the client's request; repeats that once if the pooled connection was stale.
async fn get(
    request: &RequestHeader,
    ctx: &mut Context,
    path: &str,
    query: Option<&str>,
    upstream: &Upstream,
) -> Result<Reply, GatewayError> {
    for fresh in [false, true] {
        match once(request, ctx, path, query, upstream, fresh).await {
            Ok(reply) => return Ok(reply),
            // A connection that the provider had closed in the pool says nothing about the provider.
            Err((error, true)) if !fresh => tracing::debug!(%error, "a pooled connection was stale"),
            Err((error, _)) => return Err(failed(ctx, &error)),
        }
    }
    Err(GatewayError::new(Fault::Internal, "The provider could not be asked."))
}

async fn once(
    request: &RequestHeader,
    ctx: &mut Context,
    path: &str,
    query: Option<&str>,
    upstream: &Upstream,
    fresh: bool,
) -> Result<Reply, (Box<Error>, bool)> {
    let sure = |error: Box<Error>| (error, false);
    // Each page is the first attempt at the only target.
    ctx.dispatch.start_over(fresh);
    let Connected { peer, mut provider, reused } = *exchange::dial(ctx, upstream).await.map_err(sure)?;
    let http2 = matches!(provider, HttpSession::H2(_));
    let outgoing = question(request, ctx, path, query, http2).map_err(sure)?;
    let maybe_stale = |error: Box<Error>| {
        let unprocessed = matches!(error.retry, RetryType::Decided(true));
        let stale = unprocessed || reused && error.etype() != &ErrorType::ReadTimedout;
        (error, stale)
    };
    let progress = upstream::send(&mut provider, &peer, outgoing, Bytes::new()).await.map_err(maybe_stale)?;
    let mut wait = Wait::new(&peer, progress);
    let header = loop {
        let header = wait.header(&mut provider).await.map_err(maybe_stale)?;
        if !header.status.is_informational() {
            break header;
        }
    };
    let pieces = Pieces::new(&peer);
    ctx.dispatch.answered(header.status.as_u16(), &ctx.metrics);
    Ok(Reply { session: provider, pieces, peer, header })
}

/// The header of the request to the provider, in HTTP/1.1 or HTTP/2.
fn question(
    request: &RequestHeader,
    ctx: &mut Context,
    path: &str,
    query: Option<&str>,
    http2: bool,
) -> Result<RequestHeader, Box<Error>> {
    let mut outgoing = request.clone();
    attempt::rewrite_header(request, &mut outgoing, ctx)?;
    let Some(provider) = ctx.dispatch.attempt.as_ref().map(|attempt| attempt.target.provider.clone()) else {
        return Err(Error::explain(ErrorType::InternalError, "no attempt under way"));
    };
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let uri = attempt::forwarded_uri(&provider, path, query.filter(|query| !query.is_empty()))?;
    let mut outcome = Ok(());
    headers::change_request(&mut outgoing, |parts| {
        (parts.method, parts.version, parts.uri) = (http::Method::GET, http::Version::HTTP_11, uri);
        remove_hop(&mut parts.headers);
        // The gateway reads the reply, so it must not be compressed.
        parts.headers.insert(header::ACCEPT_ENCODING, attempt::IDENTITY);
        outcome = attempt::sign(ctx, parts, Some(&Bytes::new())).and_then(|()| match http2 {
            true => attempt::to_http2(parts, provider.base.tls),
            false => Ok(()),
        });
    });
    outcome.map(|()| outgoing)
}

/// Removes the headers that belong to the client's own exchange: its body, its conditions, its connection.
fn remove_hop(headers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
    ] {
        headers.remove(name);
    }
}

/// The whole body of a reply, of at most `limit` bytes and within [`MAX_TIME`].
async fn read_all(reply: &mut Reply, limit: usize) -> Result<Bytes, Box<Error>> {
    let (mut whole, begun) = (BytesMut::new(), Instant::now());
    while let Some(chunk) = reply.pieces.next(&mut reply.session).await? {
        if whole.len() + chunk.len() > limit {
            return Err(Error::explain(ErrorType::ReadError, "the reply is too large to be held"));
        }
        if begun.elapsed() > MAX_TIME {
            return Err(Error::explain(ErrorType::ReadTimedout, "the reply drips"));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Gives the connection back to the pool, unless it is in the middle of a reply. In HTTP/2 only the stream is given up.
async fn release(reply: Reply, is_read: bool, upstream: &Upstream) {
    if is_read || matches!(reply.session, HttpSession::H2(_)) {
        upstream.connector.release_http_session(reply.session, &*reply.peer, Some(UPSTREAM_IDLE)).await;
    }
}

/// Does some work for a client that waits for it; [`Stop::Gone`] once the client has left.
async fn unless_gone<T>(
    caller: &mut Caller<'_>,
    work: impl Future<Output = Result<T, GatewayError>>,
) -> Result<T, Stop> {
    tokio::select! {
        biased;
        done = work => done.map_err(Stop::from),
        _ = caller.left() => Err(Stop::Gone),
    }
}

/// Ends the attempt if its client has left.
fn note_gone<T>(ctx: &mut Context, outcome: Result<T, Stop>) -> Result<T, Stop> {
    if matches!(outcome, Err(Stop::Gone)) {
        ctx.dispatch.end(AttemptOutcome::Left, &ctx.metrics);
    }
    outcome
}

/// Passes a provider's error on, in the client's shape.
pub async fn pass_on(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    mut header: ResponseHeader,
    body: Bytes,
) -> Result<(), Stop> {
    let own_credential = ctx.dispatch.attempt.as_ref().is_some_and(|attempt| attempt.own_credential);
    if header.status.as_u16() == 401 && !own_credential {
        return Err(provider_error(ctx, &header, &body).into());
    }
    let adapter = ctx.adapter();
    let body = respond::normalise_error(&mut header, body, adapter, false, &Reader::of(ctx));
    let status = header.status.as_u16();
    reply::json(caller, ctx, status, body).await.map_err(|_| Stop::Gone)
}

fn provider_error(ctx: &Context, header: &ResponseHeader, body: &[u8]) -> GatewayError {
    let provider = ctx.provider();
    let status = header.status.as_u16();
    tracing::warn!(id = %ctx.arrival.id, provider, status, bytes = body.len(), "the provider refused to show an object");
    match status {
        401 => {
            let message =
                format!("Provider '{provider}' refused the gateway's API key. The gateway's operator has to renew it.");
            GatewayError::new(Fault::UpstreamAuthentication, message)
        }
        _ => {
            let message = format!("Provider '{provider}' does not show the input file (status {status}).");
            invalid(message).with_param(Some("input_file_id"))
        }
    }
}

fn misunderstood(ctx: &Context) -> GatewayError {
    let message = format!("Provider '{}' sent a reply that is not a list.", ctx.provider());
    GatewayError::new(Fault::UpstreamInterrupted, message)
}

fn failed(ctx: &mut Context, error: &Error) -> GatewayError {
    let at_work = false;
    ctx.dispatch.end(AttemptOutcome::Broke { at_work }, &ctx.metrics);
    let provider = ctx.provider();
    tracing::warn!(id = %ctx.arrival.id, provider, error = error.etype().as_str(), "exchange broke");
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            GatewayError::new(Fault::UpstreamTimeout, format!("Provider '{provider}' did not answer in time."))
        }
        _ => GatewayError::new(Fault::UpstreamUnreachable, format!("Provider '{provider}' cannot be reached.")),
    }
}
