//! What providers say of their models, kept for a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config::Provider;

/// How long it is kept whether a provider has a model.
const VERDICT: Duration = Duration::from_secs(60);

/// Entries of each kind that are kept; what is more begins anew.
const MAX_KNOWN: usize = 1_000;

/// A model as a provider tells of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The provider's name for it.
    pub id: String,
    /// In seconds since 1970; 0 where nobody knows.
    pub created: u64,
    /// Whose it is.
    pub owned_by: String,
}

impl Told {
    /// `None` for what is no model, or has no id that can be used.
    pub fn read(model: &Value, provider: &Provider) -> Option<Self> {
        let id =
            model["id"].as_str().filter(|id| !id.is_empty() && id.len() <= 256 && !id.contains(char::is_control))?;
        if [&model["object"], &model["type"]].into_iter().any(|kind| !kind.is_null() && kind != "model") {
            return None;
        }
        let at = model["created_at"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let at = at.and_then(|at| u64::try_from(at.as_second()).ok());
        let owned_by = model["owned_by"].as_str().unwrap_or(&provider.name).to_owned();
        Some(Self { id: id.to_owned(), created: model["created"].as_u64().or(at).unwrap_or_default(), owned_by })
    }

    /// In the shape that the client reads. Where nobody knows when it was made, it is as old as can be: OpenAI's clients want
    /// a number.
    pub fn show(&self, anthropic: bool) -> Value {
        let Self { id, created, owned_by } = self;
        if anthropic {
            let at = i64::try_from(*created).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
            let at = at.unwrap_or_default().to_string();
            // Its SDKs want to know that; what is served here can be asked.
            let lifecycle = "active";
            return json!({ "type": "model", "id": id, "display_name": id, "created_at": at, "lifecycle": lifecycle });
        }
        json!({ "id": id, "object": "model", "created": created, "owned_by": owned_by })
    }
}

/// A provider's list: when it was read, and what it said. One request asks for it, the others wait.
pub type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Arc<[Told]>)>>>;

/// What providers say of their models with the gateway's keys. Kept by tenant, as its headers may choose another part of the
/// account.
#[derive(Default)]
pub struct KnownModels {
    lists: Mutex<HashMap<String, Slot>>,
    /// Whether a provider has a model.
    verdicts: Mutex<HashMap<String, (Instant, bool)>>,
}

impl KnownModels {
    /// Where the list of this name is kept.
    pub fn slot(&self, key: String) -> Slot {
        let mut lists = self.lists.lock();
        if lists.len() >= MAX_KNOWN && !lists.contains_key(&key) {
            lists.clear();
        }
        lists.entry(key).or_default().clone()
    }

    /// Whether it is known that a provider does not have a model.
    pub fn verdict(&self, key: &str) -> Option<bool> {
        let verdicts = self.verdicts.lock();
        verdicts.get(key).filter(|(at, _)| at.elapsed() < VERDICT).map(|(_, missing)| *missing)
    }

    /// Keeps that for a while.
    pub fn judge(&self, key: String, missing: bool) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MAX_KNOWN {
            verdicts.clear();
        }
        verdicts.insert(key, (Instant::now(), missing));
    }
}
