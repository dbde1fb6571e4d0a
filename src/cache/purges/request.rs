//! A request to purge, as the API reads and writes it, for operators and clients alike.

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};

use super::Purge;
use crate::{cache::Key, types::TenantId};

/// The longest name of a model, in bytes.
pub(super) const MAX_MODEL: usize = 512;

const USAGE: &str =
    r#"Say what to purge: {"all": true}, or `tenant`, `model` and `key` (one of the last two at most)."#;

/// What to purge, and whose answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeRequest {
    /// Only answers that this tenant has paid for; `None`: any tenant.
    pub(super) tenant: Option<TenantId>,
    /// Never [`Purge::Tenant`]; a model's name is valid.
    pub(super) what: Purge,
}

impl PurgeRequest {
    /// A purge of answers that `tenant` has paid for, or any tenant. `None` if it can cover nothing: two different tenants are
    /// named, or the name of a model is not valid.
    pub fn new(purge: &Purge, tenant: Option<&TenantId>) -> Option<Self> {
        let (what, own) = match purge {
            Purge::Tenant(own) => (Purge::All, Some(own)),
            Purge::Model(model) if check_model(model).is_err() => return None,
            other => (other.clone(), None),
        };
        match (own, tenant) {
            (Some(a), Some(b)) if a != b => None,
            (a, b) => Some(Self { tenant: a.or(b).cloned(), what }),
        }
    }

    /// Reads the body of a request: `{"all": true}`, or members of `tenant`, `model` and `key`.
    ///
    /// # Errors
    /// The fault of the body, as a sentence.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let text = body.trim_ascii();
        if text.is_empty() {
            return Err(USAGE.into());
        }
        if !text.starts_with(b"{") {
            return Err(format!("The body is no JSON object. {USAGE}"));
        }
        let members: Members = serde_json::from_slice(text).map_err(|error| format!("The body: {error}."))?;
        members.check()
    }

    /// The tenant whose answers are purged; `None`: any tenant's.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// Which answers are purged: [`Purge::All`], a model's or a key's.
    pub fn what(&self) -> &Purge {
        &self.what
    }

    /// The request for answers of `tenant` only: a client may purge no others.
    ///
    /// # Errors
    /// The other tenant that the request names.
    pub fn confined_to(self, tenant: &TenantId) -> Result<Self, TenantId> {
        match self.tenant {
            Some(other) if other != *tenant => Err(other),
            _ => Ok(Self { tenant: Some(tenant.clone()), what: self.what }),
        }
    }
}

/// The form that [`PurgeRequest::parse`] reads.
impl Serialize for PurgeRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(tenant) = &self.tenant {
            map.serialize_entry("tenant", tenant)?;
        }
        match &self.what {
            Purge::Model(model) => map.serialize_entry("model", model)?,
            Purge::Key(key) => map.serialize_entry("key", &key.to_string())?,
            Purge::All | Purge::Tenant(_) if self.tenant.is_none() => map.serialize_entry("all", &true)?,
            Purge::All | Purge::Tenant(_) => {}
        }
        map.end()
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Members {
    #[serde(deserialize_with = "present")]
    all: Option<bool>,
    #[serde(deserialize_with = "present")]
    tenant: Option<String>,
    #[serde(deserialize_with = "present")]
    model: Option<String>,
    #[serde(deserialize_with = "present")]
    key: Option<String>,
}

/// A member that is present must not be `null`: a script whose variable is empty must not purge more than it meant.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Members {
    fn check(self) -> Result<PurgeRequest, String> {
        let Self { all, tenant, model, key } = self;
        if all == Some(false) {
            return Err("all: only `true` says something; leave it out to purge less.".into());
        }
        let tenant = match tenant {
            Some(name) if !TenantId::is_valid(&name) => {
                return Err(format!("tenant: no tenant can be called `{}`.", name.escape_debug()));
            }
            name => name.map(TenantId::from),
        };
        let what = match (all, model, key) {
            (Some(_), None, None) if tenant.is_none() => Purge::All,
            (Some(_), ..) => return Err("all: excludes `tenant`, `model` and `key`.".into()),
            (None, Some(_), Some(_)) => {
                return Err("model and key exclude each other: a key is that of one answer.".into());
            }
            (None, Some(model), None) => {
                check_model(&model).map_err(|what| format!("model: {what}."))?;
                Purge::Model(model)
            }
            (None, None, Some(key)) => Purge::Key(read_key(&key).map_err(|what| format!("key: {what}."))?),
            (None, None, None) if tenant.is_some() => Purge::All,
            (None, None, None) => return Err(USAGE.into()),
        };
        Ok(PurgeRequest { tenant, what })
    }
}

/// Checks that a model can have this name.
fn check_model(name: &str) -> Result<(), String> {
    match name {
        "" => Err("a model has a name".into()),
        _ if name.len() > MAX_MODEL => Err(format!("a model's name has at most {MAX_MODEL} bytes")),
        _ if name.chars().any(char::is_control) => Err("a model's name has no control characters".into()),
        _ => Ok(()),
    }
}

/// Reads a key in the form that replies have it.
fn read_key(text: &str) -> Result<Key, String> {
    text.parse().map_err(|_| "not a key: 64 hexadecimal digits".into())
}
