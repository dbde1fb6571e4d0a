//! Operations on the table of tokens. They work on the file, with or without a running gateway.

use std::fmt;

use super::{
    scope::{Scope, Scopes},
    secret::{TokenSecret, random_text},
};
use crate::{
    config::Limits,
    store::{Rotation, Session, StoreError, TokenRow, TokenTable},
    types::{TenantId, TokenId, unix_now},
};

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The public id of the token.
    pub id: TokenId,
    /// The tenant that pays.
    pub tenant: TenantId,
    /// A name for people.
    pub name: Option<String>,
    /// The scopes of the token.
    pub scopes: Scopes,
    /// The models that the token may ask for: names, or patterns with one trailing `*`; an empty list allows all models of its
    /// tenant.
    pub models: Vec<String>,
    /// Limits on rates and on concurrent requests, in addition to the tenant's limits.
    pub limits: Limits,
    /// When the token was created, in milliseconds since 1970 like the other times.
    pub created_at: u64,
    /// From this time on the token is refused; `None`: it does not expire.
    pub expires_at: Option<u64>,
    /// Since this time the token is refused; `None`: it is not revoked.
    pub revoked_at: Option<u64>,
    /// The token that a rotation created in its place.
    pub replaced_by: Option<TokenId>,
}

impl Token {
    /// `active`, `expired` or `revoked` at a moment.
    pub fn state(&self, now: u64) -> &'static str {
        match self {
            Self { revoked_at: Some(_), .. } => "revoked",
            Self { expires_at: Some(at), .. } if *at <= now => "expired",
            _ => "active",
        }
    }

    /// The row that the table keeps.
    pub(super) fn row(&self, hash: &[u8; 32]) -> Result<TokenRow, StoreError> {
        let json = |value: serde_json::Result<String>| value.map_err(|error| StoreError::Failed(error.into()));
        Ok(TokenRow {
            id: self.id.clone(),
            hash: *hash,
            tenant: self.tenant.clone(),
            name: self.name.clone(),
            scopes: json(serde_json::to_string(&self.scopes.iter().collect::<Vec<_>>()))?,
            models: json(serde_json::to_string(&self.models))?,
            limits: json(serde_json::to_string(&self.limits))?,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            replaced_by: self.replaced_by.clone(),
        })
    }

    /// Reads a token from its row in the table.
    fn read(row: &TokenRow) -> Result<Self, StoreError> {
        fn json<T: serde::de::DeserializeOwned>(text: &str, id: &TokenId, column: &str) -> Result<T, StoreError> {
            serde_json::from_str(text)
                .map_err(|error| StoreError::Failed(format!("{column} of token {id}: {error}").into()))
        }
        let id = &row.id;
        Ok(Self {
            id: id.clone(),
            tenant: row.tenant.clone(),
            name: row.name.clone(),
            scopes: json::<Vec<Scope>>(&row.scopes, id, "scopes")?.into_iter().collect(),
            models: json(&row.models, id, "models")?,
            limits: json(&row.limits, id, "limits")?,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            replaced_by: row.replaced_by.clone(),
        })
    }
}

/// The properties of a new token.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The tenant that pays; the caller has checked that it exists.
    pub tenant: TenantId,
    /// A name for people.
    pub name: Option<String>,
    /// The scopes of the token.
    pub scopes: Scopes,
    /// The models that the token may ask for; an empty list allows all.
    pub models: Vec<String>,
    /// Limits on rates and on concurrent requests.
    pub limits: Limits,
    /// When the token ends, in milliseconds since 1970; `None`: never.
    pub expires_at: Option<u64>,
}

/// Why an operation failed.
#[derive(Debug)]
pub enum TokenError {
    /// No token has this id.
    Unknown(String),
    /// A revoked or expired token cannot be rotated.
    Ended(TokenId, &'static str),
    /// A property of the new token is invalid; the text says which.
    Invalid(String),
    /// The system has no random numbers.
    NoRandom,
    /// The file cannot be read or written.
    Store(StoreError),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(id) => write!(f, "no token has the id `{id}`"),
            Self::Ended(id, state) => write!(f, "token {id} is {state}; create a new one"),
            Self::Invalid(message) => f.write_str(message),
            Self::NoRandom => f.write_str("the system has no random numbers"),
            Self::Store(error) => write!(f, "the database cannot be used: {error}"),
        }
    }
}

impl std::error::Error for TokenError {}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The longest name of a token, in bytes.
const MAX_NAME: usize = 200;

/// Operations on the table.
pub struct Tokens<'a>(pub &'a mut dyn TokenTable);

impl Tokens<'_> {
    /// Creates a token. The secret is returned only here.
    ///
    /// # Errors
    /// A name that is too long, an end in the past, or a file that cannot be written.
    pub fn create(&mut self, new: &NewToken) -> Result<(Token, TokenSecret), TokenError> {
        let (token, secret) = make(new, unix_now())?;
        self.0.add_token(&token.row(&secret.hash())?)?;
        Ok((token, secret))
    }

    /// All tokens, of one tenant or of all, the oldest first.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<Token>, TokenError> {
        Ok(self.0.tokens(tenant)?.iter().map(Token::read).collect::<Result<_, _>>()?)
    }

    /// The token with this id.
    ///
    /// # Errors
    /// There is no token with this id, or the file cannot be read.
    pub fn show(&self, id: &str) -> Result<Token, TokenError> {
        let row = self.0.token(id)?.ok_or_else(|| unknown(id))?;
        Ok(Token::read(&row)?)
    }

    /// Revokes a token at once. A token that was revoked before stays as it is.
    ///
    /// # Errors
    /// There is no token with this id, or the file cannot be written.
    pub fn revoke(&mut self, id: &str) -> Result<Token, TokenError> {
        self.0.revoke_token(id, unix_now())?;
        self.show(id)
    }

    /// Creates a token with the same properties, and ends the old one after `overlap_ms`.
    ///
    /// # Errors
    /// There is no token with this id, it has ended, or the file cannot be written.
    pub fn rotate(&mut self, id: &str, overlap_ms: u64) -> Result<(Token, TokenSecret), TokenError> {
        let mut made = Err(unknown(id));
        self.0.rotate_token(id, &mut |row| match successor(row, overlap_ms) {
            Ok((rotation, token, secret)) => {
                made = Ok((token, secret));
                Some(rotation)
            }
            Err(error) => {
                made = Err(error);
                None
            }
        })?;
        made
    }
}

/// The rotation of a token now: its successor with the secret.
fn successor(old: &TokenRow, overlap_ms: u64) -> Result<(Rotation, Token, TokenSecret), TokenError> {
    let now = unix_now();
    let old = Token::read(old)?;
    if old.state(now) != "active" {
        return Err(TokenError::Ended(old.id.clone(), old.state(now)));
    }
    let new = NewToken {
        tenant: old.tenant,
        name: old.name,
        scopes: old.scopes,
        models: old.models,
        limits: old.limits,
        expires_at: old.expires_at,
    };
    let (token, secret) = make(&new, now)?;
    let ends_at = now.saturating_add(overlap_ms).min(old.expires_at.unwrap_or(u64::MAX));
    Ok((Rotation { successor: token.row(&secret.hash())?, ends_at }, token, secret))
}

/// Every token with the hash of its secret, for the directory.
pub(super) fn all(session: &dyn Session) -> Result<Vec<(Token, [u8; 32])>, StoreError> {
    session.tokens(None)?.iter().map(|row| Ok((Token::read(row)?, row.hash))).collect()
}

fn unknown(id: &str) -> TokenError {
    TokenError::Unknown(id.chars().take(64).collect())
}

fn make(new: &NewToken, now: u64) -> Result<(Token, TokenSecret), TokenError> {
    if new.name.as_ref().is_some_and(|name| name.len() > MAX_NAME || name.chars().any(char::is_control)) {
        return Err(TokenError::Invalid(format!("a name has at most {MAX_NAME} bytes and no control characters")));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(TokenError::Invalid("the token would have ended already".into()));
    }
    if new.scopes == Scopes::default() {
        return Err(TokenError::Invalid("a token needs at least one scope".into()));
    }
    let no_random = |_| TokenError::NoRandom;
    let secret = TokenSecret::generate().map_err(no_random)?;
    let id = format!("tok_{}", random_text(16).map_err(no_random)?);
    let token = Token {
        id: id.into(),
        tenant: new.tenant.clone(),
        name: new.name.clone(),
        scopes: new.scopes,
        models: new.models.clone(),
        limits: new.limits.clone(),
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
        replaced_by: None,
    };
    Ok((token, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (tempfile::TempDir, Box<dyn Session>) {
        let folder = tempfile::tempdir().unwrap();
        let (session, _) = crate::store::sqlite::at(&folder.path().join("can.db")).connect().unwrap();
        (folder, session)
    }

    fn new(tenant: &str) -> NewToken {
        NewToken {
            tenant: tenant.into(),
            name: Some("ci".into()),
            scopes: Scopes::CLIENT,
            models: vec!["gpt-4o*".into()],
            limits: Limits { requests_per_minute: Some(60), ..Limits::default() },
            expires_at: Some(unix_now() + 3_600_000),
        }
    }

    #[test]
    fn a_token_is_kept_without_its_secret() {
        let (folder, mut connection) = connection();
        let (made, secret) = Tokens(&mut *connection).create(&new("team")).unwrap();
        assert_eq!(Tokens(&mut *connection).show(made.id.as_str()).unwrap(), made);
        assert_eq!(Tokens(&mut *connection).list(Some(&"other".into())).unwrap(), []);
        assert_eq!(all(&*connection).unwrap(), [(made, secret.hash())]);
        drop(connection);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(memchr::memmem::find(&bytes, secret.expose().as_bytes()).is_none(), "the secret is in the file");
        }
    }

    #[test]
    fn revoking_is_final_and_rotating_overlaps() {
        let (_folder, mut connection) = connection();
        let mut tokens = Tokens(&mut *connection);
        let (old, _) = tokens.create(&new("team")).unwrap();
        let (fresh, _) = tokens.rotate(old.id.as_str(), 60_000).unwrap();
        let now = unix_now();
        let old = tokens.show(old.id.as_str()).unwrap();
        assert_eq!((old.state(now), old.state(now + 60_001)), ("active", "expired"));
        assert_eq!(old.replaced_by.as_ref(), Some(&fresh.id));
        assert_eq!((&fresh.tenant, &fresh.models, &fresh.limits), (&old.tenant, &old.models, &old.limits));
        let revoked = tokens.revoke(fresh.id.as_str()).unwrap();
        assert_eq!(revoked.state(now), "revoked");
        assert_eq!(tokens.revoke(fresh.id.as_str()).unwrap(), revoked, "the first time stands");
        assert!(matches!(tokens.rotate(fresh.id.as_str(), 0), Err(TokenError::Ended(..))));
        assert!(matches!(tokens.revoke("tok_' OR '1'='1"), Err(TokenError::Unknown(_))));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (_folder, mut connection) = connection();
        let mut tokens = Tokens(&mut *connection);
        for wrong in [
            NewToken { expires_at: Some(1), ..new("t") },
            NewToken { name: Some("a\nb".into()), ..new("t") },
            NewToken { scopes: Scopes::default(), ..new("t") },
        ] {
            assert!(matches!(tokens.create(&wrong), Err(TokenError::Invalid(_))), "{wrong:?}");
        }
    }
}
