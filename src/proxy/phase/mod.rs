//! One file per phase, each with one verb. Read top to bottom, the list is a request's path.

mod admit;
pub mod attempt;
mod cache;
mod count;
pub mod exchange;
pub mod finish;
pub mod identify;
mod invalidate;
pub mod list;
pub mod models;
mod own;
mod plan;
mod read;
mod recall;
pub mod recover;
pub mod relay;
pub mod respond;
pub mod settle;
mod translate;

use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use self::{exchange::Upstream, own::Passage};
use super::{context::Context, reply};
use crate::{
    error::{Fault, GatewayError},
    openai::{DEFAULT_MODERATION_MODEL, Endpoint},
    providers::ollama::ContextLengths,
};

/// Why a request goes no further towards a provider.
enum Stop {
    /// The client gets this error.
    Error(GatewayError),
    /// The client is gone; nobody reads an answer.
    Gone,
}

impl From<GatewayError> for Stop {
    fn from(error: GatewayError) -> Self {
        Self::Error(error)
    }
}

/// identify → admit → read → plan → recall → own → cache → exchange. `Ok(true)` says that the reply has been sent; else the request
/// streams through Pingora's own loop.
///
/// # Errors
/// What the exchange has ended in: for [`recover::give_up`].
pub async fn accept(
    session: &mut Session,
    ctx: &mut Context,
    contexts: &ContextLengths,
    upstream: &Upstream<'_>,
) -> Result<bool> {
    if session.req_header().method == http::Method::OPTIONS {
        // It needs no credential, counts in no limit, and no provider is asked.
        read::discard(session).await;
        return reply::options(session, ctx).await.map(|()| true).map_err(Error::into_down);
    }
    // Boxed, and gone before the exchange begins: a stream would carry its size along for as long as it is open.
    match Box::pin(walk(session, ctx, contexts, upstream)).await {
        Ok(true) => return Ok(true),
        Ok(false) => {}
        Err(stop) => return answer(session, ctx, stop).await.map(|()| true),
    }
    if !exchange::carries(session, ctx) {
        return Ok(false);
    }
    if commit(session, ctx).await? {
        exchange::run(session, ctx, upstream).await?;
    }
    Ok(true)
}

/// The last step before a provider is asked, after the cache had nothing: reserve. `Ok(false)` says that the reply has been
/// sent.
///
/// # Errors
/// The client has left.
pub async fn commit(session: &mut Session, ctx: &mut Context) -> Result<bool> {
    match admit::reserve(session, ctx).await {
        Ok(()) => Ok(true),
        // Pingora would answer where nothing has been sent.
        Err(Stop::Gone) => Err(Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()),
        Err(stop) => answer(session, ctx, stop).await.map(|()| false),
    }
}

async fn answer(session: &mut Session, ctx: &mut Context, stop: Stop) -> Result<()> {
    match stop {
        Stop::Error(error) => {
            read::discard(session).await;
            // A client that cannot be written to has left.
            reply::error(session, ctx, &error).await.map_err(Error::into_down)
        }
        Stop::Gone => {
            session.set_keepalive(None);
            Ok(())
        }
    }
}

async fn walk(
    session: &mut Session,
    ctx: &mut Context,
    contexts: &ContextLengths,
    upstream: &Upstream<'_>,
) -> Result<bool, Stop> {
    ctx.endpoint = identify::identify(session, ctx)?;
    let principal = admit::authenticate(ctx).await?;
    ctx.principal = Some(principal.clone());
    ctx.token = None;
    admit::enter(session, ctx, &principal)?;
    let mut passage = Passage::Unread;
    match &ctx.endpoint {
        Endpoint::Models | Endpoint::Model(_) => {
            // Boxed, as it is seldom needed: every request would carry its size along.
            Box::pin(models::answer(session, ctx, &principal, upstream)).await?;
            return Ok(true);
        }
        Endpoint::InvalidateCache => {
            let (status, body) = invalidate::answer(session, ctx).await?;
            reply::json(session, ctx, status, body).await.map_err(|_| Stop::Gone)?;
            return Ok(true);
        }
        Endpoint::Other => {
            // Boxed, as it is seldom needed: every request would carry its size along.
            if recall::names_response(session)
                && let Some((status, body)) = Box::pin(recall::answer(session, ctx, &principal)).await?
            {
                read::discard(session).await;
                reply::json(session, ctx, status, body).await.map_err(|_| Stop::Gone)?;
                return Ok(true);
            }
            ctx.plan = Some(plan::unread(ctx)?);
            plan::refuse_stranger(ctx)?;
            // Boxed, as it is seldom needed: every request would carry its size along.
            passage = Box::pin(own::forwarded(session, ctx, &principal, upstream)).await?;
            if matches!(passage, Passage::Answered) {
                return Ok(true);
            }
        }
        _ => {
            let bytes = read::body(session, ctx).await?;
            let body = plan::peek(ctx, bytes).await?;
            let mut plan = plan::route(ctx, &body)?;
            let model = match &ctx.endpoint {
                // What a stored prompt brings along cannot be told.
                Endpoint::Responses => body.peek.model.as_deref(),
                _ => Some(body.peek.model.as_deref().unwrap_or(DEFAULT_MODERATION_MODEL)),
            };
            admit::require_model(&principal, model, &plan)?;
            let body = match recall::keeps(ctx, &plan) {
                true => Box::pin(recall::open(session, ctx, &principal, &plan, body)).await?,
                false => body,
            };
            let body = plan::limit_answer(ctx, &plan, body).await?;
            ctx.context_wish = plan::require_room(&mut plan, &body, &ctx.endpoint, contexts).await?;
            ctx.plan = Some(plan);
            ctx.body = Some(body);
            plan::refuse_stranger(ctx)?;
            own::understood(session, ctx, &principal).await?;
        }
    }
    if ctx.endpoint == Endpoint::CountTokens
        && let Some(body) = count::answer(ctx).await?
    {
        reply::json(session, ctx, 200, body).await.map_err(|_| Stop::Gone)?;
        return Ok(true);
    }
    plan::require_credential(ctx)?;
    if ctx.body.is_some() {
        if cache::look(session, ctx).await? {
            return Ok(true);
        }
        // What the cache answers costs nothing, so nobody has to know its price. To count is free.
        if ctx.endpoint != Endpoint::CountTokens
            && let Err(error) = admit::estimate(session, ctx)
        {
            return Err(Box::pin(models::unless_missing(session, ctx, error, upstream)).await.into());
        }
        translate::prepare(ctx).await.map_err(|refusal| *refusal)?;
    }
    if ctx.endpoint == Endpoint::Other && matches!(passage, Passage::Unread) {
        read::invite_body(session).await?;
    }
    Ok(false)
}

/// A check found nothing to check, because what it needs was not worked out before it. Never an admission.
fn incomplete() -> GatewayError {
    GatewayError::new(Fault::Internal, "The request was not worked out far enough to be checked.")
}

/// An error about the request itself.
fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> GatewayError {
    GatewayError::new(Fault::InvalidRequest, message)
}
