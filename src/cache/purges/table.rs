//! Stamps in the database. A name that is empty stands for any.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{KEPT, MOST, Purge, PurgeRequest, millis};
use crate::{
    store::StoreError,
    types::{TenantId, unix_now},
};

/// Every purge and its stamp.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<(PurgeRequest, u64)>> {
    let mut statement = connection.prepare_cached("SELECT tenant, model, key, at FROM purges")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (tenant, model, key) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        let what = match (model, key) {
            ("", "") => Purge::All,
            (model, "") => Purge::Model(model.into()),
            (_, key) => match key.parse() {
                Ok(key) => Purge::Key(key),
                // Another version's: its entries are not ours.
                Err(_) => continue,
            },
        };
        let tenant = (!tenant.is_empty()).then(|| TenantId::from(tenant));
        found.push((PurgeRequest { tenant, what }, row.get(3)?));
    }
    Ok(found)
}

/// Writes stamps into another file than the one they were read from. Those that are there and newer stay.
pub(super) fn keep(connection: &Connection, stamps: &[(PurgeRequest, u64)]) -> rusqlite::Result<()> {
    for (request, at) in stamps {
        let (tenant, model, key) = request.names();
        put(connection, tenant, model, &key, *at)?;
    }
    Ok(())
}

impl PurgeRequest {
    /// Tenant, model and key as the table has them.
    fn names(&self) -> (&str, &str, String) {
        let key = match &self.what {
            Purge::Key(key) => key.to_string(),
            _ => String::new(),
        };
        let model = match &self.what {
            Purge::Model(model) => model.as_str(),
            _ => "",
        };
        (self.tenant.as_ref().map_or("", TenantId::as_str), model, key)
    }

    /// Writes the purge down; gateways that follow the file learn of it within [`crate::store::LOOK`]. Returns its stamp: `at`,
    /// unless the same was purged later, by a clock that has been put back since.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, connection: &mut Connection, at: u64) -> Result<u64, StoreError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (tenant, model, key) = self.names();
        let at = put(&transaction, tenant, model, &key, at)?;
        if self.what == Purge::All {
            forget(&transaction, tenant, at)?;
        } else if let Some(middle) = middle(&transaction, tenant)? {
            let all = put(&transaction, tenant, "", "", middle)?;
            forget(&transaction, tenant, all)?;
            tracing::info!(
                tenant,
                "so many models and keys were purged that all up to a moment is purged in their place"
            );
        }
        transaction.execute("DELETE FROM purges WHERE at < ?1", [unix_now().saturating_sub(millis(KEPT))])?;
        transaction.commit()?;
        Ok(at)
    }
}

fn put(connection: &Connection, tenant: &str, model: &str, key: &str, at: u64) -> rusqlite::Result<u64> {
    connection.query_row(
        "INSERT INTO purges VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET at = max(at, excluded.at) RETURNING at",
        params![tenant, model, key, at],
        |row| row.get(0),
    )
}

/// Deletes what a purge of all that is a tenant's, or of everything, covers.
fn forget(transaction: &Transaction<'_>, tenant: &str, at: u64) -> rusqlite::Result<()> {
    transaction.execute(
        "DELETE FROM purges WHERE at <= ?2 AND CASE ?1 WHEN '' THEN tenant || model || key <> '' \
         ELSE tenant = ?1 AND model || key <> '' END",
        params![tenant, at],
    )?;
    Ok(())
}

/// The stamp between the older half and the newer one, where a tenant's models and keys are too many.
fn middle(transaction: &Transaction<'_>, tenant: &str) -> rusqlite::Result<Option<u64>> {
    let narrow = "FROM purges WHERE tenant = ?1 AND model || key <> ''";
    let count: usize = transaction.query_row(&format!("SELECT count(*) {narrow}"), [tenant], |row| row.get(0))?;
    if count <= MOST {
        return Ok(None);
    }
    let sql = format!("SELECT at {narrow} ORDER BY at LIMIT 1 OFFSET ?2");
    transaction.query_row(&sql, params![tenant, MOST / 2], |row| row.get(0)).optional()
}
