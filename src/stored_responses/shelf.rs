//! A shelf: the stored responses of one tenant, in the order of their last use.

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

/// An id together with the tenant's client that it belongs to.
type Name = ([u8; 16], Box<str>);

/// The stored responses and items of one tenant.
#[derive(Default)]
pub struct Shelf {
    bytes: Arc<Gauge>,
    responses: HashMap<Name, ShelfEntry>,
    /// Items by their ids, each with the id of the response that contains it.
    items: HashMap<Name, (Arc<Item>, Box<str>)>,
    /// The responses by their last use.
    order: BTreeMap<u64, Name>,
    /// Items by a hash of their text, because equal texts are kept only once.
    texts: HashMap<[u8; 16], Weak<Item>>,
    /// The number of texts above which those without a holder are removed.
    most_texts: usize,
}

struct ShelfEntry {
    response: Arc<Response>,
    used: Instant,
    tick: u64,
}

/// How many of the last responses of a conversation count as used with the last one. Earlier responses stay part of the
/// conversation, but their own ids may be forgotten earlier.
const MOST_TOUCHED: usize = 1_000;

/// The least number of known texts at which those without a holder are searched for.
const LEAST_TEXTS: usize = 1024;

impl Shelf {
    /// The number of responses.
    pub fn len(&self) -> usize {
        self.responses.len()
    }

    /// True if nothing is kept, and no request under way holds an item.
    pub fn is_unused(&self) -> bool {
        self.responses.is_empty() && self.bytes() == 0
    }

    /// The bytes of all items that are held.
    pub fn bytes(&self) -> u64 {
        self.bytes.bytes()
    }

    /// The gauge that counts these bytes.
    pub fn gauge(&self) -> Arc<Gauge> {
        self.bytes.clone()
    }

    #[cfg(test)]
    pub fn peek(&self, owner: &Owner, id: &str) -> Option<Arc<Response>> {
        self.responses.get(&(owner.client, id.into())).map(|held| held.response.clone())
    }

    /// The known item with this text.
    pub fn known(&self, json: &str) -> Option<Arc<Item>> {
        self.texts.get(&digest(json)).and_then(Weak::upgrade)
    }

    /// Registers an item under its text.
    pub fn intern(&mut self, item: Item) -> Arc<Item> {
        if self.texts.len() >= self.most_texts.max(LEAST_TEXTS) {
            self.texts.retain(|_, item| item.strong_count() > 0);
            self.most_texts = 2 * self.texts.len();
        }
        let item = Arc::new(item);
        self.texts.insert(digest(&item.json), Arc::downgrade(&item));
        item
    }

    /// Keeps a response, instead of an earlier one with the same id.
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

    /// The response with this id. It and the responses that it continues count as used.
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
        // The oldest response first.
        for id in chain.into_iter().rev().chain([id]) {
            self.touch(&(owner.client, id.into()), now, tick);
        }
        Some(found)
    }

    /// The item with this id. Its response counts as used.
    pub fn item(&mut self, owner: &Owner, id: &str, now: Instant, ttl: Duration, tick: &mut u64) -> Option<Arc<Item>> {
        let (item, response) = self.items.get(&(owner.client, id.into()))?.clone();
        let name: Name = (owner.client, response);
        if now.saturating_duration_since(self.responses.get(&name)?.used) > ttl {
            self.forget(&name);
            return None;
        }
        // The responses that it continues do not count as used: a request may refer to thousands of items.
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

    /// Removes a response and its items; false if there is none.
    pub fn remove(&mut self, owner: &Owner, id: &str) -> bool {
        self.forget(&(owner.client, id.into()))
    }

    /// Removes the least recently used response; false if there is none.
    pub fn shed(&mut self) -> bool {
        let Some((_, oldest)) = self.order.first_key_value() else { return false };
        let oldest = oldest.clone();
        self.forget(&oldest)
    }

    /// Removes expired responses.
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
