//! The only door for replies the gateway makes itself.

use bytes::Bytes;
use http::{HeaderName, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{error::GatewayError, openai::ErrorBody, proxy::context::Context};

/// Header with the decimal cost in US dollars.
pub const COST: HeaderName = HeaderName::from_static("x-chittycan-cost");
/// Header with the model that served.
pub const MODEL: HeaderName = HeaderName::from_static("x-chittycan-model");
/// Header with the provider that served.
pub const PROVIDER: HeaderName = HeaderName::from_static("x-chittycan-provider");
/// Header with the cache's part in it: `HIT`, `MISS` or `BYPASS`.
pub const CACHE: HeaderName = HeaderName::from_static("x-chittycan-cache");
/// Header with the number of attempts.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-chittycan-attempts");
/// Header with the request's id, the provider's own where the provider made the reply.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The tightest limit on requests that holds for a client, under OpenAI's name for it; so the five below.
pub const LIMIT_REQUESTS: &str = "x-ratelimit-limit-requests";
/// What is left of the tightest limit on requests.
pub const REMAINING_REQUESTS: &str = "x-ratelimit-remaining-requests";
/// When all of it is free again.
pub const RESET_REQUESTS: &str = "x-ratelimit-reset-requests";
/// The tightest limit on LLM tokens.
pub const LIMIT_TOKENS: &str = "x-ratelimit-limit-tokens";
/// What is left of it.
pub const REMAINING_TOKENS: &str = "x-ratelimit-remaining-tokens";
/// When all of it is free again.
pub const RESET_TOKENS: &str = "x-ratelimit-reset-tokens";

/// Answers with JSON. The connection stays open if the client's body has been read.
///
/// # Errors
/// When the client is gone.
pub async fn json(session: &mut Session, ctx: &mut Context, status: u16, body: Bytes) -> Result<()> {
    let header = header(ctx, status, body.len())?;
    send(session, ctx, header, body).await
}

/// Answers with an error in the client's API shape.
///
/// # Errors
/// When the client is gone.
pub async fn error(session: &mut Session, ctx: &mut Context, error: &GatewayError) -> Result<()> {
    let fault = error.fault;
    ctx.fault = Some(fault);
    ctx.metrics.error(fault.code(), fault.blame().label());
    let body = body(error);
    let mut header = header(ctx, error.status(), body.len())?;
    if !error.retry_may_help() {
        header.insert_header("x-should-retry", "false")?;
    }
    for (name, value) in error.extra.iter().flat_map(|extra| &extra.headers) {
        header.insert_header(*name, value)?;
    }
    if let Some(after) = error.retry_after {
        // Whole seconds, rounded up: a client that comes back early is refused again.
        header.insert_header("retry-after", after.as_millis().div_ceil(1000).to_string())?;
        header.insert_header("retry-after-ms", after.as_millis().to_string())?;
    }
    send(session, ctx, header, body).await
}

/// The body of an error in OpenAI's shape.
pub fn body(error: &GatewayError) -> Bytes {
    let mut body = ErrorBody::new(&*error.message, error.fault.kind(), Some(error.fault.code()));
    body.param = error.param.map(str::to_owned);
    match error.extra.as_ref().and_then(|extra| extra.member.as_ref()) {
        None => body.to_bytes(),
        Some((name, value)) => body.to_bytes_with(name, value),
    }
}

fn header(ctx: &Context, status: u16, length: usize) -> Result<ResponseHeader> {
    let mut reply = ResponseHeader::build(status, Some(6))?;
    reply.insert_header(header::CONTENT_TYPE, "application/json")?;
    reply.insert_header(header::CONTENT_LENGTH, length)?;
    reply.insert_header(REQUEST_ID, ctx.id.to_string())?;
    if ctx.attempts > 0 {
        reply.insert_header(ATTEMPTS, ctx.attempts)?;
    }
    Ok(reply)
}

async fn send(session: &mut Session, ctx: &mut Context, header: ResponseHeader, body: Bytes) -> Result<()> {
    // What stands between us and the client is for the provider's replies, not for ours.
    ctx.decorator.uninstall(session);
    ctx.first_byte.get_or_insert_with(std::time::Instant::now);
    let head = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(header), head).await?;
    if head {
        return Ok(());
    }
    session.write_response_body(Some(body), true).await
}
