//! The owners of objects in SQLite.

use rusqlite::{Connection, TransactionBehavior, params};

use super::SqliteSession;
use crate::store::{ObjectKey, ObjectRow, ObjectTable, StoreError};

impl ObjectTable for SqliteSession {
    fn objects_behind(&self, seen: i64, each: &mut dyn FnMut(ObjectRow)) -> Result<i64, StoreError> {
        Ok(read(&self.0, seen, each)?)
    }

    fn add_objects(
        &mut self,
        seen: i64,
        rows: &[ObjectRow],
        gone: &[ObjectKey],
        each: &mut dyn FnMut(ObjectRow),
    ) -> Result<i64, StoreError> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let seen = read(&transaction, seen, each)?;
        write(&transaction, rows, gone)?;
        let last: Option<i64> = transaction.query_row("SELECT max(seq) FROM objects", [], |row| row.get(0))?;
        transaction.commit()?;
        Ok(last.unwrap_or(seen).max(seen))
    }
}

fn read(connection: &Connection, seen: i64, each: &mut dyn FnMut(ObjectRow)) -> rusqlite::Result<i64> {
    let mut statement = connection
        .prepare_cached("SELECT seq, key, tenant, anonymous, class, at FROM objects WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([seen])?;
    let mut last = seen;
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        each(ObjectRow {
            key: row.get(1)?,
            tenant: row.get_ref(2)?.as_str()?.into(),
            anonymous: row.get(3)?,
            class: row.get(4)?,
            at: row.get(5)?,
        });
    }
    Ok(last)
}

fn write(connection: &Connection, rows: &[ObjectRow], gone: &[ObjectKey]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO objects (key, tenant, anonymous, class, at) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    for ObjectRow { key, tenant, anonymous, class, at } in rows {
        insert.execute(params![key, tenant.as_str(), anonymous, class, at])?;
    }
    let mut delete = connection.prepare_cached("DELETE FROM objects WHERE key = ?1")?;
    for key in gone {
        delete.execute([key])?;
    }
    Ok(())
}
