//! Purges: which entries no longer count.
//!
//! A purge removes nothing: it is a stamp, and an entry counts if its request was sent after every stamp that covers it. So a
//! purge costs the same however much the cache holds, covers an answer that is still being made, and other processes, or this one
//! after a restart, learn of it from a row in the database. A purged entry leaves the cache when it is looked up, or when room is
//! needed.

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

/// The most stamps for models and keys that a tenant may have. Beyond that, one stamp for all of the tenant's answers replaces
/// the older half: more is purged than was asked, but nothing younger than the newest stamp it replaces.
const MOST: usize = 10_000;

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Everything.
    All,
    /// The answers that one tenant has paid for.
    Tenant(TenantId),
    /// The answers of a model: by the provider's name for it, alone or as `provider/model`, or by the configured route.
    Model(String),
    /// One answer.
    Key(Key),
}

/// All purges, in memory.
pub struct Purges {
    stamps: Arc<ArcSwap<Stamps>>,
    follower: Arc<TableFollower>,
}

impl Purges {
    /// Reads the table of purges, and follows it in a thread that ends when this value is dropped: a purge by another process
    /// takes effect here within [`crate::store::LOOK`]. While the file cannot be read, the known purges stay in effect; they are
    /// written into the new file if the old one is deleted or replaced.
    pub fn follow(store: Arc<dyn Store>) -> Arc<Self> {
        let stamps = Arc::new(ArcSwap::from_pointee(Stamps::default()));
        let known = stamps.clone();
        let carried = stamps.clone();
        let carry = move |standings: &mut dyn Standings| table::keep(standings, &carried.load().all());
        let read = move |session: &dyn Session| {
            let rows = table::all(session)?;
            // Stamps only grow. A stamp that could not be written, or is not written yet, stays.
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

    /// The newest stamp that covers an answer, 0 if none does. For an answer that is still being made, `served`, the pair
    /// `(provider, model)`, may not be known yet.
    pub fn stamp_of(&self, key: &Key, tenant: &TenantId, route: &str, served: Option<(&str, &str)>) -> u64 {
        self.stamps.load().of(key, tenant, route, served)
    }

    /// Purges; with `tenant`, only answers that this tenant has paid for. Returns the stamp, in milliseconds since 1970. Blocks
    /// on the database.
    ///
    /// # Errors
    /// The purge could not be written: other processes do not learn of it, and this one forgets it when it ends. It has taken
    /// effect in this process all the same.
    pub fn purge(&self, purge: &Purge, tenant: Option<&TenantId>) -> Result<u64, StoreError> {
        match PurgeRequest::new(purge, tenant) {
            Some(request) => self.run(&request),
            // No answer is paid for by two tenants.
            None => Ok(unix_now()),
        }
    }

    /// Carries out a request to purge, as [`Self::purge`] does.
    ///
    /// # Errors
    /// As for [`Self::purge`].
    pub fn run(&self, request: &PurgeRequest) -> Result<u64, StoreError> {
        let now = unix_now();
        self.put(request, now);
        // If the clock was put back, an earlier purge has the newer stamp.
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

    /// False while the file cannot be read: purges by other processes are not learned.
    pub fn is_up(&self) -> bool {
        self.follower.is_up()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
