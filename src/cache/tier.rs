//! Tiers below memory: implementations of pingora-cache's [`Storage`].
//!
//! A tier gets an entry as a response: the entry's key as a [`CacheKey`], its owner as the key's user tag, its expiry as
//! [`CacheMeta`], all its other facts as one header field, and its body. An entry that a tier returns has to name the key that
//! was asked for and the length of its body, or it is a miss.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use pingora_cache::{
    CacheKey, CacheMeta,
    storage::{HandleHit, Storage},
    trace::{Span, SpanHandle},
};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use serde::{Deserialize, Serialize};

use super::{Entry, Form, Key};
use crate::types::{NanoUsd, Usage};

/// A tier. It lives as long as the process, as pingora-cache requires.
pub type Tier = &'static (dyn Storage + Sync);

/// The header field with the facts about an entry.
const FACTS: &str = "x-chittycan-entry";

/// How long an entry may be used, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Time from the completion of the entry until it expires.
    pub ttl: Duration,
    /// Time after `ttl` during which the entry may be served if no deployment answers.
    pub stale_if_error: Duration,
    /// The tenant that the entry is for; empty if all tenants share it.
    pub owner: String,
}

/// The facts about an entry besides its form, its age and its body.
#[derive(Serialize, Deserialize)]
struct Facts {
    /// In hexadecimal digits.
    key: String,
    /// Bytes of the body.
    length: usize,
    born: u64,
    tenant: String,
    route: String,
    provider: String,
    model: String,
    dropped: String,
    /// In the order of [`Usage::numbers`].
    usage: [u64; 9],
    cost: u64,
}

/// The key in pingora-cache's form. Its bits are uniform, so half of them serve as its hash.
pub fn cache_key(key: &Key, owner: &str) -> CacheKey {
    let mut named = CacheKey::new(key.0.as_slice(), owner);
    named.set_primary_bin_override(key.half());
    named
}

/// The key that [`cache_key`] was made from.
pub fn own_key(key: &CacheKey) -> Option<Key> {
    key.primary_key().try_into().ok().map(Key)
}

/// An entry as the header of a response.
///
/// # Errors
/// A name cannot be written in a header.
pub fn meta(key: &Key, entry: &Entry, shelf: &Shelf) -> Result<CacheMeta> {
    let facts = Facts {
        key: key.to_string(),
        length: entry.body.len(),
        born: entry.born,
        tenant: entry.tenant.as_str().to_owned(),
        route: (*entry.route).to_owned(),
        provider: (*entry.provider).to_owned(),
        model: (*entry.model).to_owned(),
        dropped: (*entry.dropped).to_owned(),
        usage: entry.usage.numbers(),
        cost: entry.cost.0,
    };
    let facts = serde_json::to_vec(&facts).or_err(ErrorType::InternalError, "an entry is not written")?;
    let facts = HeaderValue::from_bytes(&facts).or_err(ErrorType::InvalidHTTPHeader, "an entry is not written")?;
    let kind = match entry.form {
        Form::Json => "application/json",
        Form::Events => "text/event-stream",
    };
    let mut header = ResponseHeader::build(200, Some(2))?;
    header.insert_header(header::CONTENT_TYPE, kind)?;
    header.insert_header(FACTS, facts)?;
    let created = SystemTime::UNIX_EPOCH + Duration::from_millis(entry.stored);
    let stale_if_error = u32::try_from(shelf.stale_if_error.as_secs()).unwrap_or(u32::MAX);
    let fresh_until = created.checked_add(shelf.ttl).unwrap_or(created);
    Ok(CacheMeta::new(fresh_until, created, 0, stale_if_error, header))
}

/// The entry that [`meta`] was made from, without its body, and the length of the body in bytes. `None` if it has another key or
/// form.
fn facts_of(key: &Key, meta: &CacheMeta) -> Option<(Entry, usize)> {
    let field = meta.headers().get(FACTS)?;
    let facts: Facts = serde_json::from_slice(field.as_bytes()).ok()?;
    if facts.key != key.to_string() {
        return None;
    }
    let form = match meta.headers().get(header::CONTENT_TYPE)?.as_bytes() {
        b"application/json" => Form::Json,
        b"text/event-stream" => Form::Events,
        _ => return None,
    };
    let stored = meta.created().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let entry = Entry {
        form,
        body: Bytes::new(),
        born: facts.born,
        stored: u64::try_from(stored.as_millis()).ok()?,
        tenant: facts.tenant.into(),
        route: facts.route.into(),
        provider: facts.provider.into(),
        model: facts.model.into(),
        dropped: facts.dropped.into(),
        usage: Usage::from_numbers(facts.usage),
        cost: NanoUsd(facts.cost),
    };
    Some((entry, facts.length))
}

/// An entry that a tier is about to take, without its body, and the length of the body in bytes.
///
/// # Errors
/// The entry was not made by this cache.
pub fn announced(key: &Key, meta: &CacheMeta) -> Result<(Entry, usize)> {
    facts_of(key, meta).ok_or_else(|| Error::explain(ErrorType::InternalError, "not an entry of this cache"))
}

/// Reads an entry; `None` if the tier has none of this key, has only a part of it, or has more than `most` bytes.
///
/// # Errors
/// The error of the tier.
pub async fn read(tier: Tier, key: &Key, owner: &str, most: usize) -> Result<Option<Entry>> {
    let (named, span) = (cache_key(key, owner), Span::inactive().handle());
    let Some((meta, mut hit)) = tier.lookup(&named, &span).await? else { return Ok(None) };
    let Some((entry, length)) = facts_of(key, &meta).filter(|(_, length)| *length <= most) else { return Ok(None) };
    let mut body = Pieces::default();
    while let Some(piece) = hit.read_body().await? {
        body.push(piece);
        if body.length() > length {
            return Ok(None);
        }
    }
    hit.finish(tier, &named, &span).await?;
    Ok((body.length() == length).then(|| Entry { body: body.whole(), ..entry }))
}

/// Writes an entry. If `counts` returns false, writing ends before the entry is complete.
///
/// # Errors
/// The error of the tier.
pub async fn write(tier: Tier, key: &CacheKey, meta: &CacheMeta, body: Bytes, counts: impl Fn() -> bool) -> Result<()> {
    let span = Span::inactive().handle();
    let mut miss = tier.get_miss_handler(key, meta, &span).await?;
    miss.write_body(body, true).await?;
    if counts() {
        miss.finish().await?;
    }
    Ok(())
}

/// A body that arrives in pieces; copied only if there are several.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.length() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    /// Number of bytes so far.
    pub fn length(&self) -> usize {
        self.all.len().max(self.first.len())
    }

    /// The whole body.
    pub fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// A body that is read in one piece.
#[derive(Debug)]
pub struct WholeHit(pub Option<Bytes>);

#[async_trait]
impl HandleHit for WholeHit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }

    async fn finish(
        self: Box<Self>,
        _storage: &'static (dyn Storage + Sync),
        _key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn std::any::Any + Send + Sync) {
        self
    }
}
