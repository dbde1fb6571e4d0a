//! The completion cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    resolved::{Abandoned, Namespace},
    values::{HumanDuration, HumanSize},
};

/// The completion cache. It serves deterministic requests (`temperature: 0` or a `seed`), embeddings and moderations; never
/// requests with side effects (`store: true`, tools that a provider runs, audio). The reply header `X-ChittyCan-Cache` is `HIT`,
/// `STALE`, `MISS` or `BYPASS`; clients control the cache with `Cache-Control` and `X-ChittyCan-Cache: skip|force`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Whether the cache is used. A route may override it.
    pub enabled: bool,
    /// How long an answer is fresh. At most 30d.
    pub ttl: HumanDuration,
    /// How long after its `ttl` an answer may still be served, as `STALE`, when no deployment answers. `0s` for never.
    pub stale_if_error: HumanDuration,
    /// Who shares answers: `tenant` keeps each tenant's answers apart, `shared` shares them between all tenants. Clients with
    /// keys of their own share with nobody, and clients without a token (`auth.anonymous`) only with each other. A response that
    /// is kept by its provider, or by the gateway in the provider's place (the Responses API without `store: false`), is not
    /// shared between tenants.
    pub namespace: Namespace,
    /// The largest answer that is kept. At most 16MiB.
    pub max_entry: HumanSize,
    /// How much the cache may hold in memory. A change takes effect after a restart.
    pub memory: HumanSize,
    /// How much the cache may hold on disk, in the folder beside the database whose name ends in `-cache`; `0B` for memory only.
    /// A change takes effect after a restart.
    pub disk: HumanSize,
    /// What happens when a client leaves before its answer is there, and nobody else waits for the answer: `cancel` ends the
    /// provider's work, `finish` lets the provider finish and keeps the answer.
    pub abandoned: Abandoned,
    /// Names of tools with side effects, or patterns with one `*` at the end: a request that offers such a tool is never answered
    /// from the cache.
    #[schemars(example = ["send_*", "delete_file"])]
    pub side_effect_tools: Vec<String>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl: HumanDuration::secs(86_400),
            stale_if_error: HumanDuration::secs(3600),
            namespace: Namespace::Tenant,
            max_entry: HumanSize::mib(1),
            memory: HumanSize::mib(64),
            disk: HumanSize::mib(1024),
            abandoned: Abandoned::Cancel,
            side_effect_tools: Vec::new(),
        }
    }
}

/// The settings of `cache` that a route overrides.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteCache {
    /// Overrides `cache.enabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Overrides `cache.ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// Overrides `cache.stale_if_error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<HumanDuration>,
    /// Overrides `cache.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Overrides `cache.max_entry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entry: Option<HumanSize>,
}

impl RouteCache {
    /// True if the route overrides nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self { enabled: None, ttl: None, stale_if_error: None, namespace: None, max_entry: None })
    }
}
