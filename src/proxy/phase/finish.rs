//! Finish: give the session back and write the request down, exactly once, also when the client vanished.

use pingora_error::{Error, ErrorSource};
use pingora_proxy::Session;

use super::relay;
use crate::proxy::context::{Context, Delivery};

/// What a client that left before its reply is counted as; nginx's word for it.
const CLIENT_CLOSED: u16 = 499;

/// Records a request at its end.
pub fn record(session: &mut Session, ctx: &mut Context, error: Option<&Error>) {
    // Pingora takes the connection back right after this.
    ctx.decorator.uninstall(session);
    let left = error.is_some_and(|e| e.esource() == &ErrorSource::Downstream);
    let written = session
        .response_written()
        .map(|header| header.status)
        .filter(|status| !status.is_informational() || status.as_u16() == 101)
        .map(|status| status.as_u16());
    let status = match written {
        Some(status) if !left => status,
        _ => CLIENT_CLOSED,
    };
    relay::settle(ctx);
    let duration = ctx.started.elapsed();
    let endpoint = ctx.endpoint.label();
    // A held reply leaves in one piece, just now.
    let held = written.filter(|_| matches!(ctx.delivery, Delivery::Hold)).map(|_| duration);
    let first_byte = ctx.first_byte.map(|at| at.duration_since(ctx.started)).or(held);
    let bill = *ctx.bill();
    let (provider, model) = (ctx.provider(), ctx.model_label());
    ctx.metrics.finished(endpoint, model, provider, status, duration);
    if let Some(after) = first_byte {
        ctx.metrics.first_byte(endpoint, provider, after);
    }
    if let Some(usage) = &bill.usage {
        ctx.metrics.used(provider, model, usage, bill.cost);
    }
    if !ctx.engines.config.log.access {
        return;
    }
    let usage = bill.usage.unwrap_or_default();
    tracing::info!(
        target: "chittycan::access",
        id = %ctx.id,
        method = session.req_header().method.as_str(),
        path = session.req_header().uri.path(),
        status,
        endpoint,
        provider,
        model = ctx.attempt.as_ref().map_or("-", |a| &a.target.model),
        attempts = ctx.attempts,
        prompt_tokens = usage.prompt_tokens,
        completion_tokens = usage.completion_tokens,
        cost_usd = bill.cost.map(|c| c.to_string()),
        first_byte_ms = first_byte.map(|d| d.as_secs_f64() * 1e3),
        duration_ms = duration.as_secs_f64() * 1e3,
        error = ctx.fault.map(|f| f.code()).or_else(|| error.map(|e| e.etype().as_str())),
    );
}
