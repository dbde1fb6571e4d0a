//! Relay: passes events on as they arrive, and reads the usage that they report.

use std::time::{Duration, Instant};

use bytes::Bytes;
use memchr::memmem;
use pingora_error::{Error, ErrorType, Result};

use super::{cache, respond, settle};
use crate::{
    error::Fault,
    ledger::Exceeded,
    openai::{StreamEnd, StreamState},
    proxy::{
        caller::Parting,
        conceal::conceal,
        context::{Context, Delivery},
        metering::{Belief, Bill, Counted},
        stream::Stream,
    },
    sse::join,
};

/// How long the provider's count is waited for after the answer is finished and its client has left.
const COUNT_WITHIN: Duration = Duration::from_secs(3);

/// How long a provider may go on sending after the end of a stream. Everything before the end has been written to the client by
/// then: an error here drops what has not been written.
const AFTERMATH: Duration = Duration::from_secs(1);

/// How long a provider may go on sending after the gateway itself has ended a stream: each further event costs money.
const STOPPED: Duration = Duration::from_millis(50);

/// Takes a piece of the provider's stream and leaves in `body` the events that may go on now, see [`share`]. Returns what is to
/// become of the exchange if the client leaves from now on; `None` if that does not change.
///
/// # Errors
/// The provider goes on sending after the stream's end: the connection to it is not worth keeping.
pub fn events(body: &mut Option<Bytes>, end: bool, ctx: &mut Context) -> Result<Option<Parting>> {
    let Delivery::Relay(stream) = &mut ctx.reply.delivery else { return Ok(None) };
    let patience = if stream.stopped { STOPPED } else { AFTERMATH };
    // The end of the connection is no excess: it may have waited for a client that was slow to read.
    let excess = body.as_ref().is_some_and(|bytes| !bytes.is_empty());
    if excess && stream.over.is_some_and(|at| at.elapsed() > patience) {
        return Err(Error::explain(ErrorType::ReadError, "bytes long after the end of the stream").into_up());
    }
    stream.last_read = Some(Instant::now());
    let mut arrived = body.take().unwrap_or_default();
    if let Some(translator) = &mut stream.translator {
        let too_large = |error| Error::because(ErrorType::ReadError, "an event without end", error).into_up();
        arrived = translator.feed(arrived).map_err(too_large)?;
        if end {
            arrived = join(arrived, translator.finish());
        }
    }
    let mut out = if arrived.is_empty() { arrived } else { stream.relay.feed(arrived) };
    if let Some(stream_meter) = &mut stream.stream_meter
        && let Err(exceeded) = stream_meter.follow(&mut stream.relay, ctx.grant.reservation.as_mut())
    {
        out = stop(ctx, &exceeded);
    }
    let Delivery::Relay(stream) = &mut ctx.reply.delivery else { return Ok(None) };
    if end {
        out = join(out, stream.relay.finish(&StreamEnd::Clean));
    }
    let mut parting = None;
    if stream.generated.is_none() && stream.relay.awaits_usage() {
        stream.generated = Some(Instant::now());
        let several = ctx.grant.quote().is_some_and(|quote| quote.choices > 1);
        let counted = stream
            .translator
            .as_ref()
            .is_some_and(|translator| translator.counter().whole(several).flatten().is_some());
        if ctx.grant.reservation.is_some() && !counted {
            // A client that has its whole answer may leave before the provider has sent its count.
            parting = Some(Parting::Linger(COUNT_WITHIN));
        }
    }
    *body = Some(out).filter(|out| !out.is_empty());
    Ok(parting)
}

/// Gives the events that [`events`] has left to everybody who gets them: the stores of objects and responses, the followers, and
/// the client, for whom they are put into `body`.
pub fn share(body: &mut Option<Bytes>, ctx: &mut Context) {
    let Delivery::Relay(stream) = &mut ctx.reply.delivery else { return };
    let relay = &mut stream.relay;
    let mut out = body.take().unwrap_or_default();
    if ctx.reply.keeper.is_some() || ctx.reply.turn.is_some() {
        // Before the client can know of the objects.
        for payload in relay.take_watched() {
            ctx.reply.keeper.iter().for_each(|keeper| keeper.keep_event(&payload));
            ctx.reply.turn.iter().for_each(|turn| turn.keep_event(&payload));
        }
    }
    let state = relay.state();
    if state == StreamState::Failed && ctx.dispatch.attempt.as_ref().is_some_and(|attempt| !attempt.own_credential) {
        out = conceal_failure(&out);
    }
    if state != StreamState::Open {
        stream.over.get_or_insert_with(Instant::now);
    }
    if ctx.ticket.cached.is_some() {
        out = cache::share_events(ctx, out, state == StreamState::Failed);
        match state {
            StreamState::Open => {}
            StreamState::Complete => {
                let bill = bill_of(ctx);
                cache::end_stream(ctx, Some((bill.usage(), bill.cost())));
            }
            StreamState::Failed => cache::end_stream(ctx, None),
        }
    }
    *body = Some(out).filter(|out| !out.is_empty());
    if body.is_some() {
        ctx.reply.first_byte.get_or_insert_with(Instant::now);
    }
}

/// Removes the account's ids from the event with which a provider reports a failure, and from everything after it.
fn conceal_failure(out: &Bytes) -> Bytes {
    let Some(told) = memmem::rfind(out, b"error") else { return out.clone() };
    let begin = memmem::rfind(&out[..told], b"\n\n").map_or(0, |at| at + 2);
    join(out.slice(..begin), conceal(out.slice(begin..)))
}

/// True once the client has the end of its stream, or the error that ended it.
pub fn is_over(ctx: &Context) -> bool {
    ctx.stream().is_some_and(|stream| stream.relay.state() != StreamState::Open)
}

/// The event that tells a client that its stream broke; `None` when the stream had ended properly.
pub fn interruption(ctx: &mut Context, why: &str) -> Option<Bytes> {
    let Delivery::Relay(stream) = &mut ctx.reply.delivery else { return None };
    if !ctx.snapshot.guards.is_empty() {
        // No guard has inspected the events that are held back.
        stream.relay.drop_held();
    }
    let out = stream.relay.finish(&StreamEnd::Cut(why.to_owned()));
    let out = cache::share_events(ctx, out, false);
    cache::end_stream(ctx, None);
    Some(out).filter(|out| !out.is_empty())
}

/// Ends a stream whose budget has nothing left. The events that have just arrived are not relayed, as they are not paid for.
fn stop(ctx: &mut Context, exceeded: &Exceeded) -> Bytes {
    let error = settle::overrun(ctx, exceeded);
    // Followers learn that the stream broke, but nothing about another tenant's budget.
    cache::end_stream(ctx, None);
    ctx.reply.fault = Some(Fault::BudgetExceeded);
    ctx.metrics.stream_stopped();
    match &mut ctx.reply.delivery {
        Delivery::Relay(stream) => {
            stream.stopped = true;
            stream.relay.stop(error)
        }
        _ => Bytes::new(),
    }
}

/// Reads the bill of a stream when it has ended in whatever way.
pub fn read_bill(ctx: &mut Context) {
    if matches!(ctx.reply.delivery, Delivery::Relay(_)) {
        let bill = bill_of(ctx);
        *ctx.bill() = bill;
    }
}

fn bill_of(ctx: &Context) -> Bill {
    let Some(Stream { relay, translator, .. }) = ctx.stream() else { return Bill::default() };
    let translator = translator.as_ref();
    let several = ctx.grant.quote().is_some_and(|quote| quote.choices > 1);
    let usage = translator.and_then(|translator| translator.counter().whole(several)).unwrap_or_else(|| relay.usage());
    let so_far = translator.map_or_else(|| relay.usage_so_far(), |translator| translator.counter().so_far());
    let tier = respond::stream_tier(relay, ctx);
    let shown = || relay.generated_bytes().saturating_add(relay.media_bytes());
    let (quote, price) = (ctx.grant.quote(), ctx.price());
    let mut counted = usage.map(|usage| Counted::of(usage, quote, price.as_deref(), tier, shown, settle::ceiling(ctx)));
    if let (Some(calls), Some(counter)) = (ctx.call_prices(), relay.calls()) {
        // A translated stream does not show searches.
        let searched = translator.map(|translator| counter.clone().searched(translator.counter().searches()));
        let counter = searched.as_ref().unwrap_or(counter);
        counted = counted.map(|counted| counted.with_calls(calls.cost(counter)));
    }
    let believed = so_far.map(|usage| quote.map_or((usage, Belief::Possible), |quote| quote.believe(usage, shown)));
    Bill {
        counted,
        uncounted: None,
        so_far: believed.map(|(usage, _)| usage),
        doubted: counted.is_none() && believed.is_some_and(|(_, belief)| belief == Belief::Impossible),
        media: relay.media_bytes() > 0,
    }
}
