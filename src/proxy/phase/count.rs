//! Count: `POST /v1/messages/count_tokens` for models that are not Anthropic's, whose providers do not count for it.

use bytes::Bytes;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::settle;
use crate::{
    config::Dialect,
    error::{Fault, GatewayError},
    openai::IMAGE_ESTIMATE,
    proxy::context::Context,
    routing::Plan,
};

/// The reply's body; `None` where a provider of Anthropic's dialect is first in the plan, which then counts itself.
pub async fn answer(ctx: &mut Context) -> Result<Option<Bytes>, GatewayError> {
    let (Some(plan), Some(body)) = (&ctx.plan, &ctx.body) else { return Ok(None) };
    let Some(first) = plan.targets.first() else { return Ok(None) };
    if first.provider.dialect == Dialect::Anthropic {
        let counts = plan.targets.iter().filter(|target| target.provider.dialect == Dialect::Anthropic);
        ctx.plan = Some(Plan { targets: counts.cloned().collect(), ..plan.clone() });
        return Ok(None);
    }
    let images = body.bound.images.saturating_mul(IMAGE_ESTIMATE);
    let (model, bytes) = (first.model.clone(), body.bytes.clone());
    let tokens = spawn_blocking(move || settle::count_prompt(&model, &bytes))
        .await
        .map_err(|_| GatewayError::new(Fault::Internal, "The prompt could not be counted."))?
        .saturating_add(images);
    Ok(Some(json!({ "input_tokens": tokens }).to_string().into()))
}
