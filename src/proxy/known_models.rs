//! What providers report about their models, kept for a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config::Provider;

/// How long the answer to "does this provider have this model" is kept.
const VERDICT: Duration = Duration::from_secs(60);

/// Entries of each kind that are kept; when there are more, all are dropped.
const MAX_KNOWN: usize = 1_000;

/// A model as a provider reports it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The provider's name for it.
    pub id: String,
    /// When the model was made, in seconds since 1970; 0 if unknown.
    pub created: u64,
    /// The model's owner, as the provider states it.
    pub owned_by: String,
}

impl Told {
    /// Reads one model; `None` for something that is no model, or has no id that can be used.
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

    /// The model in the shape that the client reads. If it is unknown when the model was made, the time is 0: OpenAI's clients
    /// want a number.
    pub fn show(&self, anthropic: bool) -> Value {
        let Self { id, created, owned_by } = self;
        if anthropic {
            let at = i64::try_from(*created).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
            let at = at.unwrap_or_default().to_string();
            // Anthropic's SDKs expect this field; every model that the gateway lists can be asked.
            let lifecycle = "active";
            return json!({ "type": "model", "id": id, "display_name": id, "created_at": at, "lifecycle": lifecycle });
        }
        json!({ "id": id, "object": "model", "created": created, "owned_by": owned_by })
    }
}

/// A provider's list: until when it is fresh, and its models. One request asks the provider while the others wait.
pub type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Arc<[Told]>)>>>;

/// What providers report about their models with the gateway's keys. Kept by tenant, as a tenant's headers may choose another
/// part of the account.
#[derive(Default)]
pub struct KnownModels {
    lists: Mutex<HashMap<String, Slot>>,
    /// Whether a provider lacks a model, and when that was learned.
    verdicts: Mutex<HashMap<String, (Instant, bool)>>,
}

impl KnownModels {
    /// The slot of the list with this key.
    pub fn slot(&self, key: String) -> Slot {
        let mut lists = self.lists.lock();
        if lists.len() >= MAX_KNOWN && !lists.contains_key(&key) {
            lists.clear();
        }
        lists.entry(key).or_default().clone()
    }

    /// True if the provider is known not to have the model, false if it is known to have it; `None` if unknown.
    pub fn verdict(&self, key: &str) -> Option<bool> {
        let verdicts = self.verdicts.lock();
        verdicts.get(key).filter(|(at, _)| at.elapsed() < VERDICT).map(|(_, missing)| *missing)
    }

    /// Keeps a verdict for [`VERDICT`].
    pub fn judge(&self, key: String, missing: bool) {
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MAX_KNOWN {
            verdicts.clear();
        }
        verdicts.insert(key, (Instant::now(), missing));
    }
}
