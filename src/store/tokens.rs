//! The table of tokens.

use super::StoreError;
use crate::types::{TenantId, TokenId};

/// A token as the table keeps it. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The public id of the token.
    pub id: TokenId,
    /// SHA-256 of the token's secret.
    pub hash: [u8; 32],
    /// The tenant that pays.
    pub tenant: TenantId,
    /// The name that people gave the token.
    pub name: Option<String>,
    /// The scopes of the token: a JSON list.
    pub scopes: String,
    /// The models that the token may ask for: a JSON list; an empty list allows all.
    pub models: String,
    /// The limits of the token: JSON, as in the configuration.
    pub limits: String,
    /// When the token was created.
    pub created_at: u64,
    /// From this time on the token is refused; `None`: it does not expire.
    pub expires_at: Option<u64>,
    /// Since this time the token is refused; `None`: it is not revoked.
    pub revoked_at: Option<u64>,
    /// The token that a rotation created in its place.
    pub replaced_by: Option<TokenId>,
}

/// The rotation of a token: its successor, and its end.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The token that takes the old one's place.
    pub successor: TokenRow,
    /// When the old token ends, in milliseconds since 1970.
    pub ends_at: u64,
}

/// The table of tokens; no token is ever deleted.
pub trait TokenTable {
    /// All tokens, of one tenant or of all, the oldest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn tokens(&self, tenant: Option<&TenantId>) -> Result<Vec<TokenRow>, StoreError>;

    /// The token with this id; `None` if there is none.
    ///
    /// # Errors
    /// A store that cannot be read.
    fn token(&self, id: &str) -> Result<Option<TokenRow>, StoreError>;

    /// Adds a token.
    ///
    /// # Errors
    /// The token's id or hash is there already, or the store cannot be written.
    fn add_token(&mut self, token: &TokenRow) -> Result<(), StoreError>;

    /// Revokes a token. A token that was revoked before keeps its time; an unknown id is no error.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn revoke_token(&mut self, id: &str, at: u64) -> Result<(), StoreError>;

    /// Calls `rotate` with the token as it is, and writes the rotation that it returns; nobody changes the token in between. If
    /// `rotate` returns `None`, nothing is written. False if there is no such token; `rotate` is not called then.
    ///
    /// # Errors
    /// A store that cannot be written.
    fn rotate_token(
        &mut self,
        id: &str,
        rotate: &mut dyn FnMut(&TokenRow) -> Option<Rotation>,
    ) -> Result<bool, StoreError>;
}
