//! Flights: one upstream call for any number of identical requests.
//!
//! The first request leads: it goes to a provider, and the reply is kept chunk by chunk. Identical requests that come meanwhile
//! follow: each reads the reply at its own pace. A leader whose client has left goes on for its followers. However a flight ends,
//! all followers learn it at once: none waits for a reply that will not come, and none takes a broken answer for a whole one.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Entry, Key};
use crate::types::{TenantId, unix_now};

/// The most bytes of events that are kept for followers that may still come or are slow.
const MOST: usize = 8 << 20;

/// How a flight ends.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a whole answer. For a stream also the JSON document that it amounts to, so that it is made once.
    Complete(Arc<Entry>, Option<Bytes>),
    /// With an error that all followers share.
    Failed(Arc<Failure>),
    /// A stream broke off; its last chunk reports that.
    Cut,
    /// With a reply that cannot be shared: each follower has to ask for itself.
    Solo,
    /// The leader gave up before there was a reply: one of the followers may lead.
    Vacant,
}

/// An error as the leader's client gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// The headers that SDKs read besides the status: `retry-after` and similar ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body: JSON, in the shape of the client's API.
    pub body: Bytes,
}

/// The deployment that serves a flight.
#[derive(Clone, Debug)]
pub struct Server {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The provider's name for the model.
    pub model: Arc<str>,
    /// The parameters that a translation of the request dropped, labels excepted.
    pub dropped: Arc<str>,
}

/// The next step that a follower sees.
#[derive(Clone, Debug)]
pub enum FlightStep {
    /// The next piece of an event stream, of whole events.
    Events(Bytes),
    /// The flight has ended.
    End(Outcome),
}

/// The flights under way.
#[derive(Debug, Default)]
pub struct Flights {
    by_key: Mutex<HashMap<Key, Arc<Flight>>>,
}

/// The role of a request in a flight.
pub enum Role {
    /// The request asks the provider.
    Lead(Lead),
    /// The request reads the leader's reply.
    Follow(FlightFollower),
}

#[derive(Debug)]
struct Flight {
    born: u64,
    payer: TenantId,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    server: Option<Server>,
    chunks: Vec<Bytes>,
    size: usize,
    followers: usize,
    outcome: Option<Outcome>,
}

/// The leader's end of a flight. If it is dropped without an outcome, the flight ends with [`Outcome::Vacant`].
#[derive(Debug)]
pub struct Lead {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
}

/// A follower's end of a flight.
#[derive(Debug)]
pub struct FlightFollower {
    flight: Arc<Flight>,
    next: usize,
}

impl Flights {
    /// Joins the flight of this key. If there is none, the request leads a new one, and `payer` pays for it.
    pub fn join(self: &Arc<Self>, key: Key, payer: &TenantId) -> Role {
        let mut flights = self.by_key.lock();
        if let Some(flight) = flights.get(&key) {
            let mut state = flight.state.lock();
            if state.outcome.is_none() {
                state.followers += 1;
                drop(state);
                return Role::Follow(FlightFollower { flight: flight.clone(), next: 0 });
            }
        }
        let lead = self.alone(key, payer);
        flights.insert(key, lead.flight.clone());
        Role::Lead(lead)
    }

    /// Leads a flight that nobody can join.
    pub fn alone(self: &Arc<Self>, key: Key, payer: &TenantId) -> Lead {
        let flight = Flight { born: unix_now(), payer: payer.clone(), state: Mutex::default(), changed: Notify::new() };
        Lead { flights: self.clone(), key, flight: Arc::new(flight) }
    }

    /// Number of flights under way.
    pub fn count(&self) -> usize {
        self.by_key.lock().len()
    }
}

impl Lead {
    /// The key of the flight.
    pub fn key(&self) -> Key {
        self.key
    }

    /// When the flight began, in milliseconds since 1970.
    pub fn born(&self) -> u64 {
        self.flight.born
    }

    /// Sets who serves the flight. A later attempt may set another one.
    pub fn served_by(&self, server: Server) {
        self.flight.state.lock().server = Some(server);
    }

    /// Passes whole events on to the followers. If they become too many to keep, the flight ends with [`Outcome::Solo`].
    pub fn push(&self, events: Bytes) {
        if events.is_empty() {
            return;
        }
        let too_much = {
            let mut state = self.flight.state.lock();
            if state.outcome.is_some() {
                return;
            }
            state.size += events.len();
            state.chunks.push(events);
            state.size > MOST
        };
        if too_much {
            self.end(Outcome::Solo);
        } else {
            self.flight.changed.notify_waiters();
        }
    }

    /// True once events were passed on, whether or not there are followers.
    pub fn has_begun(&self) -> bool {
        self.flight.state.lock().size > 0
    }

    /// All events so far as one buffer; `None` if the flight has ended, or there are none.
    pub fn events(&self) -> Option<Bytes> {
        let state = self.flight.state.lock();
        (state.outcome.is_none() && state.size > 0).then(|| state.chunks.concat().into())
    }

    /// Ends the flight. Only the first outcome counts.
    pub fn end(&self, outcome: Outcome) {
        let mut flights = self.flights.by_key.lock();
        let mut state = self.flight.state.lock();
        self.close(&mut flights, &mut state, outcome);
    }

    /// Ends the flight if it has no followers; none can join then. Returns whether it has ended.
    pub fn abandon(&self) -> bool {
        let mut flights = self.flights.by_key.lock();
        let mut state = self.flight.state.lock();
        if state.followers > 0 {
            return false;
        }
        self.close(&mut flights, &mut state, Outcome::Vacant);
        true
    }

    /// Waits until there are no followers, and ends the flight then.
    pub async fn abandoned(&self) {
        loop {
            let changed = self.flight.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.abandon() {
                return;
            }
            changed.await;
        }
    }

    /// True once the flight has ended.
    pub fn is_over(&self) -> bool {
        self.flight.state.lock().outcome.is_some()
    }

    fn close(&self, flights: &mut HashMap<Key, Arc<Flight>>, state: &mut State, outcome: Outcome) {
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
        }
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
        self.flight.changed.notify_waiters();
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(Outcome::Vacant);
    }
}

impl FlightFollower {
    /// Waits for the next step. May be dropped while it waits; nothing is lost.
    pub async fn next(&mut self) -> FlightStep {
        let flight = self.flight.clone();
        loop {
            let changed = flight.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(step) = self.now() {
                return step;
            }
            changed.await;
        }
    }

    /// Waits for the end of the flight, and skips all events.
    pub async fn end(&mut self) -> Outcome {
        self.next = usize::MAX;
        loop {
            if let FlightStep::End(outcome) = self.next().await {
                return outcome;
            }
        }
    }

    /// When the flight began, in milliseconds since 1970.
    pub fn born(&self) -> u64 {
        self.flight.born
    }

    /// The tenant that pays for the flight.
    pub fn payer(&self) -> &TenantId {
        &self.flight.payer
    }

    /// Who serves the flight, as far as that is known.
    pub fn server(&self) -> Option<Server> {
        self.flight.state.lock().server.clone()
    }

    fn now(&mut self) -> Option<FlightStep> {
        let state = self.flight.state.lock();
        let waiting = state.chunks.get(self.next..).unwrap_or_default();
        match waiting {
            [] => state.outcome.clone().map(FlightStep::End),
            // Chunks that have gathered while the client was slow are joined.
            [one] => {
                self.next += 1;
                Some(FlightStep::Events(one.clone()))
            }
            several => {
                let all = several.concat();
                self.next = state.chunks.len();
                Some(FlightStep::Events(all.into()))
            }
        }
    }
}

impl Drop for FlightFollower {
    fn drop(&mut self) {
        let left = {
            let mut state = self.flight.state.lock();
            state.followers -= 1;
            state.followers
        };
        if left == 0 {
            self.flight.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{
        cache::Form,
        types::{NanoUsd, Usage},
    };

    fn entry() -> Arc<Entry> {
        Arc::new(Entry {
            form: Form::Events,
            body: Bytes::from_static(b"ab"),
            born: 1,
            stored: 2,
            tenant: "t".into(),
            route: "r".into(),
            provider: "p".into(),
            model: "m".into(),
            dropped: "".into(),
            usage: Usage::default(),
            cost: NanoUsd::ZERO,
        })
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.join(Key([7; 32]), &"t".into()) {
            Role::Lead(lead) => lead,
            Role::Follow(_) => panic!("there is a flight already"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> FlightFollower {
        match flights.join(Key([7; 32]), &"t".into()) {
            Role::Follow(follower) => follower,
            Role::Lead(_) => panic!("there is no flight"),
        }
    }

    fn events(step: FlightStep) -> Bytes {
        match step {
            FlightStep::Events(events) => events,
            FlightStep::End(outcome) => panic!("ended with {outcome:?}"),
        }
    }

    #[tokio::test]
    async fn each_reads_everything_at_its_own_pace() {
        let flights = Arc::new(Flights::default());
        let lead = lead(&flights);
        let mut early = follow(&flights);
        assert!(early.next().now_or_never().is_none());
        lead.push(Bytes::from_static(b"a"));
        assert_eq!(events(early.next().await), "a");
        lead.push(Bytes::from_static(b"b"));
        let mut late = follow(&flights);
        assert_eq!(events(late.next().await), "ab", "what has gathered comes in one piece");
        assert_eq!(events(early.next().await), "b");
        assert_eq!(lead.events().unwrap(), "ab");
        lead.end(Outcome::Complete(entry(), None));
        for follower in [&mut early, &mut late] {
            assert!(matches!(follower.next().await, FlightStep::End(Outcome::Complete(..))));
        }
        assert_eq!(flights.count(), 0);
        lead.end(Outcome::Cut);
        assert!(matches!(early.end().await, Outcome::Complete(..)), "only the first outcome counts");
    }

    #[tokio::test]
    async fn a_leader_that_goes_leaves_its_place() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights);
        let mut follower = follow(&flights);
        drop(first);
        assert!(matches!(follower.end().await, Outcome::Vacant));
        let second = lead(&flights);
        assert!(!second.is_over());
        drop(second);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test]
    async fn only_what_nobody_follows_is_abandoned() {
        let flights = Arc::new(Flights::default());
        let lead = lead(&flights);
        let follower = follow(&flights);
        assert!(!lead.abandon());
        let mut abandoned = Box::pin(lead.abandoned());
        assert!(abandoned.as_mut().now_or_never().is_none());
        drop(follower);
        abandoned.await;
        assert!(lead.is_over() && flights.count() == 0);
    }

    #[tokio::test]
    async fn what_is_too_much_to_keep_is_not_shared() {
        let flights = Arc::new(Flights::default());
        let lead = lead(&flights);
        let mut follower = follow(&flights);
        for _ in 0..9 {
            lead.push(vec![b'x'; 1 << 20].into());
        }
        assert!(matches!(follower.end().await, Outcome::Solo));
        assert!(lead.events().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_misses_an_end_whatever_the_timing() {
        for _ in 0..200 {
            let flights = Arc::new(Flights::default());
            let lead = lead(&flights);
            let followers: Vec<_> = (0..8)
                .map(|_| {
                    let mut follower = follow(&flights);
                    tokio::spawn(async move {
                        let mut read = Vec::new();
                        loop {
                            match follower.next().await {
                                FlightStep::Events(events) => read.extend_from_slice(&events),
                                FlightStep::End(_) => return read,
                            }
                        }
                    })
                })
                .collect();
            for n in 0..10u8 {
                lead.push(vec![n].into());
            }
            lead.end(Outcome::Cut);
            for follower in followers {
                let read = tokio::time::timeout(std::time::Duration::from_secs(5), follower).await.unwrap().unwrap();
                assert_eq!(read, (0..10).collect::<Vec<_>>());
            }
        }
    }
}
