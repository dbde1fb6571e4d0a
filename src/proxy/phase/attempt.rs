//! Attempt: one try at one target, with the body, the headers and the credential that the target needs.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, header, request,
    uri::{Authority, Scheme},
};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;

use super::{
    identify,
    plan::{self, Presented},
    respond::ALL_DOWN,
    translate,
};
use crate::{
    config::{ClientLeft, Provider},
    error::Fault,
    openai::Endpoint,
    providers::adapter::{self, Call},
    proxy::{
        caller::{Caller, Parting},
        context::Context,
        dispatch::{Attempt, Prepared},
        forwarded::Way,
        headers,
        resolve::Resolver,
    },
    routing::{self, AttemptOutcome, Candidates, NoCredential, PATIENCE},
};

/// Numbers for connections that must not come from the pool.
static FRESH: AtomicU64 = AtomicU64::new(1);

/// Number of headers of a usual request to a provider: with more, the map has to grow.
const ROOM: usize = 24;

/// The `accept-encoding` of a request whose reply the gateway reads.
pub const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS_OR_JSON: HeaderValue = HeaderValue::from_static("text/event-stream, application/json");
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Decides what becomes of the exchange if its client leaves.
pub fn arm(caller: &mut Caller<'_>, ctx: &Context) {
    if ctx.grant.reservation.is_some() && ctx.snapshot.config.budgets.client_left == ClientLeft::Drain {
        caller.outlived(Parting::Drain);
    }
}

/// Starts the next attempt: its body, its address, its timeouts.
///
/// # Errors
/// No target could be prepared, the gateway has no valid credential, or the host name does not resolve. Marked for a retry if
/// another target is ready.
pub async fn begin(ctx: &mut Context, resolver: &Resolver) -> Result<Arc<HttpPeer>> {
    if ctx.dispatch.prepared.is_none()
        && let Err(refusal) = translate::prepare(ctx).await
    {
        // The first attempt was prepared earlier, so a provider has failed by now.
        tracing::debug!(id = %ctx.arrival.id, refusal = &*refusal.message, "no other deployment can be asked this");
        // The client is told only of a refusal that is temporary.
        ctx.dispatch.refusal = Some(refusal).filter(|refusal| refusal.fault == Fault::Overloaded);
        return Err(Error::explain(ALL_DOWN, "no other deployment can be asked this").into_up());
    }
    let target = ctx.dispatch.candidates.as_mut().and_then(Candidates::lease);
    let (Some(prepared), Some(target)) = (ctx.dispatch.prepared.take(), target) else {
        return Error::e_explain(ErrorType::InternalError, "no target left");
    };
    let Prepared { body, exchange } = *prepared;
    let own_credential = plan::credential(ctx, &target).is_some_and(|key| key.is_own());
    let provider = target.provider.clone();
    let price = ctx.snapshot.price(&ctx.ask.endpoint, &target);
    ctx.dispatch.attempt = Some(Attempt { target, price, body, exchange, own_credential, is_sent: false });

    if let Err(mut error) = authorize(ctx).await {
        ctx.dispatch.end(AttemptOutcome::Unreachable, &ctx.metrics);
        error.set_retry(translate::ready(ctx));
        return Err(error);
    }
    let address = match resolver.resolve(&provider.base.host, provider.base.port).await {
        Ok(address) => address,
        Err(cause) => {
            ctx.dispatch.end(AttemptOutcome::Unreachable, &ctx.metrics);
            let mut error = Error::because(ErrorType::ConnectError, "host name does not resolve", cause).into_up();
            error.set_retry(translate::ready(ctx));
            return Err(error);
        }
    };
    let mut peer = ctx.snapshot.peers.at(&provider, address, ctx.snapshot.authorities.get(&provider.name));
    if ctx.ask.websocket {
        Arc::make_mut(&mut peer).options.read_timeout = None;
    }
    if ctx.dispatch.candidates.as_ref().is_some_and(Candidates::has_repeated) {
        // A group of its own, so that the connection is a fresh one and not another stale one from the pool.
        Arc::make_mut(&mut peer).group_key = FRESH.fetch_add(1, Ordering::Relaxed);
    }
    Ok(peer)
}

/// The header of the request as the provider gets it, in HTTP/1.1 or HTTP/2.
///
/// # Errors
/// A path that cannot be forwarded.
pub fn header(request: &RequestHeader, ctx: &mut Context, http2: bool) -> Result<RequestHeader> {
    mark_sent(ctx);
    let original = request;
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = original.method.clone();
    rewrite(request, ctx, &original.headers, &mut parts)?;
    let body = ctx.dispatch.attempt.as_ref().and_then(|attempt| attempt.body.as_ref());
    sign(ctx, &mut parts, body.or(Some(&Bytes::new())))?;
    if http2 {
        to_http2(&mut parts, ctx.dispatch.attempt.as_ref().is_some_and(|attempt| attempt.target.provider.base.tls))?;
    }
    Ok(parts.into())
}

/// Signs the request if the gateway's credential is a signature, as the last step before it is sent.
///
/// # Errors
/// The request cannot be signed.
pub fn sign(ctx: &Context, parts: &mut request::Parts, body: Option<&Bytes>) -> Result<()> {
    let Some(attempt) = ctx.dispatch.attempt.as_ref().filter(|attempt| !attempt.own_credential) else { return Ok(()) };
    let Some(authorizer) = &attempt.target.wire.authorizer else { return Ok(()) };
    authorizer
        .sign(parts, body)
        .map_err(|cause| Error::because(ErrorType::InternalError, "the request cannot be signed", cause))
}

/// Waits until the gateway's credential for the target is valid.
///
/// # Errors
/// No credential is valid in time; treated like a provider that cannot be reached.
async fn authorize(ctx: &Context) -> Result<()> {
    let Some(attempt) = ctx.dispatch.attempt.as_ref().filter(|attempt| !attempt.own_credential) else { return Ok(()) };
    let Some(ready) = attempt.target.wire.authorizer.as_ref().and_then(|authorizer| authorizer.ready()) else {
        return Ok(());
    };
    let outcome = tokio::time::timeout(PATIENCE, ready).await;
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => NoCredential(format!("there is none within {} s", PATIENCE.as_secs())),
    };
    tracing::error!(id = %ctx.arrival.id, provider = ctx.provider(), %error, "no credential for the provider");
    Err(Error::because(ErrorType::ConnectError, "no credential", error).into_up())
}

/// Moves the host from the headers into the URI (RFC 9113 §8.3.1), and removes `transfer-encoding`, as HTTP/2 has framing of its
/// own (§8.2.2).
///
/// # Errors
/// A path that cannot be forwarded.
pub fn to_http2(parts: &mut request::Parts, tls: bool) -> Result<()> {
    parts.version = http::Version::HTTP_2;
    parts.headers.remove(header::TRANSFER_ENCODING);
    let host = parts.headers.remove(header::HOST);
    let mut uri = mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.uri = http::Uri::from_parts(uri).map_err(unforwarded)?;
    Ok(())
}

/// Marks the request as sent: from here on the provider may charge for it.
fn mark_sent(ctx: &mut Context) {
    if let Some(attempt) = &mut ctx.dispatch.attempt {
        attempt.is_sent = true;
    }
    if let Some(reservation) = &mut ctx.grant.reservation {
        reservation.mark_sent();
    }
}

/// Writes the provider's URL, host, credential and framing into a request header that Pingora sends.
///
/// # Errors
/// A path that cannot be forwarded.
pub fn rewrite_header(request: &RequestHeader, outgoing: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
    mark_sent(ctx);
    let mut outcome = Ok(());
    headers::change_request(outgoing, |parts| {
        let original = mem::take(&mut parts.headers);
        outcome = rewrite(request, ctx, &original, parts);
    });
    outcome
}

/// Signs a request that Pingora sends, whose body streams through unless it was read.
///
/// # Errors
/// The request cannot be signed.
pub fn sign_forwarded(outgoing: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let body = ctx.dispatch.attempt.as_ref().and_then(|attempt| attempt.body.clone());
    let mut outcome = Ok(());
    headers::change_request(outgoing, |parts| outcome = sign(ctx, parts, body.as_ref()));
    outcome
}

/// Writes the provider's URL, and the request's headers: those of the client's that the provider gets, its host, credential and
/// framing.
fn rewrite(request: &RequestHeader, ctx: &Context, original: &HeaderMap, parts: &mut request::Parts) -> Result<()> {
    let Some(attempt) = &ctx.dispatch.attempt else {
        return Error::e_explain(ErrorType::InternalError, "no attempt under way");
    };
    let provider = &attempt.target.provider;
    parts.uri = upstream_uri(request, ctx, provider)?;
    let credential = match (attempt.own_credential, plan::credential(ctx, &attempt.target)) {
        (true, Some(Presented::Own(key))) => routing::credential(provider.auth, key),
        (true, _) => None,
        (false, _) => attempt.target.wire.authorizer.as_ref().and_then(|authorizer| authorizer.header()),
    };
    let websocket = ctx.ask.websocket;
    let only_forwarded = ctx.ask.endpoint == Endpoint::Other;
    let way = Way { provider, own_credential: attempt.own_credential, only_forwarded, websocket };
    // A compressed reply would hide its usage, its events and the ids that it names. A reply that the gateway does not read may
    // be compressed as the client wants.
    let unread = only_forwarded && ctx.reply.keeper.is_none();
    let encoded = |name: &HeaderName| unread && *name == header::ACCEPT_ENCODING;
    let events = ctx.ask.body.as_ref().is_some_and(|body| body.peek.stream);
    parts.headers = HeaderMap::with_capacity(ROOM);
    let headers = &mut parts.headers;
    for (name, value) in original.iter().filter(|(name, _)| way.takes(name) || encoded(name)) {
        headers.append(name.clone(), value.clone());
    }
    if websocket {
        // The other words of the client's `connection` name headers that are not forwarded.
        headers.insert(header::CONNECTION, UPGRADE);
    }
    if !attempt.own_credential
        && let Some(own) = headers.get(IDEMPOTENCY_KEY).and_then(|key| tenant_key(ctx, key))
    {
        headers.insert(IDEMPOTENCY_KEY, own);
    }
    adapter::of(provider).headers(headers, attempt.exchange.is_some());
    identify::remove_subprotocols(headers, attempt.own_credential);
    if !unread || !headers.contains_key(header::ACCEPT_ENCODING) {
        headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    }
    headers.insert(header::HOST, attempt.target.wire.host.clone());
    if let Some((name, value)) = credential {
        headers.insert(name, value);
    }
    let own = ctx.asker.principal.iter().flat_map(|principal| &principal.policy.headers);
    for (name, value) in provider.headers.iter().chain(own) {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(body) = &attempt.body {
        headers.remove(header::TRANSFER_ENCODING);
        // A compressed body was decoded to be read.
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        if ctx.ask.body.is_some() || ctx.ask.forwarded.as_ref().is_some_and(|body| body.is_json) {
            // The body was read as JSON in UTF-8, so the provider gets it as such.
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        if ctx.ask.body.is_some() {
            // The body itself says in which form its reply is wanted.
            headers.insert(header::ACCEPT, if events { EVENTS_OR_JSON } else { JSON });
        }
    }
    Ok(())
}

/// An idempotency key as the gateway's account sees it. Tenants share the account, and two of them may choose the same key; so
/// may a client without a token that is served as the same tenant.
fn tenant_key(ctx: &Context, key: &HeaderValue) -> Option<HeaderValue> {
    let tenant = ctx.asker.principal.as_ref().map_or("", |principal| principal.policy.id.as_str());
    let anonymous = ctx.asker.principal.as_ref().is_none_or(|principal| principal.is_anonymous());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(tenant.len() as u64).to_le_bytes()).update(tenant.as_bytes());
    hasher.update(&[u8::from(anonymous)]).update(key.as_bytes());
    HeaderValue::from_bytes(hasher.finalize().to_hex().as_bytes()).ok()
}

/// The provider's prefix, the path behind `/v1`, and both queries. A translated request has a path of its own, without the
/// client's query.
fn upstream_uri(request: &RequestHeader, ctx: &Context, provider: &Provider) -> Result<http::Uri> {
    let uri = &request.uri;
    let path = uri.path().strip_prefix("/v1").unwrap_or(uri.path());
    let path = if ctx.ask.endpoint == Endpoint::Other { path } else { path.trim_end_matches('/') };
    let Some(attempt) = ctx.dispatch.attempt.as_ref().filter(|attempt| attempt.exchange.is_some()) else {
        return forwarded_uri(provider, path, uri.query());
    };
    let stream = ctx.ask.body.as_ref().is_some_and(|body| body.peek.stream);
    let call = Call::Chat { model: &attempt.target.model, stream };
    target_uri(provider, adapter::of(provider).path(provider, &call), None)
}

/// The URI of a path of the provider's API. `path` is the part behind `/v1`.
///
/// # Errors
/// A path that cannot be forwarded.
pub fn forwarded_uri(provider: &Provider, path: &str, query: Option<&str>) -> Result<http::Uri> {
    target_uri(provider, adapter::of(provider).path(provider, &Call::Own(path)), query)
}

fn target_uri(provider: &Provider, mut target: String, own: Option<&str>) -> Result<http::Uri> {
    for (separator, query) in ['?', '&'].into_iter().zip([own, provider.query.as_deref()].into_iter().flatten()) {
        target.push(separator);
        target.push_str(query);
    }
    target.parse().map_err(unforwarded)
}

fn unforwarded(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<Error> {
    Error::because(ErrorType::InvalidHTTPHeader, "the path cannot be forwarded", cause)
}
