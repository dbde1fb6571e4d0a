//! What no longer counts.
//!
//! A purge removes nothing: it is a stamp, and an entry counts if its request was sent after every stamp that covers it. So a
//! purge costs the same whatever the cache holds, an answer that is still being made is covered too, and other processes, or
//! this one after a restart, learn of it from a row in the database. What is dead leaves the cache when it is looked at, or
//! when room is needed.

mod request;
mod stamps;
mod table;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{Entry, Key};
use crate::{
    store::{Session, Standings, Store, StoreError, TableFollower, Topic},
    types::{TenantId, unix_now},
};
use stamps::Stamps;

pub use request::PurgeRequest;

/// Stamps older than this cover nothing that could still be served: an entry lives for its `ttl` and its `stale_if_error`,
/// which the configuration bounds to 30 days each.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Stamps for models and keys that a tenant has at most. Then one that covers all that is the tenant's takes the place of the
/// older half: more than was asked is purged, but nothing that is younger than what was.
const MOST: usize = 10_000;

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Everything.
    All,
    /// What one tenant has paid for.
    Tenant(TenantId),
    /// What a model has answered: by the provider's name for it, alone or as `provider/model`, or by the configured route.
    Model(String),
    /// One answer.
    Key(Key),
}

/// Everything that was purged, in memory.
pub struct Purges {
    stamps: Arc<ArcSwap<Stamps>>,
    follower: Arc<TableFollower>,
}

impl Purges {
    /// Reads the table, and goes on following it in a thread that ends with the purges: what another process purges counts
    /// here within [`crate::store::LOOK`]. While the file cannot be read, what is known goes on counting; it is written into a
    /// file that takes the place of one that was deleted or replaced.
    pub fn follow(store: Arc<dyn Store>) -> Arc<Self> {
        let stamps = Arc::new(ArcSwap::from_pointee(Stamps::default()));
        let known = stamps.clone();
        let carried = stamps.clone();
        let carry = move |standings: &mut dyn Standings| table::keep(standings, &carried.load().all());
        let read = move |session: &dyn Session| {
            let rows = table::all(session)?;
            // Stamps only grow. One that could not be written down, or is not yet, stays.
            known.rcu(|stamps| {
                let mut stamps = Stamps::clone(stamps);
                rows.iter().for_each(|(request, at)| stamps.put(request, *at));
                stamps.forget(unix_now().saturating_sub(millis(KEPT)));
                stamps
            });
            Ok(())
        };
        let follower = TableFollower::start(store, Topic::Purges, read, carry);
        Arc::new(Self { stamps, follower })
    }

    /// Whether an entry may be served.
    pub fn counts(&self, key: &Key, entry: &Entry) -> bool {
        let stamps = self.stamps.load();
        entry.born > stamps.newest()
            || entry.born > stamps.of(key, &entry.tenant, &entry.route, Some((&entry.provider, &entry.model)))
    }

    /// The newest stamp that covers an answer, 0 for none. For one that is still being made: who serves it, as
    /// `(provider, model)`, may not be known yet.
    pub fn stamp_of(&self, key: &Key, tenant: &TenantId, route: &str, served: Option<(&str, &str)>) -> u64 {
        self.stamps.load().of(key, tenant, route, served)
    }

    /// Purges; with `tenant` only what that tenant has paid for. Returns the stamp, in milliseconds since 1970. Blocks on the
    /// database.
    ///
    /// # Errors
    /// The purge could not be written down: other processes do not learn of it, and this one forgets it when it ends. In this
    /// process it has taken effect all the same.
    pub fn purge(&self, purge: &Purge, tenant: Option<&TenantId>) -> Result<u64, StoreError> {
        match PurgeRequest::new(purge, tenant) {
            Some(request) => self.run(&request),
            // What two tenants have both paid for is nothing.
            None => Ok(unix_now()),
        }
    }

    /// Does what was asked, as [`Self::purge`] does.
    ///
    /// # Errors
    /// As there.
    pub fn run(&self, request: &PurgeRequest) -> Result<u64, StoreError> {
        let now = unix_now();
        self.put(request, now);
        // The clock may have been put back: then an earlier purge has the newer stamp.
        let at = request.write(&mut *self.follower.store().connect()?.0, now)?;
        self.put(request, at);
        Ok(at)
    }

    fn put(&self, request: &PurgeRequest, at: u64) {
        self.stamps.rcu(|stamps| {
            let mut stamps = Stamps::clone(stamps);
            stamps.put(request, at);
            stamps
        });
    }

    /// False while the file cannot be read: what other processes purge is not learned.
    pub fn is_up(&self) -> bool {
        self.follower.is_up()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
