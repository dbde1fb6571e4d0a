//! Stamps in memory. A look-up costs a few maps at most, and one comparison if nothing was purged since.

use std::{collections::HashMap, sync::Arc};

use super::{MOST, Purge, PurgeRequest};
use crate::{cache::Key, types::TenantId};

/// When each scope was last purged, in milliseconds since 1970; 0 is never.
#[derive(Clone, Default)]
pub(super) struct Stamps {
    newest: u64,
    any: Arc<Scope>,
    tenants: HashMap<TenantId, Arc<Scope>>,
}

/// Stamps for the answers that one tenant, or any tenant, has paid for.
#[derive(Clone, Default)]
struct Scope {
    all: u64,
    models: HashMap<Box<str>, u64>,
    keys: HashMap<Key, u64>,
}

impl Stamps {
    /// The newest stamp of all.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The newest stamp that covers an answer.
    pub(super) fn of(&self, key: &Key, tenant: &TenantId, route: &str, served: Option<(&str, &str)>) -> u64 {
        let of = |scope: &Scope| scope.of(key, route, served);
        of(&self.any).max(self.tenants.get(tenant).map_or(0, |scope| of(scope)))
    }

    /// Adds a stamp, unless there is a newer one.
    pub(super) fn put(&mut self, request: &PurgeRequest, at: u64) {
        self.newest = self.newest.max(at);
        match &request.tenant {
            None => Arc::make_mut(&mut self.any).put(&request.what, at),
            Some(tenant) => Arc::make_mut(self.tenants.entry(tenant.clone()).or_default()).put(&request.what, at),
        }
    }

    /// Drops stamps without effect: those older than `before`, and those that a wider one covers.
    pub(super) fn forget(&mut self, before: u64) {
        if self.any.has_idle(before) {
            Arc::make_mut(&mut self.any).forget(before);
        }
        let before = before.max(self.any.all);
        self.tenants.retain(|_, scope| {
            if scope.has_idle(before) {
                Arc::make_mut(scope).forget(before);
            }
            scope.all > 0 || scope.narrow() > 0
        });
    }

    /// Every stamp with its request.
    pub(super) fn all(&self) -> Vec<(PurgeRequest, u64)> {
        let scopes = self.tenants.iter().map(|(tenant, scope)| (Some(tenant), scope));
        let mut all = Vec::new();
        for (tenant, scope) in std::iter::once((None, &self.any)).chain(scopes) {
            let models = scope.models.iter().map(|(model, at)| (Purge::Model(model.to_string()), *at));
            let keys = scope.keys.iter().map(|(key, at)| (Purge::Key(*key), *at));
            let whole = (scope.all > 0).then_some((Purge::All, scope.all));
            let stamps = whole.into_iter().chain(models).chain(keys);
            all.extend(stamps.map(|(what, at)| (PurgeRequest { tenant: tenant.cloned(), what }, at)));
        }
        all
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = |scope: &Scope| usize::from(scope.all > 0) + scope.narrow();
        len(&self.any) + self.tenants.values().map(|scope| len(scope)).sum::<usize>()
    }
}

impl Scope {
    fn of(&self, key: &Key, route: &str, served: Option<(&str, &str)>) -> u64 {
        let mut newest = self.all;
        if !self.keys.is_empty() {
            newest = newest.max(self.keys.get(key).copied().unwrap_or(0));
        }
        if !self.models.is_empty() {
            let of = |name: &str| self.models.get(name).copied().unwrap_or(0);
            newest = newest.max(of(route));
            if let Some((provider, model)) = served {
                newest = newest.max(of(model)).max(of(&format!("{provider}/{model}")));
            }
        }
        newest
    }

    fn put(&mut self, what: &Purge, at: u64) {
        let known = match what {
            Purge::All | Purge::Tenant(_) => &mut self.all,
            Purge::Model(model) => self.models.entry(model.as_str().into()).or_default(),
            Purge::Key(key) => self.keys.entry(*key).or_default(),
        };
        *known = at.max(*known);
        if self.narrow() > MOST {
            self.fold();
        }
    }

    /// Number of stamps that cover one model or key only.
    fn narrow(&self) -> usize {
        self.models.len() + self.keys.len()
    }

    /// Replaces the older half of the stamps by one that covers everything.
    fn fold(&mut self) {
        let mut stamps: Vec<u64> = self.models.values().chain(self.keys.values()).copied().collect();
        let middle = stamps.len() / 2;
        self.all = self.all.max(*stamps.select_nth_unstable(middle).1);
        self.forget(0);
    }

    /// Whether there are stamps that [`Self::forget`] would drop.
    fn has_idle(&self, before: u64) -> bool {
        let covered = before.max(self.all);
        (1..=before).contains(&self.all) || self.models.values().chain(self.keys.values()).any(|at| *at <= covered)
    }

    fn forget(&mut self, before: u64) {
        if self.all <= before {
            self.all = 0;
        }
        let covered = before.max(self.all);
        self.models.retain(|_, at| *at > covered);
        self.keys.retain(|_, at| *at > covered);
    }
}
