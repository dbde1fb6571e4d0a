//! Responses that the gateway keeps for a while, because the provider that gave them has no Responses API: so that
//! `previous_response_id` and `item_reference` work, and `GET /v1/responses/{id}`.
//!
//! They are in memory only: a restart forgets them, and no other process knows them. What is gone is said to be gone; a
//! conversation is never shortened silently. What is in here is plain Rust:
//!
//! | file | knows |
//! |---|---|
//! | `item` | one item, as JSON, with its part of the bounds |
//! | `shelf` | the responses of one tenant, in the order of their last use |
//! | `open` | a request with what it refers to put in its place |
//! | `list` | the items that a response was asked with, as OpenAI lists them |
//!
//! Bounds: bytes for a tenant, bytes in all, and the time since the last use. The least recently used goes first: the
//! tenant's own, or that of the tenant that has most. All that is kept counts in the process's memory budget too.

mod item;
mod list;
mod open;
mod shelf;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    capacity::{MemoryBudget, Part},
    config,
    types::TenantId,
};
use item::{Gauge, Item};
use shelf::Shelf;

pub use list::{BadPage, Page, page};
pub use open::{Missing, Opened, Whole};

/// For whom a response is kept. Nobody else finds it, whatever id they send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// In whose bounds it is.
    pub tenant: TenantId,
    /// Which of the tenant's clients: the same for all holders of its tokens.
    pub client: [u8; 16],
}

/// What one response was asked with, and what it said.
#[derive(Debug)]
pub struct Response {
    id: Box<str>,
    /// The whole response.
    document: Arc<Item>,
    /// The one that it continues.
    previous: Option<Arc<Response>>,
    /// What it was asked with besides.
    input: Vec<Arc<Item>>,
    output: Vec<Arc<Item>>,
}

impl Response {
    /// As the client got it.
    pub fn document(&self) -> &str {
        &self.document.json
    }

    /// Bytes of the items that it was asked with, with those of what it continues.
    pub fn context_bytes(&self) -> usize {
        self.context().into_iter().map(|item| item.json.len()).sum()
    }

    /// The items of the conversation up to here, its own output left out.
    fn context(&self) -> Vec<&Arc<Item>> {
        let mut before: Vec<&Response> = Vec::new();
        let mut at = self.previous.as_ref();
        while let Some(response) = at {
            before.push(response);
            at = response.previous.as_ref();
        }
        let earlier = before.into_iter().rev().flat_map(|response| response.input.iter().chain(&response.output));
        earlier.chain(&self.input).collect()
    }
}

impl Drop for Response {
    /// One after another: a conversation may be longer than the stack is deep.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(mut response) = next.and_then(Arc::into_inner) {
            next = response.previous.take();
        }
    }
}

/// A request under way whose response will be kept.
pub struct Turn {
    store: Arc<StoredResponses>,
    owner: Owner,
    previous: Option<Arc<Response>>,
    input: Vec<Arc<Item>>,
}

impl Turn {
    /// Keeps the whole response, before its client can know of it.
    pub fn keep(&self, document: &[u8]) {
        self.store.keep(self, document, Instant::now());
    }

    /// Keeps the response that the last event of a stream holds; takes any event's payload.
    pub fn keep_event(&self, payload: &[u8]) {
        if let Some(response) = ended(payload) {
            self.keep(response.get().as_bytes());
        }
    }
}

/// The response in the event that ends a stream well.
fn ended(payload: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: &'a str,
        #[serde(borrow)]
        response: &'a RawValue,
    }
    // Events without a response, which are most, end here.
    let event: Event<'_> = serde_json::from_slice(payload).ok()?;
    matches!(event.r#type, "response.completed" | "response.incomplete").then_some(event.response)
}

/// All that is kept.
pub struct StoredResponses {
    memory: Arc<MemoryBudget>,
    state: Mutex<State>,
}

struct State {
    bounds: config::StoredResponses,
    all: Arc<Gauge>,
    shelves: HashMap<TenantId, Shelf>,
    /// Counts uses, so that the oldest is known.
    tick: u64,
    swept: Option<Instant>,
}

/// What has expired is looked for this often at most.
const SWEEP: Duration = Duration::from_secs(10);

impl StoredResponses {
    /// Nothing is kept yet, and nothing will be before [`Self::set_bounds`].
    pub fn new(memory: Arc<MemoryBudget>) -> Self {
        let bounds = config::StoredResponses { ttl: Duration::ZERO, memory: 0, tenant_memory: 0 };
        let state = State { bounds, all: Arc::default(), shelves: HashMap::new(), tick: 0, swept: None };
        Self { memory, state: Mutex::new(state) }
    }

    /// Changes the bounds. What is beyond them goes.
    pub fn set_bounds(&self, bounds: config::StoredResponses) {
        let mut state = self.lock();
        state.bounds = bounds;
        state.swept = None;
        state.sweep(Instant::now());
        while state.all.bytes() > bounds.memory && state.shed() {}
        for shelf in state.shelves.values_mut() {
            while shelf.bytes() > bounds.tenant_memory && shelf.shed() {}
        }
    }

    /// Whether anything is kept at all.
    pub fn is_on(&self) -> bool {
        self.lock().bounds.memory > 0
    }

    /// The response of this id; asking for it counts as a use.
    pub fn response(&self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<Response>> {
        let mut state = self.lock();
        state.sweep(now);
        let State { bounds, shelves, tick, .. } = &mut *state;
        shelves.get_mut(&owner.tenant)?.response(owner, id, now, bounds.ttl, tick)
    }

    /// The item of this id; asking for it counts as a use of its response.
    fn item(&self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<Item>> {
        let mut state = self.lock();
        state.sweep(now);
        let State { bounds, shelves, tick, .. } = &mut *state;
        shelves.get_mut(&owner.tenant)?.item(owner, id, now, bounds.ttl, tick)
    }

    /// Forgets a response and its items; false where there is none. What continues it goes on.
    pub fn remove(&self, owner: &Owner, id: &str) -> bool {
        self.lock().shelves.get_mut(&owner.tenant).is_some_and(|shelf| shelf.remove(owner, id))
    }

    /// How many responses are kept. What has expired by `now` is let go of.
    pub fn len(&self, now: Instant) -> usize {
        let mut state = self.lock();
        state.sweep(now);
        state.shelves.values().map(Shelf::len).sum()
    }

    /// Makes an item that counts in the bounds, or finds the same one: clients send a conversation again and again. `None`
    /// where there is no room for it, also without all that nobody uses at the moment.
    fn make(&self, tenant: &TenantId, json: &str) -> Option<Arc<Item>> {
        let bytes = Item::bytes_of(json);
        let mut state = self.lock();
        let bounds = state.bounds;
        let most = bounds.memory.min(self.memory.most(Part::Stored));
        if bytes > bounds.tenant_memory || bytes > most {
            return None;
        }
        let shelf = state.shelves.entry(tenant.clone()).or_default();
        if let Some(known) = shelf.known(json) {
            return Some(known);
        }
        while shelf.bytes() + bytes > bounds.tenant_memory {
            if !shelf.shed() {
                return None;
            }
        }
        while state.all.bytes() + bytes > most {
            if !state.shed() {
                return None;
            }
        }
        let share = loop {
            match self.memory.try_draw(Part::Stored, bytes) {
                Ok(share) => break share,
                Err(_) if state.shed() => {}
                Err(_) => return None,
            }
        };
        let all = state.all.clone();
        let shelf = state.shelves.entry(tenant.clone()).or_default();
        Some(shelf.intern(Item::new(json, share, [shelf.gauge(), all])))
    }

    fn keep(&self, turn: &Turn, document: &[u8], now: Instant) {
        #[derive(Deserialize)]
        struct Document<'a> {
            id: &'a str,
            #[serde(borrow)]
            output: Vec<&'a RawValue>,
        }
        let tenant = &turn.owner.tenant;
        let Ok(read) = serde_json::from_slice::<Document<'_>>(document) else { return };
        let Some(whole) = std::str::from_utf8(document).ok().and_then(|json| self.make(tenant, json)) else { return };
        let output: Option<Vec<_>> = read.output.iter().map(|item| self.make(tenant, item.get())).collect();
        let Some(output) = output else { return };
        let (previous, input) = (turn.previous.clone(), turn.input.clone());
        let response = Arc::new(Response { id: read.id.into(), document: whole, previous, input, output });
        let mut state = self.lock();
        state.tick += 1;
        let tick = state.tick;
        let shelf = state.shelves.entry(tenant.clone()).or_default();
        shelf.insert(&turn.owner, response, now, tick);
        state.sweep(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Lets go of the least recently used response of the tenant that has most; false where nothing is kept.
    fn shed(&mut self) -> bool {
        let largest = self.shelves.values_mut().filter(|shelf| shelf.len() > 0).max_by_key(|shelf| shelf.bytes());
        largest.is_some_and(Shelf::shed)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        let ttl = self.bounds.ttl;
        self.shelves.retain(|_, shelf| {
            shelf.sweep(now, ttl);
            !shelf.is_unused()
        });
    }
}

#[cfg(test)]
mod tests;
