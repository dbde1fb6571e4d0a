//! Translate: makes the request that the next provider gets.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::{
    capacity::{Capacity, Share},
    dialect::{Model, Refusal, from_responses::Memory},
    error::{Extra, Fault, GatewayError},
    openai::{Endpoint, count_values, splice},
    providers::{
        adapter,
        exchange::{self, Exchange},
        quirks,
    },
    proxy::{
        ask::Body,
        context::Context,
        dispatch::Prepared,
        heavy::{self, Load},
    },
    routing::{Candidates, Reason, Target},
    tenants::Principal,
    types::PromptCaching,
};

/// Makes the request of the next attempt. Targets that cannot serve it are passed over.
///
/// # Errors
/// No target is left, with the reason why the last one cannot be asked; or there is no room or no thread for a large body.
pub async fn prepare(ctx: &mut Context) -> Result<(), Box<GatewayError>> {
    while ctx.dispatch.prepared.is_none() {
        let Some(target) = next_target(ctx) else {
            // `last_reason` is empty only if there was no target at all, which a plan rules out.
            let last = ctx.dispatch.candidates.as_ref().and_then(Candidates::last_reason).cloned();
            return Err(last.unwrap_or(Reason::Other).into_error());
        };
        let load = load(ctx, &target);
        let made = match load.is_light() {
            true => make(ctx, &target)?,
            false => make_aside(ctx, &target, load).await?,
        };
        adopt(ctx, target, made);
    }
    Ok(())
}

/// The deployment that would be asked next.
fn next_target(ctx: &Context) -> Option<Target> {
    ctx.dispatch.candidates.as_ref()?.peek().cloned()
}

/// Anthropic's parameter for a conversation that its servers keep.
const THREAD: &str = "thread";

/// Whether another target can serve the request. Called after a failure, which is seldom. The target's request is made at once,
/// so that the client is told of the failure if no other target can answer; only for a large body it is made when the attempt
/// begins.
pub fn ready(ctx: &mut Context) -> bool {
    while ctx.dispatch.prepared.is_none() {
        let Some(target) = next_target(ctx) else { return false };
        if !load(ctx, &target).is_light() {
            return true;
        }
        let Ok(made) = make(ctx, &target) else { return false };
        adopt(ctx, target, made);
    }
    true
}

/// The request that was made for a target.
enum Made {
    /// The body in the client's own dialect, if there is one.
    Own(Option<Bytes>),
    Translated(Result<(Bytes, Exchange), Refusal>),
}

/// What making the request for a target takes.
fn load(ctx: &Context, target: &Target) -> Load {
    let Some(body) = &ctx.ask.body else { return Load::reading(0) };
    let bytes = body.bytes.len();
    match exchange::is_translated(&ctx.ask.endpoint, &target.provider) {
        true if body.values > 0 => Load::translating(bytes, body.values),
        true => Load::translating(bytes, count_values(&body.bytes)),
        false => Load::reading(bytes),
    }
}

fn make(ctx: &Context, target: &Target) -> Result<Made, Box<GatewayError>> {
    let capacity = &ctx.shared.capacity;
    match (Translation::of(ctx, target), &ctx.ask.body) {
        (Some(translation), _) => translation.run(capacity, None),
        (None, Some(body)) => rewrite(capacity, None, &ctx.ask.endpoint, target, body, most_calls(ctx)),
        (None, None) => Ok(Made::Own(ctx.ask.forwarded.as_ref().map(|body| body.bytes.clone()))),
    }
}

/// Like [`make`], on a thread for long work, within the memory budget.
async fn make_aside(ctx: &mut Context, target: &Target, load: Load) -> Result<Made, Box<GatewayError>> {
    // The body of the attempt before is dropped, so that no request waits for room while it holds room.
    if let Some(attempt) = &mut ctx.dispatch.attempt {
        attempt.body = None;
    }
    let capacity = ctx.shared.capacity.clone();
    let budget = capacity.clone();
    let made = match Translation::of(ctx, target) {
        Some(translation) => heavy::run(&capacity, load, move |share| translation.run(&budget, share)).await,
        None => {
            let Some(body) = ctx.ask.body.as_deref().cloned() else {
                return Ok(Made::Own(ctx.ask.forwarded.as_ref().map(|body| body.bytes.clone())));
            };
            let (endpoint, target, most_calls) = (ctx.ask.endpoint.clone(), target.clone(), most_calls(ctx));
            let work = move |share| rewrite(&budget, share, &endpoint, &target, &body, most_calls);
            heavy::run(&capacity, load, work).await
        }
    };
    made.map_err(Box::new)?
}

/// The most tool calls that a request may make if its client does not say and money is counted; `None` if it is not counted.
fn most_calls(ctx: &Context) -> Option<u64> {
    let counts = ctx.asker.principal.as_ref().is_none_or(Principal::counts_money);
    counts.then_some(ctx.snapshot.config.budgets.max_tool_calls)
}

/// The body for a provider that speaks the client's own dialect.
fn rewrite(
    capacity: &Capacity,
    share: Option<Share>,
    endpoint: &Endpoint,
    target: &Target,
    body: &Body,
    most_calls: Option<u64>,
) -> Result<Made, Box<GatewayError>> {
    let mut edits = quirks::edits(endpoint, &target.provider, &target.model, &body.bytes, &body.peek);
    if let (Some(hosted), Some(most)) = (&body.hosted, most_calls) {
        // The reservation has to cover all calls.
        edits.extend(hosted.limiting_edits(&body.bytes, &body.peek, most));
    }
    let made = splice(&body.bytes, &body.peek, &edits);
    let is_new = made.as_ptr() != body.bytes.as_ptr();
    Ok(Made::Own(Some(if is_new { heavy::keep(capacity, share, made)? } else { made })))
}

/// Keeps what was made for a target as the next request to send, or rules the target out.
fn adopt(ctx: &mut Context, target: Target, made: Made) {
    let made = match made {
        Made::Own(body) => {
            ctx.dispatch.prepared = Some(Box::new(Prepared { body, exchange: None }));
            return;
        }
        Made::Translated(made) => made,
    };
    let provider = &target.provider.name;
    let strict = ctx.dispatch.plan().is_some_and(|plan| plan.strict);
    let made = made.and_then(|(body, exchange)| match exchange.dropped.first() {
        Some(dropped) if strict => Err(Refusal::new(
            dropped.clone(),
            format!(
                "Provider '{provider}' has no equivalent of '{dropped}', and this route is strict (routes[].strict)."
            ),
        )),
        _ => Ok((body, exchange)),
    });
    let outcome = match &made {
        Ok((_, exchange)) if exchange.dropped.is_empty() => "whole",
        Ok(_) => "lossy",
        Err(_) => "refused",
    };
    ctx.metrics.translated(ctx.ask.endpoint.label(), provider, outcome);
    match made {
        Ok((body, exchange)) => {
            if !exchange.dropped.is_empty() {
                let dropped = exchange.dropped.join(", ");
                tracing::debug!(id = %ctx.arrival.id, provider = &**provider, dropped, "translated with losses");
            }
            let exchange = Some(Arc::new(exchange));
            ctx.dispatch.prepared = Some(Box::new(Prepared { body: Some(body), exchange }));
        }
        Err(Refusal { param, message }) => {
            let threads = param == THREAD && ctx.ask.endpoint == Endpoint::Messages;
            let param = Some(param).filter(|param| !param.is_empty());
            let mut error = GatewayError::new(Fault::UnsupportedParameter, message).with_param(param);
            if threads {
                // On seeing this code, Anthropic's SDKs send the whole conversation without `thread`.
                let member = Some(("details", json!({ "error_code": "thread_unsupported_request" })));
                error.extra = Some(Box::new(Extra { member, ..Extra::default() }));
            }
            if let Some(candidates) = &mut ctx.dispatch.candidates {
                candidates.rule_out_next(Reason::Dialect(Box::new(error)));
            }
        }
    }
}

/// A translation that is to be made, in this task or on the pool for long work.
struct Translation {
    endpoint: Endpoint,
    target: Target,
    max_output_tokens: Option<u64>,
    context: Option<u64>,
    prompt_caching: PromptCaching,
    /// The gateway will keep the response.
    kept: bool,
    previous_response_id: Option<Arc<str>>,
    body: Bytes,
}

impl Translation {
    /// `None` if the target understands the client's own dialect.
    fn of(ctx: &Context, target: &Target) -> Option<Self> {
        let body = ctx.ask.body.as_ref().filter(|_| exchange::is_translated(&ctx.ask.endpoint, &target.provider))?;
        let price = ctx.snapshot.price(&ctx.ask.endpoint, target);
        // Cache writes without a price in the catalogue would be missing in the ledger.
        let unknown = price.as_ref().is_some_and(|price| !price.prices_cache_writes());
        let wanted = ctx.dispatch.plan().map_or(PromptCaching::Off, |plan| plan.prompt_caching);
        Some(Self {
            endpoint: ctx.ask.endpoint.clone(),
            target: target.clone(),
            prompt_caching: if unknown { PromptCaching::Off } else { wanted },
            max_output_tokens: price.and_then(|price| price.max_output_tokens()),
            context: ctx.dispatch.context_wish.filter(|_| adapter::of(&target.provider).facts().takes_context),
            kept: ctx.reply.turn.is_some(),
            previous_response_id: ctx.ask.previous_response_id.clone(),
            body: body.bytes.clone(),
        })
    }

    /// Runs the translation. The new body holds its part of the share.
    fn run(&self, capacity: &Capacity, share: Option<Share>) -> Result<Made, Box<GatewayError>> {
        let Target { provider, model, .. } = &self.target;
        let model = Model {
            name: model,
            max_output_tokens: self.max_output_tokens,
            default_max_tokens: provider.default_max_tokens,
            context: self.context,
            prompt_caching: self.prompt_caching,
        };
        let memory = Memory { kept: self.kept, previous_response_id: self.previous_response_id.as_deref() };
        Ok(Made::Translated(match exchange::translate(&self.endpoint, provider, &model, memory, &self.body) {
            Ok((made, exchange)) => Ok((heavy::keep(capacity, share, made)?, exchange)),
            Err(refusal) => Err(refusal),
        }))
    }
}
