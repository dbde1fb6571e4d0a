//! The index: the owners of ids, in memory.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::types::TenantId;

/// The key of an id at one provider: 16 bytes of a hash, because ids are long, and there may be a million of them.
pub type Key = [u8; 16];

/// The key of an id. The provider's name is part of it, because each provider is a separate account.
pub fn key(provider: &str, id: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    // No provider's name has a line break.
    hasher.update(provider.as_bytes()).update(b"\n").update(id.as_bytes());
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

/// The owner of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant whose request created the object.
    pub tenant: TenantId,
    /// True if that request came without a token, so that anybody could have sent it.
    pub anonymous: bool,
}

/// How long an object is of use. Each class has its own bound, so that the many objects of one class do not push out the few
/// of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Files, batches, vector stores, fine-tunes and all other objects that are kept until they are deleted.
    Kept,
    /// Responses, stored completions and their items: several come with every request.
    Turn,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 2] = [Class::Kept, Class::Turn];

    /// The most ids of the class that are kept.
    pub fn limit(self) -> usize {
        match self {
            Self::Kept => 500_000,
            Self::Turn => 1_000_000,
        }
    }
}

/// The owners of the youngest ids. If there are too many ids, the oldest id of the owner with the most is removed: an owner that
/// floods the index loses only its own ids.
#[derive(Debug)]
pub struct Index {
    owners: Vec<Owner>,
    numbers: HashMap<Owner, u32>,
    known: HashMap<Key, u32>,
    /// The ids by class.
    shelves: [Shelf; 2],
    limits: [usize; 2],
}

/// The ids of one class.
#[derive(Debug, Default)]
struct Shelf {
    len: usize,
    /// The keys of each owner, the oldest first.
    order: Vec<VecDeque<Key>>,
    /// The number of ids of each owner, with the owner's number.
    sizes: BTreeSet<(usize, u32)>,
}

impl Shelf {
    fn push(&mut self, owner: u32, key: Key) {
        let at = owner as usize;
        if self.order.len() <= at {
            self.order.resize_with(at + 1, VecDeque::new);
        }
        self.order[at].push_back(key);
        self.len += 1;
        self.count(owner, self.order[at].len() - 1);
    }

    /// Removes the oldest id of the owner that has the most.
    fn shed(&mut self) -> Option<Key> {
        let (size, owner) = *self.sizes.last()?;
        let key = self.order[owner as usize].pop_front()?;
        self.len -= 1;
        self.count(owner, size);
        Some(key)
    }

    /// Updates `sizes` after a change: the owner had `before` ids.
    fn count(&mut self, owner: u32, before: usize) {
        self.sizes.remove(&(before, owner));
        let now = self.order[owner as usize].len();
        if now > 0 {
            self.sizes.insert((now, owner));
        }
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::with_limits(Class::ALL.map(Class::limit))
    }
}

impl Index {
    /// An empty index with the most ids of each class.
    pub fn with_limits(limits: [usize; 2]) -> Self {
        let shelves = [Shelf::default(), Shelf::default()];
        Self { owners: Vec::new(), numbers: HashMap::new(), known: HashMap::new(), shelves, limits }
    }

    /// The owner of an id; `None` if it belongs to nobody.
    pub fn owner(&self, key: &Key) -> Option<&Owner> {
        self.owners.get(*self.known.get(key)? as usize)
    }

    /// Every id with its owner and class, the oldest of an owner in a class first.
    pub fn all(&self) -> impl Iterator<Item = (Key, &Owner, Class)> {
        Class::ALL.into_iter().flat_map(move |class| {
            let known = move |key: &Key| Some((*key, self.owner(key)?, class));
            self.shelves[class as usize].order.iter().flatten().filter_map(known)
        })
    }

    /// The number of known ids.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Sets the owner of an id. An id with an owner keeps it, so that nobody gets another's object by seeing its id. Returns
    /// whether the id is new, and the id that was removed to make room for it.
    pub fn insert(&mut self, key: Key, owner: &Owner, class: Class) -> (bool, Option<Key>) {
        if self.known.contains_key(&key) {
            return (false, None);
        }
        let number = match self.numbers.get(owner) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
                self.owners.push(owner.clone());
                self.numbers.insert(owner.clone(), number);
                number
            }
        };
        self.known.insert(key, number);
        let shelf = &mut self.shelves[class as usize];
        shelf.push(number, key);
        let gone = if shelf.len > self.limits[class as usize] { shelf.shed() } else { None };
        if let Some(gone) = &gone {
            self.known.remove(gone);
        }
        (true, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(tenant: &str) -> Owner {
        Owner { tenant: tenant.into(), anonymous: false }
    }

    #[test]
    fn an_id_is_of_one_provider_and_keeps_its_first_owner() {
        let mut index = Index::default();
        assert!(index.insert(key("openai", "file-1"), &owner("a"), Class::Kept).0);
        assert!(!index.insert(key("openai", "file-1"), &owner("b"), Class::Kept).0);
        assert_eq!(index.owner(&key("openai", "file-1")), Some(&owner("a")));
        assert_eq!(index.owner(&key("azure", "file-1")), None);
        assert_eq!(index.owner(&key("openai", "file-2")), None);
        let anonymous = Owner { anonymous: true, ..owner("a") };
        index.insert(key("openai", "file-3"), &anonymous, Class::Kept);
        assert_eq!(index.owner(&key("openai", "file-3")), Some(&anonymous));
    }

    #[test]
    fn who_floods_the_index_forgets_its_own() {
        let mut index = Index::with_limits([10, 10]);
        for n in 0..3 {
            index.insert(key("p", &format!("a-{n}")), &owner("a"), Class::Kept);
            index.insert(key("p", &format!("b-{n}")), &owner("b"), Class::Kept);
        }
        for n in 0..1_000 {
            let (_, gone) = index.insert(key("p", &format!("flood-{n}")), &owner("mallory"), Class::Kept);
            assert_eq!(gone, (n >= 4).then(|| key("p", &format!("flood-{}", n - 4))));
        }
        let known = |id: String| index.owner(&key("p", &id)).is_some();
        assert!((0..3).all(|n| known(format!("a-{n}")) && known(format!("b-{n}"))));
        assert!((996..1_000).all(|n| known(format!("flood-{n}"))) && !known("flood-995".into()));
        assert_eq!(index.len(), 10);
        // A later owner gets room as well, at the cost of the owner with the most.
        for n in 0..2 {
            let (_, gone) = index.insert(key("p", &format!("c-{n}")), &owner("c"), Class::Kept);
            assert_eq!(gone, Some(key("p", &format!("flood-{}", n + 996))));
        }
    }

    #[test]
    fn the_oldest_of_a_class_go_first_and_leave_the_other_alone() {
        let mut index = Index::with_limits([2, 3]);
        index.insert(key("p", "kept"), &owner("a"), Class::Kept);
        for n in 0..5 {
            let (new, gone) = index.insert(key("p", &format!("turn-{n}")), &owner("a"), Class::Turn);
            assert!(new);
            assert_eq!(gone, (n >= 3).then(|| key("p", &format!("turn-{}", n - 3))));
        }
        assert_eq!(index.len(), 4);
        assert_eq!(index.owner(&key("p", "turn-1")), None, "nobody's from now on");
        assert!(index.owner(&key("p", "turn-2")).is_some() && index.owner(&key("p", "kept")).is_some());
    }
}
