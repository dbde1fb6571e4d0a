//! Errors in the shape that Anthropic's clients read: `{"type":"error","error":{"type","message"},"request_id"}`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::error::ErrorBody;

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'static str,
    error: Inner<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Inner<'a> {
    r#type: &'a str,
    message: &'a str,
    #[serde(flatten)]
    more: BTreeMap<&'a str, &'a Value>,
}

/// The body of an error reply with this HTTP status. `more` is one additional member of the `error` object.
pub fn error_body(status: u16, error: &ErrorBody, request_id: Option<&str>, more: Option<(&str, &Value)>) -> Bytes {
    to_json(kind_of_status(status), error, request_id, more)
}

/// Whether a body is already an error in Anthropic's shape.
pub fn is_anthropic_error(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|value| {
        value["type"] == "error" && value["error"]["type"].is_string() && value["error"]["message"].is_string()
    })
}

/// The `error` event that ends a broken stream.
pub fn error_event(error: &ErrorBody) -> Bytes {
    let mut event = b"event: error\ndata: ".to_vec();
    event.extend_from_slice(&to_json(kind_of(error), error, None, None));
    event.extend_from_slice(b"\n\n");
    event.into()
}

fn to_json(kind: &str, error: &ErrorBody, request_id: Option<&str>, more: Option<(&str, &Value)>) -> Bytes {
    let message = match &error.param {
        // Anthropic's errors have no `param`; their messages begin with the path instead.
        Some(param) if !error.message.contains(param.as_str()) => format!("{param}: {}", error.message),
        _ => error.message.clone(),
    };
    let error = Inner { r#type: kind, message: &message, more: more.into_iter().collect() };
    // Texts and JSON values always serialise.
    serde_json::to_vec(&Envelope { r#type: "error", error, request_id })
        .map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from)
}

/// Anthropic's word for a status (its API reference, "Errors").
fn kind_of_status(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// Anthropic's word for an error within a stream, which has no status: chosen by the error's code, then by its type.
fn kind_of(error: &ErrorBody) -> &'static str {
    let word = |word: &str| match word {
        "insufficient_quota" | "budget_exceeded" | "billing_error" => Some("billing_error"),
        "rate_limit_exceeded" | "rate_limit_error" | "requests" | "tokens" => Some("rate_limit_error"),
        "overloaded" | "overloaded_error" => Some("overloaded_error"),
        "timeout" | "timeout_error" | "upstream_timeout" => Some("timeout_error"),
        "invalid_api_key" | "authentication_error" => Some("authentication_error"),
        "permission_denied" | "permission_error" => Some("permission_error"),
        "model_not_found" | "not_found_error" => Some("not_found_error"),
        "request_too_large" => Some("request_too_large"),
        "invalid_request_error" => Some("invalid_request_error"),
        _ => None,
    };
    error.code.as_deref().and_then(word).or_else(|| word(&error.r#type)).unwrap_or("api_error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anthropics_shape() {
        let mut error = ErrorBody::new("Too much.", "rate_limit_error", Some("rate_limit_exceeded"));
        let json = error_body(429, &error, Some("r"), None);
        assert_eq!(
            &json[..],
            br#"{"type":"error","error":{"type":"rate_limit_error","message":"Too much."},"request_id":"r"}"#
        );
        assert_eq!(
            &error_event(&error)[..],
            b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Too much.\"}}\n\n"
        );
        error.param = Some("top_k".into());
        let budget = serde_json::json!({"left": 1});
        let json: Value = serde_json::from_slice(&error_body(402, &error, None, Some(("budget", &budget)))).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "error", "error": {"type": "billing_error", "message": "top_k: Too much.", "budget": {"left": 1}}})
        );
    }

    #[test]
    fn kinds_of_errors_in_streams() {
        for (kind, code, expected) in [
            ("server_error", Some("overloaded"), "overloaded_error"),
            ("server_error", Some("stream_interrupted"), "api_error"),
            ("insufficient_quota", Some("budget_exceeded"), "billing_error"),
            ("invalid_request_error", Some("context_length_exceeded"), "invalid_request_error"),
            ("something", None, "api_error"),
        ] {
            assert_eq!(kind_of(&ErrorBody::new("m", kind, code)), expected);
        }
        for (status, expected) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (422, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
            (529, "overloaded_error"),
        ] {
            assert_eq!(kind_of_status(status), expected);
        }
    }
}
