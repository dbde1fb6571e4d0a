//! Bodies that the cache has answered before: what was read in them is not read again.
//!
//! A hit is asked for with the same bytes over and over. Reading them, deciding about them and making a canonical form of them
//! is most of what a hit costs, so the results are kept for some bodies, and found by a hash of the bytes, which are compared.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Key;
use crate::{
    capacity::SMALL,
    openai::{Bound, Endpoint, Labels, Peek},
    types::TenantId,
};

/// The number of places; each has room for one body.
const PLACES: usize = 4_096;

/// The most memory, in bytes, that all bodies together take.
const MOST: usize = 8 << 20;

/// A body, and what was read in it.
#[derive(Debug)]
pub struct Known {
    /// The tenant that sent the body: nobody learns from the time that an answer takes what another tenant asks.
    pub tenant: TenantId,
    /// The endpoint that it was sent to.
    pub endpoint: Endpoint,
    /// The body itself.
    pub bytes: Bytes,
    /// The fields that the gateway acts on.
    pub peek: Peek,
    /// The most tokens that a provider can count for the body.
    pub bound: Bound,
    /// The body may refer to objects, see `objects::may_refer`.
    pub refers: bool,
    /// The configuration (a number of its own) by which the body may be cached.
    pub configuration: u64,
    /// The body may be cached also if only one choice is deterministic, see [`super::decide`].
    pub one_choice: bool,
    /// What the key was made of, besides the body.
    pub prefix: Box<[u8]>,
    /// The key for this prefix.
    pub key: Key,
    /// The labels in the body.
    pub labels: Labels,
}

impl Known {
    /// Memory that it takes, in bytes.
    fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = text(&self.peek.model) + text(&self.peek.user) + self.labels.length();
        self.bytes.len() + self.prefix.len() + texts + size_of::<Self>()
    }

    fn is_of(&self, tenant: &TenantId, endpoint: &Endpoint, bytes: &[u8]) -> bool {
        *self.bytes == *bytes && self.tenant == *tenant && self.endpoint == *endpoint
    }
}

/// The bodies that are known.
pub struct KnownBodies {
    places: Box<[Mutex<Option<Arc<Known>>>]>,
    hasher: foldhash::quality::RandomState,
    /// Memory that all of them take, in bytes.
    held: AtomicUsize,
    /// Where the next body is let go when there are too many.
    hand: AtomicUsize,
}

impl Default for KnownBodies {
    fn default() -> Self {
        Self {
            places: std::iter::repeat_with(Mutex::default).take(PLACES).collect(),
            hasher: Default::default(),
            held: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
        }
    }
}

impl KnownBodies {
    /// What is known of a body. Takes no more than a look at a number while nothing is known at all.
    pub fn find(&self, tenant: &TenantId, endpoint: &Endpoint, bytes: &[u8]) -> Option<Arc<Known>> {
        if self.held.load(Ordering::Relaxed) == 0 || bytes.len() > SMALL {
            return None;
        }
        let known = self.place(tenant, bytes).lock().clone()?;
        known.is_of(tenant, endpoint, bytes).then_some(known)
    }

    /// Keeps a body, in place of another one with the same hash, and lets others go if there is no room. A large body is not kept.
    pub fn keep(&self, known: Known) {
        if known.bytes.len() > SMALL {
            return;
        }
        let size = known.size();
        let place = self.place(&known.tenant, &known.bytes);
        // Counted before another thread can let it go again.
        self.held.fetch_add(size, Ordering::Relaxed);
        let before = place.lock().replace(Arc::new(known));
        self.forget(before);
        // Each round empties one place: after all of them nothing is held.
        for _ in 0..PLACES {
            if self.held.load(Ordering::Relaxed) <= MOST {
                break;
            }
            let hand = self.hand.fetch_add(1, Ordering::Relaxed) % PLACES;
            self.forget(self.places[hand].lock().take());
        }
    }

    fn forget(&self, known: Option<Arc<Known>>) {
        if let Some(known) = known {
            self.held.fetch_sub(known.size(), Ordering::Relaxed);
        }
    }

    fn place(&self, tenant: &TenantId, bytes: &[u8]) -> &Mutex<Option<Arc<Known>>> {
        let mut hasher = self.hasher.build_hasher();
        bytes.hash(&mut hasher);
        tenant.as_str().hash(&mut hasher);
        &self.places[hasher.finish() as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(tenant: &str, body: String) -> Known {
        let peek = Peek::parse(body.as_bytes()).unwrap();
        Known {
            tenant: tenant.into(),
            endpoint: Endpoint::ChatCompletions,
            bound: Bound::of(&Endpoint::ChatCompletions, body.as_bytes(), &peek),
            peek,
            refers: false,
            configuration: 1,
            one_choice: true,
            prefix: Box::from(&b"prefix"[..]),
            key: Key([7; 32]),
            labels: Labels::of(body.as_bytes()),
            bytes: body.into(),
        }
    }

    fn body(number: usize, length: usize) -> String {
        format!("{{\"model\":\"m\",\"seed\":{number},\"input\":\"{}\"}}", "x".repeat(length))
    }

    #[test]
    fn a_body_is_known_to_its_tenant_at_its_endpoint_byte_for_byte() {
        let bodies = KnownBodies::default();
        let text = body(1, 100);
        let find = |tenant: &str, endpoint, text: &str| bodies.find(&tenant.into(), endpoint, text.as_bytes());
        assert!(find("a", &Endpoint::ChatCompletions, &text).is_none());
        bodies.keep(known("a", text.clone()));
        assert_eq!(find("a", &Endpoint::ChatCompletions, &text).unwrap().bytes, text);
        assert!(find("b", &Endpoint::ChatCompletions, &text).is_none());
        assert!(find("a", &Endpoint::Responses, &text).is_none());
        assert!(find("a", &Endpoint::ChatCompletions, &format!("{text} ")).is_none());
    }

    #[test]
    fn memory_is_bounded_whatever_is_sent() {
        let bodies = KnownBodies::default();
        for number in 0..1_000 {
            bodies.keep(known("a", body(number, 60_000)));
            assert!(bodies.held.load(Ordering::Relaxed) <= MOST);
        }
        for number in 0..20_000 {
            bodies.keep(known("a", body(number, 10)));
        }
        let held: usize =
            bodies.places.iter().filter_map(|place| place.lock().as_ref().map(|known| known.size())).sum();
        assert_eq!(bodies.held.load(Ordering::Relaxed), held, "what is replaced or let go is given back");
        assert!(held > 0 && held <= MOST);
        bodies.keep(known("a", body(1, SMALL)));
        assert!(bodies.find(&"a".into(), &Endpoint::ChatCompletions, body(1, SMALL).as_bytes()).is_none(), "too large");
    }
}
