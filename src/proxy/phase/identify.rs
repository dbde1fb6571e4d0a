//! Identify: what is asked for, and with whose credential.

use http::{HeaderMap, header};
use pingora_proxy::Session;

use crate::{
    error::{Fault, GatewayError},
    openai::Endpoint,
    proxy::context::Context,
    types::Secret,
};

/// Sets what must stand before the first body byte is read.
pub fn prepare_connection(session: &mut Session, ctx: &Context) {
    // A client that keeps the connection open without a limit gets ours; one that asked to close keeps its wish.
    if session.get_keepalive() == Some(0) {
        session.set_keepalive(Some(ctx.engines.config.http.keepalive.as_secs().max(1)));
    }
    session.set_pipelining_enabled(true);
    // For bodies that are forwarded; a body that is read here has a limit for the whole. A WebSocket may be silent for as
    // long as both ends like.
    let patience = (!session.is_upgrade_req()).then_some(ctx.engines.config.http.body_timeout);
    session.set_read_timeout(patience);
}

/// Reads the request line and headers.
///
/// # Errors
/// A path outside `/v1/`, or one that names the same place in a disguised way (`//`, `..`, encoded slashes): it could
/// reach a provider unmetered.
pub fn identify(session: &Session, ctx: &mut Context) -> Result<Endpoint, GatewayError> {
    let request = session.req_header();
    ctx.credential = credential(&request.headers);
    let path = request.uri.path();
    if is_disguised(path) {
        return Err(unknown(&request.method, path));
    }
    let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
    if !path.starts_with("/v1/") {
        return Err(unknown(&request.method, path));
    }
    let endpoint = Endpoint::of(&request.method, path);
    Ok(endpoint)
}

fn unknown(method: &http::Method, path: &str) -> GatewayError {
    let shown: String = path.chars().take(200).collect();
    let message =
        format!("Unknown URL: {method} {shown}. The API lives under /v1/, so a client's base URL ends in /v1.");
    GatewayError::new(Fault::UnknownPath, message)
}

/// True for a path that a provider might read as another one than we do.
fn is_disguised(path: &str) -> bool {
    path.contains("//")
        || path.contains('\\')
        || path.split('/').any(|segment| matches!(segment, "." | ".."))
        || path.contains('%') && hides_structure(path)
}

/// True where an encoded dot or slash stands; a model's id may hold one.
fn hides_structure(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["%2e", "%2f", "%5c"].iter().any(|code| lower.contains(code)) && !lower.starts_with("/v1/models/")
}

/// The client's credential from `Authorization: Bearer`, `x-api-key` or `api-key`.
fn credential(headers: &HeaderMap) -> Option<Secret> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let token = bearer.or_else(|| text("x-api-key")).or_else(|| text("api-key"))?;
    (!token.trim().is_empty()).then(|| Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disguised_paths_are_seen() {
        for path in ["/v1//chat/completions", "/v1/../v1/files", "/v1/%2e%2e/x", "/v1/chat%2Fcompletions", "/v1/a\\b"] {
            assert!(is_disguised(path), "{path}");
        }
        for path in ["/v1/chat/completions", "/v1/files/file-abc", "/v1/models/openai%2Fgpt-4o", "/v1/a..b"] {
            assert!(!is_disguised(path), "{path}");
        }
    }

    #[test]
    fn a_credential_is_found_in_each_of_its_places() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            credential(&headers).map(|s| s.expose().to_owned())
        };
        assert_eq!(with("authorization", "Bearer sk-1").as_deref(), Some("sk-1"));
        assert_eq!(with("authorization", "bearer  sk-1").as_deref(), Some("sk-1"));
        assert_eq!(with("authorization", "Basic dTpw"), None);
        assert_eq!(with("authorization", "Bearer "), None);
        assert_eq!(with("x-api-key", "sk-2").as_deref(), Some("sk-2"));
        assert_eq!(with("api-key", "sk-3").as_deref(), Some("sk-3"));
    }
}
