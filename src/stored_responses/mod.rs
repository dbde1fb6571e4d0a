//! Responses that the gateway keeps for a while because their provider has no Responses API, so that `previous_response_id`,
//! `item_reference` and `GET /v1/responses/{id}` work.
//!
//! Stored responses are in memory only: a restart loses them, and no other process knows them. A request that refers to a
//! response that is gone is refused; a conversation is never shortened silently. The files of this module are plain Rust:
//!
//! | file | contents |
//! |---|---|
//! | `item` | one item as JSON, which counts in the bounds |
//! | `shelf` | the responses of one tenant, in the order of their last use |
//! | `open` | replaces the references of a request by what they refer to |
//! | `list` | the input items of a response, as OpenAI lists them |
//!
//! Bounds: bytes per tenant, bytes in all, and the time since the last use. The least recently used response is removed first:
//! the tenant's own, or one of the tenant that has most. Everything that is kept also counts in the process's memory budget.

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

/// The owner of a stored response. Nobody else can find the response, whatever id they send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant in whose bounds the response counts.
    pub tenant: TenantId,
    /// The client of the tenant: equal for all holders of the tenant's tokens.
    pub client: [u8; 16],
}

/// A stored response with its input and its output.
#[derive(Debug)]
pub struct Response {
    id: Box<str>,
    /// The whole response as JSON.
    document: Arc<Item>,
    /// The response that this one continues.
    previous: Option<Arc<Response>>,
    /// The input items, without those of `previous`.
    input: Vec<Arc<Item>>,
    output: Vec<Arc<Item>>,
}

impl Response {
    /// The response as the client got it.
    pub fn document(&self) -> &str {
        &self.document.json
    }

    /// The bytes of the response's input items, including the conversation that it continues.
    pub fn context_bytes(&self) -> usize {
        self.context().into_iter().map(|item| item.json.len()).sum()
    }

    /// The items of the conversation up to this response, without its own output.
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
    /// Drops the chain of responses in a loop: with recursion a long conversation would overflow the stack.
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
    /// Keeps the whole response, before its client gets it.
    pub fn keep(&self, document: &[u8]) {
        self.store.keep(self, document, Instant::now());
    }

    /// Keeps the response in the last event of a stream. May be called with the payload of any event.
    pub fn keep_event(&self, payload: &[u8]) {
        if let Some(response) = ended(payload) {
            self.keep(response.get().as_bytes());
        }
    }
}

/// The response in an event that ends a stream regularly; `None` for any other event.
fn ended(payload: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: &'a str,
        #[serde(borrow)]
        response: &'a RawValue,
    }
    // Most events contain no response and end here.
    let event: Event<'_> = serde_json::from_slice(payload).ok()?;
    matches!(event.r#type, "response.completed" | "response.incomplete").then_some(event.response)
}

/// The stored responses of all tenants.
pub struct StoredResponses {
    memory: Arc<MemoryBudget>,
    state: Mutex<State>,
}

struct State {
    bounds: config::StoredResponses,
    all: Arc<Gauge>,
    shelves: HashMap<TenantId, Shelf>,
    /// Counts uses, so that the least recently used response is known.
    tick: u64,
    swept: Option<Instant>,
}

/// The shortest interval between two searches for expired responses.
const SWEEP: Duration = Duration::from_secs(10);

impl StoredResponses {
    /// An empty store, which keeps nothing before [`Self::set_bounds`].
    pub fn new(memory: Arc<MemoryBudget>) -> Self {
        let bounds = config::StoredResponses { ttl: Duration::ZERO, memory: 0, tenant_memory: 0 };
        let state = State { bounds, all: Arc::default(), shelves: HashMap::new(), tick: 0, swept: None };
        Self { memory, state: Mutex::new(state) }
    }

    /// Changes the bounds, and removes responses beyond them.
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

    /// Whether responses are kept at all.
    pub fn is_on(&self) -> bool {
        self.lock().bounds.memory > 0
    }

    /// The response with this id; the call counts as a use.
    pub fn response(&self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<Response>> {
        let mut state = self.lock();
        state.sweep(now);
        let State { bounds, shelves, tick, .. } = &mut *state;
        shelves.get_mut(&owner.tenant)?.response(owner, id, now, bounds.ttl, tick)
    }

    /// The item with this id; the call counts as a use of its response.
    fn item(&self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<Item>> {
        let mut state = self.lock();
        state.sweep(now);
        let State { bounds, shelves, tick, .. } = &mut *state;
        shelves.get_mut(&owner.tenant)?.item(owner, id, now, bounds.ttl, tick)
    }

    /// Removes a response and its items; false if there is none. Responses that continue it keep the conversation.
    pub fn remove(&self, owner: &Owner, id: &str) -> bool {
        self.lock().shelves.get_mut(&owner.tenant).is_some_and(|shelf| shelf.remove(owner, id))
    }

    /// The number of stored responses, after removing those that have expired by `now`.
    pub fn len(&self, now: Instant) -> usize {
        let mut state = self.lock();
        state.sweep(now);
        state.shelves.values().map(Shelf::len).sum()
    }

    /// Creates an item that counts in the bounds, or finds an equal one, because clients repeat a conversation in each request.
    /// `None` if there is no room for the item, even after removing everything that is not in use.
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
    /// Removes the least recently used response of the tenant that has most; false if nothing is kept.
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
