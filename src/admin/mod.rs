//! The second listener: health, readiness and metrics. It is for operators and never faces clients.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use pingora_core::{apps::ServerApp, protocols::Stream, server::ShutdownWatch};
use serde_json::json;

use crate::telemetry::Metrics;

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// Scraped at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/readyz` answers 200 while it is set.
    pub ready: Arc<AtomicBool>,
}

impl Admin {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .fallback(|| async { (StatusCode::NOT_FOUND, Json(json!({ "error": { "message": "No such path." } }))) })
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let (status, word) = match admin.ready.load(Ordering::Acquire) {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    (status, Json(json!({ "status": word, "open_requests": admin.metrics.open_requests() }))).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.encode()).into_response()
}

/// Serves a router on a Pingora listener, so that the admin socket is handed over in an upgrade like any other.
pub struct AxumApp {
    router: Router,
}

impl AxumApp {
    /// Wraps a router.
    pub fn new(router: Router) -> Self {
        Self { router }
    }
}

#[async_trait]
impl ServerApp for AxumApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut shutdown = shutdown.clone();
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let told = async move {
            while !*shutdown.borrow_and_update() {
                if shutdown.changed().await.is_err() {
                    break;
                }
            }
            Ok::<(), Infallible>(())
        };
        tokio::select! {
            // A client that breaks off is no news.
            _ = connection.as_mut() => return None,
            _ = told => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
        None
    }
}
