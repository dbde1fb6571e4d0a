//! Deployments: facts learnt about one model at one provider, kept for as long as the process lives.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

/// Deployments that are kept: clients can name new models without end.
const MOST: usize = 10_000;

/// A full table is searched for unused deployments once per this many that found no room.
const SWEPT_AFTER: usize = 1_000;

/// One model of one provider.
#[derive(Debug)]
pub struct Deployment {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The provider's own name for the model.
    pub model: Arc<str>,
    in_flight: AtomicUsize,
}

impl Deployment {
    fn new(provider: &Arc<str>, model: &str) -> Arc<Self> {
        Arc::new(Self { provider: provider.clone(), model: model.into(), in_flight: AtomicUsize::new(0) })
    }

    /// Number of attempts under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The deployments that were named so far, by provider and model. They outlive a reload.
#[derive(Debug, Default)]
pub struct Deployments {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_provider: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Deployment>>>,
    count: usize,
    /// How many deployments have found no room since the last one that did.
    missed: usize,
}

impl Known {
    fn get(&self, provider: &str, model: &str) -> Option<Arc<Deployment>> {
        self.by_provider.get(provider)?.get(model).cloned()
    }
}

impl Deployments {
    /// The deployment of a model at a provider. If the table is full, unused deployments are dropped; if all are in use, the new
    /// one is not kept.
    pub fn of(&self, provider: &Arc<str>, model: &str) -> Arc<Deployment> {
        if let Some(known) = self.known.read().get(provider, model) {
            return known;
        }
        let mut known = self.known.write();
        if let Some(deployment) = known.get(provider, model) {
            return deployment;
        }
        if known.count >= MOST && known.missed.is_multiple_of(SWEPT_AFTER) {
            let in_use = |deployment: &Arc<Deployment>| Arc::strong_count(deployment) > 1;
            known.by_provider.values_mut().for_each(|models| models.retain(|_, deployment| in_use(deployment)));
            known.count = known.by_provider.values().map(HashMap::len).sum();
        }
        let deployment = Deployment::new(provider, model);
        if known.count < MOST {
            let models = known.by_provider.entry(provider.clone()).or_default();
            models.insert(deployment.model.clone(), deployment.clone());
            known.count += 1;
            known.missed = 0;
        } else {
            known.missed += 1;
        }
        deployment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_one_however_often_it_is_named_and_only_used_ones_stay_when_there_are_too_many() {
        let deployments = Deployments::default();
        let provider: Arc<str> = "openai".into();
        let used = deployments.of(&provider, "gpt-4o");
        assert!(Arc::ptr_eq(&used, &deployments.of(&"openai".into(), "gpt-4o")));
        assert!(!Arc::ptr_eq(&used, &deployments.of(&"azure".into(), "gpt-4o")));
        for number in 0..2 * MOST {
            deployments.of(&provider, &format!("made-up-{number}"));
            assert!(deployments.known.read().count <= MOST);
        }
        assert!(Arc::ptr_eq(&used, &deployments.of(&provider, "gpt-4o")));
        let all: Vec<_> = (0..MOST).map(|number| deployments.of(&provider, &format!("used-{number}"))).collect();
        let one_more = deployments.of(&provider, "one-more");
        assert_eq!((&*one_more.model, all.len(), deployments.known.read().count), ("one-more", MOST, MOST));
        drop(all);
        let again: Vec<_> =
            (0..SWEPT_AFTER).map(|number| deployments.of(&provider, &format!("again-{number}"))).collect();
        assert!(Arc::ptr_eq(&again[SWEPT_AFTER - 1], &deployments.of(&provider, &again[SWEPT_AFTER - 1].model)));
    }
}
