//! The table of objects: whose the objects are that providers keep.

use super::StoreError;
use crate::types::TenantId;

/// The key of an object: a hash over the provider's name and its id.
pub type ObjectKey = [u8; 16];

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRow {
    /// Which it is.
    pub key: ObjectKey,
    /// The tenant whose request made it.
    pub tenant: TenantId,
    /// That request came without a token.
    pub anonymous: bool,
    /// 0: what is kept for long; 1: a response or a part of one.
    pub class: u8,
    /// When it became known, in milliseconds since 1970.
    pub at: u64,
}

/// The owners of objects. Rows are numbered in the order in which they are added, and are never changed.
pub trait ObjectTable {
    /// Gives the rows behind number `seen` to `each`, in order. Returns the number of the last one; `seen` where there is none.
    ///
    /// # Errors
    /// A store that cannot be read; what `each` got by then is of it all the same.
    fn objects_behind(&self, seen: i64, each: &mut dyn FnMut(ObjectRow)) -> Result<i64, StoreError>;

    /// Adds rows, but none for a key that is there, and deletes those of `gone`. Rows behind `seen`, which others have added
    /// before, are given to `each` first, so that no number is passed over. Returns the number of the last row.
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
