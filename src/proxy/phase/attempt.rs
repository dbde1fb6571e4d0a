//! Attempt: one try at one target, with the body, the headers and the credential that it wants.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_core::{protocols::ALPN, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{cache, identify, plan, respond::ALL_DOWN, translate};
use crate::{
    config::{ClientLeft, Dialect, Provider},
    openai::Endpoint,
    proxy::{
        context::{Attempt, Context, Prepared},
        downstream::{NATIVE_REPLAY, Parting},
        headers,
        resolve::Resolver,
    },
    routing,
};

/// Idle upstream connections are dropped before the usual server closes them (OpenAI and most others: 60 s or more).
const UPSTREAM_IDLE: Duration = Duration::from_secs(50);

/// Names connections that must not come from the pool.
static FRESH: AtomicU64 = AtomicU64::new(1);

/// The version of Anthropic's API, for clients that do not name one.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

/// Headers of the client that no provider gets: credentials, what belongs to this hop, and what only we understand.
fn stays_here(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "cookie"
            | "proxy-authorization"
            | "x-api-key"
            | "api-key"
            | "x-goog-api-key"
            | "expect"
            | "forwarded"
            | "x-real-ip"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("x-chittycan-")
}

/// Headers that mean something in a dialect which is not the provider's.
fn speaks_another_dialect(name: &str, dialect: Dialect) -> bool {
    let foreign = if dialect == Dialect::Anthropic { "openai-" } else { "anthropic-" };
    name.starts_with(foreign)
}

/// Headers that name the client's own account with OpenAI.
fn names_an_account(name: &str) -> bool {
    matches!(name, "openai-organization" | "openai-project")
}

/// Installs the decorator where Pingora's own replay is too small, or where the exchange may have to outlive its client.
pub fn arm(session: &mut Session, ctx: &mut Context) {
    let drains = ctx.reservation.is_some() && ctx.engines.config.budgets.client_left == ClientLeft::Drain;
    if drains {
        ctx.decorator.outlive_client(Parting::Drain);
    }
    if cache::arm_shield(ctx) || drains || ctx.body.as_ref().is_some_and(|body| body.bytes.len() > NATIVE_REPLAY) {
        ctx.decorator.install(session);
    }
}

/// Starts the next attempt: its body, its address, its timeouts.
///
/// # Errors
/// A host name that does not resolve, marked for the next target where there is one.
pub async fn begin(session: &mut Session, ctx: &mut Context, resolver: &Resolver) -> Result<Box<HttpPeer>> {
    if ctx.prepared.is_none()
        && let Err(refusal) = translate::prepare(ctx).await
    {
        // The first attempt was prepared before, so a provider has failed by now.
        tracing::debug!(id = %ctx.id, refusal = &*refusal.message, "no other deployment can be asked this");
        return Err(Error::explain(ALL_DOWN, "no other deployment can be asked this").into_up());
    }
    let Some(prepared) = ctx.prepared.take() else {
        return Error::e_explain(ErrorType::InternalError, "no target left");
    };
    let Prepared { target, body, exchange } = *prepared;
    ctx.attempts += 1;
    ctx.cursor += 1;
    ctx.translator = None;
    let own_credential = plan::credential(ctx, &target).is_some_and(|(_, own)| own);
    if let Some(body) = body.as_ref().filter(|_| ctx.decorator.is_installed()) {
        ctx.decorator.set_body(body.clone());
    }
    let provider = target.provider.clone();
    ctx.attempt = Some(Attempt { target, started: Instant::now(), body, exchange, own_credential, status: None });

    let address = match resolver.resolve(&provider.base.host, provider.base.port).await {
        Ok(address) => address,
        Err(cause) => {
            ctx.metrics.attempt_failed(&provider.name, "connect_error");
            let mut error = Error::because(ErrorType::ConnectError, "host name does not resolve", cause).into_up();
            error.set_retry(translate::ready(ctx));
            return Err(error);
        }
    };
    let mut peer = peer(&provider, address);
    if ctx.endpoint == Endpoint::Other && identify::is_websocket(session) {
        peer.options.read_timeout = None;
    }
    if ctx.repeated {
        // A group of its own: the connection is a fresh one, not another stale one from the pool.
        peer.group_key = FRESH.fetch_add(1, Ordering::Relaxed);
    }
    peer.options.ca = ctx.engines.authorities.get(&provider.name).cloned();
    Ok(Box::new(peer))
}

fn peer(provider: &Provider, address: std::net::SocketAddr) -> HttpPeer {
    let base = &provider.base;
    let mut peer = HttpPeer::new(address, base.tls, base.host.clone());
    let options = &mut peer.options;
    options.connection_timeout = Some(provider.connect_timeout);
    options.total_connection_timeout = Some(provider.connect_timeout);
    options.read_timeout = Some(provider.read_timeout);
    // Always set: a provider that answers without reading the body blocks the write until this.
    options.write_timeout = Some(provider.write_timeout);
    options.idle_timeout = Some(UPSTREAM_IDLE);
    if provider.http2 {
        options.alpn = if base.tls { ALPN::H2H1 } else { ALPN::H2 };
        options.max_h2_streams = 128;
    }
    peer
}

/// Writes the provider's URL, host, credential and framing into the request header.
///
/// # Errors
/// A path that cannot be forwarded.
pub fn rewrite_header(session: &Session, request: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
    let Some(attempt) = &ctx.attempt else {
        return Error::e_explain(ErrorType::InternalError, "no attempt under way");
    };
    // From here on the provider may charge for it.
    if let Some(reservation) = &mut ctx.reservation {
        reservation.mark_sent();
    }
    let provider = &attempt.target.provider;
    let uri = upstream_uri(session, ctx, provider)?;
    let credential = if request.method == http::Method::OPTIONS {
        // A preflight needs none, and nobody has paid for it.
        None
    } else if attempt.own_credential {
        plan::credential(ctx, &attempt.target).and_then(|(key, _)| routing::credential(provider.auth, key))
    } else {
        attempt.target.wire.credential.clone()
    };
    let websocket = ctx.endpoint == Endpoint::Other && identify::is_websocket(session);
    let preflight = request.method == http::Method::OPTIONS;
    headers::change_request(request, |parts| {
        parts.uri = uri;
        let headers = &mut parts.headers;
        headers::remove(headers, |name| {
            stays_here(name)
                || !attempt.own_credential && names_an_account(name)
                || speaks_another_dialect(name, provider.dialect)
        });
        if attempt.exchange.is_some() {
            // The translation knows one version.
            headers.remove(identify::ANTHROPIC_VERSION);
        }
        if provider.dialect == Dialect::Anthropic {
            headers.entry(identify::ANTHROPIC_VERSION).or_insert(VERSION);
        }
        identify::remove_subprotocol_keys(headers);
        if !websocket {
            // Pingora would tunnel whatever a provider agrees to.
            headers.remove(header::UPGRADE);
            headers.remove("http2-settings");
        }
        // A compressed reply would hide its usage and its events.
        headers.insert(header::ACCEPT_ENCODING, IDENTITY);
        headers.insert(header::HOST, attempt.target.wire.host.clone());
        if let Some((name, value)) = credential {
            headers.insert(name, value);
        }
        let own = ctx.principal.iter().flat_map(|principal| &principal.party.headers);
        // A preflight comes from nobody: it gets no key, in whatever header that stands.
        for (name, value) in provider.headers.iter().chain(own).filter(|_| !preflight) {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(body) = &attempt.body {
            headers.remove(header::TRANSFER_ENCODING);
            headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
    });
    Ok(())
}

/// The provider's prefix, the path behind `/v1`, and both queries. A translated request has a path of its own, and the
/// client's query means nothing there.
fn upstream_uri(session: &Session, ctx: &Context, provider: &Provider) -> Result<http::Uri> {
    let uri = &session.req_header().uri;
    let path = uri.path().strip_prefix("/v1").unwrap_or(uri.path());
    let path = if ctx.endpoint == Endpoint::Other { path } else { path.trim_end_matches('/') };
    let (mut target, own) = match ctx.exchange() {
        Some(exchange) => (exchange.path(provider), None),
        None => (format!("{}{path}", provider.base.prefix), uri.query()),
    };
    for (separator, query) in ['?', '&'].into_iter().zip([own, provider.query.as_deref()].into_iter().flatten()) {
        target.push(separator);
        target.push_str(query);
    }
    target.parse().map_err(|cause| Error::because(ErrorType::InvalidHTTPHeader, "the path cannot be forwarded", cause))
}

/// Puts the rewritten body in place of Pingora's replay of the client's own.
pub fn replace_body(body: &mut Option<Bytes>, ctx: &mut Context) {
    if ctx.decorator.is_installed() {
        return;
    }
    if let Some(rewritten) = ctx.attempt.as_ref().and_then(|attempt| attempt.body.clone()) {
        // Called once per attempt: the client's body is complete and within Pingora's buffer.
        *body = Some(rewritten);
    }
}
