//! What is answered without asking a provider again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    resolved::{Abandoned, Namespace},
    values::{HumanDuration, HumanSize},
};

/// The completion cache. It serves requests that are deterministic (`temperature: 0` or a `seed`), embeddings and moderations;
/// never ones with side effects (`store: true`, tools that a provider runs, audio). `X-ChittyCan-Cache` tells `HIT`, `STALE`,
/// `MISS` or `BYPASS`; clients steer with `Cache-Control` and `X-ChittyCan-Cache: skip|force`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Whether it is used. A route may say otherwise.
    pub enabled: bool,
    /// How long an answer is fresh. At most 30d.
    pub ttl: HumanDuration,
    /// How long after that it may still be served, as `STALE`, when no deployment answers. `0s` for never.
    pub stale_if_error: HumanDuration,
    /// Who shares answers: `tenant` for each tenant alone, `shared` for all of them. Clients with keys of their own share
    /// with nobody, those without a token (`auth.anonymous`) with each other only, and a response that its provider keeps, or
    /// the gateway in its place (the Responses API without `store: false`), is not shared between tenants.
    pub namespace: Namespace,
    /// A larger answer is not kept. At most 16MiB.
    pub max_entry: HumanSize,
    /// What it may hold in memory. A change takes effect after a restart.
    pub memory: HumanSize,
    /// What it may hold on disk, in the folder beside the database whose name ends in `-cache`; `0B` for memory only.
    /// A change takes effect after a restart.
    pub disk: HumanSize,
    /// When a client leaves before its answer is there, and nobody else waits for it: `cancel` ends the provider's work,
    /// `finish` lets it end and keeps the answer.
    pub abandoned: Abandoned,
    /// Names of tools with side effects, or patterns with one `*` at the end: a request that offers one is never answered from
    /// the cache.
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

/// What a route has otherwise than `cache` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteCache {
    /// Replaces `cache.enabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Replaces `cache.ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// Replaces `cache.stale_if_error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<HumanDuration>,
    /// Replaces `cache.namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Replaces `cache.max_entry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entry: Option<HumanSize>,
}

impl RouteCache {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self { enabled: None, ttl: None, stale_if_error: None, namespace: None, max_entry: None })
    }
}
