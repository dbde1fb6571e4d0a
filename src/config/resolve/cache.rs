//! The completion cache and stored responses: rules, times and sizes.

use std::{sync::Arc, time::Duration};

use super::{Path, Resolver, routes::check_pattern};
use crate::config::{
    raw,
    resolved::{Cache, CacheRules, Database, StoredResponses},
    values::{HumanDuration, HumanSize},
};

/// The longest `ttl` and the longest `stale_if_error`. Purges are remembered for twice as long.
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// The largest `max_entry`, in bytes: the store on disk writes an entry into one block.
const MAX_ENTRY: u64 = 16 << 20;

impl Resolver<'_> {
    pub(super) fn cache(&mut self, raw: &raw::Cache, database: &Database) -> Cache {
        let path = Path::of(&["cache"]);
        for (at, tool) in raw.side_effect_tools.iter().enumerate() {
            if let Err(message) = check_pattern(tool) {
                self.fault(&path.key("side_effect_tools").index(at), message);
            }
        }
        self.check_times(Some(raw.ttl), Some(raw.stale_if_error), &path);
        self.check_size(Some(raw.max_entry), &path);
        if raw.memory.0 < raw.max_entry.0.saturating_mul(4) {
            self.fault(&path.key("memory"), "must be at least four times `cache.max_entry`");
        }
        if raw.disk.0 > 0 && raw.disk.0 < 128 << 20 {
            self.fault(&path.key("disk"), "must be at least 128MiB, or 0B for memory only");
        }
        let mut folder = database.path.clone().into_os_string();
        folder.push("-cache");
        Cache {
            rules: Arc::new(CacheRules {
                enabled: raw.enabled,
                ttl: raw.ttl.0,
                stale_if_error: raw.stale_if_error.0,
                namespace: raw.namespace,
                max_entry: raw.max_entry.bytes(),
            }),
            memory: raw.memory.bytes(),
            folder: folder.into(),
            disk: raw.disk.0,
            abandoned: raw.abandoned,
            side_effect_tools: raw.side_effect_tools.clone(),
        }
    }

    pub(super) fn stored_responses(&mut self, raw: &raw::StoredResponses) -> StoredResponses {
        let path = Path::of(&["stored_responses"]);
        if raw.ttl.0.is_zero() {
            self.fault(&path.key("ttl"), "must be longer than 0; `memory: 0B` keeps nothing");
        }
        if raw.ttl.0 > MAX_TTL {
            self.fault(&path.key("ttl"), "must be at most 30d");
        }
        StoredResponses { ttl: raw.ttl.0, memory: raw.memory.0, tenant_memory: raw.tenant_memory.0 }
    }

    /// The cache rules of a route: its own settings over those of `cache`.
    pub(super) fn route_cache(&mut self, raw: &raw::RouteCache, base: &raw::Cache, path: &Path) -> Arc<CacheRules> {
        let path = path.key("cache");
        self.check_times(raw.ttl, raw.stale_if_error, &path);
        self.check_size(raw.max_entry, &path);
        if raw.max_entry.is_some_and(|size| base.memory.0 < size.0.saturating_mul(4)) {
            self.fault(&path.key("max_entry"), "must be at most a quarter of `cache.memory`");
        }
        Arc::new(CacheRules {
            enabled: raw.enabled.unwrap_or(base.enabled),
            ttl: raw.ttl.unwrap_or(base.ttl).0,
            stale_if_error: raw.stale_if_error.unwrap_or(base.stale_if_error).0,
            namespace: raw.namespace.unwrap_or(base.namespace),
            max_entry: raw.max_entry.unwrap_or(base.max_entry).bytes(),
        })
    }

    fn check_times(&mut self, ttl: Option<HumanDuration>, stale: Option<HumanDuration>, path: &Path) {
        if ttl.is_some_and(|ttl| ttl.0.is_zero()) {
            self.fault(&path.key("ttl"), "must be longer than 0; `enabled: false` switches the cache off");
        }
        for (key, span) in [("ttl", ttl), ("stale_if_error", stale)] {
            if span.is_some_and(|span| span.0 > MAX_TTL) {
                self.fault(&path.key(key), "must be at most 30d");
            }
        }
    }

    fn check_size(&mut self, max_entry: Option<HumanSize>, path: &Path) {
        if max_entry.is_some_and(|size| size.0 == 0 || size.0 > MAX_ENTRY) {
            self.fault(&path.key("max_entry"), "must be between 1B and 16MiB");
        }
    }
}
