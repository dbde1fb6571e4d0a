//! The directory: all tokens in memory. A request's token is looked up here, not in the file.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

use super::{
    holder::Identity,
    secret,
    tokens::{self, Token},
};
use crate::{
    store::{Session, Standings, Store, TableFollower, Topic},
    types::unix_now,
};

/// Why a credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such credential. The refusal does not reveal how close it was to an existing one.
    Unknown,
    /// The credential has expired. Only its holder can know that it existed.
    Expired,
    /// The credential was revoked.
    Revoked,
    /// The verdict is not known at the moment: the tokens could not be read yet, or an authenticator has not answered in time.
    Unavailable,
}

/// All tokens by the hash of their secrets. A change by another process is known within [`crate::store::LOOK`]: a revoked
/// token stays valid at most that long.
pub struct Directory {
    /// `None` before anything was read.
    known: Arc<ArcSwapOption<Known>>,
    follower: Arc<TableFollower>,
    /// There was no file, and none could be created, so that no token can exist.
    absent: bool,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<[u8; 32], KnownToken>,
    /// The number of tenants with a token that may ask models.
    clients: usize,
}

struct KnownToken {
    token: Token,
    /// The identity of the token's holder, shared by every request with the token.
    identity: Arc<Identity>,
}

impl Known {
    fn new(tokens: Vec<(Token, [u8; 32])>) -> Self {
        let known = |(token, hash)| (hash, KnownToken { identity: Arc::new(Identity::of_token(&token)), token });
        let tokens: HashMap<_, _> = tokens.into_iter().map(known).collect();
        let all = tokens.values().map(|known| &known.token);
        let clients: HashSet<_> = all.filter(|token| token.scopes.asks_models()).map(|token| &token.tenant).collect();
        Self { clients: clients.len(), tokens }
    }
}

impl Directory {
    /// Reads the file, and goes on following it in a thread that ends with the directory. A file that cannot be read is
    /// tried again and again; until it can be read, every token is [`Refused::Unavailable`].
    ///
    /// No token is lost if the file is deleted or replaced: the known tokens are written to the file that is accepted in its
    /// place, and revoked ones stay revoked.
    pub fn follow(store: Arc<dyn Store>) -> Arc<Self> {
        let known = Arc::new(ArcSwapOption::empty());
        let keeps = known.clone();
        let read = move |session: &dyn Session| {
            let now = Known::new(tokens::all(session)?);
            let before: Option<Arc<Known>> = keeps.load_full();
            if before.is_some_and(|before| before.clients == 0) && now.clients > 0 {
                tracing::info!(
                    "the first token was made: callers without one are served on the gateway's own keys only where \
                     auth.anonymous names a tenant"
                );
            }
            keeps.store(Some(Arc::new(now)));
            Ok(())
        };
        let carried = known.clone();
        let carry = move |standings: &mut dyn Standings| match &*carried.load() {
            Some(known) => {
                known.tokens.iter().try_for_each(|(hash, known)| standings.keep_token(&known.token.row(hash)?))
            }
            None => Ok(()),
        };
        let follower = TableFollower::start(store.clone(), Topic::Tokens, read, carry);
        let absent = known.load().is_none() && store.is_absent();
        Arc::new(Self { known, follower, absent })
    }

    /// Finds the holder of the token that a client presents. The time does not depend on whether there is such a token: the
    /// look-up is by a hash that nobody can choose, and the whole hash is compared.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn authenticate(&self, presented: &str) -> Result<Arc<Identity>, Refused> {
        let hash = secret::hash(presented);
        let known = self.known.load();
        let found = known.as_ref().ok_or(Refused::Unavailable)?.tokens.get(&hash).ok_or(Refused::Unknown)?;
        match found.token.state(unix_now()) {
            "active" => Ok(found.identity.clone()),
            "expired" => Err(Refused::Expired),
            _ => Err(Refused::Revoked),
        }
    }

    /// Like [`Self::authenticate`], for a token that may have been created just now: before an unknown token is refused, the file
    /// is read once more, see [`TableFollower::look_again`]. Text without the form of a token is refused at once.
    ///
    /// # Errors
    /// Why the token is refused.
    pub async fn authenticate_fresh(&self, presented: &str) -> Result<Arc<Identity>, Refused> {
        match self.authenticate(presented) {
            Err(Refused::Unknown) if secret::has_form(presented) && self.follower.look_again().await => {
                self.authenticate(presented)
            }
            verdict => verdict,
        }
    }

    /// Whether a token that may ask models was ever created; `None` before that is known. Revoked and expired tokens count, so
    /// that revoking the last one does not open the gateway to clients without a token.
    pub fn has_tokens(&self) -> Option<bool> {
        let known = self.known.load();
        known.as_ref().map(|known| known.clients > 0).or_else(|| self.absent.then_some(false))
    }

    /// How many tenants have tokens that may ask models; `None` before that is known.
    pub fn holders(&self) -> Option<usize> {
        self.known.load().as_ref().map(|known| known.clients)
    }

    /// Reads the file now: a change made before the call is known when it returns, if the file can be read.
    pub fn refresh(&self) {
        self.follower.refresh();
    }

    /// False while the file cannot be read. The tokens that were read before stay in use.
    pub fn is_available(&self) -> bool {
        self.follower.is_up()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        identity::{NewToken, Scopes, Tokens},
        store::sqlite,
    };

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
        let directory = Directory::follow(sqlite::at(&path));
        let (mut other, _) = sqlite::at(&path).connect().unwrap();
        let (token, secret) = Tokens(&mut *other).create(&new()).unwrap();
        let until = |wanted: Result<(), Refused>| {
            let begun = Instant::now();
            while directory.authenticate(secret.expose()).map(drop) != wanted {
                assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", directory.authenticate(secret.expose()));
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(Ok(()));
        Tokens(&mut *other).revoke(token.id.as_str()).unwrap();
        until(Err(Refused::Revoked));
    }

    #[tokio::test]
    async fn a_token_works_the_moment_it_was_made_and_strangers_share_their_looks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let directory = Directory::follow(sqlite::at(&path));
        let (mut other, _) = sqlite::at(&path).connect().unwrap();
        for _ in 0..20 {
            let (_, secret) = Tokens(&mut *other).create(&new()).unwrap();
            assert!(directory.authenticate_fresh(secret.expose()).await.is_ok());
        }
        // Text without the form of a token is refused at once, and text with it in time, however many requests there are.
        let begun = Instant::now();
        let strange = |n: usize| format!("chitty_{n:043}");
        let all = (0..2_000).map(|n| {
            let (directory, strange) = (directory.clone(), strange(n));
            tokio::spawn(async move { directory.authenticate_fresh(&strange).await })
        });
        for verdict in futures::future::join_all(all).await {
            assert_eq!(verdict.unwrap(), Err(Refused::Unknown));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn strange_tokens_are_unknown_and_a_file_that_cannot_be_read_is_no_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::follow(sqlite::at(&folder.path().join("can.db")));
        for strange in ["", "chitty_", "chitty_' OR '1'='1", "chitty_\u{e9}", &"chitty_".repeat(200_000)] {
            assert_eq!(directory.authenticate(strange), Err(Refused::Unknown));
        }
        let missing = Directory::follow(sqlite::at(&folder.path().join("no/such/folder/can.db")));
        assert_eq!(missing.authenticate("chitty_x"), Err(Refused::Unavailable));
        assert!(!missing.is_available());
    }

    #[test]
    fn an_expired_token_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("can.db");
        let (mut other, _) = sqlite::at(&path).connect().unwrap();
        let ends = NewToken { expires_at: Some(unix_now() + 30), ..new() };
        let (_, secret) = Tokens(&mut *other).create(&ends).unwrap();
        let directory = Directory::follow(sqlite::at(&path));
        thread::sleep(Duration::from_millis(40));
        assert_eq!(directory.authenticate(secret.expose()), Err(Refused::Expired));
    }
}
