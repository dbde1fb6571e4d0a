//! The client of a request with everything that applies to it: the tenant policy, with the tenant's meters and budgets and those
//! of its ancestors, and the token's meter.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue};
use parking_lot::{Mutex, RwLock};

use crate::{
    cache::Cache,
    capacity::Capacity,
    config::{self, Config, ProviderObjects},
    identity::{Authenticators, Directory, Identity, IdentityKind, Scope, Scopes},
    ledger::{Account, Covers, Ledger, Rule},
    limits::{Meter, Rules},
    objects::{Objects, Owner},
    routing::Deployments,
    stored_responses::StoredResponses,
    types::{TenantId, TokenId, matches},
};

/// The chain of meters that a request has to pass: the token's, the tenant's, and those of the tenant's ancestors.
pub type Meters = Arc<[Arc<Meter>]>;

/// State that lives as long as the process: a reload changes its rules, and keeps its counts and answers.
pub struct SharedState {
    /// The tokens.
    pub directory: Arc<Directory>,
    /// All authenticators: the tokens, and those of a program that embeds the gateway.
    pub authenticators: Authenticators,
    /// The ledger, which keeps reservations and spend.
    pub ledger: Arc<Ledger>,
    /// The completion cache.
    pub cache: Arc<Cache>,
    /// The owners of the providers' objects.
    pub objects: Arc<Objects>,
    /// Responses that the gateway keeps for providers that keep none.
    pub stored_responses: Arc<StoredResponses>,
    /// The memory budget, and threads for long work.
    pub capacity: Arc<Capacity>,
    /// Facts learnt about models at providers.
    pub deployments: Arc<Deployments>,
    tenant_meters: Mutex<HashMap<TenantId, Arc<Meter>>>,
    token_meters: Mutex<HashMap<TokenId, Arc<Meter>>>,
}

impl SharedState {
    /// State in which nothing is counted yet.
    pub fn new(
        directory: Arc<Directory>,
        authenticators: Authenticators,
        ledger: Arc<Ledger>,
        cache: Arc<Cache>,
        objects: Arc<Objects>,
        capacity: Arc<Capacity>,
    ) -> Self {
        let (tenant_meters, token_meters) = (Mutex::default(), Mutex::default());
        let stored_responses = Arc::new(StoredResponses::new(capacity.memory.clone()));
        let deployments = Arc::default();
        Self {
            directory,
            authenticators,
            ledger,
            cache,
            objects,
            stored_responses,
            capacity,
            deployments,
            tenant_meters,
            token_meters,
        }
    }
}

/// A tenant policy: a tenant with everything that applies to it.
pub struct TenantPolicy {
    /// The tenant, which pays.
    pub id: TenantId,
    /// The tenants that [`Self::meters`] belong to.
    lineage: Vec<TenantId>,
    meters: Meters,
    /// The tenant's account at the ledger, with its budgets and those of its ancestors.
    pub account: Arc<Account>,
    /// The tenant or an ancestor has a budget.
    has_budget: bool,
    /// The tenant or an ancestor has a hard budget, which refuses requests.
    pub has_hard_budget: bool,
    /// The tenant's headers, and those of its ancestors that it does not override.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The lists of models of the tenant and its ancestors; all of them have to allow a model.
    models: Vec<Vec<String>>,
    /// The limit of an answer, in tokens, for clients that state none: the tenant's own, or its nearest ancestor's.
    pub default_max_tokens: Option<u64>,
    /// Money is limited per minute, for the tenant or an ancestor.
    limits_money: bool,
    /// Paths whose cost cannot be told are allowed.
    pub unmetered_paths: bool,
    /// Which of the providers' objects the tenant may see.
    pub objects: ProviderObjects,
    /// Paths that manage a provider's account are allowed.
    pub provider_admin: bool,
}

/// The tenants of one configuration.
pub struct TenantTable {
    config: Arc<Config>,
    shared: Arc<SharedState>,
    known: RwLock<HashMap<TenantId, Arc<TenantPolicy>>>,
    /// Chains that begin with the meter of a token or another identity.
    tokens: RwLock<HashMap<TokenId, (Arc<Identity>, Meters)>>,
}

/// The client of a request.
#[derive(Clone)]
pub struct Principal {
    /// The policy of the client's tenant.
    pub policy: Arc<TenantPolicy>,
    /// The identity that the credential stands for; `None` for a client without a credential of the gateway's.
    pub identity: Option<Arc<Identity>>,
    /// The meters that its requests have to pass.
    pub meters: Meters,
    /// The client may not use the gateway's own keys, nor answers that were made with them.
    pub own_keys_only: bool,
}

impl TenantTable {
    /// Makes the policy of every tenant that the configuration names. Blocks on the ledger's file.
    pub fn new(config: Arc<Config>, shared: Arc<SharedState>) -> Self {
        let all = config.tenants.values().chain(&config.other_tenants);
        let rules: Vec<_> = all.flat_map(|tenant| tenant.budgets.clone()).collect();
        shared.ledger.read_history(&rules);
        shared.ledger.set_webhook(config.budgets.webhook.clone());
        shared.stored_responses.set_bounds(config.stored_responses);
        shared.ledger.retain(|key| {
            let budgets = config.tenant(&key.tenant).map(|tenant| &tenant.budgets);
            let same = |rule: &config::Budget| {
                (rule.period, rule.hard, &rule.timezone) == (key.period, key.hard, &key.timezone)
            };
            budgets.is_some_and(|budgets| budgets.iter().any(same))
        });
        let tenants = Self { config, shared, known: RwLock::default(), tokens: RwLock::default() };
        for id in tenants.config.tenants.keys() {
            tenants.of(id);
        }
        // Tenants under the entry `*` had meters before: their rules may have changed too.
        let metered: Vec<_> = tenants.shared.tenant_meters.lock().keys().cloned().collect();
        for id in metered {
            tenants.of(&id);
        }
        tenants
    }

    /// The policy of the tenant with this name; `None` if the configuration has none.
    pub fn of(&self, id: &TenantId) -> Option<Arc<TenantPolicy>> {
        if let Some(policy) = self.known.read().get(id) {
            return Some(policy.clone());
        }
        let policy = Arc::new(self.make(id)?);
        let mut known = self.known.write();
        Some(known.entry(id.clone()).or_insert(policy).clone())
    }

    /// The policy of the default tenant, for clients without a token.
    pub fn default_policy(&self) -> Option<Arc<TenantPolicy>> {
        self.of(&self.config.auth.default_tenant)
    }

    /// The principal for a client without a token.
    pub fn anonymous(&self) -> Option<Principal> {
        let own_keys_only = !self.config.serves_strangers(self.shared.authenticators.has_callers());
        let policy = match &self.config.auth.anonymous {
            Some(tenant) => self.of(tenant)?,
            None => self.default_policy()?,
        };
        Some(Principal { meters: policy.meters.clone(), policy, identity: None, own_keys_only })
    }

    /// The principal for the holder of a credential; `None` if its tenant is not configured.
    pub fn holder(&self, identity: Arc<Identity>) -> Option<Principal> {
        let policy = self.of(&identity.tenant)?;
        if rules(&identity.limits).is_empty() {
            return Some(Principal {
                meters: policy.meters.clone(),
                policy,
                identity: Some(identity),
                own_keys_only: false,
            });
        }
        if let Some((known, meters)) = self.tokens.read().get(&identity.id)
            && (Arc::ptr_eq(known, &identity) || known == &identity)
        {
            return Some(Principal { meters: meters.clone(), policy, identity: Some(identity), own_keys_only: false });
        }
        let own = {
            let rules = self.share(identity.id.as_str(), &identity.limits);
            let mut meters = self.shared.token_meters.lock();
            let meter = meters.entry(identity.id.clone()).or_insert_with(|| Arc::new(Meter::new(rules))).clone();
            meter.set_rules(rules);
            meter
        };
        let meters: Meters = std::iter::once(own).chain(policy.meters.iter().cloned()).collect();
        let mut tokens = self.tokens.write();
        tokens.insert(identity.id.clone(), (identity.clone(), meters.clone()));
        Some(Principal { policy, identity: Some(identity), meters, own_keys_only: false })
    }

    /// Whether a principal that sees only its own objects may see those of this owner. A tenant sees the objects of its own and
    /// of the tenants below it; a client without a token sees those that any client without a token has made.
    pub fn may_see(&self, who: &Principal, owner: &Owner) -> bool {
        match who.identity {
            Some(_) => lineage(&self.config, &owner.tenant).contains(&who.policy.id),
            None => owner.anonymous && owner.tenant == who.policy.id,
        }
    }

    fn make(&self, id: &TenantId) -> Option<TenantPolicy> {
        let own = self.config.tenant(id)?;
        let lineage = lineage(&self.config, id);
        let tenants: Vec<_> = lineage.iter().filter_map(|name| Some((name, self.config.tenant(name)?))).collect();
        let rules: Vec<_> = tenants
            .iter()
            .flat_map(|(owner, tenant)| tenant.budgets.iter().map(|budget| (*owner, budget)))
            .map(|(owner, budget)| Rule { owner, budget, covers: covers(&self.config, owner) })
            .collect();
        let mut policy = TenantPolicy {
            id: id.clone(),
            lineage: lineage.clone(),
            meters: tenants.iter().map(|(name, tenant)| self.meter(name, &tenant.limits)).collect(),
            account: self.shared.ledger.account(id, &rules),
            has_budget: !rules.is_empty(),
            has_hard_budget: rules.iter().any(|rule| rule.budget.hard),
            headers: Vec::new(),
            models: Vec::new(),
            default_max_tokens: tenants.iter().find_map(|(_, tenant)| tenant.default_max_tokens),
            limits_money: tenants.iter().any(|(_, tenant)| tenant.limits.usd_per_minute.is_some()),
            unmetered_paths: own.unmetered_paths,
            objects: own.provider_objects,
            provider_admin: own.provider_admin,
        };
        for (_, tenant) in &tenants {
            for (header, value) in &tenant.headers {
                if !policy.headers.iter().any(|(known, _)| known == header) {
                    policy.headers.push((header.clone(), value.clone()));
                }
            }
            if !tenant.models.is_empty() {
                policy.models.push(tenant.models.clone());
            }
        }
        Some(policy)
    }

    fn meter(&self, tenant: &TenantId, limits: &config::Limits) -> Arc<Meter> {
        let rules = self.share(tenant.as_str(), limits);
        let mut meters = self.shared.tenant_meters.lock();
        let meter = meters.entry(tenant.clone()).or_insert_with(|| Arc::new(Meter::new(rules))).clone();
        if meter.rules() != rules {
            meter.set_rules(rules);
        }
        meter
    }

    /// The part of the limits that this process counts to.
    fn share(&self, of: &str, limits: &config::Limits) -> Rules {
        let treasury = self.shared.ledger.treasury();
        rules(limits).map(|kind, limit| treasury.share(of, kind.label(), limit))
    }
}

impl Principal {
    /// Whether anything bounds the client's spend: then nothing may pass whose cost is not known.
    pub fn counts_money(&self) -> bool {
        let by_token = || self.identity.as_ref().is_some_and(|who| who.limits.usd_per_minute.is_some());
        self.policy.has_budget || self.policy.limits_money || by_token()
    }

    /// Whether the client has this scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.identity.as_ref().map_or(Scopes::CLIENT, |who| who.scopes).has(scope)
    }

    /// Whether the client may ask for a model, by the name that it uses or by that of its route.
    pub fn may_ask(&self, model: &str, route: Option<&str>) -> bool {
        let allows = |list: &Vec<String>| {
            list.is_empty()
                || list.iter().any(|pattern| matches(pattern, model) || route.is_some_and(|route| pattern == route))
        };
        self.policy.models.iter().all(allows) && self.identity.as_ref().is_none_or(|who| allows(&who.models))
    }

    /// Whether the client may ask for every model.
    pub fn may_ask_all(&self) -> bool {
        self.policy.models.is_empty() && self.identity.as_ref().is_none_or(|who| who.models.is_empty())
    }

    /// The client has presented no credential of the gateway's: it may be anybody.
    pub fn is_anonymous(&self) -> bool {
        self.identity.is_none()
    }

    /// The owner of the objects that the client makes.
    pub fn as_owner(&self) -> Owner {
        Owner { tenant: self.policy.id.clone(), anonymous: self.is_anonymous() }
    }

    /// The owner of a meter of the chain, in words for an error.
    pub fn owner(&self, meter: usize) -> String {
        let tokens = self.meters.len() - self.policy.meters.len();
        match self.policy.lineage.get(meter.wrapping_sub(tokens)) {
            Some(tenant) if meter >= tokens => format!("tenant '{tenant}'"),
            _ => match self.identity.as_ref().map(|who| who.kind) {
                Some(IdentityKind::Issued(_)) => "this caller".to_owned(),
                _ => "this token".to_owned(),
            },
        }
    }
}

/// A tenant and its ancestors, nearest first. The configuration refuses circles.
fn lineage(config: &Config, id: &TenantId) -> Vec<TenantId> {
    let mut names = vec![id.clone()];
    while let Some(parent) = config.tenant(&names[names.len() - 1]).and_then(|tenant| tenant.parent.clone()) {
        if names.contains(&parent) {
            break;
        }
        names.push(parent);
    }
    names
}

/// Whether a tenant's spend counts in the budgets of `ancestor`.
fn covers(config: &Arc<Config>, ancestor: &TenantId) -> Covers {
    let (config, ancestor) = (config.clone(), ancestor.clone());
    Arc::new(move |tenant| lineage(&config, tenant).contains(&ancestor))
}

fn rules(limits: &config::Limits) -> Rules {
    Rules {
        requests_per_second: limits.requests_per_second,
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        usd_per_minute: limits.usd_per_minute.map(|usd| usd.0),
        concurrent_requests: limits.concurrent_requests,
    }
}
