//! Models: the list of models and single models, from the configured routes and from the providers' own lists.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::list;
use crate::{
    config::{Provider, ProviderObjects},
    error::{Fault, GatewayError},
    objects::decode,
    openai::Endpoint,
    proxy::{
        caller::Caller,
        context::Context,
        known_models::Told,
        phase::{plan, visible},
        reply,
        stop::{Stop, invalid},
        upstream::Upstream,
    },
    routing::{Candidates, Plan},
    tenants::Principal,
    types::Api,
};

use pingora_http::RequestHeader;

/// The largest list of a provider's models, in bytes, and in models.
const MAX_LIST: usize = 4 << 20;
const MAX_MODELS: usize = 10_000;

/// How long a provider's list is kept, and how long the last list serves on after an attempt to read it again has failed.
const FRESH: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(30);

/// The models on a page of Anthropic's list, and the most that may be asked for (Anthropic's reference, "List Models").
const ANTHROPIC_PAGE: usize = 20;
const ANTHROPIC_MOST: usize = 1_000;

/// Answers `GET /v1/models` and `GET /v1/models/{id}`.
///
/// # Errors
/// A model that does not exist, or that this client may not use; a provider that gives no answer; a client that left.
pub async fn answer(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    upstream: &Upstream,
) -> Result<(), Stop> {
    let body = match ctx.ask.endpoint.clone() {
        Endpoint::Model(id) => match configured(ctx, principal, &id) {
            Some(model) => model.show(ctx.ask.anthropic),
            None => return look_up(caller, ctx, principal, &id, upstream).await,
        },
        _ => {
            let models = all(caller.request(), ctx, principal, upstream).await;
            match ctx.ask.anthropic {
                true => page(models, caller.request().uri.query().unwrap_or_default())?,
                false => {
                    let data: Vec<_> = models.iter().map(|model| model.show(false)).collect();
                    json!({ "object": "list", "data": data })
                }
            }
        }
    };
    reply::json(caller, ctx, 200, Bytes::from(body.to_string())).await.map_err(|_| Stop::Gone)
}

/// A model that the configuration names, if the client may use it.
fn configured(ctx: &Context, principal: &Principal, id: &str) -> Option<Told> {
    let plan = ctx.snapshot.routes.configured_plan(id)?;
    let first = plan.targets.first()?;
    // A client without access to the gateway's keys sees the models that a key of its own opens.
    let opens = || plan.targets.iter().any(|target| target.provider.takes_own_keys());
    let allowed = principal.may_ask(id, Some(&plan.label)) && (!ctx.asker.is_stranger() || opens());
    let created = ctx.snapshot.released(first).unwrap_or_default();
    allowed.then(|| Told { id: id.to_owned(), created, owned_by: first.provider.name.to_string() })
}

/// All models that the client may use, in alphabetical order.
async fn all(request: &RequestHeader, ctx: &mut Context, principal: &Principal, upstream: &Upstream) -> Vec<Told> {
    let snapshot = ctx.snapshot.clone();
    let listed = snapshot.routes.models().iter();
    let mut models: Vec<_> = listed.filter_map(|model| configured(ctx, principal, &model.id)).collect();
    let mut names: BTreeSet<_> = models.iter().map(|model| model.id.clone()).collect();
    for provider in snapshot.config.providers.values().filter(|provider| provider.list_models) {
        for model in own_list(request, ctx, principal, provider, upstream).await.iter() {
            let visible = visible(ctx, principal, provider, model);
            models.extend(visible.filter(|model| names.insert(model.id.clone())));
        }
    }
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models
}

/// A model of a provider's own list, under the name by which the client can ask for it; `None` if the client may not.
fn visible(ctx: &Context, principal: &Principal, provider: &Arc<Provider>, model: &Told) -> Option<Told> {
    let routes = &ctx.snapshot.routes;
    let leads_here = |plan: &Plan| {
        let mut targets = plan.targets.iter();
        targets.next().is_some_and(|target| target.provider.name == provider.name && *target.model == *model.id)
    };
    let prefixed = format!("{}/{}", provider.name, model.id);
    let mut plans = [model.id.clone(), prefixed].into_iter().map(|id| (routes.plan(&id), id));
    let (plan, id) = plans.find(|(plan, _)| leads_here(plan))?;
    let route = Some(&*plan.label).filter(|label| *label != "default");
    if !principal.may_ask(&id, route) {
        return None;
    }
    let target = plan.targets.first()?;
    if !is_theirs(ctx, principal, &plan) {
        visible::require_shown(ctx, principal, target).ok()?;
    }
    let created = if model.created > 0 { model.created } else { ctx.snapshot.released(target).unwrap_or_default() };
    Some(Told { id, created, owned_by: model.owned_by.clone() })
}

/// Whether nothing of the account is hidden from the client: the account is the client's own, or its tenant may see all.
fn is_theirs(ctx: &Context, principal: &Principal, plan: &Plan) -> bool {
    let own = |target| plan::credential(ctx, target).is_some_and(|key| key.is_own());
    principal.policy.objects == ProviderObjects::All || plan.targets.iter().all(own)
}

/// A provider's own list; empty if the provider does not answer. With a client's own key the provider is asked each time.
async fn own_list(
    request: &RequestHeader,
    ctx: &mut Context,
    principal: &Principal,
    provider: &Provider,
    upstream: &Upstream,
) -> Arc<[Told]> {
    let nothing: Arc<[Told]> = Arc::new([]);
    let Some(plan) = ctx.snapshot.routes.provider_plan(&provider.name, "") else { return nothing };
    let Some(target) = plan.targets.first().cloned() else { return nothing };
    let own = match plan::credential(ctx, &target) {
        Some(key) => key.is_own(),
        None if ctx.asker.is_stranger() || provider.preset().needs_key => return nothing,
        None => false,
    };
    ctx.open_dispatch(plan);
    if own {
        return ask_list(request, ctx, provider, upstream).await.unwrap_or(nothing);
    }
    let hash: String = target.wire.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    let slot = upstream.models.slot(format!("{}/{hash}/{}", provider.name, principal.policy.id));
    let mut slot = slot.lock().await;
    if let Some((until, models)) = &*slot
        && Instant::now() < *until
    {
        return models.clone();
    }
    let asked = ask_list(request, ctx, provider, upstream).await;
    let known = || slot.as_ref().map_or(nothing, |(_, models)| models.clone());
    let (models, patience) = match asked {
        Some(models) => (models, FRESH),
        None => (known(), AGAIN),
    };
    *slot = Some((Instant::now() + patience, models.clone()));
    models
}

async fn ask_list(
    request: &RequestHeader,
    ctx: &mut Context,
    provider: &Provider,
    upstream: &Upstream,
) -> Option<Arc<[Told]>> {
    let query = (provider.api() == Api::Anthropic).then_some("limit=1000");
    let fetched = list::fetch(request, ctx, "/v1/models", query, MAX_LIST, upstream).await;
    ctx.dispatch.start_over(false);
    let (header, body) = fetched.ok()?;
    let body: Value = serde_json::from_slice(&body).ok().filter(|_| header.status.is_success())?;
    let models = body["data"].as_array()?.iter().filter_map(|model| Told::read(model, provider));
    Some(models.take(MAX_MODELS).collect())
}

/// Asks the default provider for a model that no route names.
async fn look_up(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    principal: &Principal,
    id: &str,
    upstream: &Upstream,
) -> Result<(), Stop> {
    let plan = ctx.snapshot.routes.default_plan(id);
    let target = plan.targets.first().cloned().filter(|_| principal.may_ask(id, None)).ok_or_else(|| unknown(id))?;
    let path = path_of(&target.model).ok_or_else(|| unknown(id))?;
    let needs_key = ctx.asker.is_stranger() || target.provider.preset().needs_key;
    if needs_key && plan::credential(ctx, &target).is_none() {
        return Err(unknown(id).into());
    }
    if !is_theirs(ctx, principal, &plan) {
        visible::require_shown(ctx, principal, &target).map_err(|_| unknown(id))?;
    }
    ctx.open_dispatch(plan);
    let (header, body) = list::fetch(caller.request(), ctx, &path, None, MAX_LIST, upstream).await?;
    match header.status.as_u16() {
        200..300 => {}
        // Providers that hide the model, and those that do not serve the question.
        300..400 | 400 | 403 | 404 | 405 => return Err(unknown(id).into()),
        _ => return list::pass_on(caller, ctx, header, body).await,
    }
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let told = Told::read(&value, &target.provider).ok_or_else(|| unknown(id))?;
    let same_shape = ctx.ask.anthropic == (target.provider.api() == Api::Anthropic) && *target.model == *id;
    let body = match same_shape {
        true => body,
        false => {
            // Under the name that the client used.
            let id = if *target.model == *id { told.id } else { id.to_owned() };
            Bytes::from(Told { id, ..told }.show(ctx.ask.anthropic).to_string())
        }
    };
    reply::json(caller, ctx, 200, body).await.map_err(|_| Stop::Gone)
}

/// The path of a model at its provider. `None` for a name that could be read as another path.
fn path_of(model: &str) -> Option<String> {
    let strange = |segment: &str| matches!(segment, "" | "." | "..");
    // An escape that is left after the first decoding may be decoded once more on the way.
    let decoded = decode(model, false);
    if model.split('/').any(strange)
        || decoded.split('/').any(strange)
        || model.len() > 256
        || model.contains(|char: char| char.is_control() || matches!(char, '\\' | ';' | '%' | '?' | '#'))
    {
        return None;
    }
    let mut path = String::from("/v1/models/");
    for byte in model.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(path)
}

fn unknown(id: &str) -> GatewayError {
    let message = format!("The model '{id}' does not exist or you do not have access to it.");
    GatewayError::new(Fault::ModelNotFound, message).with_param(Some("model"))
}

/// Turns the refusal of a model without a price into "no such model" if the only provider that could serve it does not have it.
pub async fn unless_missing(
    request: &RequestHeader,
    ctx: &mut Context,
    refusal: GatewayError,
    upstream: &Upstream,
) -> GatewayError {
    let about_model = refusal.fault == Fault::ModelNotPriced && refusal.param.as_deref() == Some("model");
    let asked = ctx.ask.body.as_ref().and_then(|body| body.peek.model.clone());
    let target = ctx
        .dispatch
        .candidates
        .as_ref()
        .filter(|candidates| candidates.left().nth(1).is_none())
        .and_then(Candidates::first);
    let (true, Some(asked), Some(target)) = (about_model, asked, target.cloned()) else { return refusal };
    let Some(path) = path_of(&target.model) else { return refusal };
    let tenant = ctx.asker.principal.as_ref().map_or("-", |principal| principal.policy.id.as_str());
    let key = format!("{}/{tenant}/{}", target.provider.name, target.model);
    let missing = match upstream.models.verdict(&key) {
        Some(missing) => missing,
        None => {
            // Only the question about the model goes out, not the request.
            let body = ctx.ask.body.take();
            let fetched = list::fetch(request, ctx, &path, None, MAX_LIST, upstream).await;
            ctx.ask.body = body;
            ctx.dispatch.start_over(false);
            let Ok((header, body)) = fetched else { return refusal };
            // A server without such an endpoint says 404 too, but not in the shape of the API's errors.
            let says = || serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["error"].is_object());
            let missing = header.status.as_u16() == 404 && says();
            upstream.models.judge(key, missing);
            missing
        }
    };
    if missing { unknown(&asked) } else { refusal }
}

/// A page of the list as Anthropic's API has it: the newest models first, then those after `after_id` or before `before_id`.
fn page(mut models: Vec<Told>, query: &str) -> Result<Value, GatewayError> {
    models.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    let (mut limit, mut after, mut before) = (ANTHROPIC_PAGE, None, None);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value, true);
        match &*decode(name, true) {
            "limit" => {
                let number = value.parse().ok().filter(|number| (1..=ANTHROPIC_MOST).contains(number));
                limit = number.ok_or_else(|| {
                    let message = format!("limit: expected a whole number from 1 to {ANTHROPIC_MOST}.");
                    invalid(message).with_param(Some("limit"))
                })?;
            }
            "after_id" => after = Some(value.into_owned()),
            "before_id" => before = Some(value.into_owned()),
            _ => {}
        }
    }
    let place = |id: &str, param: &'static str| {
        let found = models.iter().position(|model| model.id == id);
        found.ok_or_else(|| invalid(format!("{param}: no model of the list has this id.")).with_param(Some(param)))
    };
    let (start, end, more) = match (after, before) {
        (Some(_), Some(_)) => {
            return Err(invalid("Only one of after_id and before_id may be given.").with_param(Some("before_id")));
        }
        (None, Some(before)) => {
            let end = place(&before, "before_id")?;
            let start = end.saturating_sub(limit);
            (start, end, start > 0)
        }
        (after, None) => {
            let start = after.map_or(Ok(0), |after| place(&after, "after_id").map(|at| at + 1))?;
            let end = (start + limit).min(models.len());
            (start, end, end < models.len())
        }
    };
    let page = &models[start..end];
    let id = |model: Option<&Told>| model.map(|model| model.id.clone());
    Ok(json!({
        "data": page.iter().map(|model| model.show(true)).collect::<Vec<_>>(),
        "has_more": more,
        "first_id": id(page.first()),
        "last_id": id(page.last()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: &str, created: u64) -> Told {
        Told { id: id.into(), created, owned_by: "x".into() }
    }

    #[test]
    fn a_page_is_cut_as_anthropics_api_does() {
        let models: Vec<_> = (0..25).map(|n| told(&format!("m{n:02}"), n)).collect();
        let cut = |query: &str| {
            let page = page(models.clone(), query).unwrap();
            let ids: Vec<_> = page["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
            assert_eq!(
                (page["first_id"].clone(), page["last_id"].clone()),
                match ids.len() {
                    0 => (Value::Null, Value::Null),
                    _ => (ids[0].clone(), ids[ids.len() - 1].clone()),
                }
            );
            (ids.len(), page["first_id"].clone(), page["has_more"].as_bool().unwrap())
        };
        assert_eq!(cut(""), (20, json!("m24"), true));
        assert_eq!(cut("beta=true&limit=25"), (25, json!("m24"), false));
        assert_eq!(cut("limit=5&after_id=m20"), (5, json!("m19"), true));
        assert_eq!(cut("limit=5&after_id=m0%34"), (4, json!("m03"), false));
        assert_eq!(cut("after_id=m00"), (0, Value::Null, false));
        assert_eq!(cut("limit=3&before_id=m20"), (3, json!("m23"), true));
        assert_eq!(cut("limit=3&before_id=m23"), (1, json!("m24"), false));
        for wrong in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "after_id=nobody",
            "before_id=",
            "after_id=m01&before_id=m02",
        ] {
            assert_eq!(page(models.clone(), wrong).unwrap_err().fault, Fault::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn a_models_path_is_no_other_path() {
        assert_eq!(path_of("meta-llama/Llama-3:free").as_deref(), Some("/v1/models/meta-llama/Llama-3:free"));
        assert_eq!(path_of("caf\u{e9} x").as_deref(), Some("/v1/models/caf%C3%A9%20x"));
        for strange in
            ["", "../files/file-1", "a/../b", "a//b", "/a", "a/", ".", "a?x=1", "a#b", "a%2e", "a;b", "a\\b", "a\nb"]
        {
            assert_eq!(path_of(strange), None, "{strange:?}");
        }
        assert_eq!(path_of(&"x".repeat(257)), None);
    }

    #[test]
    fn both_shapes_tell_when_a_model_was_made() {
        let provider = |yaml: &str| {
            let source = crate::config::Source { env: Arc::new(|_: &str| None), ..crate::config::Source::new(None) };
            crate::config::Config::load_text(yaml, &source).unwrap().config.providers["openai"].clone()
        };
        let openai = provider("");
        let read = |value: Value| Told::read(&value, &openai);
        let model = read(json!({"type": "model", "id": "c", "created_at": "2025-10-01T00:00:00Z"})).unwrap();
        assert_eq!(
            model.show(false),
            json!({"id": "c", "object": "model", "created": 1_759_276_800, "owned_by": "openai"})
        );
        let model = read(json!({"object": "model", "id": "c", "created": 1_759_276_800, "owned_by": "x"})).unwrap();
        assert_eq!(model.show(true)["created_at"], "2025-10-01T00:00:00Z");
        assert_eq!(told("c", 0).show(true)["created_at"], "1970-01-01T00:00:00Z");
        for no_model in
            [json!({"id": "x", "object": "chat.completion"}), json!({"object": "model"}), json!(5), json!({"id": ""})]
        {
            assert!(read(no_model.clone()).is_none(), "{no_model}");
        }
    }
}
