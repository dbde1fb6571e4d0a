//! Stamps in the database. An empty name stands for any.

use super::{KEPT, MOST, Purge, PurgeRequest, millis};
use crate::{
    store::{PurgeBounds, PurgeRow, PurgeTable, Session, Standings, StoreError},
    types::{TenantId, unix_now},
};

/// Every purge and its stamp.
pub(super) fn all(session: &dyn Session) -> Result<Vec<(PurgeRequest, u64)>, StoreError> {
    let mut found = Vec::new();
    for PurgeRow { tenant, model, key, at } in session.purges()? {
        let what = match (model, &*key) {
            (model, "") if model.is_empty() => Purge::All,
            (model, "") => Purge::Model(model),
            (_, key) => match key.parse() {
                Ok(key) => Purge::Key(key),
                // Written by another version, whose entries this version does not read.
                Err(_) => continue,
            },
        };
        let tenant = (!tenant.is_empty()).then(|| TenantId::from(tenant));
        found.push((PurgeRequest { tenant, what }, at));
    }
    Ok(found)
}

/// Writes stamps into tables other than those they were read from. Newer stamps that are there stay.
pub(super) fn keep(standings: &mut dyn Standings, stamps: &[(PurgeRequest, u64)]) -> Result<(), StoreError> {
    stamps.iter().try_for_each(|(request, at)| standings.keep_purge(&request.row(*at)))
}

impl PurgeRequest {
    /// The request as a row of the table.
    fn row(&self, at: u64) -> PurgeRow {
        let key = match &self.what {
            Purge::Key(key) => key.to_string(),
            _ => String::new(),
        };
        let model = match &self.what {
            Purge::Model(model) => model.clone(),
            _ => String::new(),
        };
        PurgeRow { tenant: self.tenant.as_ref().map_or_else(String::new, ToString::to_string), model, key, at }
    }

    /// Writes the purge to the database; gateways that follow the store learn of it within [`crate::store::LOOK`]. Returns its
    /// stamp: `at`, unless an earlier purge of the same scope has a newer stamp, from a clock that has been put back since.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn write(&self, table: &mut dyn PurgeTable, at: u64) -> Result<u64, StoreError> {
        let row = self.row(at);
        let bounds = PurgeBounds { narrow: MOST, since: unix_now().saturating_sub(millis(KEPT)) };
        let purged = table.purge(&row, bounds)?;
        if purged.folded {
            tracing::info!(
                tenant = row.tenant,
                "so many models and keys were purged that all up to a moment is purged in their place"
            );
        }
        Ok(purged.at)
    }
}
