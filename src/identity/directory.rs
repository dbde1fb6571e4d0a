//! The tokens in memory: a request's token is looked up here, never in the file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use rusqlite::Connection;

use super::{
    secret,
    tokens::{self, Token},
};
use crate::{
    store::{self, StoreError},
    types::unix_now,
};

/// How often the file is asked whether another process has changed it. A revoked token lives at most this long.
const LOOK: Duration = Duration::from_millis(200);

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such token. Nothing is said about how close it was.
    Unknown,
    /// It has ended: only its holder can know that it was one.
    Expired,
    /// It was taken back.
    Revoked,
    /// The tokens could not be read yet: nobody can say whether it is one.
    Unavailable,
}

/// All tokens by the hash of their secrets.
pub struct Directory {
    path: PathBuf,
    known: ArcSwap<Known>,
    /// Looks are made one at a time: a slow one must not put back what a later one has replaced.
    connection: Mutex<Option<Connection>>,
    /// [`NEW`], [`UP`] or [`DOWN`]: whether the last look succeeded.
    state: AtomicU8,
}

const NEW: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

struct Known {
    /// -1 before anything was read.
    version: i64,
    tokens: HashMap<[u8; 32], Arc<Token>>,
}

impl Directory {
    /// Reads the file, and goes on following it in a thread that ends with the directory. A file that cannot be read is
    /// tried again and again; until then every token is [`Refused::Unavailable`].
    pub fn follow(path: &Path) -> Arc<Self> {
        let empty = Known { version: -1, tokens: HashMap::new() };
        let directory = Arc::new(Self {
            path: path.to_owned(),
            known: ArcSwap::from_pointee(empty),
            connection: Mutex::default(),
            state: AtomicU8::new(NEW),
        });
        directory.refresh();
        let weak = Arc::downgrade(&directory);
        let spawned = thread::Builder::new().name("tokens".into()).spawn(move || {
            loop {
                thread::sleep(LOOK);
                let Some(directory) = weak.upgrade() else { return };
                directory.refresh();
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "tokens are not followed: changes take effect after a restart");
        }
        directory
    }

    /// Finds the token that a client presents. It takes the same time whether there is such a token or not: the look-up is
    /// by a hash that nobody can steer, and the hash is compared whole.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub fn authenticate(&self, presented: &str) -> Result<Arc<Token>, Refused> {
        let hash = secret::hash(presented);
        let known = self.known.load();
        let Some(token) = known.tokens.get(&hash) else {
            return Err(if known.version >= 0 { Refused::Unknown } else { Refused::Unavailable });
        };
        match token.state(unix_now()) {
            "active" => Ok(token.clone()),
            "expired" => Err(Refused::Expired),
            _ => Err(Refused::Revoked),
        }
    }

    /// Reads the file now. A change that was made before is known when this returns.
    pub fn refresh(&self) {
        self.look(&mut self.connection.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// False while the file cannot be read. What was read before goes on serving.
    pub fn is_available(&self) -> bool {
        self.state.load(Ordering::Relaxed) == UP
    }

    fn look(&self, connection: &mut Option<Connection>) {
        let outcome = self.read(connection);
        let before = self.state.swap(if outcome.is_ok() { UP } else { DOWN }, Ordering::Relaxed);
        if let Err(error) = outcome {
            *connection = None;
            if before != DOWN {
                tracing::error!(%error, file = %self.path.display(), "tokens cannot be read; those known go on serving");
            }
        }
    }

    fn read(&self, connection: &mut Option<Connection>) -> Result<(), StoreError> {
        let connection = match connection {
            Some(open) => open,
            None => connection.insert(store::open(&self.path)?),
        };
        let version: i64 =
            connection.query_row("SELECT version FROM versions WHERE subject = 'tokens'", [], |row| row.get(0))?;
        if version == self.known.load().version {
            return Ok(());
        }
        // One snapshot: the version belongs to the rows.
        let transaction = connection.unchecked_transaction()?;
        let version =
            transaction.query_row("SELECT version FROM versions WHERE subject = 'tokens'", [], |row| row.get(0))?;
        let tokens = tokens::all(&transaction)?.into_iter().map(|(token, hash)| (hash, Arc::new(token))).collect();
        self.known.store(Arc::new(Known { version, tokens }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::identity::{NewToken, Scopes, Tokens};

    fn new() -> NewToken {
        NewToken {
            tenant: "team".into(),
            name: None,
            scopes: Scopes::CLIENT,
            models: Vec::new(),
            limits: Default::default(),
            expires_at: None,
        }
    }

    #[test]
    fn a_change_by_another_connection_is_seen_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let directory = Directory::follow(&path);
        let mut other = store::open(&path).unwrap();
        let (token, secret) = Tokens(&mut other).create(&new()).unwrap();
        let until = |wanted: Result<(), Refused>| {
            let begun = Instant::now();
            while directory.authenticate(secret.expose()).map(drop) != wanted {
                assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", directory.authenticate(secret.expose()));
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(Ok(()));
        Tokens(&mut other).revoke(token.id.as_str()).unwrap();
        until(Err(Refused::Revoked));
    }

    #[test]
    fn strange_tokens_are_unknown_and_a_file_that_cannot_be_read_is_no_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::follow(&folder.path().join("can.db"));
        for strange in ["", "chitty_", "chitty_' OR '1'='1", "chitty_\u{e9}", &"chitty_".repeat(200_000)] {
            assert_eq!(directory.authenticate(strange), Err(Refused::Unknown));
        }
        let missing = Directory::follow(&folder.path().join("no/such/folder/can.db"));
        assert_eq!(missing.authenticate("chitty_x"), Err(Refused::Unavailable));
        assert!(!missing.is_available());
    }

    #[test]
    fn an_expired_token_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let mut connection = store::open(&path).unwrap();
        let ends = NewToken { expires_at: Some(unix_now() + 30), ..new() };
        let (_, secret) = Tokens(&mut connection).create(&ends).unwrap();
        let directory = Directory::follow(&path);
        thread::sleep(Duration::from_millis(40));
        assert_eq!(directory.authenticate(secret.expose()), Err(Refused::Expired));
    }
}
