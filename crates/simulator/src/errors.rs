//! Refusals in the shape of OpenAI: `{"error":{"message","type","param","code"}}`, all four keys always present.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One refusal: an HTTP status and the four fields a client reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) kind: &'static str,
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
}

impl ApiError {
    /// 400 about the named parameter.
    pub(super) fn invalid(param: &str, code: &'static str, message: String) -> Self {
        let param = Some(param.to_owned());
        Self { status: 400, message, kind: "invalid_request_error", param, code: Some(code) }
    }

    /// 400 for a required parameter that is absent.
    pub(super) fn missing(param: &str) -> Self {
        Self::invalid(param, "missing_required_parameter", format!("Missing required parameter: '{param}'."))
    }

    /// 400 for a value of another JSON type than `expected` ("a string").
    pub(super) fn wrong_type(param: &str, expected: &str, got: &Value) -> Self {
        let message = format!("Invalid type for '{param}': expected {expected}, but got {} instead.", type_name(got));
        Self::invalid(param, "invalid_type", message)
    }

    /// 400 for a body that is not JSON.
    pub(super) fn not_json() -> Self {
        Self::plain(400, "We could not parse the JSON body of your request.", None)
    }

    /// 400 for an unknown or malformed fault directive, so that a typo in a test is seen at once.
    pub(super) fn directive(problem: String) -> Self {
        Self { param: Some("x-simulate".to_owned()), ..Self::plain(400, &problem, Some("unknown_directive")) }
    }

    /// 404 for a model that is neither listed nor matched by a pattern of the configuration.
    pub(super) fn unknown_model(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self::plain(404, &message, Some("model_not_found"))
    }

    /// 404 of a path that OpenAI does not serve.
    pub(super) fn unknown_url(method: &str, path: &str) -> Self {
        Self::plain(404, &format!("Invalid URL ({method} {path})"), None)
    }

    /// 405 of a known path.
    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        Self::plain(405, &format!("Not allowed to {method} on {path}."), Some("method_not_supported"))
    }

    /// 401 for the key that is always refused, `sk-invalid`.
    pub(super) fn invalid_key(key: &str) -> Self {
        let shown: String = key.chars().take(8).collect();
        let message = format!(
            "Incorrect API key provided: {shown}***. You can find your API key at \
             https://platform.openai.com/account/api-keys."
        );
        Self::plain(401, &message, Some("invalid_api_key"))
    }

    /// 413 for a JSON body above the server's bound.
    pub(super) fn too_large(limit: usize) -> Self {
        Self::plain(413, &format!("The request body is larger than {limit} bytes."), Some("request_too_large"))
    }

    /// The refusal that OpenAI gives with `status`; `quota` selects the 429 that a retry cannot resolve.
    pub(super) fn of_status(status: u16, quota: bool, model: &str) -> Self {
        let (message, kind, code): (String, _, _) = match status {
            429 if quota => (
                "You exceeded your current quota, please check your plan and billing details.".into(),
                "insufficient_quota",
                Some("insufficient_quota"),
            ),
            429 => (
                format!("Rate limit reached for {model} on requests per min (RPM): Limit 10000, Used 10000."),
                "requests",
                Some("rate_limit_exceeded"),
            ),
            401 => return Self::invalid_key("sk-simulated"),
            402 => ("Payment is required.".into(), "insufficient_quota", Some("insufficient_quota")),
            403 => ("The key may not do this.".into(), "invalid_request_error", Some("permission_denied")),
            404 => return Self::unknown_model(model),
            413 => ("The request is too large.".into(), "invalid_request_error", Some("request_too_large")),
            408 | 504 => ("The request timed out.".into(), "server_error", Some("timeout")),
            503 | 529 => ("The engine is currently overloaded.".into(), "server_error", Some("overloaded")),
            500.. => (SERVER_FAULT.into(), "server_error", None),
            _ => (format!("Simulated status {status}."), "invalid_request_error", None),
        };
        Self { status, message, kind, param: None, code }
    }

    /// The error that breaks a stream after it began.
    pub(super) fn mid_stream() -> Self {
        Self { status: 500, message: SERVER_FAULT.into(), kind: "server_error", param: None, code: None }
    }

    /// The JSON body of the refusal.
    pub(super) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// A refusal of a dialect other than OpenAI's, where a refusal has only a status and a sentence.
    pub(super) fn worded(status: u16, message: &str) -> Self {
        Self::plain(status, message, None)
    }

    fn plain(status: u16, message: &str, code: Option<&'static str>) -> Self {
        Self { status, message: message.to_owned(), kind: "invalid_request_error", param: None, code }
    }
}

const SERVER_FAULT: &str = "The server had an error while processing your request.";

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        // The outermost layer rewrites the body where the path belongs to another dialect.
        response.extensions_mut().insert(self);
        response
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_all_four_keys() {
        for status in [400, 401, 402, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 529] {
            let error = ApiError::of_status(status, false, "gpt-4o");
            assert_eq!(error.status, status);
            let body = error.body();
            let keys: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
            assert_eq!(keys, ["message", "type", "param", "code"]);
        }
    }

    #[test]
    fn a_429_is_of_two_kinds() {
        assert_eq!(ApiError::of_status(429, false, "m").code, Some("rate_limit_exceeded"));
        assert_eq!(ApiError::of_status(429, true, "m").kind, "insufficient_quota");
    }
}
