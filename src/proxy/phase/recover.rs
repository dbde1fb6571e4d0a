//! Recover: after a failure, tries another target as long as nothing has reached the client, or sends one well-formed error.

use std::{sync::Arc, time::Duration};

use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::FailToProxy;

use super::{
    cache,
    inspect::{self, BLOCKED},
    relay,
    respond::{ALL_DOWN, NEXT_TARGET, REDIRECTED},
    translate,
};
use crate::{
    cache::Outcome,
    error::{Extra, Fault, GatewayError},
    proxy::{
        caller::Caller, context::Context, held::NO_ROOM, metering::BillableFailure, reply, resolve::Resolver,
        stop::invalid,
    },
    routing::AttemptOutcome,
};

/// A connection that was closed while it lay in the pool breaks at once. One that breaks later broke during the request, which
/// the provider may have served: such a request is not repeated there.
const STALE_SHOWS_WITHIN: Duration = Duration::from_secs(1);

/// Handles a connection that could not be made: nothing was sent, so the next target may be tried.
pub fn from_connect(ctx: &mut Context, mut error: Box<Error>, resolver: &Resolver) -> Box<Error> {
    if let Some(attempt) = &ctx.dispatch.attempt {
        let provider = &attempt.target.provider;
        resolver.doubt(&provider.base.host, provider.base.port);
        tracing::warn!(id = %ctx.arrival.id, provider = &*provider.name, error = error.etype().as_str(), "cannot connect");
    }
    ctx.dispatch.end(AttemptOutcome::Unreachable, &ctx.metrics);
    error.set_retry(translate::ready(ctx));
    error
}

/// Handles an exchange that broke. It is repeated only if the client has seen nothing and is still there.
pub fn from_exchange(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    mut error: Box<Error>,
    client_reused: bool,
) -> Box<Error> {
    let begun = caller.has_begun();
    if !is_ours(&error) && error.esource() == &ErrorSource::Upstream {
        tracing::warn!(id = %ctx.arrival.id, provider = ctx.provider(), error = error.etype().as_str(), "exchange broke");
    }
    // A pooled connection that the provider had closed says nothing about the provider, so the same target is asked again.
    let got_header = ctx.dispatch.status().is_some();
    let soon = ctx.dispatch.began().is_some_and(|began| began.elapsed() < STALE_SHOWS_WITHIN);
    error.retry.decide_reuse(client_reused);
    // Pingora marks HTTP/2 requests that the provider says it did not process.
    let unprocessed = error.etype() == &ErrorType::H2Error && error.retry();
    let stale = !begun && !got_header && (unprocessed || client_reused && soon && is_closed(&error));
    let outcome = outcome(ctx, &error, stale);
    ctx.dispatch.end(outcome, &ctx.metrics);
    // Events that followers have read cannot be taken back, even if the leader's own client is gone.
    let shared = ctx.flight().is_some_and(|flight| flight.has_begun());
    if begun || shared || matches!(error.etype(), &ALL_DOWN | &BLOCKED) || error.esource() == &ErrorSource::Downstream {
        error.set_retry(false);
        return error;
    }
    if ctx.ask.body.as_ref().is_none_or(|body| body.bytes.is_empty()) {
        // A body that streams through cannot be sent twice.
        let safe = caller.request().method.is_idempotent() && caller.can_repeat_body();
        error.set_retry(safe && client_reused && !got_header && ctx.dispatch.repeat());
        return error;
    }
    // The next provider's reply would find no room either, and this one is paid for already.
    let mut again = error.etype() != &NO_ROOM && (stale && ctx.dispatch.repeat() || translate::ready(ctx));
    if !stale && was_at_work(ctx, &error) {
        again = again && pay_for(ctx);
    }
    error.set_retry(again);
    error
}

fn outcome(ctx: &Context, error: &Error, stale: bool) -> AttemptOutcome {
    let at_work = was_at_work(ctx, error);
    match error.etype() {
        _ if error.esource() == &ErrorSource::Downstream => AttemptOutcome::Left,
        kind if kind == &BLOCKED => AttemptOutcome::Answered,
        _ if is_ours(error) => AttemptOutcome::Refused,
        _ if error.esource() != &ErrorSource::Upstream => AttemptOutcome::Ours,
        _ if stale => AttemptOutcome::Stale,
        ErrorType::ReadTimedout => AttemptOutcome::TimedOut { at_work },
        _ => AttemptOutcome::Broke { at_work },
    }
}

/// True for the errors that the gateway makes itself to tell Pingora what to do next.
fn is_ours(error: &Error) -> bool {
    matches!(error.etype(), &NEXT_TARGET | &ALL_DOWN | &REDIRECTED | &BLOCKED)
}

/// True if the provider may have done the work and charge for it: it began a good reply, or the exchange broke before any
/// readable answer. Only an error in making the connection shows that the provider had nothing to work on.
fn was_at_work(ctx: &Context, error: &Error) -> bool {
    let broke = !is_ours(error) && error.esource() == &ErrorSource::Upstream && !is_before_request(error.etype());
    let status = ctx.dispatch.status();
    broke && status.is_none_or(|status| (200..300).contains(&status))
}

/// Errors that come before a byte of the request is sent.
fn is_before_request(kind: &ErrorType) -> bool {
    is_connect(kind) || kind == &ErrorType::ConnectTimedout
}

/// Before another attempt: holds money for the attempt that broke, which is to be paid for too. False if the budget does not have
/// enough left, which ends the request.
fn pay_for(ctx: &mut Context) -> bool {
    let (Some(price), Some(quote), Some(attempt)) = (ctx.price(), ctx.grant.quote().copied(), &ctx.dispatch.attempt)
    else {
        return true;
    };
    let worked = ctx.dispatch.began().map_or(Duration::ZERO, |began| began.elapsed());
    let held = ctx.grant.reservation.as_mut().is_none_or(|reservation| reservation.extend(quote.worst_case).is_ok());
    if held {
        let measure = attempt.measure();
        ctx.dispatch.billable_failures.push(BillableFailure::after(worked, measure, price, &quote));
    }
    held
}

fn is_closed(error: &Error) -> bool {
    use ErrorType::{ConnectionClosed, H1Error, ReadError, WriteError};
    matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H1Error)
}

/// No attempt is left: tells the client in whatever way is still open.
pub async fn give_up(caller: &mut Caller<'_>, ctx: &mut Context, error: &Error) -> FailToProxy {
    let gone = FailToProxy { error_code: 499, can_reuse_downstream: false };
    let begun = caller.has_begun();
    if error.esource() == &ErrorSource::Downstream {
        if !begun && error.etype() == &ErrorType::ReadTimedout {
            // A forwarded upload stopped arriving; the client is still there.
            caller.close_after();
            let message = "The request body did not arrive in time.";
            let sent = reply::error(caller, ctx, &GatewayError::new(Fault::BodyTimeout, message)).await;
            return FailToProxy { error_code: if sent.is_ok() { 408 } else { 499 }, can_reuse_downstream: false };
        }
        return gone;
    }
    if begun && relay::is_over(ctx) {
        // The client has the end of the stream, or an error; only the provider did not end properly.
        let ended = caller.write_body(None, true).await;
        return FailToProxy { error_code: 200, can_reuse_downstream: ended.is_ok() };
    }
    let shared = ctx.flight().is_some_and(|flight| flight.has_begun());
    if begun || shared {
        let provider = ctx.provider().to_owned();
        let mut whole = false;
        if let Some(event) = relay::interruption(ctx, reason(error)) {
            ctx.metrics.stream_interrupted(&provider);
            ctx.reply.fault = Some(Fault::UpstreamInterrupted);
            // Followers have the event by now; this client may be slow to read.
            // A failure to write means that the client left in the same moment.
            whole = caller.write_body(Some(event), true).await.is_ok();
        }
        // The event ended the reply properly: the connection can serve another request.
        return FailToProxy { error_code: 502, can_reuse_downstream: whole };
    }
    let answer = explain(error, ctx);
    // A request that streamed through Pingora's loop leaves a connection that cannot be used again.
    let reusable = ctx.ask.body.is_some() || ctx.ask.forwarded.is_some();
    if !reusable {
        caller.close_after();
    }
    if let Some(flight) = ctx.flight() {
        flight.end(Outcome::Failed(Arc::new(reply::failure(ctx, &answer))));
    }
    match cache::serve_stale(caller, ctx).await {
        Ok(true) => return FailToProxy { error_code: 200, can_reuse_downstream: reusable },
        Ok(false) => {}
        Err(_) => return gone,
    }
    let status = answer.status();
    match reply::error(caller, ctx, &answer).await {
        Ok(()) => FailToProxy { error_code: status, can_reuse_downstream: reusable },
        Err(_) => gone,
    }
}

fn reason(error: &Error) -> &'static str {
    match error.etype() {
        ErrorType::ReadTimedout => "the provider sent nothing for too long",
        _ => "the provider closed the connection in the middle of its reply",
    }
}

fn explain(error: &Error, ctx: &Context) -> GatewayError {
    use ErrorType::{ConnectTimedout, InternalError, InvalidHTTPHeader, ReadTimedout, WriteTimedout};
    let provider = ctx.provider();
    match error.etype() {
        kind if kind == &NO_ROOM => {
            let message = "The gateway's memory budget (server.memory_budget) has no room for the provider's reply.";
            GatewayError::new(Fault::Overloaded, message)
        }
        kind if kind == &BLOCKED => inspect::unread(),
        kind if kind == &ALL_DOWN => {
            if let Some(refusal) = ctx.dispatch.refusal.as_deref().filter(|refusal| refusal.fault == Fault::Overloaded)
            {
                return refusal.clone();
            }
            let status = ctx.dispatch.status().unwrap_or_default();
            let message = format!("No deployment answers; provider '{provider}' did with status {status}.");
            GatewayError::new(Fault::UpstreamUnreachable, message)
        }
        kind if kind == &REDIRECTED => {
            let status = ctx.dispatch.status().unwrap_or_default();
            let message = format!(
                "Provider '{provider}' answered with a redirect (status {status}), which the gateway does not follow. Its operator \
                 can give the provider's final address (providers.{provider}.base_url)."
            );
            let extra = Some(Box::new(Extra { hopeless: true, ..Extra::default() }));
            GatewayError { extra, ..GatewayError::new(Fault::UpstreamUnreachable, message) }
        }
        InvalidHTTPHeader if error.esource() != &ErrorSource::Upstream => {
            invalid("A request header or the path cannot be forwarded.")
        }
        InternalError if error.esource() != &ErrorSource::Upstream => {
            GatewayError::new(Fault::Internal, "The gateway failed to forward the request.")
        }
        ReadTimedout | WriteTimedout => {
            GatewayError::new(Fault::UpstreamTimeout, format!("Provider '{provider}' did not answer in time."))
        }
        ConnectTimedout => GatewayError::new(
            Fault::UpstreamUnreachable,
            format!("Provider '{provider}' did not accept a connection in time."),
        ),
        _ if error.esource() != &ErrorSource::Upstream => {
            GatewayError::new(Fault::Internal, "The gateway failed to forward the request.")
        }
        kind if is_connect(kind) => {
            GatewayError::new(Fault::UpstreamUnreachable, format!("Provider '{provider}' cannot be reached."))
        }
        _ => GatewayError::new(
            Fault::UpstreamInterrupted,
            format!("Provider '{provider}' closed the connection before its reply was complete."),
        ),
    }
}

fn is_connect(kind: &ErrorType) -> bool {
    use ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, HandshakeError, InvalidCert, SocketError, TLSHandshakeFailure,
        TLSHandshakeTimedout,
    };
    matches!(
        kind,
        ConnectRefused
            | ConnectNoRoute
            | ConnectError
            | SocketError
            | TLSHandshakeFailure
            | TLSHandshakeTimedout
            | InvalidCert
            | HandshakeError
    )
}
