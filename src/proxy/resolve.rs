//! Resolves host names to addresses, off the request path where possible.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

/// How long an address is used before the resolver is asked again.
const FRESH: Duration = Duration::from_secs(30);
/// How long one query may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Resolves with a cache. An address that still resolves is kept, so that pooled connections stay in use; when a new query fails,
/// the last address goes on being used.
#[derive(Default)]
pub struct Resolver {
    known: Mutex<HashMap<Name, Known>>,
    /// At most one query per name at a time.
    asking: Mutex<HashMap<Name, Gate>>,
}

/// Host and port.
type Name = (Box<str>, u16);
type Gate = Arc<AsyncMutex<()>>;

#[derive(Clone, Copy)]
struct Known {
    address: SocketAddr,
    asked: Instant,
}

impl Resolver {
    /// An address of `host`.
    ///
    /// # Errors
    /// The system resolver's error when there is no older answer, or `TimedOut` after five seconds.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<SocketAddr> {
        if let Ok(ip) = host.parse() {
            return Ok(SocketAddr::new(ip, port));
        }
        let key = (host.into(), port);
        if let Some(known) = self.lookup(&key).filter(|k| k.asked.elapsed() < FRESH) {
            return Ok(known.address);
        }
        let gate = self.asking.lock().entry(key.clone()).or_default().clone();
        let _turn = gate.lock().await;
        let before = self.lookup(&key);
        if let Some(known) = before.filter(|k| k.asked.elapsed() < FRESH) {
            return Ok(known.address);
        }
        let answer = match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
            Ok(answer) => answer.map(Iterator::collect::<Vec<_>>),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let address = match (answer, before) {
            (Ok(addresses), Some(known)) if addresses.contains(&known.address) => known.address,
            (Ok(addresses), before) => match (addresses.first(), before) {
                (Some(first), _) => *first,
                (None, Some(known)) => known.address,
                (None, None) => return Err(io::ErrorKind::NotFound.into()),
            },
            (Err(_), Some(known)) => known.address,
            (Err(error), None) => return Err(error),
        };
        let known = Known { address, asked: Instant::now() };
        self.known.lock().insert(key, known);
        Ok(address)
    }

    /// Makes the next request to `host` ask again, because its address did not answer.
    pub fn doubt(&self, host: &str, port: u16) {
        self.known.lock().remove(&(host.into(), port));
    }

    fn lookup(&self, key: &Name) -> Option<Known> {
        self.known.lock().get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_question_and_a_name_is_asked_once() {
        let resolver = Resolver::default();
        assert_eq!(resolver.resolve("127.0.0.1", 80).await.unwrap(), "127.0.0.1:80".parse().unwrap());
        assert!(resolver.lookup(&("127.0.0.1".into(), 80)).is_none());

        let first = resolver.resolve("localhost", 80).await.unwrap();
        let asked = resolver.lookup(&("localhost".into(), 80)).unwrap().asked;
        assert_eq!(resolver.resolve("localhost", 80).await.unwrap(), first);
        assert_eq!(resolver.lookup(&("localhost".into(), 80)).unwrap().asked, asked);
    }

    #[tokio::test]
    async fn an_unknown_name_is_an_error_not_a_wait() {
        let resolver = Resolver::default();
        assert!(resolver.resolve("no-such-host.invalid", 443).await.is_err());
    }
}
