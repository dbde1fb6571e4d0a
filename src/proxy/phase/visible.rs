//! Visible: decides which of the provider's objects a tenant may see.

use std::sync::Arc;

use crate::{
    config,
    error::{Fault, GatewayError},
    objects::{Reference, Refused, is_fine_tune},
    proxy::{context::Context, stop::invalid},
    routing::Target,
    tenants::Principal,
};

/// Checks whether a model may be shown with the gateway's key: it is no fine-tune, and not another tenant's.
///
/// # Errors
/// The model is another tenant's, or a fine-tune without an owner.
pub fn require_shown(ctx: &Context, principal: &Principal, target: &Target) -> Result<(), GatewayError> {
    let reference = Reference { id: target.model.to_string(), strict: false, param: "model" };
    require_fine_tune(ctx, principal, target).and_then(|()| check(ctx, principal, target, [&reference]))
}

/// Checks whether a model is no fine-tune, or one that may be used with the gateway's key. A fine-tune that the configuration
/// names may be used by all; one that the client names has to be its tenant's own.
///
/// # Errors
/// The model is another tenant's, or has no owner.
pub fn require_fine_tune(ctx: &Context, principal: &Principal, target: &Target) -> Result<(), GatewayError> {
    let model = &target.model;
    let reference = Reference { id: model.to_string(), strict: true, param: "model" };
    if target.named || !is_fine_tune(model) || may_use(ctx, principal, &target.provider, &reference) {
        return Ok(());
    }
    let message = format!("The model '{model}' does not exist.");
    Err(GatewayError::new(Fault::ModelNotFound, message).with_param(Some("model")))
}

/// Checks whether the tenant may see each of the ids.
///
/// # Errors
/// The first id that is another tenant's, or that has no owner although one is required.
pub fn check<'a>(
    ctx: &Context,
    principal: &Principal,
    target: &Target,
    ids: impl IntoIterator<Item = &'a Reference>,
) -> Result<(), GatewayError> {
    match ids.into_iter().find(|reference| !may_use(ctx, principal, &target.provider, reference)) {
        Some(reference) => Err(not_found(&reference.id, reference.param)),
        None => Ok(()),
    }
}

fn may_use(ctx: &Context, principal: &Principal, provider: &Arc<config::Provider>, reference: &Reference) -> bool {
    match ctx.shared.objects.owner(&provider.name, &reference.id) {
        Some(owner) => ctx.snapshot.tenants.may_see(principal, &owner),
        None => !reference.strict,
    }
}

/// The error for an object that is another tenant's, and for one that does not exist.
fn not_found(id: &str, param: &'static str) -> GatewayError {
    let shown: String = id.chars().filter(|char| !char.is_control()).take(100).collect();
    GatewayError::new(Fault::ObjectNotFound, format!("No such object: '{shown}'.")).with_param(Some(param))
}

/// The error for a body that could not be checked.
pub fn unreadable(refused: Refused) -> GatewayError {
    match refused {
        Refused::Twice(field) => {
            let message =
                format!("The field '{field}' is given more than once, if keys are read without regard to case.");
            invalid(message).with_param(Some(field))
        }
        Refused::Wide(field) => {
            let message = format!(
                "The field '{field}' asks for all that the provider's account has. The gateway's operator can allow that \
                 (tenants.NAME.provider_objects: all)."
            );
            GatewayError::new(Fault::PathNotAllowed, message).with_param(Some(field))
        }
        Refused::Beyond(field) => {
            let message = format!(
                "The field '{field}' names a place that is no file of the provider's, and the gateway cannot know whose it is. \
                 The gateway's operator can allow that (tenants.NAME.provider_objects: all)."
            );
            GatewayError::new(Fault::PathNotAllowed, message)
        }
        Refused::Unfit(field, why) => invalid(format!("The field '{field}' {why}.")).with_param(Some(field)),
        Refused::Unreadable(why) => {
            invalid(format!("The request body is no JSON that can be checked for what it refers to: {why}."))
        }
    }
}
