//! Finish: give the session back and write the request down, exactly once, also when the client vanished.

use std::{sync::Arc, time::Duration};

use pingora_error::{Error, ErrorSource};

use super::{
    relay,
    settle::{self, CLIENT_CLOSED, Closing, End, Verdict},
};
use crate::{
    proxy::{
        caller::Caller,
        context::{Context, Course, Delivery},
        metering::Settled,
    },
    routing::AttemptOutcome,
    telemetry::{InFlight, Metrics},
    types::RequestId,
};

/// Records a request at its end.
pub fn record(caller: &mut Caller<'_>, ctx: &mut Context, error: Option<&Error>) {
    if let Some(connection) = ctx.connection.take()
        && !caller.was_upgraded()
        && !caller.is_body_done()
    {
        connection.leave_unread();
    }
    if ctx.handed_over {
        return;
    }
    let left = caller.is_gone() || error.is_some_and(|e| e.esource() == &ErrorSource::Downstream);
    let written = caller.status();
    ctx.dispatch.end(if left { AttemptOutcome::Left } else { AttemptOutcome::Answered }, &ctx.metrics);
    let status = match written {
        Some(status) if !left => status,
        _ => CLIENT_CLOSED,
    };
    relay::read_bill(ctx);
    if !error.is_some_and(|error| noticed_while_idle(caller, error)) {
        ctx.unread_for = ctx.last_read.map_or(Duration::MAX, |at| at.elapsed());
    }
    let duration = ctx.started.elapsed();
    let endpoint = ctx.endpoint.label();
    // A held reply leaves in one piece, just now.
    let held = written.filter(|_| matches!(ctx.delivery, Delivery::Hold)).map(|_| duration);
    let first_byte = ctx.first_byte.map(|at| at.duration_since(ctx.started)).or(held);
    ctx.metrics.finished(endpoint, ctx.model_label(), ctx.provider(), status, duration);
    if let Some(after) = first_byte {
        ctx.metrics.first_byte(endpoint, ctx.provider(), after);
    }
    if ctx.endpoint.reads_body() {
        ctx.metrics.cached(ctx.course.label(), ctx.model_label());
    }
    let line = ctx.engines.config.log.access.then(|| Line::of(caller, ctx, error));
    let route: Arc<str> = ctx.dispatch.plan().map_or_else(|| "-".into(), |plan| plan.label.clone());
    let metrics = ctx.metrics.clone();
    let end = End { status, first_byte, duration };
    match settle::close(ctx, end) {
        (closing, Verdict::Known(settled)) => conclude(closing, settled, &metrics, &route, line, end),
        (closing, Verdict::Count(count)) => {
            // The process does not end before the count is in the ledger.
            let open = InFlight::enter(&metrics);
            tokio::spawn(async move {
                let settled = count.count().await;
                conclude(closing, settled, &metrics, &route, line, end);
                drop(open);
            });
        }
    }
}

/// Whether the client's leaving was noticed while all that the provider had sent was read, rather than when it did not take
/// what was written to it. With HTTP/2 the errors of both are alike.
fn noticed_while_idle(caller: &Caller<'_>, error: &Error) -> bool {
    use pingora_error::ErrorType::{ConnectionClosed, ReadError};
    let idle = matches!(error.etype(), ConnectionClosed | ReadError);
    idle && error.esource() == &ErrorSource::Downstream && !caller.is_http2()
}

fn conclude(closing: Closing, settled: Settled, metrics: &Metrics, route: &str, line: Option<Line>, end: End) {
    let provider = closing.provider().clone();
    let settled = closing.settle(settled);
    if let Some(usage) = &settled.usage {
        metrics.used(&provider, route, usage, settled.cost);
    }
    if let Some(line) = line {
        line.log(&settled, &provider, end);
    }
}

/// What the access log says of a request besides its settlement.
struct Line {
    id: RequestId,
    method: http::Method,
    path: String,
    endpoint: &'static str,
    tenant: Option<crate::types::TenantId>,
    token: Option<crate::types::TokenId>,
    model: Arc<str>,
    attempts: u32,
    course: Course,
    error: Option<String>,
}

impl Line {
    fn of(caller: &Caller<'_>, ctx: &Context, error: Option<&Error>) -> Self {
        let request = caller.request();
        let error = ctx.fault.map(|f| f.code().to_owned()).or_else(|| error.map(|e| e.etype().as_str().to_owned()));
        let principal = ctx.principal.as_ref();
        let served = ctx.cached.as_ref().and_then(|cached| Some(&cached.served.as_ref()?.model));
        Self {
            id: ctx.id,
            method: request.method.clone(),
            path: request.uri.path().to_owned(),
            endpoint: ctx.endpoint.label(),
            tenant: principal.map(|principal| principal.party.id.clone()),
            token: principal.and_then(|principal| Some(principal.token.as_ref()?.id.clone())),
            model: served
                .or(ctx.dispatch.attempt.as_ref().map(|a| &a.target.model))
                .cloned()
                .unwrap_or_else(|| "-".into()),
            attempts: ctx.dispatch.asked(),
            course: ctx.course,
            error,
        }
    }

    fn log(self, settled: &Settled, provider: &str, end: End) {
        let usage = settled.usage.unwrap_or_default();
        tracing::info!(
            target: "chittycan::access",
            id = %self.id,
            method = self.method.as_str(),
            path = self.path,
            status = end.status,
            endpoint = self.endpoint,
            tenant = self.tenant.as_ref().map(|tenant| tenant.as_str()),
            token = self.token.as_ref().map(|token| token.as_str()),
            provider,
            model = &*self.model,
            attempts = self.attempts,
            cache = self.course.label(),
            prompt_tokens = usage.prompt_tokens,
            completion_tokens = usage.completion_tokens,
            cost_usd = settled.cost.map(|c| c.to_string()),
            cost_basis = settled.basis.label(),
            first_byte_ms = end.first_byte.map(|d| d.as_secs_f64() * 1e3),
            duration_ms = end.duration.as_secs_f64() * 1e3,
            error = self.error,
        );
    }
}
