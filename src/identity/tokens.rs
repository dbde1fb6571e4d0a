//! The table of tokens. Works on the file, with or without a gateway that runs.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    scope::{Scope, Scopes},
    secret::{TokenSecret, random_text},
};
use crate::{
    config::Limits,
    store::StoreError,
    types::{TenantId, TokenId, unix_now},
};

/// A token as it is known after its secret was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// Who pays.
    pub tenant: TenantId,
    /// What people call it.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// The models it may ask for: names, or patterns with one trailing `*`; empty allows all of its tenant's.
    pub models: Vec<String>,
    /// How much at once, besides its tenant's limits.
    pub limits: Limits,
    /// In milliseconds since 1970, like the other times.
    pub created_at: u64,
    /// From then on it is refused.
    pub expires_at: Option<u64>,
    /// Since then it is refused.
    pub revoked_at: Option<u64>,
    /// The token that a rotation made in its place.
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
}

/// What a token is made from.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Who pays; the caller has checked that it exists.
    pub tenant: TenantId,
    /// What people call it.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// The models it may ask for; empty: all.
    pub models: Vec<String>,
    /// How much at once.
    pub limits: Limits,
    /// When it ends, in milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Why nothing was done.
#[derive(Debug)]
pub enum TokenError {
    /// No token has this id.
    Unknown(String),
    /// A revoked or expired token cannot be rotated.
    Ended(TokenId, &'static str),
    /// Something about the new token cannot be.
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

impl From<rusqlite::Error> for TokenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

const COLUMNS: &str = "id, tenant, name, scopes, models, limits, created_at, expires_at, revoked_at, replaced_by, hash";

/// Stands for no end at all where ends are compared.
const FOREVER: u64 = i64::MAX as u64;

/// The longest name of a token, in bytes.
const MAX_NAME: usize = 200;

/// Operations on the table.
pub struct Tokens<'a>(pub &'a mut Connection);

impl Tokens<'_> {
    /// Makes a token. The secret is returned this once.
    ///
    /// # Errors
    /// A name that is too long, an end in the past, or a file that cannot be written.
    pub fn create(&mut self, new: &NewToken) -> Result<(Token, TokenSecret), TokenError> {
        let now = unix_now();
        let made = make(new, now)?;
        insert(self.0, &made)?;
        Ok(made)
    }

    /// All tokens, of one tenant or of all, the oldest first.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<Token>, TokenError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at, id");
        let mut statement = self.0.prepare(&sql)?;
        let rows = statement.query_map([tenant.map(TenantId::as_str)], |row| read(row).map(|(token, _)| token))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One token.
    ///
    /// # Errors
    /// There is none of this id, or a file that cannot be read.
    pub fn show(&self, id: &str) -> Result<Token, TokenError> {
        find(self.0, id)
    }

    /// Ends a token at once. One that has ended stays as it is.
    ///
    /// # Errors
    /// There is none of this id, or a file that cannot be written.
    pub fn revoke(&mut self, id: &str) -> Result<Token, TokenError> {
        self.0.execute(
            "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL",
            params![id, unix_now()],
        )?;
        find(self.0, id)
    }

    /// Makes a token of the same kind, and ends the old one after `overlap_ms`.
    ///
    /// # Errors
    /// There is none of this id, it has ended, or a file that cannot be written.
    pub fn rotate(&mut self, id: &str, overlap_ms: u64) -> Result<(Token, TokenSecret), TokenError> {
        let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let now = unix_now();
        let old = find(&transaction, id)?;
        if old.state(now) != "active" {
            return Err(TokenError::Ended(old.id.clone(), old.state(now)));
        }
        let new = NewToken {
            tenant: old.tenant.clone(),
            name: old.name.clone(),
            scopes: old.scopes,
            models: old.models.clone(),
            limits: old.limits.clone(),
            expires_at: old.expires_at,
        };
        let made = make(&new, now)?;
        insert(&transaction, &made)?;
        let end = now.saturating_add(overlap_ms).min(old.expires_at.unwrap_or(u64::MAX)).min(i64::MAX as u64);
        transaction.execute(
            "UPDATE tokens SET expires_at = ?2, replaced_by = ?3 WHERE id = ?1",
            params![id, end, made.0.id.as_str()],
        )?;
        transaction.commit()?;
        Ok(made)
    }
}

/// Every token with the hash of its secret, for the directory.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<(Token, [u8; 32])>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM tokens"))?;
    statement.query_map([], read)?.collect()
}

/// Writes tokens into another file than the one they were read from. One that is there keeps its row, but has ended if it has
/// ended here.
pub(super) fn keep<'t>(
    connection: &Connection,
    tokens: impl Iterator<Item = (&'t Token, &'t [u8; 32])>,
) -> rusqlite::Result<()> {
    let values = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11";
    let mut insert = connection.prepare(&format!("INSERT OR IGNORE INTO tokens ({COLUMNS}) VALUES ({values})"))?;
    let mut end = connection.prepare(
        "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?2), \
         expires_at = nullif(min(coalesce(expires_at, ?4), ?3), ?4) \
         WHERE id = ?1 AND (?2 IS NOT NULL AND revoked_at IS NULL OR coalesce(expires_at, ?4) > ?3)",
    )?;
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
    };
    for (token, hash) in tokens {
        insert.execute(params![
            token.id.as_str(),
            token.tenant.as_str(),
            token.name,
            json(serde_json::to_string(&token.scopes.iter().collect::<Vec<_>>()))?,
            json(serde_json::to_string(&token.models))?,
            json(serde_json::to_string(&token.limits))?,
            token.created_at,
            token.expires_at,
            token.revoked_at,
            token.replaced_by.as_ref().map(TokenId::as_str),
            hash,
        ])?;
        if token.revoked_at.is_some() || token.expires_at.is_some() {
            let expires_at = token.expires_at.unwrap_or(FOREVER);
            end.execute(params![token.id.as_str(), token.revoked_at, expires_at, FOREVER])?;
        }
    }
    Ok(())
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

fn insert(connection: &Connection, (token, secret): &(Token, TokenSecret)) -> Result<(), TokenError> {
    let json = |value: serde_json::Result<String>| value.map_err(|error| TokenError::Invalid(error.to_string()));
    connection.execute(
        &format!("INSERT INTO tokens ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL, NULL, ?9)"),
        params![
            token.id.as_str(),
            token.tenant.as_str(),
            token.name,
            json(serde_json::to_string(&token.scopes.iter().collect::<Vec<_>>()))?,
            json(serde_json::to_string(&token.models))?,
            json(serde_json::to_string(&token.limits))?,
            token.created_at,
            token.expires_at,
            secret.hash(),
        ],
    )?;
    Ok(())
}

fn find(connection: &Connection, id: &str) -> Result<Token, TokenError> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1");
    let found = connection.query_row(&sql, [id], read).optional()?;
    found.map(|(token, _)| token).ok_or_else(|| TokenError::Unknown(id.chars().take(64).collect()))
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Token, [u8; 32])> {
    fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
        let text = row.get_ref(at)?.as_str()?;
        serde_json::from_str(text)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into()))
    }
    let token = Token {
        id: row.get_ref(0)?.as_str()?.into(),
        tenant: row.get_ref(1)?.as_str()?.into(),
        name: row.get(2)?,
        scopes: json::<Vec<Scope>>(row, 3)?.into_iter().collect(),
        models: json(row, 4)?,
        limits: json(row, 5)?,
        created_at: row.get(6)?,
        expires_at: row.get(7)?,
        revoked_at: row.get(8)?,
        replaced_by: row.get::<_, Option<String>>(9)?.map(TokenId::from),
    };
    Ok((token, row.get(10)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = crate::store::open(&folder.path().join("can.db")).unwrap();
        (folder, connection)
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
        let (made, secret) = Tokens(&mut connection).create(&new("team")).unwrap();
        assert_eq!(Tokens(&mut connection).show(made.id.as_str()).unwrap(), made);
        assert_eq!(Tokens(&mut connection).list(Some(&"other".into())).unwrap(), []);
        assert_eq!(all(&connection).unwrap(), [(made, secret.hash())]);
        connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").ok();
        drop(connection);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(memchr::memmem::find(&bytes, secret.expose().as_bytes()).is_none(), "the secret is in the file");
        }
    }

    #[test]
    fn revoking_is_final_and_rotating_overlaps() {
        let (_folder, mut connection) = connection();
        let mut tokens = Tokens(&mut connection);
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
        let mut tokens = Tokens(&mut connection);
        for wrong in [
            NewToken { expires_at: Some(1), ..new("t") },
            NewToken { name: Some("a\nb".into()), ..new("t") },
            NewToken { scopes: Scopes::default(), ..new("t") },
        ] {
            assert!(matches!(tokens.create(&wrong), Err(TokenError::Invalid(_))), "{wrong:?}");
        }
    }
}
