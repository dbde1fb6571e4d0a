//! Plan: reads the fields of the body that decide the route, and chooses the deployments that may serve the request.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    cache::Known,
    capacity::SMALL,
    config::Credentials,
    error::{Fault, GatewayError},
    identity::PREFIX,
    openai::{Bound, DEFAULT_MODERATION_MODEL, Edit, Endpoint, Field, Hosted, Peek, PeekError, count_values, splice},
    providers::ollama::ContextLengths,
    proxy::{
        ask::Body,
        context::Context,
        heavy::{self, Load, keep},
        stop::{incomplete, invalid},
    },
    routing::{Candidates, Plan, Reason, Target},
    types::Secret,
};

/// The longest model name, in bytes: no vendor's model has a longer one, and it goes into headers, logs and look-ups.
const MAX_MODEL_BYTES: usize = 256;

/// Reads the fields the gateway acts on.
///
/// # Errors
/// A body that is no JSON object, a field of the wrong type, or more values than `http.max_json_values`.
pub async fn peek(ctx: &Context, bytes: Bytes) -> Result<Box<Body>, GatewayError> {
    if let Some(known) = known(ctx, &bytes) {
        // Of the two equal bodies the known one is kept: the other one may be part of a larger buffer.
        let (bytes, peek, bound) = (known.bytes.clone(), known.peek.clone(), known.bound);
        return Ok(Box::new(Body { bytes, values: 0, peek, bound, hosted: None, known: Some(known) }));
    }
    let (endpoint, most) = (ctx.ask.endpoint.clone(), ctx.snapshot.config.http.max_json_values);
    let load = Load::reading(bytes.len());
    let parsed = heavy::run(&ctx.shared.capacity, load, move |_share| parse(&endpoint, bytes, most)).await?;
    parsed.map_err(|error| invalid(error.message).with_param(error.param))
}

/// What is known of a body that the same tenant has sent before.
fn known(ctx: &Context, bytes: &[u8]) -> Option<Arc<Known>> {
    let tenant = &ctx.asker.principal.as_ref()?.policy.id;
    ctx.shared.cache.known.find(tenant, &ctx.ask.endpoint, bytes)
}

fn parse(endpoint: &Endpoint, bytes: Bytes, most: usize) -> Result<Box<Body>, PeekError> {
    // A small body has no more values than the least that can be configured.
    let values = if bytes.len() > SMALL { count_values(&bytes) } else { 0 };
    if values > most {
        let message = format!(
            "The request body has more JSON values than the gateway takes: {values}, keys counted as well, and at most {most} \
             are allowed (http.max_json_values)."
        );
        return Err(PeekError { message, param: None });
    }
    let peek = Peek::parse(&bytes)?;
    let bound = Bound::of(endpoint, &bytes, &peek);
    let hosted = if bound.hosted { Hosted::read(endpoint, &bytes)?.map(Arc::new) } else { None };
    Ok(Box::new(Body { bytes, values, peek, bound, hosted, known: None }))
}

/// Chooses the deployments for the model that is asked for.
///
/// # Errors
/// A request without a model.
pub fn route(ctx: &Context, body: &Body) -> Result<Plan, GatewayError> {
    match body.peek.model.as_deref() {
        Some(model) if model.len() > MAX_MODEL_BYTES || model.chars().any(char::is_control) => {
            Err(invalid("The field 'model' must be the name of a model.").with_param(Some("model")))
        }
        Some(model) if !model.is_empty() => Ok(ctx.snapshot.routes.plan(model)),
        // Moderations is the one endpoint whose model OpenAI does not require; the body stays without one.
        None if ctx.ask.endpoint == Endpoint::Moderations => Ok(ctx.snapshot.routes.plan(DEFAULT_MODERATION_MODEL)),
        // A stored prompt names the model.
        None if ctx.ask.endpoint == Endpoint::Responses => ctx.snapshot.routes.responses_plan().ok_or_else(no_model),
        _ => Err(no_model()),
    }
}

fn no_model() -> GatewayError {
    invalid("you must provide a model parameter").with_param(Some("model"))
}

/// Writes the configured limit for answers into a request whose client states none. From there on that body is the request: for
/// the cache, for budgets and for providers.
///
/// # Errors
/// As for [`peek`].
pub async fn limit_answer(ctx: &Context, body: Box<Body>) -> Result<Box<Body>, GatewayError> {
    let tenant = ctx.asker.principal.as_ref().and_then(|principal| principal.policy.default_max_tokens);
    let limits = [ctx.dispatch.plan().and_then(|plan| plan.default_max_tokens), tenant];
    let Some(limit) = limits.into_iter().flatten().min() else { return Ok(body) };
    let (field, others) = match ctx.ask.endpoint {
        Endpoint::ChatCompletions => (Field::MaxCompletionTokens, Some(Field::MaxTokens)),
        Endpoint::Responses => (Field::MaxOutputTokens, None),
        Endpoint::Messages => (Field::MaxTokens, None),
        // Legacy completions have a limit of their own, and the others generate nothing.
        _ => return Ok(body),
    };
    let Peek { max_tokens, max_completion_tokens, max_output_tokens, .. } = body.peek;
    // Many servers read 0 as no limit; Anthropic reads it as a limit.
    let is_limit = |limit: Option<u64>| limit.is_some_and(|limit| limit > 0 || ctx.ask.endpoint == Endpoint::Messages);
    let stated = |field| match field {
        Field::MaxCompletionTokens => is_limit(max_completion_tokens),
        Field::MaxOutputTokens => is_limit(max_output_tokens),
        _ => is_limit(max_tokens),
    };
    if stated(field) || others.is_some_and(stated) {
        return Ok(body);
    }
    let load = Load::reading(body.bytes.len());
    let capacity = ctx.shared.capacity.clone();
    let work =
        move |share| keep(&capacity, share, splice(&body.bytes, &body.peek, &[Edit::Set(field, limit.to_string())]));
    let bytes = heavy::run(&ctx.shared.capacity, load, work).await??;
    peek(ctx, bytes).await
}

/// Passes over Ollama deployments that would cut the prompt silently. Returns the context length, in tokens, that the first
/// target has to be asked for.
///
/// # Errors
/// The prompt does not fit, and the plan has no other deployment.
pub async fn require_room(
    ctx: &mut Context,
    body: &Body,
    contexts: &ContextLengths,
) -> Result<Option<u64>, GatewayError> {
    loop {
        let first = ctx.dispatch.first().filter(|target| target.provider.preset().cuts_prompts);
        let Some(Target { provider, model, deployment, .. }) = first.cloned() else { return Ok(None) };
        let error = match contexts.check(&provider, &model, &ctx.ask.endpoint, &body.bytes, &body.peek).await {
            Ok(wish) => return Ok(wish),
            Err(error) => Box::new(error),
        };
        let is_it = |target: &Target| Arc::ptr_eq(&target.deployment, &deployment);
        ctx.narrow(|_, target| is_it(target).then(|| Reason::NoRoom(error.clone()))).map_err(|_| *error.clone())?;
    }
}

/// The plan for a request that is only forwarded.
///
/// # Errors
/// A path that only Anthropic's API has, while no provider speaks its dialect.
pub fn unread(ctx: &Context) -> Result<Plan, GatewayError> {
    if !ctx.ask.anthropic {
        return Ok(ctx.snapshot.routes.default_plan(""));
    }
    ctx.snapshot.routes.anthropic_plan().ok_or_else(|| {
        let message = "The path is Anthropic's, and the gateway has no provider that speaks its dialect.";
        GatewayError::new(Fault::UnknownPath, message)
    })
}

/// Passes over deployments for which there is no key: their refusal would hide the answer of one that can serve.
///
/// # Errors
/// Neither the client nor the gateway has a key for any deployment.
pub fn require_credential(ctx: &mut Context) -> Result<(), GatewayError> {
    let stranger = ctx.asker.is_stranger();
    let usable = |ctx: &Context, target: &Target| {
        !stranger && !target.provider.preset().needs_key || credential(ctx, target).is_some()
    };
    let narrowed = ctx.narrow(|ctx, target| (!usable(ctx, target)).then_some(Reason::NoKey));
    let Some(candidates) = &ctx.dispatch.candidates else { return Err(incomplete()) };
    let Some(provider) = candidates.first().map(|target| &target.provider) else { return Err(incomplete()) };
    if narrowed.is_ok() {
        return Ok(());
    }
    if let Some(error) = strange_key(ctx, candidates) {
        return Err(error);
    }
    if stranger {
        let present = presenting(ctx, PREFIX);
        let own = match candidates.left().find(|target| target.provider.takes_own_keys()) {
            Some(target) => format!(", or send a key of your own, which provider '{}' gets", target.provider.name),
            None => String::new(),
        };
        let message = format!(
            "This gateway serves its own keys to holders of a token only. Present yours as {present}{own}. \
             Its operator can serve callers without a token as a tenant (auth.anonymous)."
        );
        return Err(GatewayError::new(Fault::MissingCredential, message));
    }
    let message = format!(
        "No API key for provider '{}'. Send your own as {} where the provider is OpenAI or Anthropic, or give the gateway one \
         (providers.{}.api_key).",
        provider.name,
        presenting(ctx, provider.preset().client_keys.map_or("sk-", |keys| keys.prefix)),
        provider.name
    );
    Err(GatewayError::new(Fault::MissingCredential, message))
}

/// The refusal of a key that does not look like one of the provider's own, where only such a key would have served.
fn strange_key(ctx: &Context, candidates: &Candidates) -> Option<GatewayError> {
    let key = ctx.asker.credential.as_ref()?.expose();
    let mut own = candidates.left().map(|target| &target.provider).filter(|provider| provider.takes_own_keys());
    let (provider, keys) = own.find_map(|provider| Some((provider, provider.preset().client_keys?)))?;
    if keys.fit(key) {
        return None;
    }
    let others: Vec<_> = keys.not.iter().map(|other| format!("`{other}`")).collect();
    let others = if others.is_empty() { String::new() } else { format!(", but not with {}", others.join(" or ")) };
    let token = match ctx.asker.is_stranger() {
        true => format!(" A token of this gateway begins with `{PREFIX}`."),
        false => String::new(),
    };
    let message = format!(
        "The API key presented does not look like one of provider '{}', and is not sent there: its keys begin with \
         `{}`{others}. Present one as {}.{token}",
        provider.name,
        keys.prefix,
        presenting(ctx, keys.prefix)
    );
    Some(GatewayError::new(Fault::InvalidToken, message))
}

/// How the client presents a credential with this beginning: Anthropic's clients have a header of their own for it.
pub fn presenting(ctx: &Context, beginning: &str) -> String {
    if ctx.ask.anthropic {
        format!("`x-api-key: {beginning}…`")
    } else {
        format!("`Authorization: Bearer {beginning}…`")
    }
}

/// Refuses a client that may not use the gateway's keys and has no key for any deployment, before any work is done for it. That
/// includes work that needs no provider.
///
/// # Errors
/// As for [`require_credential`].
pub fn refuse_stranger(ctx: &mut Context) -> Result<(), GatewayError> {
    if ctx.asker.is_stranger() { require_credential(ctx) } else { Ok(()) }
}

/// Headers of the configuration that a provider may take for the key.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// Whose key goes to a target.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'a> {
    /// The client's own.
    Own(&'a str),
    /// The gateway's.
    Mapped,
}

impl Presented<'_> {
    /// The key is the client's own.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

/// Whose key goes to a target; `None` if there is none.
///
/// A client's key goes to OpenAI or Anthropic and to nobody else, and only where it looks like one of that vendor's own: the
/// configuration refuses pass-through for any other vendor, and so does this function.
pub fn credential<'a>(ctx: &'a Context, target: &Target) -> Option<Presented<'a>> {
    let provider = &target.provider;
    let mapped = (target.wire.authorizer.is_some() && !ctx.asker.is_stranger()).then_some(Presented::Mapped);
    if ctx.asker.is_stranger() {
        // A key in a configured header would replace the client's own.
        let theirs = ctx.asker.principal.iter().flat_map(|principal| &principal.policy.headers);
        if provider.headers.iter().chain(theirs).any(|(name, _)| KEY_HEADERS.contains(&name.as_str())) {
            return None;
        }
    }
    let Some(keys) = provider.preset().client_keys else { return mapped };
    let fitting = || ctx.asker.credential.as_ref().map(Secret::expose).filter(|key| keys.fit(key)).map(Presented::Own);
    match provider.credentials {
        Credentials::Mapped => mapped,
        Credentials::PassThrough => fitting(),
        Credentials::Auto => fitting().or(mapped),
    }
}
