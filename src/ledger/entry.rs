//! One finished request, as the ledger keeps it.

use std::{sync::Arc, time::Duration};

use rusqlite::{CachedStatement, Connection, params};

use crate::types::{NanoUsd, RequestId, TenantId, TokenId, Usage};

/// Where a cost comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The provider's own count.
    Provider,
    /// Our count of what was relayed, because the provider's did not come.
    Counted,
    /// The most that can have been generated unseen in the time there was, because the provider's count did not come.
    Bounded,
    /// What was reserved, because nothing could be counted.
    Reserved,
    /// What was reserved by a process that ended before it could settle.
    Recovered,
    /// Nothing was bought: refused, failed, or free.
    Nothing,
    /// Nobody knows the model's price.
    Unpriced,
}

impl Basis {
    /// The word in the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Counted => "counted",
            Self::Bounded => "bounded",
            Self::Reserved => "reserved",
            Self::Recovered => "recovered",
            Self::Nothing => "nothing",
            Self::Unpriced => "unpriced",
        }
    }
}

/// What is known of a request when it is admitted.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its id.
    pub id: RequestId,
    /// When it was admitted, in milliseconds since 1970: decides the period it counts in.
    pub at: u64,
    /// Who pays.
    pub tenant: TenantId,
    /// With which token.
    pub token: Option<TokenId>,
    /// What was asked for, in the words of the metrics.
    pub endpoint: &'static str,
    /// The configured route.
    pub route: Arc<str>,
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose it is.
    pub subject: Subject,
    /// Who served it; `-` for nobody.
    pub provider: Arc<str>,
    /// The provider's name for the model; `-` for none.
    pub model: Arc<str>,
    /// LLM tokens by kind.
    pub usage: Usage,
    /// What it cost.
    pub cost: NanoUsd,
    /// What a cache hit would have cost.
    pub saved: NanoUsd,
    /// Where the cost comes from.
    pub basis: Basis,
    /// `HIT`, `STALE`, `MISS` or `BYPASS`.
    pub cache: &'static str,
    /// The status the client got; 499 for one that left.
    pub status: u16,
    /// Attempts at providers.
    pub attempts: u32,
    /// Until the reply's first byte.
    pub first_byte: Option<Duration>,
    /// Until its last.
    pub duration: Duration,
}

impl Entry {
    /// An entry for a request of which only the subject is known.
    pub fn bare(subject: Subject, cost: NanoUsd, basis: Basis) -> Self {
        let nobody: Arc<str> = "-".into();
        Self {
            subject,
            provider: nobody.clone(),
            model: nobody,
            usage: Usage::default(),
            cost,
            saved: NanoUsd::ZERO,
            basis,
            cache: "BYPASS",
            status: 0,
            attempts: 0,
            first_byte: None,
            duration: Duration::ZERO,
        }
    }
}

/// The largest number in a row, a million dollars for a cost: with what a broken provider may claim the sum of nine thousand
/// rows still fits.
const MOST: i64 = 1_000_000_000_000_000;

/// Prepares what [`insert`] runs.
///
/// # Errors
/// A file without the table.
pub fn prepare(connection: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    connection.prepare_cached(
        "INSERT OR IGNORE INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
         ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
    )
}

/// Writes an entry; one that is there already stays, and `false` says so.
///
/// # Errors
/// A file that cannot be written.
pub fn insert(statement: &mut CachedStatement<'_>, process: i64, entry: &Entry) -> rusqlite::Result<bool> {
    let Entry { subject, usage, .. } = entry;
    let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX).min(MOST);
    let rows = statement.execute(params![
        subject.id.as_bytes(),
        i64::try_from(subject.at).unwrap_or(i64::MAX),
        process,
        subject.tenant.as_str(),
        subject.token.as_ref().map(TokenId::as_str),
        subject.endpoint,
        &*subject.route,
        &*entry.provider,
        &*entry.model,
        count(usage.prompt_tokens),
        count(usage.cached_tokens),
        count(usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens)),
        count(usage.completion_tokens),
        count(usage.reasoning_tokens),
        count(usage.audio_prompt_tokens),
        count(usage.audio_completion_tokens),
        count(usage.image_prompt_tokens),
        count(entry.cost.0),
        count(entry.saved.0),
        entry.basis.label(),
        entry.cache,
        entry.status,
        entry.attempts,
        entry.first_byte.map(micros),
        micros(entry.duration),
    ])?;
    Ok(rows > 0)
}
