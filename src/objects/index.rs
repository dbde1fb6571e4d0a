//! Who owns an id, in memory.

use std::collections::{HashMap, VecDeque};

use crate::types::TenantId;

/// An id of one provider, as 16 bytes of a hash: ids are long, and there may be a million of them.
pub type Key = [u8; 16];

/// The key of an id: each provider is an account of its own.
pub fn key(provider: &str, id: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    // No provider's name has a line break.
    hasher.update(provider.as_bytes()).update(b"\n").update(id.as_bytes());
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

/// To whom an object belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant whose request made it.
    pub tenant: TenantId,
    /// That request came without a token: anybody could have sent it.
    pub anonymous: bool,
}

/// How long an object is of use. Each class has a bound of its own, so that the many of one do not push out the few of the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Files, batches, vector stores, fine-tunes and all else that is kept until it is deleted.
    Kept,
    /// A response, a stored completion, or an item of one: several come with every request.
    Turn,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 2] = [Class::Kept, Class::Turn];

    /// How many ids of the class are known at most.
    pub fn limit(self) -> usize {
        match self {
            Self::Kept => 500_000,
            Self::Turn => 1_000_000,
        }
    }
}

/// The owners of the youngest ids.
#[derive(Debug)]
pub struct Index {
    owners: Vec<Owner>,
    numbers: HashMap<Owner, u32>,
    known: HashMap<Key, u32>,
    /// By class, the oldest first.
    order: [VecDeque<Key>; 2],
    limits: [usize; 2],
}

impl Default for Index {
    fn default() -> Self {
        Self::with_limits(Class::ALL.map(Class::limit))
    }
}

impl Index {
    /// An empty index for so many ids of each class.
    pub fn with_limits(limits: [usize; 2]) -> Self {
        let order = [VecDeque::new(), VecDeque::new()];
        Self { owners: Vec::new(), numbers: HashMap::new(), known: HashMap::new(), order, limits }
    }

    /// Whose it is; `None`: nobody's.
    pub fn owner(&self, key: &Key) -> Option<&Owner> {
        self.owners.get(*self.known.get(key)? as usize)
    }

    /// How many ids are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Gives an id its owner. One that has an owner keeps it: who is told of another's id does not get it. True for a new one;
    /// the second value is the one that had to go for it.
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
        let order = &mut self.order[class as usize];
        order.push_back(key);
        let gone = if order.len() > self.limits[class as usize] { order.pop_front() } else { None };
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
