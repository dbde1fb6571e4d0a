//! Admit: who asks, whether they may, and whether it is within their limits and budgets.

use std::{sync::Arc, time::Duration};

use pingora_proxy::Session;
use serde_json::json;

use super::Stop;
use crate::{
    config::{Config, Vendor},
    error::{Extra, Fault, GatewayError},
    identity::{PREFIX, Refused as TokenRefused, Scope},
    ledger::{self, Exceeded, Subject},
    limits::{Kind, Permit, Refusal, go_duration},
    openai::{Bound, Endpoint},
    pricing::Price,
    proxy::{
        context::{Body, Context, Quote},
        party::Principal,
        reply,
    },
    routing::{Plan, Target},
    types::{NanoUsd, unix_now},
};

/// The longest prompt and the longest answer of a model that the price list does not know them of.
const UNKNOWN_PROMPT: u64 = 1_000_000;
const UNKNOWN_ANSWER: u64 = 128_000;

/// No request costs a million dollars; one that claims to (`n`, `max_tokens`) must not spoil the sums.
const MOST: NanoUsd = NanoUsd(1_000_000_000_000_000);

/// Finds out who asks.
///
/// # Errors
/// A token that opens nothing, or none where one is needed.
pub fn authenticate(ctx: &Context) -> Result<Principal, GatewayError> {
    let parties = &ctx.engines.parties;
    let Some(presented) = &ctx.token else {
        if !ctx.engines.config.auth.passthrough {
            let message =
                format!("This gateway serves tokens only. Present yours as `Authorization: Bearer {PREFIX}…`.");
            return Err(GatewayError::new(Fault::InvalidToken, message));
        }
        return parties.anonymous().ok_or_else(|| GatewayError::new(Fault::Internal, "There is no default tenant."));
    };
    let token = ctx.governance.directory.authenticate(presented.expose()).map_err(|refused| match refused {
        TokenRefused::Unknown => GatewayError::new(Fault::InvalidToken, "The token is not one of this gateway's."),
        TokenRefused::Expired => GatewayError::new(Fault::InvalidToken, "The token has expired."),
        TokenRefused::Revoked => GatewayError::new(Fault::InvalidToken, "The token was revoked."),
        TokenRefused::Unavailable => {
            GatewayError::new(Fault::IdentityUnavailable, "The gateway cannot read its tokens at the moment.")
        }
    })?;
    let tenant = token.tenant.clone();
    parties.holder(token).ok_or_else(|| {
        let message =
            format!("The token belongs to tenant '{tenant}', which the gateway's configuration does not have.");
        GatewayError::new(Fault::UnknownTenant, message)
    })
}

/// Whether the one who asks may do this at all, and at this moment. Takes a place among the open requests.
///
/// # Errors
/// A scope that is missing, a path that a budget forbids, or a limit that is reached.
pub fn enter(session: &Session, ctx: &mut Context) -> Result<(), GatewayError> {
    let Some(principal) = &ctx.principal else { return Ok(()) };
    let scope = match ctx.endpoint {
        Endpoint::Models | Endpoint::Model(_) => Scope::AiRead,
        Endpoint::InvalidateCache if principal.may(Scope::Admin) => Scope::Admin,
        _ => Scope::AiWrite,
    };
    if !principal.may(scope) {
        let message = format!("The token lacks the scope '{scope}'.");
        return Err(GatewayError::new(Fault::MissingScope, message));
    }
    if ctx.endpoint == Endpoint::Other {
        require_metered(session, principal)?;
    }
    match Permit::enter(principal.meters.clone()) {
        Ok(permit) => ctx.permit = Some(permit),
        Err(refusal) => return Err(limited(ctx, &refusal)),
    }
    Ok(())
}

/// Under a budget, or with a list of models, a path that is only forwarded must not be a way around it.
fn require_metered(session: &Session, principal: &Principal) -> Result<(), GatewayError> {
    let request = session.req_header();
    let path = request.uri.path();
    let party = &principal.party;
    let bounded = principal.counts_money() && !party.unmetered_paths || !principal.may_ask_all();
    if !bounded || is_free(&request.method, path) && !session.is_upgrade_req() {
        return Ok(());
    }
    let shown: String = path.chars().take(200).collect();
    let (method, tenant) = (&request.method, &party.id);
    let message = match principal.may_ask_all() {
        true => format!(
            "The gateway cannot tell what {method} {shown} costs, and the spend of tenant '{tenant}' is bounded. Its operator \
             can allow such paths (tenants.{tenant}.unmetered_paths)."
        ),
        false => format!(
            "The gateway cannot tell which model {method} {shown} uses, and tenant '{tenant}' or its token may use only some."
        ),
    };
    Err(GatewayError::new(Fault::PathNotMetered, message))
}

/// Calls that providers do not charge for: reading and deleting, and keeping files.
fn is_free(method: &http::Method, path: &str) -> bool {
    use http::Method;
    let keeps_files = ["/v1/files", "/v1/uploads"]
        .iter()
        .any(|free| path.strip_prefix(free).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE) || keeps_files
}

/// Whether the model is one that the tenant and the token may ask for.
///
/// # Errors
/// It is not.
pub fn require_model(principal: &Principal, model: &str, plan: &Plan) -> Result<(), GatewayError> {
    // The label of what no route names says nothing about the model.
    let route = Some(&*plan.label).filter(|label| *label != "default");
    if principal.may_ask(model, route) {
        return Ok(());
    }
    let message =
        format!("The model '{model}' is not among those that tenant '{}' or its token may use.", principal.party.id);
    Err(GatewayError::new(Fault::ModelNotAllowed, message).with_param(Some("model")))
}

/// Notes the most that the request can cost, see [`quote`].
///
/// # Errors
/// As there.
pub fn estimate(ctx: &mut Context) -> Result<(), GatewayError> {
    let (Some(body), Some(mut plan)) = (ctx.body.take(), ctx.plan.take()) else { return Ok(()) };
    let quote = quote(ctx, &body, &mut plan);
    (ctx.body, ctx.plan) = (Some(body), Some(plan));
    ctx.quote = Some(quote?);
    Ok(())
}

/// Finds out the most that a request can cost. Under a budget, deployments without a price are passed over.
///
/// # Errors
/// Under a budget, none has a price.
fn quote(ctx: &Context, body: &Body, plan: &mut Plan) -> Result<Quote, GatewayError> {
    let bound = &body.bound;
    let prices: Vec<Option<Arc<Price>>> = plan.targets.iter().map(|target| ctx.engines.price(target)).collect();
    let budgeted = ctx.principal.as_ref().is_some_and(Principal::counts_money);
    for (there, field) in [(bound.background, "background"), (bound.fallbacks, "models"), (bound.surcharge, "speed")] {
        if there {
            require_plain(ctx, field, budgeted)?;
        }
    }
    if budgeted && prices.iter().any(Option::is_none) {
        let priced: Vec<Target> = plan
            .targets
            .iter()
            .zip(&prices)
            .filter(|(_, price)| price.is_some())
            .map(|(target, _)| target.clone())
            .collect();
        if priced.is_empty() {
            return Err(not_priced(ctx, plan));
        }
        plan.targets = priced.into();
    }
    let tier = body.peek.service_tier.unwrap_or_default();
    // OpenAI's default of 16 tokens for a legacy completion; others may have another.
    let knows_default =
        plan.targets.iter().all(|target| matches!(target.provider.vendor, Vendor::OpenAi | Vendor::Azure));
    let stated = bound.max_output_tokens.filter(|_| !bound.assumed_output || knows_default);
    let (mut worst, mut most_prompt, mut most_answer) = (NanoUsd::ZERO, 0, 0);
    for price in &prices {
        let price = price.as_deref();
        let answer = stated.or(price.and_then(Price::max_output_tokens)).unwrap_or(UNKNOWN_ANSWER);
        let answer = answer.saturating_mul(bound.choices);
        let prompt = prompt_bound(&ctx.endpoint, bound, price);
        (most_prompt, most_answer) = (prompt.max(most_prompt), answer.max(most_answer));
        worst = worst.max(price.map_or(NanoUsd::ZERO, |price| price.worst_case(prompt, answer, tier)));
    }
    let answer = bound.max_output_tokens.unwrap_or(0).saturating_mul(bound.choices);
    Ok(Quote {
        worst_case: worst.min(MOST),
        most_prompt,
        most_answer,
        choices: bound.choices,
        tokens: bound.estimate_tokens.saturating_add(answer),
        prompt_estimate: bound.estimate_tokens,
        unbounded_prompt: bound.unbounded_prompt,
        images: bound.images,
        tier,
    })
}

/// Fields with which a request does more than it shows: an answer that is fetched later and never counted, another model than
/// the one that is asked for.
fn require_plain(ctx: &Context, field: &'static str, budgeted: bool) -> Result<(), GatewayError> {
    let all = ctx.principal.as_ref().is_none_or(Principal::may_ask_all);
    if !budgeted && (all || field != "models") {
        return Ok(());
    }
    let message = format!(
        "The field '{field}' cannot be served under a budget or a list of models: what comes of it cannot be seen."
    );
    Err(GatewayError::new(Fault::PathNotMetered, message).with_param(Some(field)))
}

/// The most prompt tokens that a model can count.
fn prompt_bound(endpoint: &Endpoint, bound: &Bound, price: Option<&Price>) -> u64 {
    // One request may hold many texts to embed or complete, each as long as the model takes.
    let one_prompt = matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages);
    let longest = price.and_then(Price::max_input_tokens);
    match bound.unbounded_prompt {
        true => longest.unwrap_or(UNKNOWN_PROMPT).max(if one_prompt { 0 } else { bound.prompt_tokens }),
        false => bound.prompt_tokens.min(longest.filter(|_| one_prompt).unwrap_or(u64::MAX)),
    }
}

fn not_priced(ctx: &Context, plan: &Plan) -> GatewayError {
    let missing = plan
        .targets
        .first()
        .map_or_else(|| "-".to_owned(), |target| format!("{}/{}", target.provider.name, target.model));
    let tenant = ctx.principal.as_ref().map_or("-", |principal| principal.party.id.as_str());
    let message = format!(
        "There is a budget for tenant '{tenant}', and '{missing}' has no price. The gateway's operator can add one \
         (prices.file, entry '{missing}'; 0 for a model that costs nothing)."
    );
    GatewayError::new(Fault::ModelNotPriced, message).with_param(Some("model"))
}

/// Charges the estimate in the limits and holds the worst case in the budgets. The last thing before a provider is asked.
/// What requests under way hold comes free in seconds: it is waited for, see `budgets.wait`.
///
/// # Errors
/// A limit that is reached, a budget that does not have enough, a disk that does not take the intent, or a client that left.
pub async fn reserve(session: &mut Session, ctx: &mut Context) -> Result<(), Stop> {
    let Some(principal) = ctx.principal.clone() else { return Ok(()) };
    let Some(quote) = ctx.quote else {
        // Nothing to reserve; the entry is still to be written.
        return if ctx.governance.ledger.is_open() { Ok(()) } else { Err(unavailable().into()) };
    };
    if let Some(permit) = &mut ctx.permit
        && let Err(refusal) = permit.charge(quote.tokens, quote.worst_case)
    {
        return Err(limited(ctx, &refusal).into());
    }
    let (ledger, account) = (ctx.governance.ledger.clone(), &principal.party.account);
    let subject = subject(ctx, &principal);
    let turn = ledger.reserve_within(account, subject, quote.worst_case, ctx.engines.config.budgets.wait);
    let outcome = tokio::select! {
        biased;
        outcome = turn => outcome,
        () = departure(session) => return Err(Stop::Gone),
    };
    match outcome {
        Ok(reservation) => {
            ctx.reservation = Some(reservation);
            Ok(())
        }
        Err(ledger::Refused::Unavailable) => Err(unavailable().into()),
        Err(ledger::Refused::Held(exceeded)) => {
            ctx.metrics.budget_held();
            Err(held(&exceeded).into())
        }
        Err(ledger::Refused::Exceeded(exceeded)) => {
            ctx.metrics.budget_refused();
            Err(over_budget(&exceeded, &ctx.engines.config).into())
        }
    }
}

/// Completes when the client leaves. What it sends meanwhile is of no matter: its request has been read.
async fn departure(session: &mut Session) {
    if session.downstream_session.read_body_or_idle(true).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// What the ledger needs to know of a request.
pub fn subject(ctx: &Context, principal: &Principal) -> Subject {
    Subject {
        id: ctx.id,
        at: unix_now(),
        tenant: principal.party.id.clone(),
        token: principal.token.as_ref().map(|token| token.id.clone()),
        endpoint: ctx.endpoint.label(),
        route: ctx.plan.as_ref().map_or_else(|| "-".into(), |plan| plan.label.clone()),
    }
}

fn unavailable() -> GatewayError {
    GatewayError::new(Fault::LedgerUnavailable, "The gateway cannot write its ledger at the moment.")
}

fn limited(ctx: &Context, refusal: &Refusal) -> GatewayError {
    ctx.metrics.limited(refusal.kind.label());
    let owner = ctx.principal.as_ref().map_or_else(|| "this client".to_owned(), |who| who.owner(refusal.meter));
    let limit = match refusal.kind {
        Kind::UsdPerMinute => NanoUsd(refusal.limit).to_string(),
        _ => refusal.limit.to_string(),
    };
    let limit = format!("{limit} {}", refusal.kind.unit());
    let message = match refusal.retry_after {
        Some(after) => {
            format!("Rate limit reached for {owner}: {limit}. Please try again in {}.", go_duration(after))
        }
        None => format!("The request alone is larger than the limit of {owner}: {limit}."),
    };
    let mut headers = Vec::new();
    for (kind, quota) in [("requests", refusal.requests), ("tokens", refusal.tokens)] {
        headers.extend(quota.into_iter().flat_map(|quota| reply::quota_headers(kind, &quota)));
    }
    GatewayError {
        retry_after: refusal.retry_after,
        extra: Some(Box::new(Extra { hopeless: refusal.retry_after.is_none(), headers, ..Extra::default() })),
        ..GatewayError::new(Fault::RateLimited, message)
    }
}

/// The refusal of a budget, with all that is needed to understand it.
pub fn over_budget(exceeded: &Exceeded, config: &Config) -> GatewayError {
    let Exceeded { limit, spent, reserved, .. } = exceeded;
    let left = limit.saturating_sub(*spent).saturating_sub(*reserved);
    let when = match exceeded.resets_at.map(|at| Duration::from_millis(at.saturating_sub(unix_now()))) {
        Some(wait) => format!(" It begins anew in {}.", go_duration(Duration::from_secs(wait.as_secs()))),
        None => String::new(),
    };
    let smaller = match left > NanoUsd::ZERO && spent < limit {
        true => " A smaller request (max_tokens) may fit.",
        false => "",
    };
    let message = format!("{} does not have enough left: {}.{smaller}{when}", budget_of(exceeded), standing(exceeded));
    let extra = Extra {
        status: Some(config.budgets.exceeded_status),
        member: Some(budget_member(exceeded)),
        ..Extra::default()
    };
    // A 429 says when to come back; that no retry helps before, `x-should-retry` says.
    let wait = exceeded.resets_at.filter(|_| config.budgets.exceeded_status == 429);
    let retry_after = wait.map(|at| Duration::from_millis(at.saturating_sub(unix_now())));
    GatewayError { extra: Some(Box::new(extra)), retry_after, ..GatewayError::new(Fault::BudgetExceeded, message) }
}

/// When to come back for money that requests under way hold: most requests end within seconds.
const HELD_RETRY: Duration = Duration::from_secs(1);

/// The refusal of a budget that has the money, but holds it for requests under way.
fn held(exceeded: &Exceeded) -> GatewayError {
    let message = format!(
        "What is left in {} is held for requests under way: {}. Please try again in {}.",
        budget_of(exceeded).replacen("The", "the", 1),
        standing(exceeded),
        go_duration(HELD_RETRY)
    );
    let extra = Extra { member: Some(budget_member(exceeded)), ..Extra::default() };
    let error = GatewayError::new(Fault::BudgetHeld, message);
    GatewayError { extra: Some(Box::new(extra)), retry_after: Some(HELD_RETRY), ..error }
}

fn budget_of(Exceeded { tenant, period, .. }: &Exceeded) -> String {
    format!("The {} budget of tenant '{tenant}'", period.label())
}

fn standing(Exceeded { limit, spent, reserved, wanted, .. }: &Exceeded) -> String {
    format!(
        "${limit} in all, ${spent} spent, ${reserved} held for requests under way, and this request may cost up to \
         ${wanted}"
    )
}

/// The member of the error object that programs read.
fn budget_member(exceeded: &Exceeded) -> (&'static str, serde_json::Value) {
    let Exceeded { tenant, period, limit, spent, reserved, wanted, .. } = exceeded;
    let resets_at = exceeded.resets_at.and_then(|ms| i64::try_from(ms).ok()).map(|ms| ms / 1000);
    let member = json!({
        "tenant": tenant,
        "period": period.label(),
        "limit_usd": limit.to_string(),
        "spent_usd": spent.to_string(),
        "reserved_usd": reserved.to_string(),
        "requested_usd": wanted.to_string(),
        "resets_at": resets_at,
    });
    ("budget", member)
}
