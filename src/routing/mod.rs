//! Which deployments serve a client-facing model, first to last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::config::{Config, Provider, Route};

/// One place a request can be sent to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The vendor account.
    pub provider: Arc<Provider>,
    /// The provider's own name for the model.
    pub model: Arc<str>,
}

/// Where a request may go, in order, and under which name it is counted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tried first to last; never empty.
    pub targets: Arc<[Target]>,
    /// The configured name (`gpt-4o`, `claude-*`, `groq/*`, `default`): a closed set, fit for a metric label.
    pub label: Arc<str>,
}

/// A model the gateway offers by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// Client-facing name.
    pub id: String,
    /// Name of the provider that is tried first.
    pub owned_by: String,
}

/// The routes of a configuration, ready for look-up.
pub struct RouteTable {
    exact: HashMap<String, Plan>,
    wildcards: Vec<(String, Wildcard)>,
    providers: BTreeMap<Arc<str>, Arc<Provider>>,
    default: Arc<Provider>,
    listed: Vec<ListedModel>,
}

struct Wildcard {
    label: Arc<str>,
    deployments: Vec<(Arc<Provider>, Option<Arc<str>>)>,
}

impl RouteTable {
    /// Builds the table. The configuration is resolved, so every provider a route names exists; a deployment of an
    /// unknown provider is left out.
    pub fn new(config: &Config) -> Option<Self> {
        let default = config.providers.get(&config.default_provider)?.clone();
        let mut table = Self {
            exact: HashMap::new(),
            wildcards: Vec::new(),
            providers: config.providers.clone(),
            default,
            listed: Vec::new(),
        };
        for route in &config.routes {
            table.add(route);
        }
        // The most specific pattern is tried first.
        table.wildcards.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        table.listed.sort_by(|a, b| a.id.cmp(&b.id));
        Some(table)
    }

    fn add(&mut self, route: &Route) {
        let deployments: Vec<_> = route
            .deployments
            .iter()
            .filter_map(|d| Some((self.providers.get(&d.provider)?.clone(), d.model.as_deref().map(Arc::from))))
            .collect();
        let Some((first, _)) = deployments.first() else { return };
        let owned_by = first.name.to_string();
        for name in std::iter::once(&route.model).chain(&route.aliases) {
            let label: Arc<str> = route.model.as_str().into();
            if let Some(prefix) = name.strip_suffix('*') {
                self.wildcards.push((prefix.to_owned(), Wildcard { label, deployments: deployments.clone() }));
                continue;
            }
            let targets = targets(&deployments, &route.model);
            self.exact.insert(name.clone(), Plan { targets, label });
            self.listed.push(ListedModel { id: name.clone(), owned_by: owned_by.clone() });
        }
    }

    /// The plan for a client-facing model: an exact name or alias, then `provider/model`, then the longest pattern,
    /// then the default provider.
    pub fn plan(&self, model: &str) -> Plan {
        self.configured_plan(model).unwrap_or_else(|| self.default_plan(model))
    }

    /// The plan for a model that the configuration names in some way, without the default provider.
    pub fn configured_plan(&self, model: &str) -> Option<Plan> {
        if let Some(plan) = self.exact.get(model) {
            return Some(plan.clone());
        }
        if let Some((provider, name)) = model.split_once('/')
            && !name.is_empty()
            && let Some(provider) = self.providers.get(provider)
        {
            let label = format!("{}/*", provider.name).into();
            return Some(Plan { targets: targets(&[(provider.clone(), None)], name), label });
        }
        let (_, wildcard) = self.wildcards.iter().find(|(prefix, _)| model.starts_with(prefix.as_str()))?;
        Some(Plan { targets: targets(&wildcard.deployments, model), label: wildcard.label.clone() })
    }

    /// The default provider with the client's own model name (empty for paths that have none).
    pub fn default_plan(&self, model: &str) -> Plan {
        Plan { targets: targets(&[(self.default.clone(), None)], model), label: "default".into() }
    }

    /// Models offered by name, in alphabetical order. Patterns cannot be listed.
    pub fn models(&self) -> &[ListedModel] {
        &self.listed
    }
}

fn targets(deployments: &[(Arc<Provider>, Option<Arc<str>>)], requested: &str) -> Arc<[Target]> {
    let target = |(provider, model): &(Arc<Provider>, Option<Arc<str>>)| Target {
        model: model.clone().unwrap_or_else(|| provider.mapped_model(requested).into()),
        provider: provider.clone(),
    };
    deployments.iter().map(target).collect()
}
