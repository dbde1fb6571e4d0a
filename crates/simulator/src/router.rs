//! The paths of the provider, and the headers that every reply of OpenAI or Anthropic carries.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use serde_json::{Value, json};

use super::call::{Endpoint, World, drain, header_faults, nanos, render_body, serve};
use super::connection::Connection;
use super::dialect::Dialect;
use super::errors::ApiError;
use super::{answer, chat, completions, embeddings, messages, moderations, ollama, passthrough, realtime, responses};

/// Dates of creation of listed models: an arbitrary constant, 2024-01-01.
const CREATED: u64 = 1_704_067_200;

/// All paths, over the shared `world`.
pub(super) fn build(world: Arc<World>) -> Router {
    let json = |endpoint: Endpoint| {
        post(move |State(world): State<Arc<World>>, request: Request| serve(world, request, endpoint))
    };
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", json(Endpoint::OpenAi(chat::complete)))
        .route("/v1/completions", json(Endpoint::OpenAi(completions::complete)))
        .route("/v1/embeddings", json(Endpoint::OpenAi(embeddings::embed)))
        .route("/v1/moderations", json(Endpoint::OpenAi(moderations::moderate)))
        .route("/v1/responses", json(Endpoint::OpenAi(responses::respond)))
        .route("/v1/messages", json(Endpoint::Anthropic(messages::create)))
        .route("/v1/messages/count_tokens", json(Endpoint::Anthropic(messages::count_tokens)))
        .route("/api/chat", json(Endpoint::Ollama(ollama::chat)))
        .route("/api/generate", json(Endpoint::Ollama(ollama::generate)))
        .route("/api/embed", json(Endpoint::Ollama(ollama::embed)))
        .route("/api/show", json(Endpoint::Ollama(ollama::show)))
        .route("/api/ps", get(ps))
        .route("/api/tags", get(tags))
        .route("/api/version", get(version))
        .route("/v1/files", get(passthrough::files).post(passthrough::upload))
        .route("/v1/files/{id}", get(passthrough::file_by_id).delete(passthrough::file_by_id))
        .route("/v1/files/{id}/content", get(passthrough::content))
        .route("/v1/audio/transcriptions", post(passthrough::transcribe))
        .route("/v1/audio/translations", post(passthrough::transcribe))
        .route("/v1/simulated/mirror", any(passthrough::mirror))
        .route("/v1/realtime", get(realtime::upgrade))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&world), around))
        .with_state(world)
}

async fn models(State(world): State<Arc<World>>, request: Request) -> Response {
    let listed = world.config.models.iter().filter(|name| !name.ends_with('*'));
    let data: Vec<Value> = listed.map(|name| described(name)).collect();
    answered(&world, request, json!({"object": "list", "data": data})).await
}

async fn model(State(world): State<Arc<World>>, Path(id): Path<String>, request: Request) -> Response {
    if !world.knows(&id) {
        let message = format!("The model '{id}' does not exist");
        return ApiError { status: 404, ..ApiError::invalid("model", "model_not_found", message) }.into_response();
    }
    answered(&world, request, described(&id)).await
}

async fn ps(State(world): State<Arc<World>>, request: Request) -> Response {
    answered(&world, request, ollama::ps(&world)).await
}

async fn tags(State(world): State<Arc<World>>, request: Request) -> Response {
    answered(&world, request, ollama::tags(&world)).await
}

async fn version(State(world): State<Arc<World>>, request: Request) -> Response {
    answered(&world, request, ollama::version()).await
}

/// Replies to a request without a body, after the faults that its headers ask for.
async fn answered(world: &World, request: Request, body: Value) -> Response {
    let (parts, _) = request.into_parts();
    let connection = parts.extensions.get::<Connection>().cloned();
    let mut faults = match header_faults(&parts) {
        Ok(faults) => faults,
        Err(error) => return error.into_response(),
    };
    let dialect = Dialect::of_path(parts.uri.path());
    match world.strike(&mut faults, connection.as_ref(), dialect, "the model").await {
        Ok(()) => render_body(Bytes::from(body.to_string()), "application/json", &faults, connection),
        Err(response) => response,
    }
}

fn described(name: &str) -> Value {
    let owner = match name {
        _ if name.starts_with("claude") => "anthropic",
        _ if name.starts_with("llama") => "meta",
        _ => "openai",
    };
    json!({"id": name, "object": "model", "created": CREATED, "owned_by": owner})
}

async fn unknown(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    drain(body).await;
    ApiError::unknown_url(parts.method.as_str(), parts.uri.path()).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    drain(body).await;
    ApiError::wrong_method(parts.method.as_str(), parts.uri.path()).into_response()
}

/// Counts the request, refuses the key `sk-invalid`, shapes refusals, and adds the headers of OpenAI or Anthropic.
async fn around(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let number = world.requests.fetch_add(1, Ordering::Relaxed);
    let dialect = Dialect::of_path(request.uri().path());
    let mut response = if dialect.has_bad_key(request.headers()) {
        drain(request.into_body()).await;
        dialect.invalid_key().into_response()
    } else {
        next.run(request).await
    };
    // Unique within a run and, because of the clock, across runs.
    let mut state = number ^ answer::hash(&nanos().to_le_bytes());
    let id = format!("req_{:016x}{:016x}", answer::next(&mut state), answer::next(&mut state));
    dialect.reshape(&mut response, &id);
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    match dialect {
        Dialect::OpenAi => stamp(response.headers_mut(), &id, started, limited),
        Dialect::Anthropic => messages::stamp(response.headers_mut(), &id, limited),
        Dialect::Ollama => {}
    }
    response
}

fn stamp(headers: &mut HeaderMap, id: &str, started: Instant, limited: bool) {
    let remaining = if limited { "0" } else { "9999" };
    let reset = if limited { "1s" } else { "6ms" };
    let millis = started.elapsed().as_millis().max(1).to_string();
    let fixed = [
        ("openai-organization", "org-simulated"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "30000000"),
        ("x-ratelimit-remaining-requests", remaining),
        ("x-ratelimit-remaining-tokens", "29999000"),
        ("x-ratelimit-reset-requests", reset),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    let made = [("x-request-id", id), ("openai-processing-ms", millis.as_str())];
    for (name, value) in fixed.into_iter().chain(made) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
