//! Authenticators: recognise a presented credential, and return the identity that it stands for.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::HeaderMap;
use tokio::time::timeout;

use super::{
    directory::{Directory, Refused},
    holder::Identity,
    presented::{Place, presented},
    secret::PREFIX,
};
use crate::types::Secret;

/// How long a request waits for the verdict of an added authenticator.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Knows one kind of credential, on both listeners: `chitty_` tokens, or a kind that a program around the gateway adds (a JWT,
/// say).
///
/// A credential that an authenticator claims is never sent to a provider, even if it is refused. A credential that none claims is
/// a key for a provider.
pub trait Authenticator: Send + Sync {
    /// Whether a credential is of this authenticator's kind, judged by its form alone. Called for every request with a
    /// credential; the result must not change.
    fn claims(&self, presented: &str) -> bool;

    /// The identity that a claimed credential stands for. A refusal ends the request: it is not served as if there were no
    /// credential.
    fn authenticate<'a>(&'a self, presented: &'a str) -> Authentication<'a>;
}

/// The identity that a credential stands for, or why the credential is refused.
pub type Authenticated = Result<Arc<Identity>, Refused>;

/// The verdict on a credential.
pub enum Authentication<'a> {
    /// The verdict is known.
    Ready(Authenticated),
    /// The verdict has to be waited for; after [`PATIENCE`] it is [`Refused::Unavailable`].
    Waits(BoxFuture<'a, Authenticated>),
}

impl Authentication<'_> {
    /// The verdict, once there is one.
    ///
    /// # Errors
    /// Why the credential is refused.
    pub async fn verdict(self) -> Authenticated {
        match self {
            Self::Ready(verdict) => verdict,
            Self::Waits(verdict) => verdict.await,
        }
    }
}

impl Authenticator for Directory {
    fn claims(&self, presented: &str) -> bool {
        presented.starts_with(PREFIX)
    }

    /// An unknown token is looked up in the store before it is refused, because it may have been created just now.
    fn authenticate<'a>(&'a self, presented: &'a str) -> Authentication<'a> {
        match Directory::authenticate(self, presented) {
            Err(Refused::Unknown) => Authentication::Waits(Box::pin(self.authenticate_fresh(presented))),
            verdict => Authentication::Ready(verdict),
        }
    }
}

/// All authenticators, in the order in which they are asked: first the tokens, then the added ones.
pub struct Authenticators {
    tokens: Arc<Directory>,
    added: Vec<Arc<dyn Authenticator>>,
}

/// The credentials of one request, the first of each kind.
#[derive(Default)]
pub struct Credentials {
    /// A credential that an authenticator claims.
    pub claimed: Option<Secret>,
    /// A credential that no authenticator claims: a key for a provider.
    pub key: Option<Secret>,
}

impl Authenticators {
    /// The authenticator of tokens, followed by added ones.
    pub fn new(tokens: Arc<Directory>, added: Vec<Arc<dyn Authenticator>>) -> Self {
        Self { tokens, added }
    }

    /// Sorts the credentials that a request presents in these places.
    pub fn sort(&self, headers: &HeaderMap, places: &[Place]) -> Credentials {
        let mut found = Credentials::default();
        for text in presented(headers, places) {
            let slot = if self.claims(text) { &mut found.claimed } else { &mut found.key };
            slot.get_or_insert_with(|| Secret::new(text));
        }
        found
    }

    /// The verdict of the first authenticator that claims the credential.
    pub fn authenticate<'a>(&'a self, presented: &'a str) -> Authentication<'a> {
        if self.tokens.claims(presented) {
            return Authenticator::authenticate(&*self.tokens, presented);
        }
        let Some(authenticator) = self.added.iter().find(|authenticator| authenticator.claims(presented)) else {
            return Authentication::Ready(Err(Refused::Unknown));
        };
        match authenticator.authenticate(presented) {
            Authentication::Waits(verdict) => Authentication::Waits(Box::pin(async {
                timeout(PATIENCE, verdict).await.unwrap_or_else(|_| {
                    tracing::error!("an authenticator has not answered within {} s", PATIENCE.as_secs());
                    Err(Refused::Unavailable)
                })
            })),
            ready => ready,
        }
    }

    /// Whether there are callers to tell apart: see [`Directory::has_tokens`]; always true with an added authenticator.
    pub fn has_callers(&self) -> Option<bool> {
        if self.added.is_empty() { self.tokens.has_tokens() } else { Some(true) }
    }

    /// How many tenants have credentials that may ask models: see [`Directory::holders`]; at least one with an added
    /// authenticator.
    pub fn holders(&self) -> Option<usize> {
        let least = usize::from(!self.added.is_empty());
        self.tokens.holders().map(|holders| holders.max(least))
    }

    fn claims(&self, presented: &str) -> bool {
        self.tokens.claims(presented) || self.added.iter().any(|authenticator| authenticator.claims(presented))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::store::sqlite;

    /// Claims credentials that begin with its name and `_`.
    struct Made(&'static str, bool);

    impl Authenticator for Made {
        fn claims(&self, presented: &str) -> bool {
            presented.strip_prefix(self.0).is_some_and(|rest| rest.starts_with('_'))
        }

        fn authenticate<'a>(&'a self, _: &'a str) -> Authentication<'a> {
            match self.1 {
                true => Authentication::Waits(Box::pin(pending())),
                false => Authentication::Ready(
                    Identity::issued(self.0, "s", "t".into()).map(Arc::new).ok_or(Refused::Unknown),
                ),
            }
        }
    }

    fn with(added: Vec<Arc<dyn Authenticator>>) -> (tempfile::TempDir, Authenticators) {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Directory::follow(sqlite::at(&folder.path().join("can.db")));
        (folder, Authenticators::new(tokens, added))
    }

    fn sorted(all: &Authenticators, pairs: &[(&'static str, &'static str)]) -> [Option<String>; 2] {
        let named = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let found = all.sort(&pairs.iter().map(named).collect(), Place::CLIENT);
        [found.claimed, found.key].map(|secret| secret.map(|secret| secret.expose().to_owned()))
    }

    #[test]
    fn a_claimed_credential_is_told_from_a_key_wherever_it_stands() {
        let (_folder, all) = with(vec![Arc::new(Made("acme", false))]);
        let some = |text: &str| Some(text.to_owned());
        for claimed in ["chitty_1", "chitty_' OR '1'='1", "acme_1"] {
            for place in ["x-api-key", "api-key"] {
                assert_eq!(sorted(&all, &[(place, claimed)]), [some(claimed), None]);
                let both = sorted(&all, &[("authorization", "Bearer sk-own"), (place, claimed)]);
                assert_eq!(both, [some(claimed), some("sk-own")]);
            }
        }
        for key in ["Chitty_1", "acme-1", "ACME_1"] {
            assert_eq!(sorted(&all, &[("api-key", key)]), [None, some(key)]);
        }
        // The first of each kind counts; a second claimed credential does not become a key.
        let many = [("authorization", "Bearer acme_1"), ("x-api-key", "chitty_1"), ("api-key", "sk-1")];
        assert_eq!(sorted(&all, &many), [some("acme_1"), some("sk-1")]);
        let (_folder, plain) = with(Vec::new());
        assert_eq!(sorted(&plain, &[("api-key", "acme_1")]), [None, some("acme_1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_unavailable_in_time() {
        let (_folder, all) = with(vec![Arc::new(Made("slow", true)), Arc::new(Made("acme", false))]);
        let begun = tokio::time::Instant::now();
        assert_eq!(all.authenticate("slow_1").verdict().await, Err(Refused::Unavailable));
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        assert_eq!(all.authenticate("acme_1").verdict().await.unwrap().id.as_str(), "acme:s");
        assert_eq!(all.authenticate("strange_1").verdict().await, Err(Refused::Unknown));
    }

    #[test]
    fn with_an_authenticator_there_are_callers_to_tell_apart() {
        let (_folder, plain) = with(Vec::new());
        assert_eq!((plain.has_callers(), plain.holders()), (Some(false), Some(0)));
        let (_folder, more) = with(vec![Arc::new(Made("acme", false))]);
        assert_eq!((more.has_callers(), more.holders()), (Some(true), Some(1)));
    }

    #[test]
    fn a_known_token_is_not_waited_for() {
        use crate::identity::{NewToken, Scopes, Tokens};
        let folder = tempfile::tempdir().unwrap();
        let store = sqlite::at(&folder.path().join("can.db"));
        let new = NewToken {
            tenant: "team".into(),
            name: None,
            scopes: Scopes::CLIENT,
            models: Vec::new(),
            limits: Default::default(),
            expires_at: None,
        };
        let (token, secret) = Tokens(&mut *store.connect().unwrap().0).create(&new).unwrap();
        let all = Authenticators::new(Directory::follow(store), Vec::new());
        let verdicts = [(); 2].map(|()| match all.authenticate(secret.expose()) {
            Authentication::Ready(Ok(identity)) => identity,
            _ => panic!("not ready"),
        });
        assert_eq!(*verdicts[0], Identity::of_token(&token));
        assert!(Arc::ptr_eq(&verdicts[0], &verdicts[1]), "made once");
    }
}
