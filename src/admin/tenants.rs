//! `/api/v1/tenants`: tenants, their limits, and the state of their budgets.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Admin,
    error::{ApiError, Code, ErrorBody},
    extract::Checked,
    openapi::Refusals,
    tokens::{self, LimitsView},
    values::{PeriodWord, Time, Usd},
};
use crate::{
    config::{Budget, Limits, Tenant},
    ledger::Standing,
    snapshot::Snapshot,
    types::TenantId,
};

/// A tenant with its own rules, without those of its ancestors.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantView {
    /// The name of the tenant.
    id: String,
    /// The entry of the configuration that applies to the tenant: its name, or `*`. Null: there is none any more, and the
    /// tenant's tokens are refused.
    entry: Option<String>,
    /// The tenant whose limits and budgets also apply to this one.
    parent: Option<String>,
    /// The models that the tenant may ask for; an empty list allows all.
    models: Vec<String>,
    /// The names of the extra headers on the tenant's requests to providers; the values are secret.
    headers: Vec<String>,
    /// True if paths whose cost the gateway cannot tell are allowed although there is a budget.
    unmetered_paths: bool,
    /// Limits on rates and on concurrent requests.
    limits: LimitsView,
    /// Limits on the total spend.
    budgets: Vec<BudgetView>,
}

/// A budget and its state.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Budget)]
pub struct BudgetView {
    /// How often the budget begins anew.
    #[schema(value_type = PeriodWord)]
    period: &'static str,
    /// The time zone of the budget's periods.
    #[schema(example = "Europe/Berlin")]
    timezone: String,
    /// True if a request that could exceed the budget is refused; false if the budget only alerts.
    hard: bool,
    /// The limit of the budget.
    limit_usd: Usd,
    /// What the tenant and all tenants below it have spent in the current period.
    spent_usd: Usd,
    /// What requests under way may still cost.
    reserved_usd: Usd,
    /// When the current period began; null for the period `total`.
    starts_at: Option<Time>,
    /// When the next period begins; null for the period `total`.
    resets_at: Option<Time>,
}

/// Tenants by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantList {
    /// The tenants.
    tenants: Vec<TenantView>,
}

/// List tenants
///
/// Tenants that the configuration names, and tenants in use: with a token, or with a budget from the entry `*`.
#[utoipa::path(
    get,
    path = "/api/v1/tenants",
    tag = "tenants",
    operation_id = "list_tenants",
    responses((status = 200, description = "The tenants.", body = TenantList), Refusals)
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<TenantList>, ApiError> {
    let used = in_use(&admin).await?;
    let snapshot = admin.snapshot.load_full();
    let names: BTreeSet<_> = snapshot.config.tenants.keys().cloned().chain(used).collect();
    let standings = standings(&admin, &snapshot, &names);
    Ok(Json(TenantList { tenants: names.iter().map(|id| view(id, &snapshot, &standings)).collect() }))
}

/// Show a tenant
#[utoipa::path(
    get,
    path = "/api/v1/tenants/{id}",
    tag = "tenants",
    operation_id = "show_tenant",
    params(("id" = String, Path, description = "The tenant's name.")),
    responses(
        (status = 200, description = "The tenant.", body = TenantView),
        (status = 404, description = "The configuration does not name the tenant, and the tenant is not in use.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn show(
    State(admin): State<Admin>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Json<TenantView>, ApiError> {
    let id = TenantId::from(id);
    let snapshot = admin.snapshot.load_full();
    if !snapshot.config.tenants.contains_key(&id) && !in_use(&admin).await?.contains(&id) {
        let message = format!("No tenant is called `{id}` in the configuration, and none is in use.");
        return Err(ApiError::new(Code::UnknownTenant, message));
    }
    let standings = standings(&admin, &snapshot, &BTreeSet::from([id.clone()]));
    Ok(Json(view(&id, &snapshot, &standings)))
}

/// Tenants that have a token or a budget, whether the configuration names them or not.
async fn in_use(admin: &Admin) -> Result<BTreeSet<TenantId>, ApiError> {
    let tokens = tokens::read(admin, |tokens| tokens.list(None)).await?;
    let others = admin.snapshot.load().config.other_tenants.is_some();
    let budgets = admin.shared.ledger.standings().into_iter().filter(|_| others);
    Ok(tokens.into_iter().map(|token| token.tenant).chain(budgets.map(|budget| budget.key.tenant)).collect())
}

/// The state of the budgets. The budgets of a tenant that has sent no request yet are created first, with what was spent before.
fn standings(admin: &Admin, snapshot: &Snapshot, names: &BTreeSet<TenantId>) -> Vec<Standing> {
    for id in names {
        snapshot.tenants.of(id);
    }
    admin.shared.ledger.standings()
}

fn view(id: &TenantId, snapshot: &Snapshot, standings: &[Standing]) -> TenantView {
    let config = &snapshot.config;
    let tenant: Option<&Arc<Tenant>> = config.tenant(id);
    let entry = tenant.map(|_| if config.tenants.contains_key(id) { id.to_string() } else { "*".to_owned() });
    let Some(tenant) = tenant else {
        return TenantView {
            id: id.to_string(),
            entry,
            parent: None,
            models: Vec::new(),
            headers: Vec::new(),
            unmetered_paths: false,
            limits: (&Limits::default()).into(),
            budgets: Vec::new(),
        };
    };
    // The ledger may still have budgets that are no longer configured; only configured ones are shown.
    let standing = |rule: &Budget| {
        standings.iter().find(|standing| {
            let key = &standing.key;
            key.tenant == *id && (key.period, &key.timezone, key.hard) == (rule.period, &rule.timezone, rule.hard)
        })
    };
    TenantView {
        id: id.to_string(),
        entry,
        parent: tenant.parent.as_ref().map(ToString::to_string),
        models: tenant.models.clone(),
        headers: tenant.headers.iter().map(|(name, _)| name.to_string()).collect(),
        unmetered_paths: tenant.unmetered_paths,
        limits: (&tenant.limits).into(),
        budgets: tenant.budgets.iter().filter_map(standing).map(BudgetView::from).collect(),
    }
}

impl From<&Standing> for BudgetView {
    fn from(standing: &Standing) -> Self {
        Self {
            period: standing.key.period.label(),
            timezone: standing.key.timezone.clone(),
            hard: standing.key.hard,
            limit_usd: Usd(standing.limit),
            spent_usd: Usd(standing.spent),
            reserved_usd: Usd(standing.reserved),
            starts_at: standing.resets_at.map(|_| Time(standing.start)),
            resets_at: standing.resets_at.map(Time),
        }
    }
}
