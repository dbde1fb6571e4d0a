//! Inspect: shows the guards a prompt or reply before it goes on, and stops it if a guard blocks it. Called only if a guard is
//! installed. Content that cannot be read is blocked, so that a guard sees everything that passes.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::header;
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::respond;
use crate::{
    cache::Outcome,
    error::{Fault, GatewayError},
    guards::Point,
    openai::{ErrorBody, Texts},
    proxy::{
        caller::Caller,
        context::{Context, Delivery},
        heavy::{self, Load},
        reply::{self, Reader},
        stop::{Stop, incomplete, invalid},
    },
};

/// A guard has blocked the reply; never seen by a client.
pub const BLOCKED: ErrorType = ErrorType::Custom("Blocked");

/// Inspects the prompt, before the cache is asked and money is held. A prompt that is blocked costs nothing, and is not answered
/// from the cache with an answer from before it was blocked.
pub async fn prompt(caller: &mut Caller<'_>, ctx: &Context) -> Result<(), Stop> {
    let body = ctx.ask.body.as_ref().ok_or_else(incomplete)?;
    let (endpoint, bytes) = (ctx.ask.endpoint.clone(), body.bytes.clone());
    let load = Load::listing(bytes.len(), body.values);
    // The share is held for as long as the list of texts.
    let work = move |share| (Texts::of_request(&endpoint, bytes), share);
    let (texts, _share) = heavy::run(&ctx.shared.capacity, load, work).await?;
    let texts = texts.map_err(|why| invalid(format!("The request body cannot be inspected: {why}.")))?;
    tokio::select! {
        biased;
        verdict = ctx.snapshot.guards.inspect(Point::BeforeDispatch, &texts) => Ok(verdict?),
        _ = caller.departure() => Err(Stop::Gone),
    }
}

/// Inspects a whole reply, before anybody gets it. A reply that is blocked is replaced by an error; its cost stays.
///
/// # Errors
/// The client has left.
pub async fn reply(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    header: &mut ResponseHeader,
    body: &mut Bytes,
) -> Result<()> {
    if !ctx.ask.endpoint.reads_body() || !header.status.is_success() {
        return Ok(());
    }
    let verdict = match Texts::of_reply(body.clone()) {
        Ok(texts) => ask(caller, ctx, Point::BeforeDelivery, &texts).await?,
        Err(why) => Err(GatewayError::new(Fault::ContentBlocked, format!("The reply cannot be inspected: {why}."))),
    };
    if let Err(error) = verdict {
        ctx.reply.fault = Some(error.fault);
        *body = respond::instead(header, &error, &Reader::of(ctx), &ctx.metrics);
        // A number is always valid in a header.
        let _ = header.insert_header(header::CONTENT_LENGTH, body.len());
    }
    Ok(())
}

/// Inspects the events that are about to be written, before anybody gets them. If they are blocked, the stream ends with an error
/// in their place, which is written after the tasks in `before`.
///
/// # Errors
/// [`BLOCKED`], or the client has left.
pub async fn events(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    before: &mut Vec<HttpTask>,
    events: Option<&Bytes>,
) -> Result<()> {
    let (Some(events), Delivery::Relay(_)) = (events, &ctx.reply.delivery) else { return Ok(()) };
    let verdict = match Texts::of_events(events.clone()) {
        Ok(texts) if texts.is_empty() => Ok(()),
        Ok(texts) => ask(caller, ctx, Point::BetweenEvents, &texts).await?,
        Err(why) => Err(GatewayError::new(Fault::ContentBlocked, format!("An event cannot be inspected: {why}."))),
    };
    let Err(error) = verdict else { return Ok(()) };
    let last = block(ctx, &error);
    before.push(HttpTask::Body(Some(last), false));
    caller.write(std::mem::take(before)).await?;
    Err(blocked())
}

/// Refuses to pass on a good reply that would go uninspected, because the gateway does not know its form.
///
/// # Errors
/// [`BLOCKED`].
pub fn refuse_unread(ctx: &Context, header: &ResponseHeader) -> Result<()> {
    let unread = ctx.ask.endpoint.reads_body() && header.status.is_success();
    if unread && !ctx.snapshot.guards.is_empty() { Err(blocked()) } else { Ok(()) }
}

/// The error for a client if nothing of the reply could be inspected.
pub fn unread() -> GatewayError {
    GatewayError::new(Fault::ContentBlocked, "The provider's reply is of a form that cannot be inspected.")
}

fn blocked() -> Box<Error> {
    Error::explain(BLOCKED, "a guard has blocked the reply").into_up()
}

/// Asks the guards, until the client has left.
async fn ask(caller: &mut Caller<'_>, ctx: &Context, at: Point, texts: &Texts) -> Result<Result<(), GatewayError>> {
    tokio::select! {
        biased;
        verdict = ctx.snapshot.guards.inspect(at, texts) => Ok(verdict),
        left = caller.left() => Err(left),
    }
}

/// Ends a stream without its last events; returns the event with the error.
fn block(ctx: &mut Context, error: &GatewayError) -> Bytes {
    let fault = error.fault;
    ctx.reply.fault = Some(fault);
    ctx.metrics.error(fault.code(), fault.blame().label());
    if let Some(flight) = ctx.flight() {
        flight.end(Outcome::Failed(Arc::new(reply::failure(ctx, error))));
    }
    ctx.reply.first_byte.get_or_insert_with(Instant::now);
    match &mut ctx.reply.delivery {
        Delivery::Relay(stream) => {
            stream.over.get_or_insert_with(Instant::now);
            stream.relay.revoke(ErrorBody::new(&*error.message, fault.kind(), Some(fault.code())))
        }
        _ => Bytes::new(),
    }
}
