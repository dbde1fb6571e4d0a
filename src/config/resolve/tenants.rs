//! Tenants, their budgets, and the database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Path, Resolver, routes::check_pattern};
use crate::{
    config::{
        fault::did_you_mean,
        overlay::TENANT_NAME,
        raw,
        resolved::{Auth, Budget, Budgets, Database, ProviderObjects, Tenant, Webhook},
    },
    types::TenantId,
};

/// How many ancestors a tenant may have: with each, every request touches one more account.
const MAX_DEPTH: usize = 4;

/// The shortest retention: entries must outlive the longest period whose spend is summed from them.
const MIN_RETENTION_DAYS: u64 = 35;

impl Resolver<'_> {
    pub(super) fn auth(&mut self, raw: &raw::Auth, tenants: &BTreeMap<String, raw::Tenant>) -> Auth {
        if !TenantId::is_valid(&raw.default_tenant) {
            let message = format!("`{}` is not a tenant's name: {TENANT_NAME}", raw.default_tenant);
            self.fault(&Path::of(&["auth", "default_tenant"]), message);
        }
        let path = Path::of(&["auth", "anonymous"]);
        if let Some(name) = &raw.anonymous {
            if !raw.passthrough {
                self.fault(&path, "serves the clients that `auth.passthrough: false` refuses; leave one of them out");
            }
            if !TenantId::is_valid(name) {
                self.fault(&path, format!("`{name}` is not a tenant's name: {TENANT_NAME}"));
            } else if !tenants.contains_key(name) && !tenants.contains_key("*") {
                let known = tenants.keys().map(String::as_str);
                self.fault(&path, format!("no tenant is called `{name}`{}", did_you_mean(name, known)));
            }
        }
        // If there is only the default tenant, everybody is that tenant, and omitting a token gains nothing.
        let tells_apart = tenants.keys().any(|name| *name != raw.default_tenant);
        Auth {
            passthrough: raw.passthrough,
            default_tenant: raw.default_tenant.as_str().into(),
            anonymous: raw.anonymous.as_deref().map(TenantId::from),
            tells_apart,
        }
    }

    pub(super) fn tenants(
        &mut self,
        raw: &BTreeMap<String, raw::Tenant>,
        default_tenant: &str,
    ) -> (BTreeMap<TenantId, Arc<Tenant>>, Option<Arc<Tenant>>) {
        let root = Path::of(&["tenants"]);
        let alone = raw.keys().all(|name| name == default_tenant);
        let (mut tenants, mut others) = (BTreeMap::new(), None);
        for (name, entry) in raw {
            let path = root.key(name);
            if name != "*" && !TenantId::is_valid(name) {
                self.fault(&path, format!("not a tenant's name: {TENANT_NAME}; or `*` for all others"));
            }
            let tenant = Arc::new(self.tenant(entry, alone, &path));
            self.lineage(name, raw, &path.key("parent"));
            match name.as_str() {
                "*" => others = Some(tenant),
                name => drop(tenants.insert(name.into(), tenant)),
            }
        }
        (tenants, others)
    }

    fn tenant(&mut self, raw: &raw::Tenant, alone: bool, path: &Path) -> Tenant {
        for (at, model) in raw.models.iter().enumerate() {
            if let Err(message) = check_pattern(model) {
                self.fault(&path.key("models").index(at), message);
            }
        }
        let limits = &raw.limits;
        for key in limits.zeros() {
            self.fault(&path.key("limits").key(key), "must be larger than 0; leave it out for no limit");
        }
        let mut budgets: Vec<Budget> = Vec::new();
        for (at, entry) in raw.budgets.iter().enumerate() {
            let path = path.key("budgets").index(at);
            let budget = self.budget(entry, &path);
            if budgets.iter().any(|other| other.period == budget.period && other.hard == budget.hard) {
                self.fault(&path, "there is a budget of this kind for this period already");
            }
            budgets.push(budget);
        }
        Tenant {
            parent: raw.parent.as_deref().map(TenantId::from),
            models: raw.models.clone(),
            headers: self.headers(&raw.headers, &path.key("headers")),
            default_max_tokens: raw.default_max_tokens.map(|tokens| u64::from(tokens.get())),
            limits: limits.clone(),
            budgets,
            unmetered_paths: raw.unmetered_paths.unwrap_or(false),
            provider_objects: raw.provider_objects.unwrap_or(match alone {
                true => ProviderObjects::All,
                false => ProviderObjects::Own,
            }),
            provider_admin: raw.provider_admin.unwrap_or(false),
        }
    }

    fn budget(&mut self, raw: &raw::Budget, path: &Path) -> Budget {
        if jiff::tz::TimeZone::get(&raw.timezone).is_err() {
            let message = format!("`{}` is not a time zone such as `UTC` or `Europe/Berlin`", raw.timezone);
            self.fault(&path.key("timezone"), message);
        }
        let mut alert_at = raw.alert_at.clone();
        alert_at.sort_unstable();
        alert_at.dedup();
        Budget { limit: raw.usd.0, period: raw.period, timezone: raw.timezone.clone(), hard: raw.hard, alert_at }
    }

    /// Reports a parent that does not exist, a circle, and a line of ancestors that is too long.
    fn lineage(&mut self, name: &str, raw: &BTreeMap<String, raw::Tenant>, path: &Path) {
        let mut child = name;
        for _ in 0..=MAX_DEPTH {
            let Some(parent) = raw.get(child).and_then(|tenant| tenant.parent.as_deref()) else { return };
            if parent == name {
                return self.fault(path, "a tenant cannot be its own ancestor");
            }
            if !raw.contains_key(parent) || parent == "*" {
                if child == name {
                    let known = raw.keys().map(String::as_str).filter(|known| *known != "*");
                    self.fault(path, format!("no tenant is called `{parent}`{}", did_you_mean(parent, known)));
                }
                return;
            }
            child = parent;
        }
        self.fault(path, format!("more than {MAX_DEPTH} ancestors"));
    }

    pub(super) fn budgets(&mut self, raw: &raw::Budgets) -> Budgets {
        if !matches!(raw.exceeded_status, 402 | 429) {
            self.fault(&Path::of(&["budgets", "exceeded_status"]), "must be 402 or 429");
        }
        if !(1..=128).contains(&raw.max_tool_calls) {
            self.fault(&Path::of(&["budgets", "max_tool_calls"]), "must be between 1 and 128");
        }
        let path = Path::of(&["budgets", "webhook"]);
        let webhook = raw.webhook.as_ref().map(|webhook| {
            let parsed = webhook.url.parse::<http::Uri>().ok();
            let usable =
                parsed.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
            if !usable {
                self.fault(&path.key("url"), format!("`{}` is not an http or https URL", webhook.url));
            }
            let secret = webhook.secret.as_ref().and_then(|secret| self.secret(secret, &path.key("secret")));
            Webhook { url: webhook.url.clone(), secret }
        });
        Budgets {
            exceeded_status: raw.exceeded_status,
            overrun: raw.overrun,
            client_left: raw.client_left,
            wait: raw.wait.0,
            max_tool_calls: raw.max_tool_calls,
            webhook,
        }
    }

    pub(super) fn database(&mut self, raw: &raw::Database) -> Database {
        if raw.path.trim().is_empty() {
            self.fault(&Path::of(&["database", "path"]), "the path is empty");
        }
        if raw.retention.0.as_secs() < MIN_RETENTION_DAYS * 86_400 {
            let message = format!("must be at least {MIN_RETENTION_DAYS}d: a month's spend is summed from the entries");
            self.fault(&Path::of(&["database", "retention"]), message);
        }
        let day = Duration::from_secs(86_400);
        if raw.refusal_retention.0 < day || raw.refusal_retention.0 > raw.retention.0 {
            let message = "must be at least 1d, and no longer than `database.retention`";
            self.fault(&Path::of(&["database", "refusal_retention"]), message);
        }
        Database {
            path: self.context.base_dir.join(&raw.path),
            on_failure: raw.on_failure,
            retention: raw.retention.0,
            refusal_retention: raw.refusal_retention.0,
        }
    }
}
