//! The table of objects: the owners of the objects that providers keep.

use super::StoreError;
use crate::types::TenantId;

/// The key of an object: a hash over the provider's name and the object's id.
pub type ObjectKey = [u8; 16];

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRow {
    /// The key of the object.
    pub key: ObjectKey,
    /// The tenant whose request created the object.
    pub tenant: TenantId,
    /// True if that request came without a token.
    pub anonymous: bool,
    /// 0: an object that is kept for long; 1: a response or a part of one.
    pub class: u8,
    /// When the object became known, in milliseconds since 1970.
    pub at: u64,
}

/// The owners of objects. Rows are numbered in the order in which they are added, and are never changed.
pub trait ObjectTable {
    /// Passes the rows after number `seen` to `each`, in order. Returns the number of the last row, or `seen` if there is none.
    ///
    /// # Errors
    /// A store that cannot be read; the rows that `each` got before are valid.
    fn objects_behind(&self, seen: i64, each: &mut dyn FnMut(ObjectRow)) -> Result<i64, StoreError>;

    /// Adds rows, except for keys that are there already, and deletes the rows of `gone`. Rows after `seen`, which other
    /// processes have added, are passed to `each` first, so that no number is skipped. Returns the number of the last row.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn add_objects(
        &mut self,
        seen: i64,
        rows: &[ObjectRow],
        gone: &[ObjectKey],
        each: &mut dyn FnMut(ObjectRow),
    ) -> Result<i64, StoreError>;
}
