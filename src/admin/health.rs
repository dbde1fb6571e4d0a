//! Health: brief for everybody, in more detail for operators.

use std::time::Instant;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Admin, openapi::Refusals, readiness::NotReady, values::StatusWord};
use crate::{capacity::Part, connections::Cause};

/// The state of the gateway's own parts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct HealthView {
    /// `ok`, or `degraded` while one of the next three is false.
    #[schema(value_type = StatusWord)]
    status: &'static str,
    /// The last write to the database succeeded.
    database: bool,
    /// The journal of intents can be written.
    journal: bool,
    /// The last read of the tokens succeeded. While reads fail, the known tokens stay valid.
    tokens: bool,
    /// Entries of the ledger that are not in the database yet.
    waiting: usize,
    /// Entries written by this process.
    written: u64,
    /// Budget alerts raised by this process.
    alerts: u64,
    /// How often the database file was deleted or replaced under this process. The process went on in a fresh file, which lacks
    /// the earlier single entries.
    database_lost: u64,
}

/// The process is alive
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    operation_id = "healthz",
    security(()),
    responses((status = 200, description = "The process is alive."))
)]
pub async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// The client API accepts requests
///
/// Each listener of the client API is tested: it has to accept a connection, with `tls` a handshake. `not_accepting` names the
/// listeners that do not.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    operation_id = "readyz",
    security(()),
    responses(
        (status = 200, description = "The client API accepts requests."),
        (status = 503, description = "The gateway is starting or ending, or a listener does not accept connections."),
    )
)]
pub async fn readyz(State(admin): State<Admin>) -> Response {
    let open = admin.metrics.open_requests();
    let (status, body) = match admin.readiness.check().await {
        Ok(()) => (StatusCode::OK, json!({ "status": "ready", "open_requests": open })),
        Err(NotReady::NotServing) => {
            (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "not ready", "open_requests": open }))
        }
        Err(NotReady::NotAccepting(listeners)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({ "status": "not ready", "open_requests": open, "not_accepting": listeners }),
        ),
    };
    (status, Json(body)).into_response()
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    operation_id = "metrics",
    security(()),
    responses((status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(admin): State<Admin>) -> Response {
    let ledger = &admin.shared.ledger;
    let health = ledger.health();
    let up =
        [("database", health.database), ("journal", health.journal), ("tokens", admin.shared.directory.is_available())];
    admin.metrics.ledger(up, health.waiting, [health.written, health.alerts, health.unrecorded, health.lost]);
    let objects = admin.shared.objects.counts();
    admin.metrics.objects(objects.known, objects.waiting, objects.forgotten);
    let config = admin.snapshot.load().config.clone();
    // Only configured tenants become labels: the entry `*` may stand for many tenants.
    for budget in ledger.standings().iter().filter(|budget| config.tenants.contains_key(&budget.key.tenant)) {
        let parts = [budget.limit, budget.spent, budget.reserved];
        admin.metrics.budget(budget.key.tenant.as_str(), budget.key.period.label(), parts);
    }
    let counts = admin.connections.counts();
    let closed: Vec<_> = Cause::ALL.into_iter().map(Cause::label).zip(counts.closed).collect();
    let refused: Vec<_> = ["all", "address"].into_iter().zip(counts.refused).collect();
    admin.metrics.connections([counts.busy, counts.waiting, counts.limit], &closed, &refused);
    let cache = &admin.shared.cache;
    let usage = cache.usage();
    let bytes = [usage.memory_bytes, usage.memory_limit, usage.disk_bytes, usage.disk_limit];
    admin.metrics.cache(bytes, usage.memory_entries, cache.flights() as u64, usage.disk_errors);
    admin.metrics.stored_responses(admin.shared.stored_responses.len(Instant::now()));
    let memory = admin.shared.capacity.memory.usage();
    let parts = Part::LABELS.into_iter().zip(memory.used).chain([("limit", memory.limit)]);
    admin.metrics.memory(parts, memory.waiting, [memory.waits, memory.refusals]);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.encode()).into_response()
}

/// Health of the ledger and the tokens
///
/// The status code is always 200; the member `status` says whether the gateway is well.
#[utoipa::path(
    get,
    path = "/api/v1/health",
    tag = "operation",
    operation_id = "health",
    responses((status = 200, description = "The health of the ledger and the tokens.", body = HealthView), Refusals)
)]
pub async fn show(State(admin): State<Admin>) -> Json<HealthView> {
    let ledger = admin.shared.ledger.health();
    let tokens = admin.shared.directory.is_available();
    let well = ledger.database && ledger.journal && tokens;
    Json(HealthView {
        status: if well { "ok" } else { "degraded" },
        database: ledger.database,
        journal: ledger.journal,
        tokens,
        waiting: ledger.waiting,
        written: ledger.written,
        alerts: ledger.alerts,
        database_lost: ledger.lost,
    })
}
