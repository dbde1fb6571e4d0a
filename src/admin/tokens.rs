//! `/api/v1/tokens`: create, list, show, rotate and revoke tokens.
//!
//! The file is read and written on threads that may block. A change is in the directory before the reply is sent, so the very
//! next request sees it, even if the client leaves in between.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    auth::Caller,
    error::{ApiError, ErrorBody},
    extract::{self, Checked, JsonBody},
    openapi::Refusals,
    values::{ScopeWord, StateWord, Time, Usd},
};
use crate::{
    config::{Config, HumanDuration, Limits, check_pattern},
    identity::{NewToken, Scope, Scopes, Token, TokenError, TokenSecret, Tokens},
    store::Session,
    types::{TenantId, unix_now},
};

/// The properties of a new token. All of them may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = NewToken)]
pub struct Create {
    /// The tenant that pays; it has to be configured. Without it: the default tenant.
    #[schema(value_type = Option<String>, example = "research")]
    tenant: Option<TenantId>,
    /// A name for people; at most 200 bytes.
    #[schema(example = "ci")]
    name: Option<String>,
    /// The scopes of the token. Without it: `ai:read` and `ai:write`.
    #[schema(value_type = Option<Vec<ScopeWord>>, min_items = 1)]
    scopes: Option<Vec<Scope>>,
    /// The models that the token may ask for: names, or patterns with one `*` at the end. Without it: all models of its tenant.
    #[schema(example = json!(["gpt-4o*"]))]
    models: Vec<String>,
    /// Limits on rates and on concurrent requests, in addition to the tenant's limits.
    #[serde(deserialize_with = "extract::object")]
    #[schema(value_type = LimitsView)]
    limits: Limits,
    /// When the token ends. Give either this or `expires_in`; without both the token does not end.
    expires_at: Option<Time>,
    /// How long the token is valid: a whole number and one of `s`, `m`, `h`, `d`.
    #[schema(value_type = Option<String>, pattern = "^[0-9]+(us|ms|s|m|h|d)$", example = "30d")]
    expires_in: Option<HumanDuration>,
}

/// How to rotate a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Rotation)]
pub struct Rotate {
    /// How long the old token stays valid beside the new one. Without it the old one ends at once.
    #[schema(value_type = Option<String>, pattern = "^[0-9]+(us|ms|s|m|h|d)$", example = "24h")]
    overlap: Option<HumanDuration>,
}

/// Which tokens to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// List only the tokens of this tenant.
    tenant: Option<String>,
}

/// A token without its secret, which is shown only once, when the token is created.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenView {
    /// The public id of the token.
    #[schema(example = "tok_2cZ8mQ4xKpV7nR1b")]
    id: String,
    /// The tenant that pays.
    tenant: String,
    /// A name for people.
    name: Option<String>,
    /// The scopes of the token.
    #[schema(value_type = Vec<ScopeWord>)]
    scopes: Vec<&'static str>,
    /// The models that the token may ask for; an empty list allows all models of its tenant.
    models: Vec<String>,
    /// Limits on rates and on concurrent requests, in addition to the tenant's limits.
    limits: LimitsView,
    /// Whether the token is valid now.
    #[schema(value_type = StateWord)]
    state: &'static str,
    /// When the token was created.
    created_at: Time,
    /// From this time on the token is refused; null: it does not expire.
    expires_at: Option<Time>,
    /// Since this time the token is refused; null: it is not revoked.
    revoked_at: Option<Time>,
    /// The id of the token that a rotation created in its place.
    replaced_by: Option<String>,
}

/// Limits on rates and on concurrent requests. A member that is absent sets no limit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Limits)]
pub struct LimitsView {
    /// The most requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    requests_per_second: Option<u64>,
    /// The most requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    requests_per_minute: Option<u64>,
    /// The most LLM tokens per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    tokens_per_minute: Option<u64>,
    /// The most US dollars per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    usd_per_minute: Option<Usd>,
    /// The most requests that are open at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    concurrent_requests: Option<u64>,
}

/// A new token with its secret.
#[derive(Serialize, ToSchema)]
pub struct CreatedToken {
    /// The token.
    token: TokenView,
    /// The secret that the token's holder presents. The gateway does not keep it: only this reply contains it.
    secret: String,
}

/// Tokens, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    /// The tokens.
    tokens: Vec<TokenView>,
}

/// Create a token
///
/// The token is valid from the moment of the reply on.
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    tag = "tokens",
    operation_id = "create_token",
    request_body(content = Create, description = "An empty body stands for `{}`."),
    responses(
        (status = 201, description = "The token is created.", body = CreatedToken),
        (status = 400, description = "The properties are invalid, or the tenant is not configured.", body = ErrorBody),
        (status = 413, description = "The body has more than 64 KiB.", body = ErrorBody),
        (status = 415, description = "The body is not declared as JSON.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn create(
    State(admin): State<Admin>,
    Extension(by): Extension<Caller>,
    JsonBody(body): JsonBody<Create>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    let new = body.check(&admin.snapshot.load().config)?;
    let (token, secret) = change(&admin, move |tokens| tokens.create(&new)).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, scopes = %token.scopes, by = %by.0.id, "token created");
    Ok(created(&token, &secret))
}

/// List tokens
///
/// The oldest token first, including those that have ended.
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    tag = "tokens",
    operation_id = "list_tokens",
    params(Filter),
    responses(
        (status = 200, description = "The tokens.", body = TokenList),
        (status = 400, description = "The query is invalid.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn list(
    State(admin): State<Admin>,
    Checked(Query(filter)): Checked<Query<Filter>>,
) -> Result<Json<TokenList>, ApiError> {
    let tenant = filter.tenant.map(TenantId::from);
    let tokens = read(&admin, move |tokens| tokens.list(tenant.as_ref())).await?;
    Ok(Json(TokenList { tokens: tokens.iter().map(TokenView::from).collect() }))
}

/// Show a token
#[utoipa::path(
    get,
    path = "/api/v1/tokens/{id}",
    tag = "tokens",
    operation_id = "show_token",
    params(("id" = String, Path, description = "The token's id, `tok_…`.")),
    responses(
        (status = 200, description = "The token.", body = TokenView),
        (status = 404, description = "No token has this id.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn show(
    State(admin): State<Admin>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Json<TokenView>, ApiError> {
    let token = read(&admin, move |tokens| tokens.show(&id)).await?;
    Ok(Json((&token).into()))
}

/// Revoke a token
///
/// The next request with the token is refused; requests under way go on. The token stays in the list. Revoking it again changes
/// nothing.
#[utoipa::path(
    delete,
    path = "/api/v1/tokens/{id}",
    tag = "tokens",
    operation_id = "revoke_token",
    params(("id" = String, Path, description = "The token's id, `tok_…`.")),
    responses(
        (status = 200, description = "The token, revoked.", body = TokenView),
        (status = 404, description = "No token has this id.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn revoke(
    State(admin): State<Admin>,
    Extension(by): Extension<Caller>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Json<TokenView>, ApiError> {
    let token = change(&admin, move |tokens| tokens.revoke(&id)).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, by = %by.0.id, "token revoked");
    Ok(Json((&token).into()))
}

/// Rotate a token
///
/// Creates a token with the same properties and the same end, and ends the old one after the overlap.
#[utoipa::path(
    post,
    path = "/api/v1/tokens/{id}/rotate",
    tag = "tokens",
    operation_id = "rotate_token",
    params(("id" = String, Path, description = "The old token's id, `tok_…`.")),
    request_body(content = Rotate, description = "An empty body stands for `{}`."),
    responses(
        (status = 201, description = "The new token.", body = CreatedToken),
        (status = 400, description = "The body is invalid.", body = ErrorBody),
        (status = 404, description = "No token has this id.", body = ErrorBody),
        (status = 409, description = "The old token has ended already.", body = ErrorBody),
        (status = 413, description = "The body has more than 64 KiB.", body = ErrorBody),
        (status = 415, description = "The body is not declared as JSON.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn rotate(
    State(admin): State<Admin>,
    Extension(by): Extension<Caller>,
    Checked(Path(id)): Checked<Path<String>>,
    JsonBody(body): JsonBody<Rotate>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    let overlap = body.overlap.map_or(0, millis);
    let old = id.clone();
    let (token, secret) = change(&admin, move |tokens| tokens.rotate(&id, overlap)).await?;
    tracing::info!(token = %token.id, tenant = %token.tenant, replaces = old, by = %by.0.id, "token rotated");
    Ok(created(&token, &secret))
}

fn created(token: &Token, secret: &TokenSecret) -> (StatusCode, Json<CreatedToken>) {
    let body = CreatedToken { token: token.into(), secret: secret.expose().to_owned() };
    (StatusCode::CREATED, Json(body))
}

impl Create {
    /// Checks the request against the configuration.
    fn check(self, config: &Config) -> Result<NewToken, ApiError> {
        let tenant = self.tenant.unwrap_or_else(|| config.auth.default_tenant.clone());
        // With the entry `*` every name has settings, even an invalid one.
        if !TenantId::is_valid(tenant.as_str()) || config.tenant(&tenant).is_none() {
            return Err(ApiError::invalid(format!("tenant: no tenant is called `{tenant}` in the configuration.")));
        }
        for (at, model) in self.models.iter().enumerate() {
            check_pattern(model).map_err(|what| ApiError::invalid(format!("models[{at}]: {what}.")))?;
        }
        let limits = self.limits;
        if let Some(key) = limits.zeros().next() {
            let message = format!("limits.{key}: must be larger than 0; leave it out for no limit.");
            return Err(ApiError::invalid(message));
        }
        let expires_at = match (self.expires_at, self.expires_in) {
            (Some(_), Some(_)) => return Err(ApiError::invalid("expires_at and expires_in exclude each other.")),
            (Some(Time(at)), None) => Some(at),
            (None, Some(lifetime)) => Some(unix_now().saturating_add(millis(lifetime))),
            (None, None) => None,
        };
        Ok(NewToken {
            tenant,
            name: self.name,
            scopes: self.scopes.map_or(Scopes::CLIENT, |scopes| scopes.into_iter().collect()),
            models: self.models,
            limits,
            expires_at,
        })
    }
}

fn millis(duration: HumanDuration) -> u64 {
    u64::try_from(duration.0.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id.to_string(),
            tenant: token.tenant.to_string(),
            name: token.name.clone(),
            scopes: token.scopes.iter().map(Scope::label).collect(),
            models: token.models.clone(),
            limits: (&token.limits).into(),
            state: token.state(unix_now()),
            created_at: Time(token.created_at),
            expires_at: token.expires_at.map(Time),
            revoked_at: token.revoked_at.map(Time),
            replaced_by: token.replaced_by.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&Limits> for LimitsView {
    fn from(limits: &Limits) -> Self {
        Self {
            requests_per_second: limits.requests_per_second,
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            usd_per_minute: limits.usd_per_minute.map(|usd| Usd(usd.0)),
            concurrent_requests: limits.concurrent_requests,
        }
    }
}

/// Reads the table of tokens.
///
/// # Errors
/// The error of `work`, or a file that cannot be read.
pub(super) async fn read<T: Send + 'static>(
    admin: &Admin,
    work: impl FnOnce(&mut Tokens<'_>) -> Result<T, TokenError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = admin.shared.ledger.store().clone();
    blocking(move || work_on(store.connect_to_read()?, work)).await
}

/// Changes the table of tokens, and refreshes the directory before it returns.
async fn change<T: Send + 'static>(
    admin: &Admin,
    work: impl FnOnce(&mut Tokens<'_>) -> Result<T, TokenError> + Send + 'static,
) -> Result<T, ApiError> {
    let shared = admin.shared.clone();
    blocking(move || {
        let done = work_on(shared.ledger.store().connect()?.0, work)?;
        shared.directory.refresh();
        Ok(done)
    })
    .await
}

fn work_on<T>(
    mut session: Box<dyn Session>,
    work: impl FnOnce(&mut Tokens<'_>) -> Result<T, TokenError>,
) -> Result<T, TokenError> {
    work(&mut Tokens(&mut *session))
}

/// Runs work that may block, on a thread where that is allowed.
///
/// # Errors
/// The error of `work`.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TokenError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => {
            tracing::error!(%error, "a task of the admin API failed");
            Err(ApiError::internal())
        }
    }
}
