//! Count: `POST /v1/messages/count_tokens` for models of providers that have no such endpoint.

use bytes::Bytes;
use serde_json::json;

use crate::{
    error::GatewayError,
    openai::IMAGE_ESTIMATE,
    providers::adapter,
    proxy::{
        context::Context,
        heavy::{self, Load},
        metering::count_prompt,
    },
    routing::{Reason, Target},
};

/// The reply's body; `None` if the first provider of the plan counts tokens itself. Then the candidates that do not are ruled
/// out.
pub async fn answer(ctx: &mut Context) -> Result<Option<Bytes>, GatewayError> {
    let (Some(first), Some(body)) = (ctx.dispatch.first().cloned(), &ctx.ask.body) else { return Ok(None) };
    let counts = |target: &Target| adapter::of(&target.provider).facts().counts_tokens;
    if counts(&first) {
        // The first candidate counts tokens itself.
        let _ = ctx.narrow(|_, target| (!counts(target)).then_some(Reason::Other));
        return Ok(None);
    }
    let images = body.bound.images.saturating_mul(IMAGE_ESTIMATE);
    let (model, bytes) = (first.model.clone(), body.bytes.clone());
    let capacity = &ctx.shared.capacity;
    let (pool, load) = (capacity.counting_of(bytes.len()), Load::reading(bytes.len()));
    let work = move |_share| count_prompt(&model, &bytes);
    let tokens = heavy::run_in(pool, capacity, load, work).await?.saturating_add(images);
    Ok(Some(json!({ "input_tokens": tokens }).to_string().into()))
}
