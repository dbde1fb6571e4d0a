//! The clients' connections to one API: how many there may be, what each one is doing, and which are closed.
//!
//! ```text
//! admit ─▶ Opening ──request──▶ Busy ◀──request── Header
//!             │                  │                   ▲
//!             │                  └──no request──▶ Idle ──first byte
//!             ▼                                      ▼
//!      too slow (Timeouts::header)            silent too long (Timeouts::idle)
//!             └──────────────▶ Closed ◀──────────────┘
//! ```
//!
//! If there is no room for another connection, the oldest ones are closed: first those that have never been served, then idle
//! ones.
//!
//! A connection that serves a request is never closed by this module. A read or write costs one look at a number: time is checked
//! by [`Connections::sweep`], which is to be called a few times a second.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

/// If there is no room, one in this many connections is closed at once: finding the oldest takes time.
const MADE_ROOM: usize = 64;

/// The most connections that one sweep closes, except while the gateway ends: each wakes a task, and others wait for all of them.
const SWEPT: usize = 256;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub all: usize,
    /// Connections from one IPv4 address, or from one IPv6 network of 64 bits.
    pub per_address: usize,
}

/// How long a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connection's beginning, or the first byte of a further request, to the end of the request's header; includes
    /// handshakes.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
}

/// Why there is no room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All connections serve a request.
    Full,
    /// All connections from the address serve a request.
    Address,
}

/// Why this module closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The header of a request did not come in time.
    Header,
    /// No request came in time.
    Idle,
    /// Another connection needed the place.
    Room,
    /// The gateway ends.
    Drained,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 4] = [Self::Header, Self::Idle, Self::Room, Self::Drained];

    /// The cause's label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Header => "header_timeout",
            Self::Idle => "idle_timeout",
            Self::Room => "made_room",
            Self::Drained => "drained",
        }
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// No request has arrived yet: the TLS handshake, the HTTP/2 preface or the first header is awaited.
    Opening,
    /// The header of a further request has begun.
    Header,
    /// The connection serves a request.
    Busy,
    /// The connection has served a request and waits for the next one.
    Idle,
    /// The connection is closed for writing, and what the client still sends is discarded.
    Lingering,
    /// The owner of the connection is to drop it.
    Closed,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Opening, Self::Header, Self::Busy, Self::Idle, Self::Lingering, Self::Closed];
}

/// A phase and when it began, in milliseconds of [`Connections::now`], as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State(u64);

impl State {
    const SHIFT: u32 = 56;

    fn new(phase: Phase, since: u64) -> Self {
        Self((phase as u64) << Self::SHIFT | since & ((1 << Self::SHIFT) - 1))
    }

    fn phase(self) -> Phase {
        Phase::ALL[(self.0 >> Self::SHIFT) as usize]
    }

    fn since(self) -> u64 {
        self.0 & ((1 << Self::SHIFT) - 1)
    }
}

/// Counts of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that serve a request.
    pub busy: usize,
    /// Connections that wait for a request, or for their end.
    pub waiting: usize,
    /// The most connections that there may be.
    pub limit: usize,
    /// Connections that this module closed since the start, in the order of [`Cause::ALL`].
    pub closed: [u64; 4],
    /// Connections that were refused since the start: no room at all, no room for their address.
    pub refused: [u64; 2],
}

/// The connections to one API.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    begun: Instant,
    /// Milliseconds from `begun` to the last sweep.
    now: AtomicU64,
    /// While the gateway ends: for how many milliseconds a connection may be idle. Otherwise `u64::MAX`.
    patience: AtomicU64,
    registry: Mutex<Registry>,
    closed: [AtomicU64; 4],
    refused: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct Registry {
    open: Slab<Arc<Connection>>,
    /// Number of connections that are not closed.
    live: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection. Its owner holds a [`Place`].
#[derive(Debug)]
pub struct Connection {
    state: AtomicU64,
    requests: AtomicU32,
    /// The connection speaks HTTP/2.
    multiplexed: AtomicBool,
    /// The connection ends although the client may still be sending.
    unread: AtomicBool,
    waker: AtomicWaker,
    address: IpAddr,
    all: Arc<Connections>,
}

/// A connection's place within the limits; given back on drop.
#[derive(Debug)]
pub struct Place {
    /// The connection that has the place.
    pub connection: Arc<Connection>,
    key: usize,
}

/// A request on a connection; ends on drop.
#[derive(Debug)]
pub struct Request(Arc<Connection>);

impl Connections {
    /// No connections yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            begun: Instant::now(),
            now: AtomicU64::new(0),
            patience: AtomicU64::new(u64::MAX),
            registry: Mutex::default(),
            closed: Default::default(),
            refused: Default::default(),
        })
    }

    /// Admits a connection. If there is no room, closes the oldest connections: those that have never been served, or else idle
    /// ones.
    ///
    /// # Errors
    /// All connections that could make room serve a request.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refused> {
        let address = network(address);
        let mut registry = self.registry();
        let from_there = registry.by_address.get(&address).copied().unwrap_or_default();
        let room = match from_there < self.limits.per_address {
            true => Ok(()),
            false => self.make_room(&mut registry, self.limits.per_address, Some(address)).ok_or(Refused::Address),
        };
        let room = room.and_then(|()| match registry.live < self.limits.all {
            true => Ok(()),
            false => self.make_room(&mut registry, self.limits.all, None).ok_or(Refused::Full),
        });
        if let Err(refused) = room {
            self.refused[refused as usize].fetch_add(1, Ordering::Relaxed);
            return Err(refused);
        }
        let connection = Arc::new(Connection {
            state: AtomicU64::new(State::new(Phase::Opening, self.elapsed()).0),
            requests: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            address,
            all: self.clone(),
        });
        registry.live += 1;
        *registry.by_address.entry(address).or_default() += 1;
        let key = registry.open.insert(connection.clone());
        Ok(Place { connection, key })
    }

    /// Closes some connections that serve no request, the oldest first, because the process has no descriptors left.
    pub fn relieve(&self) {
        let mut registry = self.registry();
        let live = registry.live;
        self.make_room(&mut registry, live, None);
    }

    /// Closes connections that took too long, the oldest first, and not all at once if there are many.
    pub fn sweep(&self, timeouts: Timeouts) {
        let now = self.elapsed();
        self.now.store(now, Ordering::Relaxed);
        let patience = self.patience.load(Ordering::Relaxed);
        let (header, idle) = (millis(timeouts.header), millis(timeouts.idle));
        let mut registry = self.registry();
        let mut late: Vec<_> = (registry.open.iter())
            .filter_map(|(_, connection)| {
                let state = connection.state();
                let age = now.saturating_sub(state.since());
                let cause = match state.phase() {
                    Phase::Opening | Phase::Header if age > header => Cause::Header,
                    Phase::Idle if age > patience => Cause::Drained,
                    Phase::Idle if age > idle => Cause::Idle,
                    _ => return None,
                };
                Some((connection.clone(), state, cause))
            })
            .collect();
        if late.len() > SWEPT && patience == u64::MAX {
            late.select_nth_unstable_by_key(SWEPT - 1, |(_, state, _)| state.since());
            late.truncate(SWEPT);
        }
        for (connection, state, cause) in late {
            self.close(&mut registry, &connection, state, cause);
        }
    }

    /// From now on a connection that waits for a request for longer than `patience` is closed.
    pub fn drain(&self, patience: Duration) {
        self.patience.store(millis(patience), Ordering::Relaxed);
    }

    /// Number of connections on which a request is served or may come.
    pub fn live(&self) -> usize {
        let registry = self.registry();
        registry.open.iter().filter(|(_, c)| !matches!(c.state().phase(), Phase::Lingering | Phase::Closed)).count()
    }

    /// Counts of open connections by what they are doing, and of closed and refused ones.
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = Counts {
            limit: self.limits.all,
            closed: [0, 1, 2, 3].map(|at| count(&self.closed[at])),
            refused: [0, 1].map(|at| count(&self.refused[at])),
            ..Counts::default()
        };
        for (_, connection) in &self.registry().open {
            match connection.state().phase() {
                Phase::Busy => counts.busy += 1,
                Phase::Closed => {}
                _ => counts.waiting += 1,
            }
        }
        counts
    }

    /// Closes some of the oldest connections without a request; `None` if none could be closed.
    fn make_room(&self, registry: &mut Registry, limit: usize, from: Option<IpAddr>) -> Option<()> {
        let mut idle: Vec<_> = (registry.open.iter())
            .filter(|(_, connection)| from.is_none_or(|address| address == connection.address))
            .map(|(_, connection)| (connection.clone(), connection.state()))
            .filter(|(_, state)| !matches!(state.phase(), Phase::Busy | Phase::Closed))
            .collect();
        // A connection that was served is likely to be used again, and is closed only if no other can be.
        let is_new = |state: &State| matches!(state.phase(), Phase::Opening | Phase::Lingering);
        if idle.iter().any(|(_, state)| is_new(state)) {
            idle.retain(|(_, state)| is_new(state));
        }
        let wanted = (limit / MADE_ROOM).max(1).min(idle.len());
        if wanted == 0 {
            return None;
        }
        idle.select_nth_unstable_by_key(wanted - 1, |(_, state)| state.since());
        let closed = idle[..wanted].iter().filter(|(connection, state)| {
            // A connection that has got a request meanwhile stays.
            self.close(registry, connection, *state, Cause::Room)
        });
        (closed.count() > 0).then_some(())
    }

    fn close(&self, registry: &mut Registry, connection: &Connection, seen: State, cause: Cause) -> bool {
        let closed = State::new(Phase::Closed, seen.since());
        if connection.state.compare_exchange(seen.0, closed.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        registry.leave(connection.address);
        self.closed[cause as usize].fetch_add(1, Ordering::Relaxed);
        connection.waker.wake();
        true
    }

    fn elapsed(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }
}

impl Registry {
    fn leave(&mut self, address: IpAddr) {
        self.live = self.live.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Connection {
    /// The connection speaks HTTP/2: bytes between requests need not be the beginning of one.
    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// Reports that bytes were read. False if the connection is closed: then the bytes must be discarded.
    pub fn bytes_came(&self) -> bool {
        match self.state().phase() {
            Phase::Closed => false,
            Phase::Idle if !self.multiplexed.load(Ordering::Relaxed) => self.enter(Phase::Header),
            _ => true,
        }
    }

    /// The connection is closed, and is to be dropped.
    pub fn is_closed(&self) -> bool {
        self.state().phase() == Phase::Closed
    }

    /// Wakes this task when the connection is closed. The task has to check [`Self::is_closed`] after this call.
    pub fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The header of a request has come.
    pub fn request_began(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.enter(Phase::Busy);
    }

    /// A request has ended.
    pub fn request_ended(&self) {
        if self.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.enter(Phase::Idle);
            // Another request may have come just now.
            if self.requests.load(Ordering::Acquire) > 0 {
                self.enter(Phase::Busy);
            }
        }
    }

    /// Begins a request, which ends when the returned value is dropped.
    pub fn request(self: &Arc<Self>) -> Request {
        self.request_began();
        Request(self.clone())
    }

    /// Reports that the client may still be sending the body of a request that is answered.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether the connection ends although the client may still be sending: closing it at once would lose the reply.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed) || matches!(self.state().phase(), Phase::Opening | Phase::Header)
    }

    /// Reports that nothing more is written. False if the connection is closed.
    pub fn begin_to_linger(&self) -> bool {
        self.enter(Phase::Lingering)
    }

    fn enter(&self, phase: Phase) -> bool {
        let next = State::new(phase, self.all.now.load(Ordering::Relaxed)).0;
        let open = |state: u64| (State(state).phase() != Phase::Closed).then_some(next);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, open).is_ok()
    }

    fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut registry = self.connection.all.registry();
        registry.open.remove(self.key);
        if !self.connection.is_closed() {
            registry.leave(self.connection.address);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// Replaces an IPv6 address by its network of 64 bits, all of which one client usually has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
