//! One file per phase, each with one verb. Read top to bottom, the list is a request's path.

pub mod attempt;
pub mod finish;
pub mod identify;
mod models;
mod plan;
mod read;
pub mod recover;
pub mod relay;
pub mod respond;

use pingora_error::Result;
use pingora_proxy::Session;

use super::{context::Context, reply};
use crate::{
    error::{Fault, GatewayError},
    openai::Endpoint,
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

/// identify → read → plan. `Ok(true)` says that the reply has been sent.
pub async fn accept(session: &mut Session, ctx: &mut Context, contexts: &ContextLengths) -> Result<bool> {
    match walk(session, ctx, contexts).await {
        Ok(answered) => Ok(answered),
        Err(Stop::Error(error)) => {
            read::discard(session).await;
            reply::error(session, ctx, &error).await.map(|()| true)
        }
        Err(Stop::Gone) => {
            session.set_keepalive(None);
            Ok(true)
        }
    }
}

async fn walk(session: &mut Session, ctx: &mut Context, contexts: &ContextLengths) -> Result<bool, Stop> {
    ctx.endpoint = identify::identify(session, ctx)?;
    match &ctx.endpoint {
        Endpoint::Models | Endpoint::Model(_) => {
            let (status, body) = models::answer(ctx)?;
            reply::json(session, ctx, status, body).await.map_err(|_| Stop::Gone)?;
            return Ok(true);
        }
        Endpoint::Other => ctx.plan = Some(ctx.engines.routes.default_plan("")),
        _ => {
            let bytes = read::body(session, &ctx.engines.config.http).await?;
            let body = plan::peek(bytes).await?;
            let mut plan = plan::route(ctx, &body)?;
            plan::require_room(&mut plan, &body, &ctx.endpoint, contexts).await?;
            ctx.plan = Some(plan);
            ctx.body = Some(body);
        }
    }
    // A preflight request has no credential and needs none.
    if session.req_header().method != http::Method::OPTIONS {
        plan::require_credential(ctx)?;
    }
    if ctx.endpoint == Endpoint::Other {
        read::invite_body(session).await?;
    }
    Ok(false)
}

/// An error about the request itself.
fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> GatewayError {
    GatewayError::new(Fault::InvalidRequest, message)
}
