//! Respond: reads the provider's header, and fails over or decides how the reply reaches the client.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    cache::{self, EntryBuilder},
    settle::{self},
    translate,
};
use crate::{
    cache::Outcome,
    capacity::SMALL,
    error::{Fault, GatewayError},
    openai::{self, CallCounter, Endpoint, RelayOptions, StreamKind, StreamRelay},
    providers::adapter::Adapter,
    proxy::{
        caller::Caller,
        conceal::conceal,
        context::{Context, Delivery},
        cors, headers,
        held::{Held, Limit, Withheld},
        keeper::Keeper,
        metering::{Bill, Counted},
        rates,
        reply::{self, Reader},
        returned::{self, Account},
        stream::Stream,
    },
    stored_responses::Turn,
    telemetry::Metrics,
    tenants::Principal,
    types::{Api, ServiceTier},
};

/// Makes Pingora call `upstream_peer` again; never seen by a client.
pub const NEXT_TARGET: ErrorType = ErrorType::Custom("NextTarget");

/// The last deployment has failed, and the cache has an expired answer to serve in place of its error; never seen by a client.
pub const ALL_DOWN: ErrorType = ErrorType::Custom("AllDown");

/// With the gateway's key a provider has answered with a redirect; never seen by a client.
pub const REDIRECTED: ErrorType = ErrorType::Custom("Redirected");

/// Takes the provider's response header.
///
/// # Errors
/// [`NEXT_TARGET`] if another target is to be tried; [`ALL_DOWN`] if an expired answer is to be served; [`REDIRECTED`] for a
/// redirect with the gateway's key; a status that is no answer to such a request.
pub fn receive(request: &RequestHeader, response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
    let code = response.status.as_u16();
    if ctx.ask.endpoint.reads_body() && (code == 101 || code >= 600) {
        // Such a status is no answer to this request, and the cost of the provider's work is unknown.
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "a status that is none of HTTP's answers").into_up());
    }
    if response.status.is_informational() {
        // This includes a WebSocket's `101`, which has no other header after it.
        let account = account(ctx);
        headers::change_response(response, |parts| strip(&mut parts.headers, account));
        return Ok(());
    }
    let status = response.status.as_u16();
    ctx.dispatch.answered(status, &ctx.metrics);
    let own_credential = ctx.dispatch.attempt.as_ref().is_none_or(|attempt| attempt.own_credential);
    let refuses_our_key = status == 401 && !own_credential;
    // The redirect's target may be signed with the gateway's key, and a client would send its own credential there.
    let redirects = response.status.is_redirection() && status != 304 && !own_credential;
    let worth_another = refuses_our_key || redirects || ctx.snapshot.config.retry.statuses.contains(&status);
    let down = worth_another && (status >= 500 || status == 429);
    if worth_another && translate::ready(ctx) {
        let mut error = Error::explain(NEXT_TARGET, "the provider's status asks for another target").into_up();
        error.set_retry(true);
        return Err(error);
    }
    if down && cache::has_stale(ctx) {
        return Err(Error::explain(ALL_DOWN, "no deployment answers").into_up());
    }
    if redirects {
        return Err(Error::explain(REDIRECTED, "the provider redirects").into_up());
    }
    let head = request.method == http::Method::HEAD;
    ctx.reply.keeper = match ctx.reply.keeper.take().filter(|_| response.status.is_success()) {
        None if ctx.ask.endpoint.reads_body() && response.status.is_success() => understood(ctx).map(Box::new),
        keeper => keeper,
    };
    if ctx.exchange().is_none() {
        // A provider that speaks the Responses API keeps the response itself.
        ctx.reply.turn = None;
    }
    ctx.reply.delivery = delivery(response, ctx, refuses_our_key, head);
    keep_forwarded(response, ctx);
    if head && refuses_our_key {
        response.set_status(Fault::UpstreamAuthentication.status())?;
    }
    ctx.reply.framed = response.version == http::Version::HTTP_2
        || response.headers.contains_key(header::CONTENT_LENGTH)
        || response.headers.contains_key(header::TRANSFER_ENCODING);
    if let Some(flight) = ctx.flight().filter(|_| matches!(ctx.reply.delivery, Delivery::Pass)) {
        // A reply that passes unread cannot be shared.
        flight.end(Outcome::Solo);
    }
    let relayed = matches!(ctx.reply.delivery, Delivery::Relay(_));
    let translated = ctx.exchange().is_some();
    headers::change_response(response, |parts| {
        if relayed {
            // Events are rewritten and must be sent at once: no length, and no buffering in proxies between the gateway and the
            // client.
            parts.headers.remove(header::CONTENT_LENGTH);
            if translated {
                parts.headers.insert(header::CONTENT_TYPE, reply::EVENTS);
            }
            parts.headers.insert(header::CACHE_CONTROL, reply::NO_CACHE);
            parts.headers.insert(reply::ACCEL_BUFFERING, reply::NO);
        }
        let call = (ctx.ask.endpoint == Endpoint::Other).then(|| call_of(&parts.headers)).flatten();
        let call = call.map(|id| format!("/v1/realtime/calls/{id}"));
        dress(&mut parts.headers, ctx);
        if let Some(place) = call.and_then(|place| HeaderValue::try_from(place).ok()) {
            // The path of the realtime call that the client has made, at the gateway and not at the provider.
            parts.headers.insert(header::LOCATION, place);
        }
        cors::put(&mut parts.headers, ctx.cors(), &request.headers);
    });
    if relayed {
        cache::begin_stream(ctx);
        let stream_meter = settle::stream_meter(ctx).map(Box::new);
        if let Delivery::Relay(stream) = &mut ctx.reply.delivery {
            stream.stream_meter = stream_meter;
        }
        ctx.forget_body();
    }
    Ok(())
}

/// The keeper for the reply to an endpoint that the gateway reads.
fn understood(ctx: &Context) -> Option<Keeper> {
    let (attempt, body) = (ctx.dispatch.attempt.as_ref()?, ctx.ask.body.as_ref()?);
    let owner = ctx.asker.principal.as_ref().map(Principal::as_owner)?;
    Keeper::understood(&ctx.shared.objects, attempt, &ctx.ask.endpoint, body, owner)
}

fn delivery(response: &ResponseHeader, ctx: &Context, refuses_our_key: bool, head: bool) -> Delivery {
    if head {
        return Delivery::Pass;
    }
    let encoded = response.headers.get(header::CONTENT_ENCODING).is_some_and(|v| v.as_bytes() != b"identity");
    let content_type = text(response, &header::CONTENT_TYPE);
    let failed = response.status.is_client_error() || response.status.is_server_error();
    if refuses_our_key {
        return Delivery::Hold;
    }
    // A reply in another dialect never passes as it is: at worst it becomes an error.
    let exchange = ctx.exchange();
    if ctx.ask.endpoint == Endpoint::Other {
        let tells = ctx.reply.keeper.is_some() && content_type.starts_with("application/json");
        let names_account = failed && ctx.dispatch.attempt.as_ref().is_none_or(|attempt| !attempt.own_credential);
        return if (tells || names_account) && !encoded { Delivery::Hold } else { Delivery::Pass };
    }
    if exchange.is_none() && encoded || !response.status.is_success() && !failed {
        return Delivery::Pass;
    }
    if failed || encoded {
        return Delivery::Hold;
    }
    let is_stream = match exchange {
        Some(exchange) => exchange.is_stream(content_type),
        None => content_type.starts_with("text/event-stream"),
    };
    if is_stream {
        let peek = ctx.ask.body.as_ref().map(|body| &body.peek);
        let kind = StreamKind::of(&ctx.ask.endpoint);
        // The cache keeps a stream with its usage; `usage_filter` hides the usage from this client.
        let hide_usage = ctx.flight().is_none() && peek.is_none_or(|peek| !peek.include_usage);
        let preset = ctx.dispatch.attempt.as_ref().map(|attempt| attempt.target.provider.preset());
        let repair_tools = exchange.is_none() && preset.is_some_and(|preset| preset.repairs_tools);
        let relay = StreamRelay::new(kind, RelayOptions { hide_usage, repair_tools }).tallying(true);
        let relay = relay.with_several(ctx.grant.quote().is_some_and(|quote| quote.choices > 1));
        let counter = ctx.call_prices().map(|calls| CallCounter::new(calls.hosted().clone()));
        let relay = relay.counting(counter).watching(ctx.reply.keeper.is_some() || ctx.reply.turn.is_some());
        let translator = exchange.map(|exchange| Box::new(exchange.stream()));
        return Delivery::Relay(Box::new(Stream::new(relay, translator)));
    }
    if exchange.is_some() || content_type.starts_with("application/json") { Delivery::Hold } else { Delivery::Pass }
}

/// Whose account the reply of this attempt refers to.
fn account(ctx: &Context) -> Account {
    let config = &ctx.snapshot.config;
    let alone = ctx.asker.principal.as_ref().is_some_and(Principal::is_anonymous)
        && config.tenants.len() <= 1
        && config.other_tenants.is_none();
    match &ctx.dispatch.attempt {
        Some(attempt) if attempt.own_credential => Account::Own,
        _ if alone => Account::Mapped,
        _ => Account::Shared,
    }
}

fn strip(headers: &mut HeaderMap, account: Account) {
    headers::remove(headers, |name| returned::stays_here(name.as_str(), account));
}

/// Records objects that a header of the reply to a forwarded request names, and prepares for those in events that pass.
fn keep_forwarded(response: &ResponseHeader, ctx: &mut Context) {
    let Some(keeper) = ctx.reply.keeper.as_mut().filter(|_| ctx.ask.endpoint == Endpoint::Other) else { return };
    if text(response, &header::CONTENT_TYPE).starts_with("text/event-stream") {
        keeper.follow_events();
    }
    if let Some(id) = call_of(&response.headers) {
        keeper.keep_id(id);
    }
}

/// The id of a realtime call that was made; it is only in `Location: …/realtime/calls/rtc_…`.
fn call_of(headers: &HeaderMap) -> Option<&str> {
    let place = headers.get(header::LOCATION)?.to_str().ok()?;
    let (_, id) = place.split(['?', '#']).next()?.rsplit_once("/realtime/calls/")?;
    Some(id).filter(|id| !id.is_empty() && !id.contains('/'))
}

/// About as many headers as the gateway adds to a reply.
const ADDED: usize = 16;

/// Removes headers that are not meant for the client, and adds those that say who served the reply.
fn dress(headers: &mut HeaderMap, ctx: &Context) {
    strip(headers, account(ctx));
    // At once for all that follow.
    headers.reserve(ADDED);
    if let Some(attempt) = ctx.dispatch.attempt.as_ref().filter(|attempt| attempt.exchange.is_some()) {
        rates::to_openai(headers);
        let dropped = attempt.dropped();
        if !dropped.is_empty() {
            let dropped = HeaderValue::from_bytes(dropped.as_bytes()).unwrap_or(reply::UNPRINTABLE);
            headers.insert(reply::DROPPED, dropped);
        }
    }
    if !headers.contains_key(&reply::REQUEST_ID) {
        let id = headers
            .get(&reply::PROVIDER_REQUEST_ID)
            .cloned()
            .or_else(|| HeaderValue::from_bytes(ctx.arrival.id.to_string().as_bytes()).ok());
        headers.extend(id.map(|id| (reply::REQUEST_ID, id)));
    }
    if ctx.ask.anthropic
        && let Some(id) = headers.get(&reply::REQUEST_ID).cloned()
    {
        // Anthropic's SDKs look for the id in this header.
        headers.entry(reply::PROVIDER_REQUEST_ID).or_insert(id);
    }
    reply::put_quotas(headers, ctx);
    if let Some(attempt) = &ctx.dispatch.attempt {
        headers.insert(reply::PROVIDER, attempt.target.wire.name.clone());
        headers.insert(reply::ATTEMPTS, ctx.dispatch.asked().into());
        if ctx.ask.endpoint != Endpoint::Other {
            // A model's name may contain characters that no header can hold; the model of a stored prompt is not known here.
            let model = Some(attempt.target.model.as_bytes()).filter(|model| !model.is_empty());
            let model = model.and_then(|model| HeaderValue::from_bytes(model).ok()).unwrap_or(reply::UNPRINTABLE);
            headers.insert(reply::MODEL, model);
            headers.insert(reply::CACHE, ctx.ticket.cache_status.header());
            reply::put_cache_key(headers, ctx);
        }
    }
}

/// An HTTP/1.0 client knows no chunks: the end of the connection is the end of the body.
pub fn downgrade(caller: &mut Caller<'_>, response: &mut ResponseHeader) {
    if caller.request().version >= http::Version::HTTP_11 {
        return;
    }
    response.remove_header(&header::TRANSFER_ENCODING);
    if !response.headers.contains_key(header::CONTENT_LENGTH) {
        caller.close_after();
    }
}

/// Holds back the body of the reply to an upload. Uploads go through Pingora's loop, where the header is written before the body
/// has arrived: if the objects in the body have to be recorded before the client knows them, only the body can be held.
pub fn withhold(response: &mut ResponseHeader, ctx: &mut Context) {
    if response.status.is_informational() || !matches!(ctx.reply.delivery, Delivery::Hold) {
        return;
    }
    if is_key_refused(ctx) {
        let body = refuse_key(response, ctx.provider(), &Reader::of(ctx), &ctx.metrics);
        response.remove_header(&header::TRANSFER_ENCODING);
        // A number is always valid in a header.
        let _ = response.insert_header(header::CONTENT_LENGTH, body.len());
        ctx.reply.withheld = Some(Withheld::Instead(body));
        return;
    }
    if response.status.as_u16() >= 400 {
        // Concealing the account makes the body shorter.
        response.remove_header(&header::CONTENT_LENGTH);
    }
    // Such a reply has no followers, and no store keeps it.
    let (held, _) = hold(ctx, Box::new(response.clone()));
    ctx.reply.withheld = Some(Withheld::Reply(Box::new(held)));
}

/// A provider has refused the gateway's own key.
fn is_key_refused(ctx: &Context) -> bool {
    ctx.dispatch.status() == Some(401) && ctx.dispatch.attempt.as_ref().is_some_and(|attempt| !attempt.own_credential)
}

/// The largest reply that is translated, in bytes.
const MAX_TRANSLATED: usize = 32 << 20;

/// Who gets a whole reply besides the client: the followers, the cache, and the store of responses.
pub struct Publish {
    builder: Option<(EntryBuilder, Arc<Mutex<Bill>>)>,
    turn: Option<Box<Turn>>,
}

impl Publish {
    /// Gives them the reply as the client gets it, before the client does.
    pub fn reply(self, header: &ResponseHeader, body: &Bytes) {
        if let Some(turn) = self.turn.filter(|_| header.status.is_success()) {
            turn.keep(body);
        }
        if let Some((builder, bill)) = self.builder {
            let (usage, cost) = {
                let bill = bill.lock();
                (bill.usage(), bill.cost())
            };
            builder.end(header.status.as_u16(), &header.headers, body, usage, cost);
        }
    }
}

/// Begins to hold a reply whose header has come.
pub fn hold(ctx: &mut Context, header: Box<ResponseHeader>) -> (Held, Publish) {
    let memory = &ctx.shared.clone().capacity.memory;
    let keeper = ctx.reply.keeper.take();
    let keep = move |body: &Bytes| {
        if let Some(keeper) = &keeper {
            keeper.keep(body);
        }
    };
    if ctx.ask.endpoint == Endpoint::Other && !is_key_refused(ctx) {
        let own_credential = ctx.dispatch.attempt.as_ref().is_some_and(|attempt| attempt.own_credential);
        let finish = move |header: &mut ResponseHeader, body: Bytes| {
            if header.status.as_u16() < 400 {
                keep(&body);
                return body;
            }
            if own_credential { body } else { conceal(body) }
        };
        let limit = Limit { bytes: ctx.snapshot.config.http.max_held_reply_bytes, must: false };
        return (Held::new(header, limit, memory, Box::new(finish)), Publish { builder: None, turn: None });
    }
    let most_values = ctx.snapshot.config.http.max_json_values;
    let requested_tier = ctx.tier();
    let price = ctx.price();
    let quote = ctx.grant.quote().copied();
    let calls = ctx.call_prices();
    let ceiling = settle::ceiling(ctx);
    let bill = ctx.shared_bill().clone();
    let own_credential = ctx.dispatch.attempt.as_ref().is_none_or(|attempt| attempt.own_credential);
    let metrics = ctx.metrics.clone();
    let provider: Arc<str> = ctx.provider().into();
    let framed = ctx.reply.framed;
    let exchange = ctx.exchange().cloned();
    let builder = EntryBuilder::of(ctx).map(|builder| (builder, bill.clone()));
    let publish = Publish { builder, turn: ctx.reply.turn.take() };
    let adapter = ctx.adapter();
    let reader = Reader::of(ctx);
    let complete = move |header: &mut ResponseHeader, mut body: Bytes| -> Bytes {
        let status = header.status.as_u16();
        if status == 401 && !own_credential {
            return refuse_key(header, &provider, &reader, &metrics);
        }
        let count = |body: &Bytes| {
            let tier = openai::find_service_tier(body).unwrap_or(requested_tier);
            // Not the body's length, which includes more than the generated content.
            let shown = || {
                let text = openai::generated_text(body).map_or(0, |text| text.len() as u64);
                text.saturating_add(openai::generated_media(body))
            };
            let usage = openai::find_usage(body)?;
            let counted = Counted::of(usage, quote.as_ref(), price.as_deref(), tier, shown, ceiling);
            Some(match &calls {
                Some(calls) => counted.with_calls(calls.cost_of(body)),
                None => counted,
            })
        };
        if status >= 400 {
            // A failure with a token count is charged for.
            bill.lock().counted = count(&body);
            let body = if own_credential { body } else { conceal(body) };
            return normalise_error(header, body, adapter, exchange.is_some(), &reader);
        }
        if !framed && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
            return interrupted(header, &provider, &reader, &metrics);
        }
        keep(&body);
        let read = |body: &Bytes| {
            let counted = count(body);
            let uncounted = counted.is_none().then(|| openai::generated_text(body));
            let media = counted.is_none() && openai::generated_media(body) > 0;
            Bill { counted, uncounted, media, ..Bill::default() }
        };
        let mut told = None;
        if let Some(exchange) = &exchange {
            // Before the translation, whose form may have no way to say that nothing was counted.
            told = Some(&body).filter(|_| exchange.counts_itself()).map(&read);
            let values = if body.len() > SMALL { openai::count_values(&body) } else { 0 };
            match Some(&body).filter(|_| values <= most_values).and_then(|body| exchange.json(body)) {
                Some(translated) => {
                    body = translated;
                }
                None => {
                    // The answer has been generated, and is paid for.
                    *bill.lock() = told.unwrap_or_else(|| read(&body));
                    return misunderstood(header, &body, &provider, &reader, &metrics);
                }
            }
            // Even if the provider named another type: the translated body is JSON. A constant cannot fail.
            let _ = header.insert_header(header::CONTENT_TYPE, "application/json");
        }
        let told = told.unwrap_or_else(|| read(&body));
        let cost = told.cost();
        *bill.lock() = told;
        if let Some(cost) = cost {
            // Digits and a dot are always valid in a header.
            let _ = header.insert_header(reply::COST, cost.to_string());
        }
        body
    };
    let limits = &ctx.snapshot.config.http;
    // A translated reply never passes as it arrives: one that is too large to be held is an error.
    // The same holds for a reply that guards have to see whole.
    let limit = match ctx.exchange().is_some() || !ctx.snapshot.guards.is_empty() {
        true => Limit { bytes: limits.max_held_reply_bytes.max(MAX_TRANSLATED), must: true },
        false => Limit { bytes: limits.max_held_reply_bytes, must: false },
    };
    (Held::new(header, limit, memory, Box::new(complete)), publish)
}

/// Replaces a reply that only the end of the connection delimits, and that is incomplete: passed on, it would look complete.
fn interrupted(header: &mut ResponseHeader, provider: &str, reader: &Reader, metrics: &Metrics) -> Bytes {
    let message = format!("Provider '{provider}' closed the connection before its reply was complete.");
    instead(header, &GatewayError::new(Fault::UpstreamInterrupted, message), reader, metrics)
}

/// Replaces a reply that cannot be put into the client's dialect: an error under a good status, or an unknown form.
fn misunderstood(
    header: &mut ResponseHeader,
    body: &[u8],
    provider: &str,
    reader: &Reader,
    metrics: &Metrics,
) -> Bytes {
    let fault = Fault::UpstreamInterrupted;
    if let Some(error) = openai::find_error(fault.status(), &conceal(Bytes::copy_from_slice(body))) {
        metrics.error(fault.code(), fault.blame().label());
        // Constants: neither can fail.
        let _ = header.set_status(fault.status());
        let _ = header.insert_header(header::CONTENT_TYPE, "application/json");
        return reader.render(fault.status(), &error, &header.headers);
    }
    tracing::error!(provider, "the provider sent a reply that is not of its dialect");
    let message = format!("Provider '{provider}' sent a reply that the gateway does not understand.");
    instead(header, &GatewayError::new(Fault::UpstreamInterrupted, message), reader, metrics)
}

/// Replaces a held reply by an error of the gateway's.
pub fn instead(reply: &mut ResponseHeader, error: &GatewayError, reader: &Reader, metrics: &Metrics) -> Bytes {
    let fault = error.fault;
    metrics.error(fault.code(), fault.blame().label());
    for name in ["www-authenticate", "content-encoding"] {
        reply.remove_header(name);
    }
    // Constants are always valid in a header.
    let _ = reply.set_status(error.status());
    let _ = reply.insert_header(header::CONTENT_TYPE, "application/json");
    if !error.retry_may_help() {
        let _ = reply.insert_header("x-should-retry", "false");
    }
    if reader.is_anthropic() {
        // The error is the gateway's, so the id in body and header is the gateway's too.
        let _ = reply.insert_header(crate::proxy::reply::PROVIDER_REQUEST_ID, reader.id().to_string());
    }
    crate::proxy::reply::body(error, reader)
}

/// Replaces the refusal of the gateway's own key: with a 401, users would change the wrong key.
fn refuse_key(header: &mut ResponseHeader, provider: &str, reader: &Reader, metrics: &Metrics) -> Bytes {
    tracing::error!(provider, "the provider refused the gateway's API key");
    let message =
        format!("Provider '{provider}' refused the gateway's API key. The gateway's operator has to renew it.");
    instead(header, &GatewayError::new(Fault::UpstreamAuthentication, message), reader, metrics)
}

/// Puts a provider's error into the shape that the client reads; one that has that shape already passes byte for byte.
pub fn normalise_error(
    header: &mut ResponseHeader,
    body: Bytes,
    adapter: &dyn Adapter,
    translated: bool,
    reader: &Reader,
) -> Bytes {
    let status = header.status.as_u16();
    let content_type = text(header, &header::CONTENT_TYPE).to_owned();
    let errors = adapter.facts().errors;
    if !translated && errors == Some(Api::Anthropic) && reader.is_anthropic() && openai::is_anthropic_error(&body) {
        return body;
    }
    if errors != Some(Api::OpenAi) || reader.is_anthropic() {
        // A compressed error cannot be read here; the client is told the status.
        let body = if header.remove_header(&header::CONTENT_ENCODING).is_some_and(|v| v != "identity") {
            Bytes::new()
        } else {
            body
        };
        let (mapped, error) = adapter.read_error(status, Some(&content_type), &body);
        if error.code.as_deref() == Some("insufficient_quota") {
            // A 429 that no retry cures.
            let _ = header.insert_header("x-should-retry", "false");
        }
        // Statuses between 400 and 599, and a constant: neither can fail.
        let _ = header.set_status(mapped);
        let _ = header.insert_header(header::CONTENT_TYPE, "application/json");
        return reader.render(mapped, &error, &header.headers);
    }
    let mapped = openai::map_status(status);
    if mapped != status {
        let _ = header.set_status(mapped);
    }
    match openai::normalise(mapped, Some(&content_type), &body) {
        Some(normal) => {
            let _ = header.insert_header("content-type", "application/json");
            normal
        }
        None => body,
    }
}

fn text<'a>(response: &'a ResponseHeader, name: &HeaderName) -> &'a str {
    response.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The service tier that a stream is billed in: the one the provider states, or else the one the client asked for.
pub fn stream_tier(relay: &StreamRelay, ctx: &Context) -> ServiceTier {
    relay.service_tier().unwrap_or_else(|| ctx.tier())
}
