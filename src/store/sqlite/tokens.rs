//! The tokens in SQLite.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::SqliteSession;
use crate::{
    store::{Rotation, StoreError, TokenRow, TokenTable},
    types::{TenantId, TokenId},
};

const COLUMNS: &str = "id, tenant, name, scopes, models, limits, created_at, expires_at, revoked_at, replaced_by, hash";

/// Stands for a token without an end where ends are compared.
const FOREVER: u64 = i64::MAX as u64;

impl TokenTable for SqliteSession {
    fn tokens(&self, tenant: Option<&TenantId>) -> Result<Vec<TokenRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at, id");
        let mut statement = self.0.prepare(&sql)?;
        let rows = statement.query_map([tenant.map(TenantId::as_str)], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn token(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        Ok(find(&self.0, id)?)
    }

    fn add_token(&mut self, token: &TokenRow) -> Result<(), StoreError> {
        Ok(insert(&self.0, "INSERT", token)?)
    }

    fn revoke_token(&mut self, id: &str, at: u64) -> Result<(), StoreError> {
        self.0.execute("UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL", params![id, at])?;
        Ok(())
    }

    fn rotate_token(
        &mut self,
        id: &str,
        rotate: &mut dyn FnMut(&TokenRow) -> Option<Rotation>,
    ) -> Result<bool, StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(old) = find(&transaction, id)? else { return Ok(false) };
        let Some(Rotation { successor, ends_at }) = rotate(&old) else { return Ok(true) };
        insert(&transaction, "INSERT", &successor)?;
        transaction.execute(
            "UPDATE tokens SET expires_at = ?2, replaced_by = ?3 WHERE id = ?1",
            params![id, ends_at.min(FOREVER), successor.id.as_str()],
        )?;
        transaction.commit()?;
        Ok(true)
    }
}

/// Writes a token to another file than the one it was read from. A token that is there already keeps its row, but takes over
/// a revocation or an earlier end.
pub(super) fn keep(connection: &Connection, token: &TokenRow) -> rusqlite::Result<()> {
    insert(connection, "INSERT OR IGNORE", token)?;
    if token.revoked_at.is_some() || token.expires_at.is_some() {
        let mut end = connection.prepare_cached(
            "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?2), \
             expires_at = nullif(min(coalesce(expires_at, ?4), ?3), ?4) \
             WHERE id = ?1 AND (?2 IS NOT NULL AND revoked_at IS NULL OR coalesce(expires_at, ?4) > ?3)",
        )?;
        let expires_at = token.expires_at.unwrap_or(FOREVER);
        end.execute(params![token.id.as_str(), token.revoked_at, expires_at, FOREVER])?;
    }
    Ok(())
}

fn insert(connection: &Connection, verb: &str, token: &TokenRow) -> rusqlite::Result<()> {
    let values = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11";
    let mut insert = connection.prepare_cached(&format!("{verb} INTO tokens ({COLUMNS}) VALUES ({values})"))?;
    insert.execute(params![
        token.id.as_str(),
        token.tenant.as_str(),
        token.name,
        token.scopes,
        token.models,
        token.limits,
        token.created_at,
        token.expires_at,
        token.revoked_at,
        token.replaced_by.as_ref().map(TokenId::as_str),
        token.hash,
    ])?;
    Ok(())
}

fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<TokenRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1");
    connection.query_row(&sql, [id], read).optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get_ref(0)?.as_str()?.into(),
        tenant: row.get_ref(1)?.as_str()?.into(),
        name: row.get(2)?,
        scopes: row.get(3)?,
        models: row.get(4)?,
        limits: row.get(5)?,
        created_at: row.get(6)?,
        expires_at: row.get(7)?,
        revoked_at: row.get(8)?,
        replaced_by: row.get::<_, Option<String>>(9)?.map(TokenId::from),
        hash: row.get(10)?,
    })
}
