//! Every reply that the gateway makes itself goes through this module.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use crate::{
    cache::{Failure, Form, Server},
    error::{Fault, GatewayError},
    limits::{Quota, go_duration, push_go_duration},
    openai::{self, ErrorBody},
    proxy::{caller::Caller, context::Context, cors},
    types::RequestId,
};

/// Header with the decimal cost in US dollars.
pub const COST: HeaderName = HeaderName::from_static("x-chittycan-cost");
/// Header with the model that served.
pub const MODEL: HeaderName = HeaderName::from_static("x-chittycan-model");
/// Header with the provider that served.
pub const PROVIDER: HeaderName = HeaderName::from_static("x-chittycan-provider");
/// Header with the cache's part in the reply: `HIT`, `STALE`, `MISS` or `BYPASS`.
pub const CACHE: HeaderName = HeaderName::from_static("x-chittycan-cache");
/// Header with the parameters that a translation into the provider's dialect dropped.
pub const DROPPED: HeaderName = HeaderName::from_static("x-chittycan-dropped");
/// Header with the number of attempts.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-chittycan-attempts");
/// Header with the request's id; in a reply of the provider's, the provider's own.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Anthropic's name for a request's id.
pub const PROVIDER_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Header with the key of the answer in the cache, for a purge of that answer alone.
pub const CACHE_KEY: HeaderName = HeaderName::from_static("x-chittycan-cache-key");
/// Header that tells nginx and similar proxies in front of the gateway not to buffer events.
pub const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The value of [`ACCEL_BUFFERING`].
pub const NO: HeaderValue = HeaderValue::from_static("no");
/// Value of `cache-control` for events, which are made for one client at one time.
pub const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// Stands for a value that no header can hold.
pub const UNPRINTABLE: HeaderValue = HeaderValue::from_static("-");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The type of an event stream.
pub const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
const NOTHING: HeaderValue = HeaderValue::from_static("0");

/// Header with the tightest limit on requests that holds for the client, under OpenAI's name.
pub const LIMIT_REQUESTS: &str = "x-ratelimit-limit-requests";
/// Header with what is left of the tightest limit on requests.
pub const REMAINING_REQUESTS: &str = "x-ratelimit-remaining-requests";
/// Header with the time until all of the limit on requests is free again.
pub const RESET_REQUESTS: &str = "x-ratelimit-reset-requests";
/// Header with the tightest limit on LLM tokens.
pub const LIMIT_TOKENS: &str = "x-ratelimit-limit-tokens";
/// Header with what is left of the tightest limit on LLM tokens.
pub const REMAINING_TOKENS: &str = "x-ratelimit-remaining-tokens";
/// Header with the time until all of the limit on LLM tokens is free again.
pub const RESET_TOKENS: &str = "x-ratelimit-reset-tokens";

/// Answers with JSON. The connection stays open if the client's body has been read.
///
/// # Errors
/// The client is gone.
pub async fn json(caller: &mut Caller<'_>, ctx: &mut Context, status: u16, body: Bytes) -> Result<()> {
    let header = header(ctx, status, body.len())?;
    send(caller, ctx, header, body).await
}

/// Answers with an error in the client's API shape.
///
/// # Errors
/// The client is gone.
pub async fn error(caller: &mut Caller<'_>, ctx: &mut Context, error: &GatewayError) -> Result<()> {
    let fault = error.fault;
    ctx.reply.fault = Some(fault);
    ctx.metrics.error(fault.code(), fault.blame().label());
    let body = body(error, &Reader::of(ctx));
    let mut header = header(ctx, error.status(), body.len())?;
    for (name, value) in hints(error) {
        header.insert_header(name, value)?;
    }
    send(caller, ctx, header, body).await
}

/// Answers `OPTIONS` on any path: the methods that are served, and whether the page that asks may call.
///
/// # Errors
/// The client is gone.
pub async fn options(caller: &mut Caller<'_>, ctx: &mut Context) -> Result<()> {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = http::StatusCode::NO_CONTENT;
    parts.headers.insert(header::ALLOW, cors::METHODS);
    parts
        .headers
        .extend(HeaderValue::from_bytes(ctx.arrival.id.to_string().as_bytes()).ok().map(|id| (REQUEST_ID, id)));
    cors::put_preflight(&mut parts.headers, ctx.cors(), &caller.request().headers);
    ctx.reply.first_byte.get_or_insert_with(std::time::Instant::now);
    caller.write_header(parts.into(), true).await
}

/// The headers that tell an SDK whether and when to come back, and which limit it ran into.
fn hints(error: &GatewayError) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    if !error.retry_may_help() {
        headers.push(("x-should-retry", "false".to_owned()));
    } else if error.fault == Fault::Overloaded {
        // For SDKs that would not repeat a large upload by themselves.
        headers.push(("x-should-retry", "true".to_owned()));
    }
    headers.extend(error.extra.iter().flat_map(|extra| extra.headers.iter().cloned()));
    if let Some(after) = error.retry_after {
        // Whole seconds, rounded up: a client that comes back early is refused again.
        headers.push(("retry-after", after.as_millis().div_ceil(1000).to_string()));
        headers.push(("retry-after-ms", after.as_millis().to_string()));
    }
    headers
}

/// An error in the form that followers get.
pub fn failure(ctx: &Context, error: &GatewayError) -> Failure {
    let headers = hints(error)
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?)));
    Failure { status: error.status(), headers: headers.collect(), body: body(error, &Reader::of(ctx)) }
}

/// Answers with the error that the leader of the flight got.
///
/// # Errors
/// The client is gone.
pub async fn shared_failure(caller: &mut Caller<'_>, ctx: &mut Context, failure: &Failure) -> Result<()> {
    let mut header = header(ctx, failure.status, failure.body.len())?;
    for (name, value) in &failure.headers {
        header.insert_header(name, value)?;
    }
    send(caller, ctx, header, failure.body.clone()).await
}

/// Answers from the cache. Without a body, this writes the header of a stream whose events follow.
///
/// # Errors
/// The client is gone.
pub async fn stored(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    served: &Server,
    form: Form,
    age: Duration,
    body: Option<Bytes>,
) -> Result<()> {
    let mut parts = http::Response::new(()).into_parts().0;
    let headers = &mut parts.headers;
    headers.reserve(16);
    let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap_or(UNPRINTABLE);
    match form {
        Form::Json => drop(headers.insert(header::CONTENT_TYPE, JSON)),
        Form::Events => {
            headers.insert(header::CONTENT_TYPE, EVENTS);
            headers.insert(header::CACHE_CONTROL, NO_CACHE);
            headers.insert(ACCEL_BUFFERING, NO);
        }
    }
    match &body {
        Some(body) => drop(headers.insert(header::CONTENT_LENGTH, body.len().into())),
        None if caller.request().version >= http::Version::HTTP_11 => {
            headers.insert(header::TRANSFER_ENCODING, CHUNKED);
        }
        // An HTTP/1.0 client knows no chunks: the end of the connection is the end of the body.
        None => caller.close_after(),
    }
    let id = text(&ctx.arrival.id.to_string());
    if ctx.ask.anthropic {
        headers.insert(PROVIDER_REQUEST_ID, id.clone());
    }
    headers.insert(REQUEST_ID, id);
    headers.insert(header::AGE, age.as_secs().into());
    headers.insert(CACHE, ctx.ticket.cache_status.header());
    put_cache_key(headers, ctx);
    headers.insert(COST, NOTHING);
    headers.insert(MODEL, text(&served.model));
    headers.insert(PROVIDER, text(&served.provider));
    if !served.dropped.is_empty() {
        headers.insert(DROPPED, text(&served.dropped));
    }
    if ctx.dispatch.asked() > 0 {
        headers.insert(ATTEMPTS, ctx.dispatch.asked().into());
    }
    put_quotas(headers, ctx);
    cors::put(headers, ctx.cors(), &caller.request().headers);
    ctx.reply.first_byte.get_or_insert_with(std::time::Instant::now);
    caller.write_header(parts.into(), false).await?;
    match body {
        Some(body) => caller.write_body(Some(body), true).await,
        None => Ok(()),
    }
}

/// The key under which the cache keeps the reply, or may.
pub fn put_cache_key(headers: &mut HeaderMap, ctx: &Context) {
    let key = ctx.ticket.cached.as_ref().and_then(|cached| HeaderValue::from_bytes(&cached.key.hex()).ok());
    headers.extend(key.map(|key| (CACHE_KEY, key)));
}

/// Puts the tenant's own limits in place of those of the account, which all tenants share.
pub fn put_quotas(headers: &mut HeaderMap, ctx: &Context) {
    let Some(permit) = &ctx.grant.permit else { return };
    let (requests, tokens) = permit.quotas();
    if requests.is_some() || tokens.is_some() {
        super::headers::remove(headers, |name| name.as_str().starts_with("anthropic-ratelimit-"));
    }
    const REQUESTS: [HeaderName; 3] = names([LIMIT_REQUESTS, REMAINING_REQUESTS, RESET_REQUESTS]);
    const TOKENS: [HeaderName; 3] = names([LIMIT_TOKENS, REMAINING_TOKENS, RESET_TOKENS]);
    let mut text = String::with_capacity(64);
    for (names, quota) in [(REQUESTS, requests), (TOKENS, tokens)] {
        let Some(quota) = quota else { continue };
        text.clear();
        text.push_str(itoa::Buffer::new().format(quota.limit));
        let limit = text.len();
        text.push_str(itoa::Buffer::new().format(quota.remaining));
        let remaining = text.len();
        push_go_duration(&mut text, quota.reset);
        // One allocation for the three values.
        let text = Bytes::copy_from_slice(text.as_bytes());
        let values = [text.slice(..limit), text.slice(limit..remaining), text.slice(remaining..)];
        for (name, value) in names.into_iter().zip(values) {
            // Digits and letters are always valid in a header.
            if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                headers.insert(name, value);
            }
        }
    }
}

const fn names([limit, remaining, reset]: [&'static str; 3]) -> [HeaderName; 3] {
    [HeaderName::from_static(limit), HeaderName::from_static(remaining), HeaderName::from_static(reset)]
}

/// The headers that SDKs and people read a limit from. `reset` is a duration in Go's form, as OpenAI's is.
pub fn quota_headers(kind: &str, quota: &Quota) -> [(&'static str, String); 3] {
    let names = match kind {
        "requests" => [LIMIT_REQUESTS, REMAINING_REQUESTS, RESET_REQUESTS],
        _ => [LIMIT_TOKENS, REMAINING_TOKENS, RESET_TOKENS],
    };
    let [limit, remaining, reset] = names;
    [(limit, quota.limit.to_string()), (remaining, quota.remaining.to_string()), (reset, go_duration(quota.reset))]
}

/// The client that reads an error.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The client speaks Anthropic's API.
    anthropic: bool,
    id: RequestId,
}

impl Reader {
    /// The client of a request.
    pub fn of(ctx: &Context) -> Self {
        Self { anthropic: ctx.ask.anthropic, id: ctx.arrival.id }
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The client speaks Anthropic's API.
    pub fn is_anthropic(&self) -> bool {
        self.anthropic
    }

    /// A provider's error in the shape of the client's API, with the request id of the reply's header.
    pub fn render(&self, status: u16, error: &ErrorBody, headers: &HeaderMap) -> Bytes {
        let told = headers.get(PROVIDER_REQUEST_ID).and_then(|id| id.to_str().ok());
        match self.anthropic {
            true => openai::error_body(status, error, Some(told.unwrap_or(&self.id.to_string())), None),
            false => error.to_bytes(),
        }
    }
}

/// The body of an error in the shape of the client's API.
pub fn body(error: &GatewayError, reader: &Reader) -> Bytes {
    let mut body = ErrorBody::new(&*error.message, error.fault.kind(), Some(error.fault.code()));
    body.param = error.param.as_deref().map(str::to_owned);
    let more = error.extra.as_ref().and_then(|extra| extra.member.as_ref());
    match more {
        _ if reader.anthropic => {
            let more = more.map(|(name, value)| (*name, value));
            openai::error_body(error.status(), &body, Some(&reader.id.to_string()), more)
        }
        None => body.to_bytes(),
        Some((name, value)) => body.to_bytes_with(name, value),
    }
}

fn header(ctx: &Context, status: u16, length: usize) -> Result<ResponseHeader> {
    let mut reply = ResponseHeader::build(status, Some(6))?;
    reply.insert_header(header::CONTENT_TYPE, "application/json")?;
    reply.insert_header(header::CONTENT_LENGTH, length)?;
    reply.insert_header(REQUEST_ID, ctx.arrival.id.to_string())?;
    if ctx.ask.anthropic {
        // Anthropic's SDKs look for the id in this header.
        reply.insert_header(PROVIDER_REQUEST_ID, ctx.arrival.id.to_string())?;
    }
    if ctx.dispatch.asked() > 0 {
        reply.insert_header(ATTEMPTS, ctx.dispatch.asked())?;
    }
    Ok(reply)
}

async fn send(caller: &mut Caller<'_>, ctx: &mut Context, mut header: ResponseHeader, body: Bytes) -> Result<()> {
    if ctx.cors().is_some() {
        let request = &caller.request().headers;
        super::headers::change_response(&mut header, |parts| cors::put(&mut parts.headers, ctx.cors(), request));
    }
    ctx.reply.first_byte.get_or_insert_with(std::time::Instant::now);
    let head = caller.request().method == http::Method::HEAD;
    caller.write_header(header, head).await?;
    if head {
        return Ok(());
    }
    caller.write_body(Some(body), true).await
}
