//! Recall: where the gateway keeps responses for a provider that keeps none, replaces references to them by their content, and
//! answers requests for these responses themselves.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::plan;
use crate::{
    cache::{Entry, Form},
    error::{Fault, GatewayError},
    objects::decode,
    openai::Endpoint,
    providers::exchange,
    proxy::{
        ask::Body,
        caller::Caller,
        context::Context,
        heavy::{self, Load},
        stop::invalid,
    },
    routing::{Candidates, Target},
    sse::Scanner,
    stored_responses::{BadPage, Missing, Opened, Owner, Page, Response, page},
    tenants::Principal,
};

/// Whether the gateway keeps the response to such a request: a provider without a Responses API may serve it.
pub fn keeps(ctx: &Context) -> bool {
    ctx.ask.endpoint == Endpoint::Responses
        && left(ctx).any(|target| is_translated(ctx, target))
        && ctx.shared.stored_responses.is_on()
}

fn left(ctx: &Context) -> impl Iterator<Item = &Target> {
    ctx.dispatch.candidates.iter().flat_map(Candidates::left)
}

fn is_translated(ctx: &Context, target: &Target) -> bool {
    exchange::is_translated(&ctx.ask.endpoint, &target.provider)
}

/// Replaces references to earlier responses and their items by the whole conversation. From there on that body is the request:
/// for the cache, for budgets and for providers. Notes for whom the new response is to be kept.
///
/// # Errors
/// A response or item that is not kept (any more), or is another owner's, with the same message; or a conversation that is larger
/// than a body may be.
pub async fn open(
    caller: &Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    body: Box<Body>,
) -> Result<Box<Body>, GatewayError> {
    // A client that is refused anyway must not take memory from others.
    plan::refuse_stranger(ctx)?;
    let store = ctx.shared.stored_responses.clone();
    let owner = owner(caller, ctx, principal);
    // OpenAI keeps a response unless told not to.
    let keeps = body.peek.store != Some(false);
    let bytes = body.bytes.clone();
    let load = Load::reading(bytes.len());
    let work = move |_share| store.open(&owner, &bytes, keeps, Instant::now());
    let opened = match heavy::run(&ctx.shared.capacity, load, work).await? {
        Ok(opened) => opened,
        // The ids may be those of a provider that keeps responses itself.
        Err((_, false)) if !left(ctx).all(|target| is_translated(ctx, target)) => return Ok(body),
        Err((missing, _)) => return Err(not_found(&missing)),
    };
    let Opened { body: whole, previous_response_id, turn } = opened;
    ctx.reply.turn = turn.map(Box::new);
    let Some(whole) = whole else { return Ok(body) };
    ctx.ask.previous_response_id = previous_response_id.map(Into::into);
    let most = ctx.snapshot.config.http.max_body_bytes;
    if whole.bytes() > most {
        return Err(too_long(whole.bytes(), most));
    }
    let capacity = ctx.shared.capacity.clone();
    let load = Load::reading(whole.bytes());
    let work = move |share| heavy::keep(&capacity, share, whole.write().into());
    let whole = heavy::run(&ctx.shared.capacity, load, work).await??;
    plan::peek(ctx, whole).await
}

fn too_long(bytes: usize, most: usize) -> GatewayError {
    let message = format!(
        "The conversation has {bytes} bytes with what came before, and at most {most} are allowed (http.max_body)."
    );
    GatewayError::new(Fault::BodyTooLarge, message)
}

fn not_found(missing: &Missing) -> GatewayError {
    let shown = |id: &str| -> String { id.chars().filter(|char| !char.is_control()).take(100).collect() };
    match missing {
        Missing::Response(id) => {
            let message = format!("Previous response with id '{}' not found.", shown(id));
            GatewayError::new(Fault::PreviousResponseNotFound, message).with_param(Some("previous_response_id"))
        }
        Missing::Item(id, at) => {
            let message = format!(
                "Item with id '{}' not found. Items are kept for a while only, and not when `store` is set to false. Send the item \
                 itself, or remove it from your input.",
                shown(id)
            );
            GatewayError::new(Fault::ObjectNotFound, message).with_param(Some(format!("input[{at}]")))
        }
    }
}

/// The owner of a kept response: all holders of the tenant's tokens, or one client without a token. A client without a token is
/// identified by the key that it presents; with the gateway's key it may present anything, so its address counts as well.
fn owner(caller: &Caller<'_>, ctx: &Context, principal: &Principal) -> Owner {
    let mut hasher = blake3::Hasher::new();
    let mut part = |tag: &[u8], bytes: &[u8]| {
        hasher.update(tag).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    if let Some(credential) = &ctx.asker.credential {
        part(b"k", credential.expose().as_bytes());
    }
    if principal.is_anonymous() {
        part(b"n", b"");
        let address = caller.address();
        if let Some(address) = address.filter(|_| !principal.own_keys_only) {
            part(b"a", address.to_canonical().to_string().as_bytes());
        }
    }
    let mut client = [0; 16];
    client.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Owner { tenant: principal.policy.id.clone(), client }
}

/// Keeps a response that the cache serves, as if it had just been made: the cache may hold it for longer.
pub fn keep_served(ctx: &Context, entry: &Entry, form: Form, body: &Bytes) {
    let (Some(turn), Some(plan)) = (&ctx.reply.turn, ctx.dispatch.plan()) else { return };
    let made_here = |target: &Target| target.provider.name == entry.provider && is_translated(ctx, target);
    if !plan.targets.iter().any(made_here) {
        return;
    }
    if form == Form::Json {
        return turn.keep(body);
    }
    let mut scanner = Scanner::with_max(usize::MAX);
    scanner.push(body.clone());
    // The scanner has no bound, so no event is too large.
    while let Ok(Some(event)) = scanner.next_event() {
        event.data().iter().for_each(|data| turn.keep_event(data));
    }
}

/// The path of one response, or of something that belongs to it.
const PATH: &str = "/v1/responses/";

/// Whether the path is that of one response.
pub fn names_response(caller: &Caller<'_>) -> bool {
    caller.request().uri.path().starts_with(PATH)
}

/// The answer to a request for a response that the gateway keeps, or for its removal, with its status; `None` for any other
/// request.
///
/// # Errors
/// A parameter that is not served.
pub async fn answer(
    caller: &Caller<'_>,
    ctx: &Context,
    principal: &Principal,
) -> Result<Option<(u16, Bytes)>, GatewayError> {
    let request = caller.request();
    let path = request.uri.path().trim_end_matches('/');
    let Some(rest) = path.strip_prefix(PATH) else { return Ok(None) };
    let (id, items) = match rest.strip_suffix("/input_items") {
        Some(id) => (id, true),
        None => (rest, false),
    };
    let store = &ctx.shared.stored_responses;
    if id.is_empty() || id.contains('/') || !store.is_on() {
        return Ok(None);
    }
    let id = decode(id, false);
    let owner = owner(caller, ctx, principal);
    let query = request.uri.query().unwrap_or_default();
    let body = match (&request.method, items) {
        (&Method::DELETE, false) => match store.remove(&owner, &id) {
            true => json!({"id": id, "object": "response", "deleted": true}).to_string(),
            false => return Ok(None),
        },
        (&Method::GET, _) => {
            let Some(response) = store.response(&owner, &id, Instant::now()) else { return Ok(None) };
            let pairs: Vec<_> = pairs_of(query).collect();
            let pairs = pairs.iter().map(|(name, value)| (&**name, &**value));
            if items {
                let wrong =
                    |BadPage(param, what)| invalid(format!("'{param}' must be {what}.")).with_param(Some(param));
                let wanted = Page::read(pairs).map_err(wrong)?;
                input_items(ctx, response, wanted).await?
            } else if pairs.clone().any(|(name, value)| name == "stream" && value == "true") {
                let message = "This response was not made in the background, so it cannot be streamed again.";
                return Err(invalid(message).with_param(Some("stream")));
            } else {
                response.document().to_owned()
            }
        }
        _ => return Ok(None),
    };
    Ok(Some((200, body.into())))
}

async fn input_items(ctx: &Context, response: Arc<Response>, wanted: Page) -> Result<String, GatewayError> {
    let (bytes, most) = (response.context_bytes(), ctx.snapshot.config.http.max_body_bytes);
    if bytes > most {
        return Err(too_long(bytes, most));
    }
    // Memory for the trees of the items, and the list that is made of them.
    let load = Load { bytes, memory: 8 * bytes as u64 };
    let work = move |_share| page(&response, &wanted).map(|list| list.to_string());
    let found = heavy::run(&ctx.shared.capacity, load, work).await?;
    found.ok_or_else(|| GatewayError::new(Fault::ObjectNotFound, "No such item: 'after'.").with_param(Some("after")))
}

/// Names and values of a query, decoded.
fn pairs_of(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name, true), decode(value, true))
    })
}
