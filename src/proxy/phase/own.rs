//! Own: with the gateway's key a client sees, changes and refers to only its tenant's objects.
//!
//! An object of another tenant looks like one that does not exist, and no provider is asked about it. With a client's own key,
//! which opens the client's own account, nothing is checked or recorded.

use std::borrow::Cow;

use bytes::Bytes;
use http::header;

use super::{admit, plan, read, visible};
use crate::{
    config::ProviderObjects,
    error::{Fault, GatewayError},
    objects::{
        Action, Batch, Form, Reference, Refused, Rule, boundary, find_rule, is_cursor, may_refer, query, scan,
        scan_field,
    },
    openai::Endpoint,
    providers::exchange,
    proxy::{
        ask::Forwarded,
        caller::Caller,
        context::Context,
        endpoints::list,
        heavy::{self, Load},
        keeper::Keeper,
        stop::{Stop, incomplete, invalid},
        upstream::Upstream,
    },
    routing::{Reason, Target},
    tenants::Principal,
    types::Api,
};

use pingora_http::RequestHeader;

/// What becomes of a request that is only forwarded.
pub enum Passage {
    /// The request goes to the provider; the body is yet to be read.
    Unread,
    /// The request goes to the provider with the body in `ctx.ask.forwarded`.
    Read,
    /// The request has been answered.
    Answered,
}

/// Checks a request that is only forwarded, and answers it if it asks for a list.
///
/// # Errors
/// An object that is not the tenant's, a path that the tenant may not use, or a body that cannot be read.
pub async fn forwarded(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    upstream: &Upstream,
) -> Result<Passage, Stop> {
    let Some(target) = ctx.dispatch.first().cloned() else {
        return Err(incomplete().into());
    };
    if plan::credential(ctx, &target).is_some_and(|key| key.is_own()) {
        return Ok(Passage::Unread);
    }
    let policy = principal.policy.clone();
    let uri = caller.request().uri.clone();
    let found = find_rule(caller.request().method.as_str(), uri.path());
    if found.as_ref().is_some_and(|(rule, _)| rule.action == Action::Admin) {
        let knob = "provider_admin: true";
        return if policy.provider_admin {
            Ok(Passage::Unread)
        } else {
            Err(refuse(caller.request(), principal, knob).into())
        };
    }
    if policy.objects == ProviderObjects::All {
        // Nothing is checked, but new objects are recorded all the same, in case other tenants are added later.
        if let Some((rule, ids)) = found.filter(|(rule, _)| rule.action != Action::List) {
            ctx.reply.keeper = keeper(ctx, principal, &target, rule, &ids, &Bytes::new());
        }
        return Ok(Passage::Unread);
    }
    // The gateway does not see what goes over a WebSocket. A realtime session can refer to its own items, and to stored prompts
    // and voices; a client could open one past the gateway too (WebRTC), so the reference documents this (`provider_objects`).
    let hidden = ctx.ask.websocket && uri.path().trim_end_matches('/') != "/v1/realtime";
    let Some((rule, ids)) = found.filter(|(rule, _)| rule.action != Action::Shared && !hidden) else {
        return Err(refuse(caller.request(), principal, "provider_objects: all").into());
    };
    let strict = |at: usize| !rule.is_item(at);
    let named = ids.iter().enumerate();
    let named = named.map(|(at, id)| Reference { id: id.clone().into_owned(), strict: strict(at), param: "id" });
    let mut references: Vec<Reference> = named.collect();
    references.extend(uri.query().map(query).unwrap_or_default().into_iter().map(|reference| Reference {
        strict: !(rule.action == Action::Items && is_cursor(reference.param)),
        ..reference
    }));
    visible::check(ctx, principal, &target, &references)?;
    if rule.action == Action::List {
        admit::reserve(caller, ctx).await?;
        list::answer(caller, ctx, principal, &target, rule, upstream).await?;
        return Ok(Passage::Answered);
    }
    let (mut body, mut was_json) = (None, false);
    if reads_body(caller, ctx.ask.websocket, rule.action) {
        let bytes = read::body(caller, ctx).await?;
        if !bytes.is_empty() {
            let (found, is_json) = references_of(caller.request(), ctx, &target, bytes.clone()).await?;
            was_json = is_json;
            visible::check(ctx, principal, &target, &found)?;
            references.extend(found);
        }
        body = Some(bytes);
    }
    if rule.action == Action::Batch {
        let batch = Batch::read(body.as_deref().unwrap_or_default()).map_err(visible::unreadable)?;
        // A second file id, deeper in the body, might be the one that another reader takes.
        if references.iter().any(|reference| reference.param == "input_file_id" && reference.id != batch.file) {
            return Err(visible::unreadable(Refused::Twice("input_file_id")).into());
        }
        list::inspect_batch(caller, ctx, principal, &target, &batch, upstream).await?;
        // The client's own request has not been sent yet.
        ctx.dispatch.start_over(false);
    }
    let passage = if body.is_some() { Passage::Read } else { Passage::Unread };
    let body = body.unwrap_or_default();
    ctx.reply.keeper = keeper(ctx, principal, &target, rule, &ids, &body);
    ctx.ask.forwarded = Some(Forwarded { bytes: body, is_json: was_json }).filter(|body| !body.bytes.is_empty());
    Ok(passage)
}

/// Records the objects that the reply names: they are the caller's, or, within another object, that object's owner's. Objects
/// within an object of nobody stay nobody's, even after they were read. Ids that the client has written in `body` are not
/// recorded.
fn keeper(
    ctx: &Context,
    principal: &Principal,
    target: &Target,
    rule: &Rule,
    ids: &[Cow<'_, str>],
    body: &Bytes,
) -> Option<Box<Keeper>> {
    let owner = match ids.first() {
        Some(id) => ctx.shared.objects.owner(&target.provider.name, id)?,
        None => principal.as_owner(),
    };
    Keeper::forwarded(&ctx.shared.objects, target, rule, owner, body).map(Box::new)
}

/// Checks the objects that a request to an endpoint that the gateway reads refers to. Deployments at which an object is not the
/// tenant's are passed over.
///
/// # Errors
/// No deployment is left.
pub async fn understood(request: &RequestHeader, ctx: &mut Context, principal: &Principal) -> Result<(), GatewayError> {
    let (Some(candidates), Some(body)) = (&ctx.dispatch.candidates, &ctx.ask.body) else { return Err(incomplete()) };
    let is_own = |target: &Target| plan::credential(ctx, target).is_some_and(|key| key.is_own());
    if principal.policy.objects == ProviderObjects::All || candidates.left().all(is_own) {
        return Ok(());
    }
    let (bytes, model) = (body.bytes.clone(), body.peek.model.clone());
    // The other endpoints keep few objects and are asked often.
    let reads = matches!(ctx.ask.endpoint, Endpoint::Responses | Endpoint::Messages | Endpoint::CountTokens);
    let api = if ctx.ask.endpoint.is_anthropic() { Api::Anthropic } else { Api::OpenAi };
    let refers = body.known.as_ref().map(|known| known.refers);
    let mut references =
        references(ctx, bytes, move |bytes| match reads || refers.unwrap_or_else(|| may_refer(bytes)) {
            true => scan(bytes, api),
            false => Ok(Vec::new()),
        })
        .await?;
    references.extend(request.uri.query().map(query).unwrap_or_default());
    // The model in the request is a name of the gateway's; a target's name for it is checked below.
    references.retain(|reference| reference.param != "model" || Some(&reference.id) != model.as_ref());
    let narrowed = ctx.narrow(|ctx, target| {
        let provider = &target.provider;
        if plan::credential(ctx, target).is_some_and(|key| key.is_own()) {
            return None;
        }
        // A translated request is built anew and refers to nothing. References to objects that nobody has made are left to the
        // translation, which refuses what would need a memory.
        let translated =
            ctx.ask.endpoint == Endpoint::Responses && exchange::is_translated(&ctx.ask.endpoint, provider);
        let objects = &ctx.shared.objects;
        let counts = |reference: &&Reference| !translated || objects.owner(&provider.name, &reference.id).is_some();
        let outcome = visible::require_fine_tune(ctx, principal, target)
            .and_then(|()| visible::check(ctx, principal, target, references.iter().filter(counts)));
        outcome.err().map(|error| Reason::Objects(Box::new(error)))
    });
    narrowed.map_err(|reason| *reason.into_error())
}

fn refuse(request: &RequestHeader, principal: &Principal, knob: &str) -> GatewayError {
    let shown: String = request.uri.path().chars().take(200).collect();
    let (method, tenant) = (&request.method, &principal.policy.id);
    let message = format!(
        "{method} {shown} is not served to tenant '{tenant}' with the gateway's key, because it could show or change what is \
         another's. The gateway's operator can allow it (tenants.{tenant}: {{{knob}}})."
    );
    GatewayError::new(Fault::PathNotAllowed, message)
}

/// Whether the body has to be read to find the objects it refers to. An upload that declares itself JSON is read.
fn reads_body(caller: &mut Caller<'_>, is_websocket: bool, action: Action) -> bool {
    let json = || content_type(caller.request()).is_ok_and(|kind| kind.to_ascii_lowercase().contains("json"));
    let upload = action == Action::Upload && !json();
    !upload && !is_websocket && !caller.is_body_empty()
}

/// The body's content type; empty if none is given.
fn content_type(request: &RequestHeader) -> Result<Cow<'_, str>, GatewayError> {
    let mut all = request.headers.get_all(header::CONTENT_TYPE).iter();
    let first = all.next().map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    match all.next() {
        Some(_) => Err(invalid("The header 'content-type' is given more than once.")),
        None => Ok(first),
    }
}

/// The references in a forwarded body, and whether it was read as JSON.
async fn references_of(
    request: &RequestHeader,
    ctx: &Context,
    target: &Target,
    bytes: Bytes,
) -> Result<(Vec<Reference>, bool), GatewayError> {
    let (kind, length) = (content_type(request)?, bytes.len());
    let lower = kind.to_ascii_lowercase();
    if lower.starts_with("multipart/") {
        let boundary = boundary(&kind).ok_or_else(|| invalid("The content type is not that of a plain form."))?;
        let boundary = boundary.to_owned();
        let work = move |_share| Some(form_references(&Form::read(&bytes, &boundary)?));
        let read = heavy::run(&ctx.shared.capacity, Load::reading(length), work).await?;
        let message = "The multipart body is not in the plain form that the gateway can check for references.";
        let found = read.ok_or_else(|| invalid(message))?.map_err(visible::unreadable)?;
        return Ok((found, false));
    }
    if lower.starts_with("application/sdp") && request.uri.path() == "/v1/realtime/calls" {
        // The description of a media session (SDP) is no JSON and refers to nothing.
        return Ok((Vec::new(), false));
    }
    let api = target.provider.api();
    Ok((references(ctx, bytes, move |bytes| scan(bytes, api)).await?, true))
}

fn form_references(form: &Form) -> Result<Vec<Reference>, Refused> {
    let mut found = Vec::new();
    for (name, value) in &form.fields {
        found.extend(scan_field(name, value)?);
    }
    Ok(found)
}

/// The references that `scan` finds in a body.
async fn references(
    ctx: &Context,
    bytes: Bytes,
    scan: impl FnOnce(&[u8]) -> Result<Vec<Reference>, Refused> + Send + 'static,
) -> Result<Vec<Reference>, GatewayError> {
    let load = Load::reading(bytes.len());
    heavy::run(&ctx.shared.capacity, load, move |_share| scan(&bytes)).await?.map_err(visible::unreadable)
}
