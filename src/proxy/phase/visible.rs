//! Visible: which of the provider's objects a tenant may see.

use std::sync::Arc;

use crate::{
    config,
    error::{Fault, GatewayError},
    objects::{Reference, Refused, is_fine_tune},
    proxy::{context::Context, stop::invalid},
    routing::Target,
    tenants::Principal,
};

/// Whether a model may be shown with the gateway's key: it is no fine-tune and nothing else of another's.
///
/// # Errors
/// It is another's, or a fine-tune of nobody.
pub fn require_shown(ctx: &Context, principal: &Principal, target: &Target) -> Result<(), GatewayError> {
    let reference = Reference { id: target.model.to_string(), strict: false, param: "model" };
    require_fine_tune(ctx, principal, target).and_then(|()| check(ctx, principal, target, [&reference]))
}

/// Whether a model is no fine-tune, or one that may be used, with the gateway's key. A configuration that names a fine-tune
/// offers it; a name that the client brought has to be its own.
///
/// # Errors
/// It is another's, or nobody's.
pub fn require_fine_tune(ctx: &Context, principal: &Principal, target: &Target) -> Result<(), GatewayError> {
    let model = &target.model;
    let reference = Reference { id: model.to_string(), strict: true, param: "model" };
    if target.named || !is_fine_tune(model) || may_use(ctx, principal, &target.provider, &reference) {
        return Ok(());
    }
    let message = format!("The model '{model}' does not exist.");
    Err(GatewayError::new(Fault::ModelNotFound, message).with_param(Some("model")))
}

/// Whether each id is one that the tenant may see.
///
/// # Errors
/// One is another's, or nobody's.
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

/// What is said of an object that is another's, and of one that is not there.
fn not_found(id: &str, param: &'static str) -> GatewayError {
    let shown: String = id.chars().filter(|char| !char.is_control()).take(100).collect();
    GatewayError::new(Fault::ObjectNotFound, format!("No such object: '{shown}'.")).with_param(Some(param))
}

/// A body that could not be checked.
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
