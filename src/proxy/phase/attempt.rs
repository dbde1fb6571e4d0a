//! Attempt: one try at one target, with the body, the headers and the credential that it wants.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_core::{protocols::ALPN, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::task::spawn_blocking;

use super::{cache, identify, plan, respond::ALL_DOWN};
use crate::{
    config::{Dialect, Provider},
    dialect::{Model, Refusal},
    error::{Fault, GatewayError},
    openai::{Endpoint, splice},
    providers::{
        exchange::{self, Exchange},
        quirks,
    },
    proxy::{
        context::{Attempt, Context, Prepared},
        downstream::NATIVE_REPLAY,
        headers,
        resolve::Resolver,
    },
    routing::{self, Target},
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
    name.starts_with("openai-") || name.starts_with("anthropic-") && dialect != Dialect::Anthropic
}

/// Headers that name the client's own account with OpenAI.
fn names_an_account(name: &str) -> bool {
    matches!(name, "openai-organization" | "openai-project")
}

/// Installs the decorator where Pingora's own replay is too small, or where others may wait for the reply.
pub fn arm(session: &mut Session, ctx: &mut Context) {
    if cache::arm_shield(ctx) || ctx.body.as_ref().is_some_and(|body| body.bytes.len() > NATIVE_REPLAY) {
        ctx.decorator.install(session);
    }
}

/// Makes what the next attempt will send. Targets that cannot be asked this are passed over.
///
/// # Errors
/// No target is left, and why the last one cannot be asked.
pub async fn prepare(ctx: &mut Context) -> Result<(), Box<GatewayError>> {
    while let Some(target) = ctx.next_target().cloned() {
        if !exchange::is_translated(&ctx.endpoint, &target.provider) {
            let body = ctx.body.as_ref().map(|body| {
                let edits = quirks::edits(&ctx.endpoint, &target.provider, &target.model, &body.bytes, &body.peek);
                splice(&body.bytes, &body.peek, &edits)
            });
            ctx.prepared = Some(Prepared { target, body, exchange: None });
            return Ok(());
        }
        match translate(ctx, &target).await {
            Ok((body, exchange)) => {
                ctx.prepared = Some(Prepared { target, body: Some(body), exchange: Some(Arc::new(exchange)) });
                return Ok(());
            }
            Err(refusal) => {
                ctx.cursor += 1;
                ctx.refusal = Some(refusal);
            }
        }
    }
    // Without a refusal there was no target, which a plan rules out.
    let unknown = || GatewayError::new(Fault::Internal, "There is nowhere left to send the request.");
    Err(Box::new(ctx.refusal.take().unwrap_or_else(unknown)))
}

async fn translate(ctx: &Context, target: &Target) -> Result<(Bytes, Exchange), GatewayError> {
    let Some(body) = &ctx.body else {
        return Err(GatewayError::new(Fault::Internal, "There is no body to translate."));
    };
    let max_output_tokens = ctx.engines.price(target).and_then(|price| price.max_output_tokens());
    let work = Translation {
        endpoint: ctx.endpoint.clone(),
        target: target.clone(),
        max_output_tokens,
        context: ctx.context_wish.filter(|_| target.provider.dialect == Dialect::Ollama),
        body: body.bytes.clone(),
    };
    let translated = if body.bytes.len() <= plan::PARSE_INLINE {
        work.run()
    } else {
        let failed = |_| GatewayError::new(Fault::Internal, "The request body could not be translated.");
        spawn_blocking(move || work.run()).await.map_err(failed)?
    };
    let refused = |Refusal { param, message }| {
        let param = Some(param).filter(|param| !param.is_empty());
        GatewayError::new(Fault::UnsupportedParameter, message).with_param(param)
    };
    let (body, exchange) = translated.map_err(refused)?;
    let strict = ctx.plan.as_ref().is_some_and(|plan| plan.strict);
    if let Some(lost) = exchange.lost.first().filter(|_| strict) {
        let message = format!(
            "Provider '{}' has nothing for '{lost}', and this route is strict: it would be left out elsewhere (routes[].strict).",
            target.provider.name
        );
        return Err(GatewayError::new(Fault::UnsupportedParameter, message).with_param(Some(lost.clone())));
    }
    if !exchange.lost.is_empty() {
        tracing::debug!(id = %ctx.id, provider = &*target.provider.name, dropped = exchange.lost.join(", "), "translated with losses");
    }
    Ok((body, exchange))
}

/// A translation to be made, here or on the pool for blocking work.
struct Translation {
    endpoint: Endpoint,
    target: Target,
    max_output_tokens: Option<u64>,
    context: Option<u64>,
    body: Bytes,
}

impl Translation {
    fn run(&self) -> Result<(Bytes, Exchange), Refusal> {
        let Target { provider, model, .. } = &self.target;
        let model = Model {
            name: model,
            max_output_tokens: self.max_output_tokens,
            default_max_tokens: provider.default_max_tokens,
            context: self.context,
        };
        exchange::translate(&self.endpoint, provider, &model, &self.body)
    }
}

/// Starts the next attempt: its body, its address, its timeouts.
///
/// # Errors
/// A host name that does not resolve, marked for the next target where there is one.
pub async fn begin(session: &mut Session, ctx: &mut Context, resolver: &Resolver) -> Result<Box<HttpPeer>> {
    if ctx.prepared.is_none()
        && let Err(refusal) = prepare(ctx).await
    {
        // The first attempt was prepared before, so a provider has failed by now.
        tracing::debug!(id = %ctx.id, refusal = &*refusal.message, "no other deployment can be asked this");
        return Err(Error::explain(ALL_DOWN, "no other deployment can be asked this").into_up());
    }
    let Some(Prepared { target, body, exchange }) = ctx.prepared.take() else {
        return Error::e_explain(ErrorType::InternalError, "no target left");
    };
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
            error.set_retry(ctx.next_target().is_some());
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
        let translated = attempt.exchange.is_some();
        headers::remove(headers, |name| {
            stays_here(name)
                || !attempt.own_credential && names_an_account(name)
                || translated && speaks_another_dialect(name, provider.dialect)
        });
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
