//! The responses of one tenant, in the order of their last use.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    Owner, Response,
    item::{Gauge, Item},
};

/// An id of one of the tenant's clients.
type Name = ([u8; 16], Box<str>);

/// What one tenant has.
#[derive(Default)]
pub struct Shelf {
    bytes: Arc<Gauge>,
    responses: HashMap<Name, ShelfEntry>,
    /// Items by their ids, with the id of the response that gave them.
    items: HashMap<Name, (Arc<Item>, Box<str>)>,
    /// By last use.
    order: BTreeMap<u64, Name>,
    /// By what they say: the same text is kept once.
    texts: HashMap<[u8; 16], Weak<Item>>,
    /// With more texts than these, those that nobody holds any more are let go of.
    most_texts: usize,
}

struct ShelfEntry {
    response: Arc<Response>,
    used: Instant,
    tick: u64,
}

/// Of a conversation that is longer, so many of the last responses count as used with the last one. Those before stay part of it,
/// and only their own ids may be forgotten earlier.
const MOST_TOUCHED: usize = 1_000;

/// Texts that may be known before those that nobody holds are looked for.
const LEAST_TEXTS: usize = 1024;

impl Shelf {
    /// How many responses there are.
    pub fn len(&self) -> usize {
        self.responses.len()
    }

    /// Nothing is kept, and no request under way holds anything.
    pub fn is_unused(&self) -> bool {
        self.responses.is_empty() && self.bytes() == 0
    }

    /// Bytes of all that is held.
    pub fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    /// Counts them.
    pub fn gauge(&self) -> Arc<Gauge> {
        self.bytes.clone()
    }

    #[cfg(test)]
    pub fn peek(&self, owner: &Owner, id: &str) -> Option<Arc<Response>> {
        self.responses.get(&(owner.client, id.into())).map(|held| held.response.clone())
    }

    /// The item with this text.
    pub fn known(&self, json: &str) -> Option<Arc<Item>> {
        self.texts.get(&digest(json)).and_then(Weak::upgrade)
    }

    /// Makes an item known by its text.
    pub fn intern(&mut self, item: Item) -> Arc<Item> {
        if self.texts.len() >= self.most_texts.max(LEAST_TEXTS) {
            self.texts.retain(|_, item| item.strong_count() > 0);
            self.most_texts = 2 * self.texts.len();
        }
        let item = Arc::new(item);
        self.texts.insert(digest(&item.json), Arc::downgrade(&item));
        item
    }

    /// Keeps a response in the place of one of the same id.
    pub fn insert(&mut self, owner: &Owner, response: Arc<Response>, now: Instant, tick: u64) {
        self.remove(owner, &response.id);
        let name: Name = (owner.client, response.id.clone());
        for item in &response.output {
            if let Some(own) = id_of(&item.json) {
                self.items.insert((owner.client, own.into()), (item.clone(), response.id.clone()));
            }
        }
        self.order.insert(tick, name.clone());
        self.responses.insert(name, ShelfEntry { response, used: now, tick });
    }

    /// A response, and with it those that it continues, counts as used.
    pub fn response(
        &mut self,
        owner: &Owner,
        id: &str,
        now: Instant,
        ttl: Duration,
        tick: &mut u64,
    ) -> Option<Arc<Response>> {
        let name: Name = (owner.client, id.into());
        let held = self.responses.get(&name)?;
        if now.saturating_duration_since(held.used) > ttl {
            self.remove(owner, id);
            return None;
        }
        let found = held.response.clone();
        let mut chain = Vec::new();
        let mut at = found.previous.as_ref();
        while let Some(response) = at.filter(|_| chain.len() < MOST_TOUCHED) {
            chain.push(&*response.id);
            at = response.previous.as_ref();
        }
        // The oldest first.
        for id in chain.into_iter().rev().chain([id]) {
            self.touch(&(owner.client, id.into()), now, tick);
        }
        Some(found)
    }

    /// An item; its response counts as used.
    pub fn item(&mut self, owner: &Owner, id: &str, now: Instant, ttl: Duration, tick: &mut u64) -> Option<Arc<Item>> {
        let (item, response) = self.items.get(&(owner.client, id.into()))?.clone();
        let name: Name = (owner.client, response);
        if now.saturating_duration_since(self.responses.get(&name)?.used) > ttl {
            self.forget(&name);
            return None;
        }
        // Not what it continues: a request may refer to thousands of items.
        self.touch(&name, now, tick);
        Some(item)
    }

    fn touch(&mut self, name: &Name, now: Instant, tick: &mut u64) {
        let Some(held) = self.responses.get_mut(name) else { return };
        *tick += 1;
        self.order.remove(&held.tick);
        (held.used, held.tick) = (now, *tick);
        self.order.insert(*tick, name.clone());
    }

    /// Forgets a response and its items.
    pub fn remove(&mut self, owner: &Owner, id: &str) -> bool {
        self.forget(&(owner.client, id.into()))
    }

    /// Forgets the least recently used; false where there is none.
    pub fn shed(&mut self) -> bool {
        let Some((_, oldest)) = self.order.first_key_value() else { return false };
        let oldest = oldest.clone();
        self.forget(&oldest)
    }

    /// Forgets what has expired.
    pub fn sweep(&mut self, now: Instant, ttl: Duration) {
        while let Some((_, name)) = self.order.first_key_value() {
            let expired = |held: &ShelfEntry| now.saturating_duration_since(held.used) > ttl;
            if !self.responses.get(name).is_none_or(expired) {
                return;
            }
            let name = name.clone();
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &Name) -> bool {
        let Some(held) = self.responses.remove(name) else { return false };
        self.order.remove(&held.tick);
        for item in &held.response.output {
            let Some(own) = id_of(&item.json) else { continue };
            let place = (name.0, own.into());
            if self.items.get(&place).is_some_and(|(_, response)| *response == held.response.id) {
                self.items.remove(&place);
            }
        }
        true
    }
}

fn digest(json: &str) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(json.as_bytes()).as_bytes()[..16]);
    digest
}

/// The `id` of an item.
fn id_of(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    serde_json::from_str::<Named>(json).ok().map(|named| named.id)
}
