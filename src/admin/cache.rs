//! `/api/v1/cache`: what the cache holds and has done, and what of it shall no longer count.

use axum::{
    Extension, Json,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    auth::Caller,
    error::{ApiError, Code, ErrorBody},
    extract::{Checked, JsonText},
    openapi::Refusals,
    tokens::blocking,
    values::{Time, Usd},
};
use crate::{
    cache::{PurgeRequest, StoreUsage},
    ledger::report::{self, CacheReport, CacheUse},
    types::unix_now,
};

const DAY_MS: u64 = 86_400_000;

/// Lines of a report; the others are counted.
const MOST_LINES: usize = 50;

/// The longest report, in days.
const MAX_DAYS: u64 = 366;

/// Of which time to tell.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Span {
    /// So many days up to now. Entries of the ledger that became sums per day are not counted.
    #[param(minimum = 1, maximum = 366, default = 30)]
    #[serde(default = "thirty")]
    days: u64,
}

fn thirty() -> u64 {
    30
}

/// What the cache holds, and what it has done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cache)]
pub struct CacheView {
    /// Always `cache`.
    object: &'static str,
    /// Entries in memory.
    memory: MemoryView,
    /// Entries on disk.
    disk: DiskView,
    /// Answers that are being made, for one request or many.
    flights: usize,
    /// What other processes purge is learned of.
    purges: bool,
    /// From when on requests are counted.
    since: Time,
    /// Until when.
    until: Time,
    /// What came of all requests.
    total: UseView,
    /// What came of them by tenant and model, at most 50; those that saved most come first.
    by_model: Vec<LineView>,
    /// Tenants and models beyond these.
    more: usize,
}

/// The first place where an answer is looked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheMemory)]
pub struct MemoryView {
    /// What the entries take.
    bytes: u64,
    /// How many there are; those that were purged count until they are found or there is no room.
    entries: u64,
    /// What they may take.
    limit: u64,
}

/// The second one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheDisk)]
pub struct DiskView {
    /// What it takes.
    bytes: u64,
    /// What it may take; 0: there is none.
    limit: u64,
    /// It is in use and takes what it is given.
    up: bool,
    /// How often it failed or was too slow.
    errors: u64,
}

/// What came of requests.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheUse)]
pub struct UseView {
    /// The cache answered them.
    hits: u64,
    /// Those of the hits that got an expired answer, because no deployment had one.
    stale: u64,
    /// The cache could have answered them.
    misses: u64,
    /// They passed by the cache.
    bypassed: u64,
    /// Hits among hits and misses, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    hit_rate: f64,
    /// What the hits would have cost.
    saved_usd: Usd,
}

/// What came of one tenant's requests to one model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheUseOfModel)]
pub struct LineView {
    /// Who asked.
    tenant: String,
    /// What was asked: `provider/model`, or the bare name of one of OpenAI's.
    model: String,
    /// The cache answered them.
    hits: u64,
    /// Those of the hits that got an expired answer.
    stale: u64,
    /// The cache could have answered them.
    misses: u64,
    /// They passed by the cache.
    bypassed: u64,
    /// Hits among hits and misses, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    hit_rate: f64,
    /// What the hits would have cost.
    saved_usd: Usd,
}

/// What shall no longer count: everything, or what has each of the other members. `model` and `key` exclude each other.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CachePurge, example = json!({"tenant": "research", "model": "gpt-4o"}))]
pub struct PurgeView {
    /// Everything; only `true`, and without other members.
    #[schema(required = false)]
    all: bool,
    /// What this tenant has paid for.
    #[schema(required = false)]
    tenant: String,
    /// What this model has answered: the provider's name for it, alone or as `provider/model`, or the configured route.
    #[schema(required = false)]
    model: String,
    /// The answer with this key.
    #[schema(required = false, pattern = "^[0-9a-fA-F]{64}$")]
    key: String,
}

/// What was purged.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheInvalidation)]
pub struct Invalidated {
    /// Always `cache.invalidation`.
    object: &'static str,
    /// What no longer counts.
    #[schema(value_type = PurgeView)]
    purged: PurgeRequest,
    /// Whatever was asked until then.
    at: Time,
}

/// Show the cache
///
/// What it holds now, and what it has done in a span of time. Listings of models are not counted.
#[utoipa::path(
    get,
    path = "/api/v1/cache",
    tag = "cache",
    operation_id = "show_cache",
    params(Span),
    responses(
        (status = 200, description = "The cache.", body = CacheView),
        (status = 400, description = "The query is not understood.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn show(
    State(admin): State<Admin>,
    Checked(Query(span)): Checked<Query<Span>>,
) -> Result<Json<CacheView>, ApiError> {
    if !(1..=MAX_DAYS).contains(&span.days) {
        return Err(ApiError::invalid(format!("days: a number from 1 to {MAX_DAYS}.")));
    }
    let now = unix_now();
    let retention = admin.snapshot.load().config.database.retention.as_millis();
    let kept = now.saturating_sub(u64::try_from(retention).unwrap_or(u64::MAX)) / DAY_MS * DAY_MS;
    let since = now.saturating_sub(span.days * DAY_MS).max(kept);
    let store = admin.shared.ledger.store().clone();
    // What is happening in this millisecond belongs to it.
    let report = blocking(move || Ok(report::cache(&*store.connect_to_read()?, |_| true, since, now + 1)?)).await?;
    let cache = &admin.shared.cache;
    Ok(Json(view(&cache.usage(), cache.flights(), cache.purges.is_up(), &report, [since, now])))
}

/// Invalidate answers
///
/// Whatever was asked before is asked anew; what is being answered at this moment is not kept. It costs the same whatever
/// the cache holds. In this gateway it holds at once, in others on the same database within a second.
#[utoipa::path(
    post,
    path = "/api/v1/cache/invalidate",
    tag = "cache",
    operation_id = "invalidate_cache",
    request_body(content = PurgeView),
    responses(
        (status = 200, description = "It no longer counts.", body = Invalidated),
        (status = 400, description = "The body is not understood, or it names nothing.", body = ErrorBody),
        (status = 413, description = "The body has more than 64 KiB.", body = ErrorBody),
        (status = 415, description = "The body is not declared as JSON.", body = ErrorBody),
        Refusals,
    )
)]
pub async fn invalidate(
    State(admin): State<Admin>,
    Extension(by): Extension<Caller>,
    JsonText(body): JsonText,
) -> Result<Json<Invalidated>, ApiError> {
    let request = PurgeRequest::parse(&body).map_err(ApiError::invalid)?;
    let cache = admin.shared.cache.clone();
    let (request, written) = blocking(move || {
        let written = cache.purges.run(&request);
        Ok((request, written))
    })
    .await?;
    tracing::info!(purge = ?request, by = %by.0.id, "cache purged");
    let at = written.map_err(|error| {
        tracing::error!(%error, "a purge could not be written down");
        let message = "The purge has taken effect in this process, but could not be written down: other processes do not \
                       learn of it, and this one forgets it when it ends. Send it again.";
        ApiError::new(Code::DatabaseUnavailable, message)
    })?;
    Ok(Json(Invalidated { object: "cache.invalidation", purged: request, at: Time(at) }))
}

fn view(usage: &StoreUsage, flights: usize, purges: bool, report: &CacheReport, [since, until]: [u64; 2]) -> CacheView {
    let line = |line: &report::CacheLine| {
        let UseView { hits, stale, misses, bypassed, hit_rate, saved_usd } = (&line.done).into();
        let (tenant, model) = (line.tenant.to_string(), line.model.clone());
        LineView { tenant, model, hits, stale, misses, bypassed, hit_rate, saved_usd }
    };
    CacheView {
        object: "cache",
        memory: MemoryView { bytes: usage.memory_bytes, entries: usage.memory_entries, limit: usage.memory_limit },
        disk: DiskView {
            bytes: usage.disk_bytes,
            limit: usage.disk_limit,
            up: usage.disk_up,
            errors: usage.disk_errors,
        },
        flights,
        purges,
        since: Time(since),
        until: Time(until),
        total: (&report.total).into(),
        by_model: report.lines.iter().take(MOST_LINES).map(line).collect(),
        more: report.lines.len().saturating_sub(MOST_LINES),
    }
}

impl From<&CacheUse> for UseView {
    fn from(done: &CacheUse) -> Self {
        Self {
            hits: done.hits,
            stale: done.stale,
            misses: done.misses,
            bypassed: done.bypassed,
            hit_rate: done.hit_rate(),
            saved_usd: Usd(done.saved),
        }
    }
}
