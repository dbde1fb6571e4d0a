//! Admit: authenticates the client, checks its scopes and models, and holds it to its limits and budgets.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use serde_json::json;

use super::plan::presenting;
use crate::{
    config::Config,
    error::{Extra, Fault, GatewayError},
    identity::{PREFIX, Refused as TokenRefused, Scope},
    ledger::{self, Exceeded, Subject},
    limits::{Kind, Permit, Refusal, go_duration},
    openai::{Bound, CallPrices, Endpoint},
    pricing::Price,
    providers::{adapter, quirks},
    proxy::{
        ask::Body,
        caller::Caller,
        context::{Context, Terms},
        cors,
        metering::Quote,
        reply,
        stop::{Stop, incomplete},
    },
    routing::{Candidates, Plan, Reason, Target},
    tenants::Principal,
    types::{NanoUsd, ServiceTier, unix_now},
};

use pingora_http::RequestHeader;

/// The longest prompt and the longest answer, in tokens, of a model for which the catalogue states neither.
const UNKNOWN_PROMPT: u64 = 1_000_000;
const UNKNOWN_ANSWER: u64 = 128_000;

/// How many times a request with compaction is assumed to pass over the model. No vendor documents a bound: a tenant whose spend
/// is bounded cannot send such a request.
const COMPACTIONS: u64 = 10;

/// No request costs a million dollars; one that claims to (`n`, `max_tokens`) must not spoil the sums.
const MOST: NanoUsd = NanoUsd(1_000_000_000_000_000);

/// Identifies the client.
///
/// # Errors
/// A token that is not valid, or no token where one is needed.
pub async fn authenticate(ctx: &Context) -> Result<Principal, GatewayError> {
    let tenants = &ctx.snapshot.tenants;
    let Some(presented) = &ctx.asker.claimed else {
        if !ctx.snapshot.config.auth.passthrough {
            let message = format!("This gateway serves tokens only. Present yours as {}.", presenting(ctx, PREFIX));
            return Err(GatewayError::new(Fault::InvalidToken, message));
        }
        return tenants.anonymous().ok_or_else(|| GatewayError::new(Fault::Internal, "There is no default tenant."));
    };
    let verdict = ctx.shared.authenticators.authenticate(presented.expose()).verdict().await;
    let identity = verdict.map_err(|refused| match refused {
        TokenRefused::Unknown => GatewayError::new(Fault::InvalidToken, "The token is not one of this gateway's."),
        TokenRefused::Expired => GatewayError::new(Fault::InvalidToken, "The token has expired."),
        TokenRefused::Revoked => GatewayError::new(Fault::InvalidToken, "The token was revoked."),
        TokenRefused::Unavailable => {
            GatewayError::new(Fault::IdentityUnavailable, "The gateway cannot check the credential at the moment.")
        }
    })?;
    let tenant = identity.tenant.clone();
    tenants.holder(identity).ok_or_else(|| {
        let message =
            format!("The token belongs to tenant '{tenant}', which the gateway's configuration does not have.");
        GatewayError::new(Fault::UnknownTenant, message)
    })
}

/// Checks whether the client may send this request now. Takes a place among the open requests.
///
/// # Errors
/// A missing scope, a path that a budget forbids, or a limit that is reached.
pub fn enter(caller: &Caller<'_>, ctx: &mut Context, principal: &Principal) -> Result<(), GatewayError> {
    cors::refuse_page(caller.request(), ctx.cors(), principal)?;
    let scope = match ctx.ask.endpoint {
        Endpoint::Models | Endpoint::Model(_) => Scope::AiRead,
        Endpoint::InvalidateCache if principal.may(Scope::Admin) => Scope::Admin,
        _ => Scope::AiWrite,
    };
    if !principal.may(scope) {
        let message = format!("The token lacks the scope '{scope}'.");
        return Err(GatewayError::new(Fault::MissingScope, message));
    }
    if ctx.ask.endpoint == Endpoint::InvalidateCache && principal.own_keys_only {
        let message =
            format!("Answers are removed by holders of a token. Present yours as {}.", presenting(ctx, PREFIX));
        return Err(GatewayError::new(Fault::MissingCredential, message));
    }
    if ctx.ask.endpoint == Endpoint::Other {
        require_metered(caller, principal)?;
        ctx.grant.terms = Terms::Uncounted;
    }
    match Permit::enter(principal.meters.clone()) {
        Ok(permit) => ctx.grant.permit = Some(permit),
        Err(refusal) => return Err(limited(ctx, &refusal)),
    }
    Ok(())
}

/// With a budget or a list of models, a path that is only forwarded must not be a way around either.
fn require_metered(caller: &Caller<'_>, principal: &Principal) -> Result<(), GatewayError> {
    let request = caller.request();
    let path = request.uri.path();
    let policy = &principal.policy;
    let bounded = principal.counts_money() && !policy.unmetered_paths || !principal.may_ask_all();
    if !bounded || is_free(&request.method, path) && !caller.wants_upgrade() {
        return Ok(());
    }
    let shown: String = path.chars().take(200).collect();
    let (method, tenant) = (&request.method, &policy.id);
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

/// Checks whether the tenant and the token may ask for the model.
///
/// # Errors
/// They may not, or the request names no model although only some are allowed.
pub fn require_model(principal: &Principal, model: Option<&str>, plan: &Plan) -> Result<(), GatewayError> {
    let Some(model) = model else {
        if principal.may_ask_all() {
            return Ok(());
        }
        let message = format!(
            "Tenant '{}' or its token may use only some models, and the request names none.",
            principal.policy.id
        );
        return Err(GatewayError::new(Fault::ModelNotAllowed, message).with_param(Some("model")));
    };
    // The label `default` stands for every model that no route names, so it says nothing about this one.
    let route = Some(&*plan.label).filter(|label| *label != "default");
    if principal.may_ask(model, route) {
        return Ok(());
    }
    let message =
        format!("The model '{model}' is not among those that tenant '{}' or its token may use.", principal.policy.id);
    Err(GatewayError::new(Fault::ModelNotAllowed, message).with_param(Some("model")))
}

/// Records the most that the request can cost, see [`quote`].
///
/// # Errors
/// As for [`quote`].
pub fn estimate(request: &RequestHeader, ctx: &mut Context, principal: &Principal) -> Result<(), GatewayError> {
    if ctx.ask.endpoint == Endpoint::CountTokens {
        // No provider charges for counting tokens.
        ctx.grant.terms = Terms::Uncounted;
        return Ok(());
    }
    let (Some(body), Some(mut candidates)) = (ctx.ask.body.take(), ctx.dispatch.candidates.take()) else {
        return Err(incomplete());
    };
    let quote = quote(request, ctx, principal, &body, &mut candidates);
    ctx.ask.hosted = body.hosted.clone();
    (ctx.ask.body, ctx.dispatch.candidates) = (Some(body), Some(candidates));
    ctx.grant.terms = Terms::UpTo(quote?);
    Ok(())
}

/// A target's price for LLM tokens, and its prices for the calls of tools that its provider runs.
type Charges = (Option<Arc<Price>>, Option<CallPrices>);

/// Works out the most that a request can cost. Under a budget, deployments without a price are passed over.
///
/// # Errors
/// Under a budget: no deployment has a price for everything that the request asks for.
fn quote(
    request: &RequestHeader,
    ctx: &Context,
    principal: &Principal,
    body: &Body,
    candidates: &mut Candidates,
) -> Result<Quote, GatewayError> {
    let bound = &body.bound;
    let charges = |target: &Target| -> Charges {
        let price = ctx.snapshot.price(&ctx.ask.endpoint, target);
        let calls =
            |price: &Arc<Price>| ctx.snapshot.call_prices(&ctx.ask.endpoint, body.hosted.as_ref(), target, price);
        let calls = price.as_ref().and_then(calls);
        (price, calls)
    };
    let mut all: Vec<Charges> = candidates.left().map(charges).collect();
    let budgeted = principal.counts_money();
    for (there, field) in [
        (bound.background, "background"),
        (bound.fallbacks, "models"),
        (bound.surcharge, "speed"),
        (bound.compacts, "context_management"),
    ] {
        if there {
            require_plain(principal, field)?;
        }
    }
    let tier = body.peek.service_tier.unwrap_or_default();
    let long = budgeted && asks_for_long_context(request, principal, candidates);
    if budgeted {
        let (mut charges, mut served) = (all.iter(), Vec::with_capacity(all.len()));
        let narrowed = candidates.rule_out(|target| {
            let refused =
                charges.next().and_then(|charges| require_price(principal, body, target, charges, long).err());
            served.push(refused.is_none());
            refused.map(|error| Reason::NoPrice(Box::new(error)))
        });
        narrowed.map_err(|reason| *reason.into_error())?;
        let mut served = served.into_iter();
        all.retain(|_| served.next().unwrap_or_default());
    }
    // OpenAI's default for a legacy completion is 16 tokens; other vendors may have another default.
    let knows_default = candidates.left().all(|target| target.provider.preset().is_openai);
    let stated = bound.max_output_tokens.filter(|_| !bound.assumed_output || knows_default);
    let (mut worst, mut most_prompt, mut longest_prompt, mut most_answer) = (NanoUsd::ZERO, 0, 0, 0);
    for (target, (price, calls)) in candidates.left().zip(&all) {
        let price = price.as_deref();
        let binds = quirks::limit_binds(&ctx.ask.endpoint, &target.provider, &target.model, &body.peek);
        let stated = stated.filter(|_| binds);
        let mut answer = stated.or(price.and_then(Price::max_output_tokens)).unwrap_or(UNKNOWN_ANSWER);
        answer = answer.saturating_mul(bound.choices);
        let mut prompt = prompt_bound(&ctx.ask.endpoint, bound, price, calls.is_some(), long);
        longest_prompt = prompt.max(longest_prompt);
        let mut most_calls = NanoUsd::ZERO;
        if let Some(calls) = calls {
            let turns = calls.turns();
            prompt = prompt.saturating_mul(turns);
            if stated.is_none() || !calls.hosted().answer_is_one() {
                answer = answer.saturating_mul(turns);
            }
            most_calls = calls.most().unwrap_or_default();
        }
        if bound.compacts {
            (prompt, answer) = (prompt.saturating_mul(COMPACTIONS), answer.saturating_mul(COMPACTIONS));
        }
        (most_prompt, most_answer) = (prompt.max(most_prompt), answer.max(most_answer));
        let tokens = price.map_or(NanoUsd::ZERO, |price| price.worst_case(prompt, answer, tier));
        worst = worst.max(tokens.saturating_add(most_calls));
    }
    let answer = bound.max_output_tokens.unwrap_or(0).saturating_mul(bound.choices);
    Ok(Quote {
        worst_case: worst.min(MOST),
        most_prompt,
        most_answer,
        choices: bound.choices,
        media: bound.media,
        prediction: bound.prediction,
        tokens: bound.estimate_tokens.saturating_add(answer),
        prompt_estimate: bound.estimate_tokens,
        unbounded_prompt: bound.unbounded_prompt || all.iter().any(|(_, calls)| calls.is_some()),
        shown_prompt: (!bound.unbounded_besides_tools).then_some(bound.prompt_tokens),
        tells_of_calls: !bound.compacts,
        longest_prompt,
        images: bound.images,
        tier,
    })
}

/// Checks whether the catalogue has every price that the target can charge for the request. Called under a budget only.
///
/// # Errors
/// The part of the request that has no price, or no bound.
fn require_price(
    principal: &Principal,
    body: &Body,
    target: &Target,
    (price, calls): &Charges,
    long: bool,
) -> Result<(), GatewayError> {
    let name = format_args!("{}/{}", target.provider.name, target.model);
    let Some(price) = price else { return Err(not_priced(principal, target)) };
    let tenant = principal.policy.id.as_str();
    let refuse = |fault, param, message: String| Err(GatewayError::new(fault, message).with_param(Some(param)));
    if body.peek.service_tier == Some(ServiceTier::Unknown) {
        let message = format!(
            "There is a budget for tenant '{tenant}', and the tier that 'service_tier' names has no price for '{name}'. Tiers \
             with prices are default, flex, priority and auto."
        );
        return refuse(Fault::ModelNotPriced, "service_tier", message);
    }
    if long
        && adapter::of(&target.provider).facts().has_long_context
        && price.max_input_tokens().is_none_or(|longest| longest < LONG_CONTEXT)
        && !price.has_step_up_to(LONG_PROMPT)
    {
        let message = format!(
            "There is a budget for tenant '{tenant}', and nobody knows what '{name}' costs with the long context that \
             'anthropic-beta' asks for. The gateway's operator can add it (prices.file, 'above' of the entry '{name}')."
        );
        return refuse(Fault::ModelNotPriced, "anthropic-beta", message);
    }
    let Some(calls) = calls else { return Ok(()) };
    let hosted = calls.hosted();
    let limits = target.provider.preset().limits_tool_calls;
    if !limits || !hosted.is_bounded() {
        let message = format!(
            "The spend of tenant '{tenant}' is bounded, and nothing bounds how often '{name}' runs tools of its provider for \
             '{}'. The gateway can bound the tools of OpenAI's Responses API and of Anthropic's Messages.",
            hosted.name()
        );
        return refuse(Fault::PathNotMetered, "tools", message);
    }
    if let Some(tool) = calls.missing() {
        let message = format!(
            "There is a budget for tenant '{tenant}', and a call of the tool '{tool}', which the provider runs, has no price for \
             '{name}'. The gateway's operator can add one (prices.file, calls.{}.{tool}).",
            target.provider.name
        );
        return refuse(Fault::ModelNotPriced, "tools", message);
    }
    Ok(())
}

/// The prompt above which Anthropic charges other rates, and the longest prompt of its beta for long contexts (Anthropic's
/// guide to context windows).
const LONG_PROMPT: u64 = 200_000;
const LONG_CONTEXT: u64 = 1_000_000;

/// Whether the client, the tenant or the configuration asks the provider for a longer context than the model has by default.
fn asks_for_long_context(request: &RequestHeader, principal: &Principal, candidates: &Candidates) -> bool {
    const NAME: &str = "anthropic-beta";
    const BETA: &[u8] = b"context-";
    // `context-1m-2025-08-07` counts; `context-management-2025-06-27` is another beta.
    let asks = |value: &HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        let found = |at: usize| value.get(at + BETA.len()).is_some_and(u8::is_ascii_digit);
        memchr::memmem::find_iter(&value, BETA).any(found)
    };
    let own = &principal.policy.headers;
    let configured = candidates.left().flat_map(|target| &target.provider.headers).chain(own);
    request.headers.get_all(NAME).iter().any(asks)
        || configured.filter(|(name, _)| name.as_str() == NAME).any(|(_, value)| asks(value))
}

/// Refuses fields with which a request does more than it shows, where money is counted or models are restricted: an answer that
/// is fetched later and never counted, or another model than the one asked for.
fn require_plain(principal: &Principal, field: &'static str) -> Result<(), GatewayError> {
    if !principal.counts_money() && (principal.may_ask_all() || field != "models") {
        return Ok(());
    }
    let message = format!(
        "The field '{field}' cannot be served under a budget or a list of models: what comes of it cannot be seen."
    );
    Err(GatewayError::new(Fault::PathNotMetered, message).with_param(Some(field)))
}

/// The most prompt tokens that a model can count for one reading of the prompt.
fn prompt_bound(endpoint: &Endpoint, bound: &Bound, price: Option<&Price>, tools: bool, long: bool) -> u64 {
    // One request may hold many texts to embed or complete, each as long as the model takes.
    let one_prompt = matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages);
    let longest = price.and_then(Price::max_input_tokens);
    let longest = longest.map(|longest| if long { longest.max(LONG_CONTEXT) } else { longest });
    match bound.unbounded_prompt || tools {
        true => longest.unwrap_or(UNKNOWN_PROMPT).max(if one_prompt { 0 } else { bound.prompt_tokens }),
        false => bound.prompt_tokens.min(longest.filter(|_| one_prompt).unwrap_or(u64::MAX)),
    }
}

fn not_priced(principal: &Principal, target: &Target) -> GatewayError {
    let missing = format!("{}/{}", target.provider.name, target.model);
    let tenant = principal.policy.id.as_str();
    if target.model.is_empty() {
        let message = format!(
            "There is a budget for tenant '{tenant}', and the request names no model: nobody can tell what the one of its \
             stored prompt costs. Name it in 'model'."
        );
        return GatewayError::new(Fault::ModelNotPriced, message).with_param(Some("model"));
    }
    let message = format!(
        "There is a budget for tenant '{tenant}', and '{missing}' has no price. The gateway's operator can add one \
         (prices.file, entry '{missing}'; 0 for a model that costs nothing)."
    );
    GatewayError::new(Fault::ModelNotPriced, message).with_param(Some("model"))
}

/// Charges the estimate in the limits and holds the worst case in the budgets, as the last step before a provider is asked. Money
/// that is held for requests under way comes free in seconds, so it is waited for, see `budgets.wait`.
///
/// # Errors
/// A limit that is reached, a budget that does not have enough left, a disk that does not take the entry, or a client that left.
pub async fn reserve(caller: &mut Caller<'_>, ctx: &mut Context) -> Result<(), Stop> {
    let Some(principal) = ctx.asker.principal.clone() else { return Err(incomplete().into()) };
    let Some(quote) = to_hold(&ctx.grant.terms, ctx.shared.ledger.is_open())? else { return Ok(()) };
    if let Some(permit) = &mut ctx.grant.permit
        && let Err(refusal) = permit.charge(quote.tokens, quote.worst_case)
    {
        return Err(limited(ctx, &refusal).into());
    }
    let (ledger, account) = (ctx.shared.ledger.clone(), &principal.policy.account);
    let subject = subject(ctx, &principal);
    let amount = quote.worst_case;
    let outcome = match ledger.reserve(account, subject.clone(), amount) {
        Err(ledger::Refused::Held(_)) => {
            let patience = ctx.snapshot.config.budgets.wait;
            let turn = Box::pin(ledger.reserve_within(account, subject, amount, patience));
            tokio::select! {
                biased;
                outcome = turn => outcome,
                _ = Box::pin(caller.departure()) => return Err(Stop::Gone),
            }
        }
        outcome => outcome,
    };
    match outcome {
        Ok(reservation) => {
            ctx.grant.reservation = Some(reservation);
            Ok(())
        }
        Err(ledger::Refused::Unavailable) => Err(unavailable().into()),
        Err(ledger::Refused::Held(exceeded)) => {
            ctx.metrics.budget_held();
            Err(held(&exceeded).into())
        }
        Err(ledger::Refused::Exceeded(exceeded)) => {
            ctx.metrics.budget_refused();
            Err(over_budget(&exceeded, &ctx.snapshot.config).into())
        }
    }
}

/// The quote that is to be reserved; `None` if nothing is.
///
/// # Errors
/// The cost was not worked out, or the ledger takes no entry.
fn to_hold(terms: &Terms, is_open: bool) -> Result<Option<Quote>, GatewayError> {
    match terms {
        Terms::UpTo(quote) => Ok(Some(*quote)),
        Terms::Uncounted if is_open => Ok(None),
        Terms::Uncounted => Err(unavailable()),
        Terms::Unknown => Err(incomplete()),
    }
}

/// The facts about a request that the ledger keeps.
pub fn subject(ctx: &Context, principal: &Principal) -> Subject {
    Subject {
        id: ctx.arrival.id,
        at: unix_now(),
        tenant: principal.policy.id.clone(),
        token: principal.identity.as_ref().map(|who| who.id.clone()),
        endpoint: ctx.ask.endpoint.label(),
        route: ctx.dispatch.plan().map_or_else(|| "-".into(), |plan| plan.label.clone()),
    }
}

fn unavailable() -> GatewayError {
    GatewayError::new(Fault::LedgerUnavailable, "The gateway cannot write its ledger at the moment.")
}

fn limited(ctx: &Context, refusal: &Refusal) -> GatewayError {
    ctx.metrics.limited(refusal.kind.label());
    let owner = ctx.asker.principal.as_ref().map_or_else(|| "this client".to_owned(), |who| who.owner(refusal.meter));
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

/// The refusal of a budget, with its limit, what is spent and held, and when it resets.
pub fn over_budget(exceeded: &Exceeded, config: &Config) -> GatewayError {
    let Exceeded { limit, spent, reserved, .. } = exceeded;
    let left = limit.saturating_sub(*spent).saturating_sub(*reserved);
    let when = match exceeded.resets_at.map(|at| Duration::from_millis(at.saturating_sub(unix_now()))) {
        Some(wait) => format!(" It resets in {}.", go_duration(Duration::from_secs(wait.as_secs()))),
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
    // A 429 has a `retry-after`; `x-should-retry` says that no retry helps before that.
    let wait = exceeded.resets_at.filter(|_| config.budgets.exceeded_status == 429);
    let retry_after = wait.map(|at| Duration::from_millis(at.saturating_sub(unix_now())));
    GatewayError { extra: Some(Box::new(extra)), retry_after, ..GatewayError::new(Fault::BudgetExceeded, message) }
}

/// When to try again if the money is held for requests under way: most of them end within seconds.
const HELD_RETRY: Duration = Duration::from_secs(1);

/// The refusal of a budget whose money is held for requests under way.
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

/// The member `budget` of the error object, for programs.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::context::Asker;

    #[test]
    fn a_request_whose_cost_nobody_has_found_out_is_not_sent() {
        let (unknown, free) = (Terms::default(), Terms::Uncounted);
        assert_eq!(to_hold(&unknown, true).unwrap_err().fault, Fault::Internal);
        assert!(to_hold(&free, true).unwrap().is_none());
        assert_eq!(to_hold(&free, false).unwrap_err().fault, Fault::LedgerUnavailable);
    }

    #[test]
    fn who_is_not_known_has_nothing_of_the_gateways_keys() {
        assert!(Asker::default().is_stranger());
    }
}
