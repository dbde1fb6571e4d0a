//! Endpoints that a gateway forwards without parsing: uploads, downloads and a mirror. Bodies are streamed in constant memory.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use ring::digest;
use serde_json::{Map, Value, json};

use super::answer;
use super::call::{World, header_faults, now, render_body};
use super::connection::Connection;
use super::dialect::Dialect;
use super::errors::ApiError;
use super::fault::Faults;

/// Number of bytes at the start of an upload that are searched for its file name and purpose.
const HEAD: usize = 4096;

/// Headers whose value is a credential. The mirror shows a fingerprint instead.
const CREDENTIALS: [&str; 5] = ["authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"];

/// `POST /v1/files`: counts and hashes the body. The id contains the size, which a download then has.
pub(super) async fn upload(State(world): State<Arc<World>>, request: Request) -> Response {
    exchange(&world, request, |_, read| {
        let id = format!("file-{}-{}", read.bytes, &read.sha256[..12]);
        let mut file = file(&id, read.bytes);
        for (field, mark) in [("filename", "filename=\""), ("purpose", "name=\"purpose\"\r\n\r\n")] {
            let value = read.head.split_once(mark).and_then(|(_, rest)| rest.split(['"', '\r', '\n']).next());
            if let Some(value) = value {
                file[field] = json!(value);
            }
        }
        file["sha256"] = json!(read.sha256);
        file
    })
    .await
}

/// `GET` and `DELETE /v1/files/{id}`.
pub(super) async fn file_by_id(State(world): State<Arc<World>>, Path(id): Path<String>, request: Request) -> Response {
    let Some(bytes) = size_of(&id) else { return no_file(&id) };
    exchange(&world, request, |parts, _| match parts.method.as_str() {
        "DELETE" => json!({"id": id, "object": "file", "deleted": true}),
        _ => file(&id, bytes),
    })
    .await
}

/// `GET /v1/files`: nothing is stored.
pub(super) async fn files(State(world): State<Arc<World>>, request: Request) -> Response {
    exchange(&world, request, |_, _| json!({"object": "list", "data": [], "has_more": false})).await
}

/// `GET /v1/files/{id}/content`: as many bytes as the id says; byte `i` is `i % 251`.
pub(super) async fn content(State(world): State<Arc<World>>, Path(id): Path<String>, request: Request) -> Response {
    let Some(size) = size_of(&id) else { return no_file(&id) };
    let (parts, _) = request.into_parts();
    if let Err(response) = strike(&world, &parts).await {
        return response;
    }
    // The length of a block is a multiple of the pattern's period, so all blocks have the same bytes.
    const BLOCK: u64 = 251 * 256;
    let block: Bytes = (0..BLOCK).map(|i| (i % 251) as u8).collect();
    let body = stream::unfold((block, size), |(block, left)| async move {
        let part = block.slice(..left.min(BLOCK) as usize);
        let left = left - part.len() as u64;
        (!part.is_empty()).then_some((Ok::<_, std::convert::Infallible>(part), (block, left)))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

/// `POST /v1/audio/transcriptions` and `/v1/audio/translations`: a text that tells the size of the upload.
pub(super) async fn transcribe(State(world): State<Arc<World>>, request: Request) -> Response {
    exchange(&world, request, |_, read| json!({"text": format!("A simulated transcript of {} bytes.", read.bytes)}))
        .await
}

/// Any method on `/v1/simulated/mirror`: describes the request, so that a test of a gateway sees what the gateway sent.
pub(super) async fn mirror(State(world): State<Arc<World>>, request: Request) -> Response {
    exchange(&world, request, |parts, read| {
        json!({
            "method": parts.method.as_str(), "path": parts.uri.path(), "query": parts.uri.query(),
            "version": format!("{:?}", parts.version), "headers": shown(&parts.headers),
            "bytes": read.bytes, "sha256": read.sha256
        })
    })
    .await
}

/// The result of reading a body.
struct Read {
    bytes: u64,
    sha256: String,
    head: String,
}

async fn exchange(world: &World, request: Request, answer: impl FnOnce(&Parts, &Read) -> Value) -> Response {
    let (parts, body) = request.into_parts();
    let early = header_faults(&parts).is_ok_and(|faults| faults.early);
    let mut struck = if early { Some(strike(world, &parts).await) } else { None };
    if let Some(Err(response)) = struck {
        return response;
    }
    let Some(read) = read(body).await else { return ApiError::not_json().into_response() };
    let faults = match struck.take() {
        Some(faults) => faults,
        None => strike(world, &parts).await,
    };
    match faults {
        Ok(faults) => {
            let connection = parts.extensions.get::<Connection>().cloned();
            render_body(Bytes::from(answer(&parts, &read).to_string()), "application/json", &faults, connection)
        }
        Err(response) => response,
    }
}

/// Applies the faults of the headers; `Err` is the reply that they cause.
async fn strike(world: &World, parts: &Parts) -> Result<Faults, Response> {
    let mut faults = header_faults(parts).map_err(IntoResponse::into_response)?;
    world.strike(&mut faults, parts.extensions.get::<Connection>(), Dialect::OpenAi, "the model").await?;
    Ok(faults)
}

/// Reads a body to its end; `None` if the client disconnects.
async fn read(mut body: Body) -> Option<Read> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut bytes, mut head) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes += data.len() as u64;
            context.update(&data);
            head.extend_from_slice(&data[..data.len().min(HEAD - head.len())]);
        }
    }
    let sha256 = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Read { bytes, sha256, head: String::from_utf8_lossy(&head).into_owned() })
}

fn file(id: &str, bytes: u64) -> Value {
    json!({
        "id": id, "object": "file", "bytes": bytes, "created_at": now(), "expires_at": null,
        "filename": "simulated.bin", "purpose": "user_data", "status": "processed", "status_details": null
    })
}

/// The size in a file id, `file-<size>-<anything>`.
fn size_of(id: &str) -> Option<u64> {
    id.strip_prefix("file-")?.split('-').next()?.parse().ok()
}

fn no_file(id: &str) -> Response {
    let message = format!("No such File object: {id}");
    ApiError { status: 404, ..ApiError::invalid("id", "not_found", message) }.into_response()
}

/// Headers as JSON: the values of a repeated name are joined, credentials become fingerprints.
fn shown(headers: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in headers.keys() {
        let values: Vec<String> =
            headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        let value = values.join(", ");
        let secret = CREDENTIALS.contains(&name.as_str());
        let value = if secret { format!("fingerprint:{:016x}", answer::hash(value.as_bytes())) } else { value };
        shown.insert(name.as_str().to_owned(), Value::String(value));
    }
    Value::Object(shown)
}
