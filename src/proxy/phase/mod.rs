//! The phases of a request, one file each, named after a verb; `ARCHITECTURE.md` walks a request through them.

mod admit;
pub mod attempt;
mod cache;
pub mod exchange;
pub mod finish;
pub mod identify;
mod inspect;
mod lead;
mod own;
pub mod plan;
pub mod read;
mod recall;
pub mod recover;
pub mod relay;
pub mod respond;
pub mod settle;
mod translate;
pub mod visible;

use std::sync::Arc;

use pingora_error::{Error, ErrorType, Result};

use self::own::Passage;
use super::{
    caller::Caller,
    context::Context,
    endpoints::{count, invalidate, models},
    reply,
    stop::Stop,
    upstream::Upstream,
};
use crate::{
    openai::{DEFAULT_MODERATION_MODEL, Endpoint},
    providers::ollama::ContextLengths,
};

/// Runs the phases identify, admit, read, plan, recall, own, inspect, cache, translate, lead and exchange. `Ok(true)`: the reply
/// has been sent. `Ok(false)`: the request streams through Pingora's own loop.
///
/// # Errors
/// The error that the exchange ended with, for [`recover::give_up`].
pub async fn accept(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    contexts: &ContextLengths,
    upstream: &Arc<Upstream>,
) -> Result<bool> {
    if caller.request().method == http::Method::OPTIONS {
        // A preflight request needs no credential, counts in no limit, and goes to no provider.
        read::discard(caller).await;
        return reply::options(caller, ctx).await.map(|()| true).map_err(Error::into_down);
    }
    // Boxed, and dropped before the exchange begins: a stream would carry its size along for as long as it is open.
    match Box::pin(walk(caller, ctx, contexts, upstream)).await {
        Ok(true) => return Ok(true),
        Ok(false) => {}
        Err(stop) => return answer(caller, ctx, stop).await.map(|()| true),
    }
    if !exchange::carries(caller, ctx) {
        return Ok(false);
    }
    if commit(caller, ctx).await? {
        lead::run(caller, ctx, upstream).await?;
    }
    Ok(true)
}

/// The last step before a provider is asked, after the cache had no answer: reserves the cost. `Ok(false)`: the reply has been
/// sent.
///
/// # Errors
/// The client has left.
pub async fn commit(caller: &mut Caller<'_>, ctx: &mut Context) -> Result<bool> {
    match admit::reserve(caller, ctx).await {
        Ok(()) => Ok(true),
        // Without an error, Pingora would answer if nothing has been sent.
        Err(Stop::Gone) => Err(Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()),
        Err(stop) => answer(caller, ctx, stop).await.map(|()| false),
    }
}

async fn answer(caller: &mut Caller<'_>, ctx: &mut Context, stop: Stop) -> Result<()> {
    match stop {
        Stop::Error(error) => {
            read::discard(caller).await;
            // A client that cannot be written to has left.
            reply::error(caller, ctx, &error).await.map_err(Error::into_down)
        }
        Stop::Gone => {
            caller.close_after();
            Ok(())
        }
    }
}

async fn walk(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    contexts: &ContextLengths,
    upstream: &Upstream,
) -> Result<bool, Stop> {
    ctx.ask.endpoint = identify::identify(caller, ctx)?;
    ctx.ask.websocket &= ctx.ask.endpoint == Endpoint::Other;
    let principal = admit::authenticate(ctx).await?;
    ctx.asker.principal = Some(principal.clone());
    ctx.asker.claimed = None;
    admit::enter(caller, ctx, &principal)?;
    let mut passage = Passage::Unread;
    match &ctx.ask.endpoint {
        Endpoint::Models | Endpoint::Model(_) => {
            // Boxed, as seldom needed: otherwise every request would carry its size along.
            Box::pin(models::answer(caller, ctx, &principal, upstream)).await?;
            return Ok(true);
        }
        Endpoint::InvalidateCache => {
            let (status, body) = invalidate::answer(caller, ctx).await?;
            reply::json(caller, ctx, status, body).await.map_err(|_| Stop::Gone)?;
            return Ok(true);
        }
        Endpoint::Other => {
            // Boxed, as seldom needed: otherwise every request would carry its size along.
            if recall::names_response(caller)
                && let Some((status, body)) = Box::pin(recall::answer(caller, ctx, &principal)).await?
            {
                read::discard(caller).await;
                reply::json(caller, ctx, status, body).await.map_err(|_| Stop::Gone)?;
                return Ok(true);
            }
            let plan = plan::unread(ctx)?;
            ctx.open_dispatch(plan);
            // Before a list or a batch, for which the gateway itself asks the provider.
            plan::require_credential(ctx)?;
            // Boxed, as seldom needed: otherwise every request would carry its size along.
            passage = Box::pin(own::forwarded(caller, ctx, &principal, upstream)).await?;
            if matches!(passage, Passage::Answered) {
                return Ok(true);
            }
        }
        _ => {
            let bytes = read::body(caller, ctx).await?;
            let body = plan::peek(ctx, bytes).await?;
            let plan = plan::route(ctx, &body)?;
            let model = match &ctx.ask.endpoint {
                // The model of a stored prompt is not known here.
                Endpoint::Responses => body.peek.model.as_deref(),
                _ => Some(body.peek.model.as_deref().unwrap_or(DEFAULT_MODERATION_MODEL)),
            };
            admit::require_model(&principal, model, &plan)?;
            ctx.open_dispatch(plan);
            let body = match recall::keeps(ctx) {
                true => Box::pin(recall::open(caller, ctx, &principal, body)).await?,
                false => body,
            };
            let body = plan::limit_answer(ctx, body).await?;
            ctx.dispatch.context_wish = plan::require_room(ctx, &body, contexts).await?;
            ctx.ask.body = Some(body);
            plan::refuse_stranger(ctx)?;
            own::understood(caller.request(), ctx, &principal).await?;
            if !ctx.snapshot.guards.is_empty() {
                Box::pin(inspect::prompt(caller, ctx)).await?;
            }
        }
    }
    if ctx.ask.endpoint == Endpoint::CountTokens
        && let Some(body) = count::answer(ctx).await?
    {
        reply::json(caller, ctx, 200, body).await.map_err(|_| Stop::Gone)?;
        return Ok(true);
    }
    plan::require_credential(ctx)?;
    if ctx.ask.body.is_some() {
        if cache::look(caller, ctx).await? {
            return Ok(true);
        }
        // An answer from the cache costs nothing, so it needs no price.
        if let Err(error) = admit::estimate(caller.request(), ctx, &principal) {
            return Err(Box::pin(models::unless_missing(caller.request(), ctx, error, upstream)).await.into());
        }
        translate::prepare(ctx).await.map_err(|refusal| *refusal)?;
    }
    if ctx.ask.endpoint == Endpoint::Other && matches!(passage, Passage::Unread) {
        read::invite_body(caller).await?;
    }
    Ok(false)
}
