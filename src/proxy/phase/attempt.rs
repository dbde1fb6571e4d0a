//! Attempt: one try at one target, with the body, the headers and the credential that it wants.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, header};
use pingora_core::{protocols::ALPN, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::plan;
use crate::{
    config::{AuthStyle, Provider},
    openai::{Endpoint, splice},
    providers::quirks,
    proxy::{
        context::{Attempt, Context},
        downstream::NATIVE_REPLAY,
        resolve::Resolver,
    },
};

/// Idle upstream connections are dropped before the usual server closes them (OpenAI and most others: 60 s or more).
const UPSTREAM_IDLE: Duration = Duration::from_secs(50);

/// Headers of the client that no provider gets: credentials, what belongs to this hop, and what only we understand.
const KEPT_FROM_PROVIDERS: [HeaderName; 11] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
    header::EXPECT,
    header::FORWARDED,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Installs our own replay where Pingora's is too small.
pub fn arm_replay(session: &mut Session, ctx: &mut Context) {
    if ctx.body.as_ref().is_some_and(|body| body.bytes.len() > NATIVE_REPLAY) {
        ctx.decorator.install(session);
    }
}

/// Starts the next attempt: its body, its address, its timeouts.
///
/// # Errors
/// A host name that does not resolve, marked for the next target where there is one.
pub async fn begin(session: &mut Session, ctx: &mut Context, resolver: &Resolver) -> Result<Box<HttpPeer>> {
    let Some(target) = ctx.next_target().cloned() else {
        return Error::e_explain(ErrorType::InternalError, "no target left");
    };
    ctx.attempts += 1;
    ctx.cursor += 1;
    let own_credential = plan::credential(ctx, &target).is_some_and(|(_, own)| own);
    let body = ctx.body.as_ref().map(|body| {
        let edits = quirks::edits(&ctx.endpoint, &target.provider, &target.model, &body.bytes, &body.peek);
        splice(&body.bytes, &body.peek, &edits)
    });
    if let Some(body) = body.as_ref().filter(|_| ctx.decorator.is_installed()) {
        ctx.decorator.set_body(body.clone());
    }
    let provider = target.provider.clone();
    ctx.attempt = Some(Attempt { target, started: Instant::now(), body, own_credential, status: None });

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
    if session.is_upgrade_req() {
        peer.options.read_timeout = None;
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
/// A header value that cannot be written; configured values are checked when they are loaded.
pub fn rewrite_header(session: &Session, request: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
    let Some(attempt) = &ctx.attempt else {
        return Error::e_explain(ErrorType::InternalError, "no attempt under way");
    };
    let provider = &attempt.target.provider;

    request.set_uri(upstream_uri(session, ctx, provider)?);
    for name in &KEPT_FROM_PROVIDERS {
        request.remove_header(name);
    }
    let ours: Vec<HeaderName> =
        request.headers.keys().filter(|name| name.as_str().starts_with("x-chittycan-")).cloned().collect();
    ours.iter().for_each(|name| {
        request.remove_header(name);
    });
    if !attempt.own_credential {
        // These name the client's own account.
        request.remove_header("openai-organization");
        request.remove_header("openai-project");
    }
    // A compressed reply would hide its usage and its events.
    request.insert_header(header::ACCEPT_ENCODING, "identity")?;
    request.insert_header(header::HOST, provider.base.authority())?;
    if let Some((key, _)) = plan::credential(ctx, &attempt.target) {
        match provider.auth {
            AuthStyle::Bearer => request.insert_header(header::AUTHORIZATION, format!("Bearer {key}"))?,
            AuthStyle::ApiKeyHeader => request.insert_header("api-key", key.to_owned())?,
        }
    }
    for (name, value) in &provider.headers {
        request.insert_header(name.clone(), value.clone())?;
    }
    if let Some(body) = &attempt.body {
        request.remove_header(&header::TRANSFER_ENCODING);
        request.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    Ok(())
}

/// The provider's prefix, the path behind `/v1`, and both queries.
fn upstream_uri(session: &Session, ctx: &Context, provider: &Provider) -> Result<http::Uri> {
    let uri = &session.req_header().uri;
    let path = uri.path().strip_prefix("/v1").unwrap_or(uri.path());
    let path = if ctx.endpoint == Endpoint::Other { path } else { path.trim_end_matches('/') };
    let mut target = format!("{}{path}", provider.base.prefix);
    for (separator, query) in ['?', '&'].into_iter().zip([uri.query(), provider.query.as_deref()].into_iter().flatten())
    {
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
