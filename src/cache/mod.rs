//! The completion cache: a question that was answered is not asked again, and identical questions under way are asked once.
//!
//! ```text
//! body ─▶ policy: may it be cached? ─▶ key ─▶ store: memory ─▶ disk ──▶ Found (fresh | expired | purged)
//!                                       │ nothing there
//!                                       ▼
//!                                    flight: Lead (asks the provider, and writes) | Follow (reads the reply too)
//! ```
//!
//! | file | what it knows |
//! |---|---|
//! | `policy` | which requests are deterministic and without side effects; what a client's headers ask for |
//! | `key` | 256 bits that two requests share if and only if they mean the same |
//! | `known` | bodies that were answered before, which are not read again |
//! | `entry` | one complete reply |
//! | `store` | memory first, then the tiers below it: the disk |
//! | `tier` | an entry as what pingora-cache stores |
//! | `flight` | one upstream call for any number of identical requests |
//! | `purges` | which entries no longer count, by tenant, model, key or all |

mod codec;
mod entry;
mod flight;
mod key;
mod known;
mod policy;
mod purges;
mod store;
mod tier;

pub use entry::{Entry, Form};
pub use flight::{Failure, FlightFollower, FlightStep, Flights, Lead, Outcome, Role, Server};
pub use key::{Key, KeyParts, key_of};
pub use known::{Known, KnownBodies};
pub use policy::{Asked, Decision, Directives, decide, is_one_choice};
pub use purges::{Purge, PurgeRequest, Purges};
pub use store::{Store, StoreOptions, StoreUsage};
pub use tier::{Shelf, Tier};

use std::{io, sync::Arc, time::Duration};

use crate::{
    config::{self, CacheRules, Namespace},
    types::{TenantId, unix_now},
};

/// An entry dated further in the future than this was stored by a clock that has been set back since: its age is unknown.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// All answers that are kept, and all flights under way.
pub struct Cache {
    store: Store,
    /// Decides which entries no longer count.
    pub purges: Arc<Purges>,
    /// The flights under way.
    pub flights: Arc<Flights>,
    /// Bodies that were answered before.
    pub known: KnownBodies,
}

/// The result of a look-up.
#[derive(Clone, Debug)]
pub enum Found {
    /// An answer, and its age.
    Fresh(Arc<Entry>, Duration),
    /// An answer that has expired, and may be served when no deployment answers.
    Stale(Arc<Entry>),
    /// No answer.
    Nothing,
}

impl Cache {
    /// Opens the entries that an earlier process has left on disk. If the folder cannot be used, the log says so, and the cache
    /// works without it.
    ///
    /// # Errors
    /// The system does not provide memory or threads.
    pub fn open(config: &config::Cache, purges: Arc<Purges>) -> io::Result<Self> {
        let disk = (config.disk > 0).then(|| store::DiskOptions { folder: config.folder.clone(), size: config.disk });
        let store =
            Store::open(&StoreOptions { memory: config.memory, disk, max_entry: MAX_ENTRY.min(config.memory / 4) })?;
        Ok(Self { store, purges, flights: Arc::default(), known: KnownBodies::default() })
    }

    /// Looks in memory, then in the tiers below it. `max_age` is the greatest age that the client accepts as fresh.
    pub async fn find(&self, key: &Key, tenant: &TenantId, rules: &CacheRules, max_age: Option<Duration>) -> Found {
        let entry = match self.store.peek(key) {
            Some(entry) => entry,
            None if !self.store.may_hold(key) => return Found::Nothing,
            None => match self.store.load(key, owner(tenant, rules)).await {
                Some(entry) => entry,
                None => return Found::Nothing,
            },
        };
        self.judge(key, entry, rules, max_age)
    }

    /// A fresh answer in memory, and its age. Does not wait for a tier.
    pub fn find_now(&self, key: &Key, rules: &CacheRules, max_age: Option<Duration>) -> Option<(Arc<Entry>, Duration)> {
        match self.judge(key, self.store.peek(key)?, rules, max_age) {
            Found::Fresh(entry, age) => Some((entry, age)),
            _ => None,
        }
    }

    fn judge(&self, key: &Key, entry: Arc<Entry>, rules: &CacheRules, max_age: Option<Duration>) -> Found {
        let now = unix_now();
        let ahead = Duration::from_millis(entry.stored.saturating_sub(now));
        if ahead > CLOCK_TOLERANCE || !self.purges.counts(key, &entry) {
            self.store.remove(key);
            return Found::Nothing;
        }
        let age = Duration::from_millis(now.saturating_sub(entry.stored));
        if age >= rules.ttl.saturating_add(rules.stale_if_error) {
            return Found::Nothing;
        }
        let fresh = age < rules.ttl;
        match fresh && max_age.is_none_or(|most| age <= most) {
            true => Found::Fresh(entry, age),
            // This includes an entry that is only too old for this client: it is better than an error.
            false if !rules.stale_if_error.is_zero() => Found::Stale(entry),
            false => Found::Nothing,
        }
    }

    /// Keeps an answer, unless it was purged while it was being made, or is too large.
    pub fn keep(&self, key: Key, entry: Arc<Entry>, rules: &CacheRules) {
        if entry.body.len() <= rules.max_entry && self.purges.counts(&key, &entry) {
            let owner = owner(&entry.tenant, rules).to_owned();
            self.store.insert(key, entry, &Shelf { ttl: rules.ttl, stale_if_error: rules.stale_if_error, owner });
        }
    }

    /// How full the store is.
    pub fn usage(&self) -> StoreUsage {
        self.store.usage()
    }

    /// Number of flights under way.
    pub fn flights(&self) -> usize {
        self.flights.count()
    }

    /// Writes the entries that still wait for the disk, for at most `patience`. Blocks.
    pub fn close(&self, patience: Duration) {
        self.store.close(patience);
    }
}

/// The tenant that an answer is for; empty if all tenants share it.
fn owner<'a>(tenant: &'a TenantId, rules: &CacheRules) -> &'a str {
    match rules.namespace {
        Namespace::Tenant => tenant.as_str(),
        Namespace::Shared => "",
    }
}

/// The largest body that the configuration may allow, in bytes.
const MAX_ENTRY: usize = 16 << 20;
