//! Translate: the request as the next provider understands it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::plan;
use crate::{
    config::Dialect,
    dialect::{Model, Refusal},
    error::{Extra, Fault, GatewayError},
    openai::{Endpoint, splice},
    providers::{
        exchange::{self, Exchange},
        quirks,
    },
    proxy::{
        context::{Context, Prepared},
        party::Principal,
    },
    routing::Target,
};

/// Makes what the next attempt will send. Targets that cannot be asked this are passed over.
///
/// # Errors
/// No target is left, and why the last one cannot be asked.
pub async fn prepare(ctx: &mut Context) -> Result<(), Box<GatewayError>> {
    while ctx.prepared.is_none() {
        let Some(target) = ctx.next_target().cloned() else {
            // Without a refusal there was no target, which a plan rules out.
            let unknown = || GatewayError::new(Fault::Internal, "There is nowhere left to send the request.");
            return Err(ctx.refusal.take().unwrap_or_else(|| Box::new(unknown())));
        };
        let made = match Translation::of(ctx, &target) {
            Some(work) if work.body.len() > plan::PARSE_INLINE => {
                spawn_blocking(move || Some(work.run())).await.unwrap_or_else(|_| Some(Err(Refusal::new("", FAILED))))
            }
            work => work.map(|work| work.run()),
        };
        adopt(ctx, target, made);
    }
    Ok(())
}

/// Anthropic's parameter for a conversation that its servers keep.
const THREAD: &str = "thread";

const FAILED: &str = "The request body could not be translated.";

/// Whether there is another target that can be asked this. What it will be sent is made now: after a failure, which is
/// seldom, so that the failure is told to the client where nobody else can answer.
pub fn ready(ctx: &mut Context) -> bool {
    while ctx.prepared.is_none() {
        let Some(target) = ctx.next_target().cloned() else { return false };
        let made = Translation::of(ctx, &target).map(|work| work.run());
        adopt(ctx, target, made);
    }
    true
}

/// Takes what was made for a target as the next thing to send, or notes why there is nothing. `None` is a target of the
/// client's own dialect.
fn adopt(ctx: &mut Context, target: Target, made: Option<Result<(Bytes, Exchange), Refusal>>) {
    let Some(made) = made else {
        let body = ctx.body.as_ref().map(|body| {
            let mut edits = quirks::edits(&ctx.endpoint, &target.provider, &target.model, &body.bytes, &body.peek);
            if let Some(hosted) =
                body.hosted.as_ref().filter(|_| ctx.principal.as_ref().is_some_and(Principal::counts_money))
            {
                // What was reserved has to hold.
                let most = ctx.engines.config.budgets.max_tool_calls;
                edits.extend(hosted.limiting_edits(&body.bytes, &body.peek, most));
            }
            splice(&body.bytes, &body.peek, &edits)
        });
        let body = body.or_else(|| ctx.forwarded.clone());
        ctx.prepared = Some(Box::new(Prepared { target, body, exchange: None }));
        return;
    };
    let provider = &target.provider.name;
    let strict = ctx.plan.as_ref().is_some_and(|plan| plan.strict);
    let made = made.and_then(|(body, exchange)| match exchange.lost.first() {
        Some(lost) if strict => Err(Refusal::new(
            lost.clone(),
            format!("Provider '{provider}' has nothing for '{lost}', and this route is strict (routes[].strict)."),
        )),
        _ => Ok((body, exchange)),
    });
    let outcome = match &made {
        Ok((_, exchange)) if exchange.lost.is_empty() => "whole",
        Ok(_) => "lossy",
        Err(_) => "refused",
    };
    ctx.metrics.translated(ctx.endpoint.label(), provider, outcome);
    match made {
        Ok((body, exchange)) => {
            if !exchange.lost.is_empty() {
                let dropped = exchange.lost.join(", ");
                tracing::debug!(id = %ctx.id, provider = &**provider, dropped, "translated with losses");
            }
            let exchange = Some(Arc::new(exchange));
            ctx.prepared = Some(Box::new(Prepared { target, body: Some(body), exchange }));
        }
        Err(Refusal { param, message }) => {
            let threads = param == THREAD && ctx.endpoint == Endpoint::Messages;
            let param = Some(param).filter(|param| !param.is_empty());
            let mut error = GatewayError::new(Fault::UnsupportedParameter, message).with_param(param);
            if threads {
                // On these words Anthropic's SDKs send the whole conversation without it.
                let member = Some(("details", json!({ "error_code": "thread_unsupported_request" })));
                error.extra = Some(Box::new(Extra { member, ..Extra::default() }));
            }
            ctx.refusal = Some(Box::new(error));
            ctx.cursor += 1;
        }
    }
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
    /// `None` where the client's own dialect is understood.
    fn of(ctx: &Context, target: &Target) -> Option<Self> {
        let body = ctx.body.as_ref().filter(|_| exchange::is_translated(&ctx.endpoint, &target.provider))?;
        Some(Self {
            endpoint: ctx.endpoint.clone(),
            target: target.clone(),
            max_output_tokens: ctx.engines.price(&ctx.endpoint, target).and_then(|price| price.max_output_tokens()),
            context: ctx.context_wish.filter(|_| target.provider.dialect == Dialect::Ollama),
            body: body.bytes.clone(),
        })
    }

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
