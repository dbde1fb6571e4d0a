//! The admin listener: health, readiness and metrics for anyone who reaches it, and a JSON API for holders of an admin
//! token. It is for operators and must not be reachable by clients.
//!
//! | file | contents |
//! |---|---|
//! | `auth` | who may use the API |
//! | `host` | the names under which the listener may be reached |
//! | `tokens` | create, list, show, rotate and revoke tokens |
//! | `tenants` | tenants, their limits and the state of their budgets |
//! | `cache` | what the cache holds and has done; purges |
//! | `health` | `/healthz`, `/readyz`, `/metrics`, and the health of the ledger |
//! | `readiness` | whether the client listeners accept connections |
//! | `extract` | extractors of paths, queries and bodies |
//! | `values` | times and money in JSON |
//! | `error` | all refusals, in one shape |
//! | `openapi` | the OpenAPI document, generated from the code |

mod auth;
mod cache;
mod error;
mod extract;
mod health;
mod host;
mod openapi;
mod readiness;
mod tenants;
mod tokens;
mod values;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri},
    middleware,
    routing::{MethodRouter, get, post},
};

pub use self::readiness::{ClientListener, Readiness};

use self::error::{ApiError, Code};
use crate::{connections::Connections, snapshot::Snapshot, telemetry::Metrics, tenants::SharedState};

/// The path prefix of the JSON API.
const API: &str = "/api/v1";

/// The state that the handlers of the admin listener use.
#[derive(Clone)]
pub struct Admin {
    /// The metrics, shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The check behind `/readyz`.
    pub readiness: Arc<Readiness>,
    /// The configuration in effect.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Tokens, the ledger and the cache.
    pub shared: Arc<SharedState>,
    /// The connections of clients.
    pub connections: Arc<Connections>,
}

impl Admin {
    /// The router of the admin listener.
    pub fn router(self) -> Router {
        let api = router(guarded_routes())
            .layer(DefaultBodyLimit::max(extract::MAX_BODY))
            // The layer also covers the fallbacks: without a token nobody learns which paths exist.
            .layer(middleware::from_fn_with_state(self.clone(), auth::require_admin));
        let known = middleware::from_fn_with_state(self.clone(), host::require_known_host);
        router(open_routes()).nest(API, api).layer(known).with_state(self)
    }
}

/// The paths of the JSON API, below [`API`].
fn guarded_routes() -> Vec<(&'static str, MethodRouter<Admin>)> {
    vec![
        ("/tokens", get(tokens::list).post(tokens::create)),
        ("/tokens/{id}", get(tokens::show).delete(tokens::revoke)),
        ("/tokens/{id}/rotate", post(tokens::rotate)),
        ("/tenants", get(tenants::list)),
        ("/tenants/{id}", get(tenants::show)),
        ("/cache", get(cache::show)),
        ("/cache/invalidate", post(cache::invalidate)),
        ("/health", get(health::show)),
    ]
}

/// The paths that need no token.
fn open_routes() -> Vec<(&'static str, MethodRouter<Admin>)> {
    vec![
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/metrics", get(health::metrics)),
        ("/api/openapi.json", get(openapi::show)),
    ]
}

fn router(routes: Vec<(&str, MethodRouter<Admin>)>) -> Router<Admin> {
    let all = routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    all.fallback(no_such_path).method_not_allowed_fallback(no_such_method)
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(Code::UnknownUrl, format!("No such path: {}", uri.path()))
}

async fn no_such_method(method: Method) -> ApiError {
    ApiError::new(Code::MethodNotAllowed, format!("The path does not take {method}."))
}
