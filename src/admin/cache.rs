//! `/api/v1/cache`: shows what the cache holds and has done, and purges it.

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

/// The most lines of a report; further lines are only counted.
const MOST_LINES: usize = 50;

/// The longest report, in days.
const MAX_DAYS: u64 = 366;

/// The span of time to report on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Span {
    /// The number of days up to now. Entries of the ledger that became sums per day are not counted.
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
    /// Flights: answers that are being generated, each for one request or for several.
    flights: usize,
    /// True if the gateway follows the purges of other processes.
    purges: bool,
    /// The time from which on requests are counted.
    since: Time,
    /// The time until which requests are counted.
    until: Time,
    /// What the cache did with all requests.
    total: UseView,
    /// What the cache did with the requests of each tenant to each model, at most 50 items; those that saved most come first.
    by_model: Vec<LineView>,
    /// The number of further items, beyond those in `by_model`.
    more: usize,
}

/// The in-memory tier of the cache, where an answer is looked for first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheMemory)]
pub struct MemoryView {
    /// The bytes that the entries take.
    bytes: u64,
    /// The number of entries; purged entries count until a request finds them or their room is needed.
    entries: u64,
    /// The bytes that the entries may take.
    limit: u64,
}

/// The on-disk tier of the cache, where an answer is looked for after the in-memory tier.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheDisk)]
pub struct DiskView {
    /// The bytes that the tier takes.
    bytes: u64,
    /// The bytes that the tier may take; 0: there is no on-disk tier.
    limit: u64,
    /// True if the tier is in use and accepts entries.
    up: bool,
    /// How often the tier failed or was too slow.
    errors: u64,
}

/// Numbers of requests by what the cache did with them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheUse)]
pub struct UseView {
    /// Requests that the cache answered.
    hits: u64,
    /// The part of `hits` that was answered with an expired answer, because no deployment answered.
    stale: u64,
    /// Requests that the cache could have answered but did not.
    misses: u64,
    /// Requests that bypassed the cache.
    bypassed: u64,
    /// The share of hits among hits and misses, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    hit_rate: f64,
    /// What the hits would have cost.
    saved_usd: Usd,
}

/// What the cache did with one tenant's requests to one model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheUseOfModel)]
pub struct LineView {
    /// The tenant whose requests these are.
    tenant: String,
    /// The model: `provider/model`, or the bare name for a model of OpenAI.
    model: String,
    /// Requests that the cache answered.
    hits: u64,
    /// The part of `hits` that was answered with an expired answer.
    stale: u64,
    /// Requests that the cache could have answered but did not.
    misses: u64,
    /// Requests that bypassed the cache.
    bypassed: u64,
    /// The share of hits among hits and misses, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    hit_rate: f64,
    /// What the hits would have cost.
    saved_usd: Usd,
}

/// Which answers to purge: all, or those that match each of the other members. `model` and `key` exclude each other.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CachePurge, example = json!({"tenant": "research", "model": "gpt-4o"}))]
pub struct PurgeView {
    /// Purge all answers; only `true` is allowed, and no other members.
    #[schema(required = false)]
    all: bool,
    /// Purge answers that this tenant has paid for.
    #[schema(required = false)]
    tenant: String,
    /// Purge answers of this model: the provider's name for it, alone or as `provider/model`, or the configured route.
    #[schema(required = false)]
    model: String,
    /// Purge the answer with this key.
    #[schema(required = false, pattern = "^[0-9a-fA-F]{64}$")]
    key: String,
}

/// The result of a purge.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CacheInvalidation)]
pub struct Invalidated {
    /// Always `cache.invalidation`.
    object: &'static str,
    /// The request that was carried out.
    #[schema(value_type = PurgeView)]
    purged: PurgeRequest,
    /// Answers to requests sent until this time are no longer served.
    at: Time,
}

/// Show the cache
///
/// What the cache holds now, and what it has done in a span of time. Listings of models are not counted.
#[utoipa::path(
    get,
    path = "/api/v1/cache",
    tag = "cache",
    operation_id = "show_cache",
    params(Span),
    responses(
        (status = 200, description = "The cache.", body = CacheView),
        (status = 400, description = "The query is invalid.", body = ErrorBody),
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
    // Requests of this millisecond are included.
    let report = blocking(move || Ok(report::cache(&*store.connect_to_read()?, |_| true, since, now + 1)?)).await?;
    let cache = &admin.shared.cache;
    Ok(Json(view(&cache.usage(), cache.flights(), cache.purges.is_up(), &report, [since, now])))
}

/// Invalidate answers
///
/// The next request for a purged answer goes to a provider, and answers that are being generated at this moment are not kept.
/// The cost of a purge does not depend on what the cache holds. It takes effect at once in this gateway, and within a second in
/// others on the same database.
#[utoipa::path(
    post,
    path = "/api/v1/cache/invalidate",
    tag = "cache",
    operation_id = "invalidate_cache",
    request_body(content = PurgeView),
    responses(
        (status = 200, description = "The answers are purged.", body = Invalidated),
        (status = 400, description = "The body is invalid, or names nothing to purge.", body = ErrorBody),
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
