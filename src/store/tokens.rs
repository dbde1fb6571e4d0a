//! The table of tokens.

use super::StoreError;
use crate::types::{TenantId, TokenId};

/// A token as it is kept. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its public name.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// Who pays.
    pub tenant: TenantId,
    /// What people call it.
    pub name: Option<String>,
    /// What it may do: a JSON list.
    pub scopes: String,
    /// The models it may ask for: a JSON list; empty: all.
    pub models: String,
    /// How much at once: JSON, as in the configuration.
    pub limits: String,
    /// When it was made.
    pub created_at: u64,
    /// From then on it is refused.
    pub expires_at: Option<u64>,
    /// Since then it is refused.
    pub revoked_at: Option<u64>,
    /// The token that a rotation made in its place.
    pub replaced_by: Option<TokenId>,
}

/// What becomes of a token that is rotated.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The one that takes its place.
    pub successor: TokenRow,
    /// When the old one ends.
    pub ends_at: u64,
}

/// Every token that was made; none is ever deleted.
pub trait TokenTable {
    /// All tokens, of one tenant or of all, the oldest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn tokens(&self, tenant: Option<&TenantId>) -> Result<Vec<TokenRow>, StoreError>;

    /// One token; `None` where there is none of this id.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn token(&self, id: &str) -> Result<Option<TokenRow>, StoreError>;

    /// Adds a token.
    ///
    /// # Errors
    /// Its id or its hash is there already, or a store that cannot be written.
    fn add_token(&mut self, token: &TokenRow) -> Result<(), StoreError>;

    /// Ends a token. One that was revoked before keeps its time, and one that is not there is no error.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn revoke_token(&mut self, id: &str, at: u64) -> Result<(), StoreError>;

    /// Asks `rotate` what becomes of a token as it is, and writes that down; nobody changes the token in between. Where `rotate`
    /// returns `None` nothing is written. False where there is no such token, which is not asked about then.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn rotate_token(
        &mut self,
        id: &str,
        rotate: &mut dyn FnMut(&TokenRow) -> Option<Rotation>,
    ) -> Result<bool, StoreError>;
}
