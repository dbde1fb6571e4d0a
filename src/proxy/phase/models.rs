//! Models: the list and its members, from the configured routes.

use bytes::Bytes;
use serde_json::json;

use super::plan;
use crate::{
    error::{Fault, GatewayError},
    openai::Endpoint,
    proxy::context::Context,
    routing::ListedModel,
};

/// When a model was "created": OpenAI's clients want a number, the gateway knows none.
const CREATED: u64 = 0;

/// Status and body for `GET /v1/models` and `GET /v1/models/{id}`.
///
/// # Errors
/// A model that no route names, or that this client may not use.
pub fn answer(ctx: &Context) -> Result<(u16, Bytes), GatewayError> {
    let routes = &ctx.engines.routes;
    // A stranger is told of the models that a key of its own opens.
    let opens = |id: &str| {
        let plan = routes.configured_plan(id);
        plan.is_some_and(|plan| plan.targets.iter().any(|target| target.provider.takes_own_keys()))
    };
    let stranger = plan::is_stranger(ctx);
    let allowed = |id: &str, route: Option<&str>| {
        ctx.principal.as_ref().is_none_or(|who| who.may_ask(id, route)) && (!stranger || opens(id))
    };
    let body = match &ctx.endpoint {
        Endpoint::Model(id) => {
            let plan = routes.configured_plan(id).filter(|plan| allowed(id, Some(&plan.label))).ok_or_else(|| {
                let message = format!("The model '{id}' does not exist or you do not have access to it.");
                GatewayError::new(Fault::ModelNotFound, message).with_param(Some("model"))
            })?;
            let owned_by = plan.targets.first().map_or("gateway", |t| &t.provider.name).to_owned();
            object(ctx, &ListedModel { id: id.clone(), owned_by, route: plan.label })
        }
        _ => {
            let listed: Vec<_> =
                routes.models().iter().filter(|model| allowed(&model.id, Some(&model.route))).collect();
            let data: Vec<_> = listed.iter().map(|model| object(ctx, model)).collect();
            let id = |model: Option<&&ListedModel>| model.map(|model| model.id.clone());
            match ctx.anthropic {
                true => json!({
                    "data": data, "has_more": false, "first_id": id(listed.first()), "last_id": id(listed.last()),
                }),
                false => json!({ "object": "list", "data": data }),
            }
        }
    };
    Ok((200, Bytes::from(body.to_string())))
}

/// A model in the shape that the client reads.
fn object(ctx: &Context, model: &ListedModel) -> serde_json::Value {
    if ctx.anthropic {
        return json!({ "type": "model", "id": model.id, "display_name": model.id, "created_at": "1970-01-01T00:00:00Z" });
    }
    json!({ "id": model.id, "object": "model", "created": CREATED, "owned_by": model.owned_by })
}
