//! The three dialects of the provider, and the wording and shape of refusals in each.
//!
//! An [`ApiError`] gets its wording where it arises and its shape at the end: it travels with its response to the router's
//! outermost layer, which rewrites the body for a dialect other than OpenAI's.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::messages;

/// Whose API a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    /// The Messages API.
    Anthropic,
    /// Ollama's native API, not its OpenAI-compatible one.
    Ollama,
}

/// The paths of Ollama's API that exist here. Any other path under `/api` answers with OpenAI's 404.
const OLLAMA: [&str; 7] = ["chat", "generate", "embed", "show", "ps", "version", "tags"];

impl Dialect {
    /// The dialect of the replies on `path`, refusals included.
    pub(super) fn of_path(path: &str) -> Self {
        let anthropic = |rest: &str| rest.is_empty() || rest.starts_with('/');
        if path.strip_prefix("/v1/messages").is_some_and(anthropic) {
            Self::Anthropic
        } else if path.strip_prefix("/api/").is_some_and(|rest| OLLAMA.contains(&rest)) {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }

    /// Whether the request carries the key that is always refused, `sk-invalid`.
    pub(super) fn has_bad_key(self, headers: &HeaderMap) -> bool {
        let bad = |name: &str, prefix: &str| {
            headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix(prefix)) == Some("sk-invalid")
        };
        bad("authorization", "Bearer ") || (self == Self::Anthropic && bad("x-api-key", ""))
    }

    /// 401 for the key of [`Self::has_bad_key`].
    pub(super) fn invalid_key(self) -> ApiError {
        match self {
            Self::OpenAi => ApiError::invalid_key("sk-invalid"),
            Self::Anthropic => ApiError::worded(401, "invalid x-api-key"),
            Self::Ollama => ApiError::worded(401, "unauthorized"),
        }
    }

    /// The refusal with `status` that a fault asks for.
    pub(super) fn of_status(self, status: u16, quota: bool, model: &str) -> ApiError {
        match self {
            Self::OpenAi => ApiError::of_status(status, quota, model),
            Self::Anthropic => ApiError::worded(status, &messages::words(status, model)),
            Self::Ollama => match status {
                404 => ApiError::worded(404, &format!("model '{model}' not found")),
                503 => ApiError::worded(503, "server busy, please try again.  maximum pending requests exceeded"),
                _ => ApiError::worded(status, &format!("simulated status {status}")),
            },
        }
    }

    /// 400 for a body that is not a JSON object.
    pub(super) fn not_json(self) -> ApiError {
        match self {
            Self::OpenAi => ApiError::not_json(),
            Self::Anthropic => ApiError::worded(400, "The request body is not valid JSON: expected an object."),
            Self::Ollama => ApiError::worded(400, "invalid character in the JSON body"),
        }
    }

    /// 400 for a required field that is absent.
    pub(super) fn missing(self, field: &str) -> ApiError {
        match self {
            Self::OpenAi => ApiError::missing(field),
            Self::Anthropic => ApiError::worded(400, &format!("{field}: Field required")),
            Self::Ollama => ApiError::worded(400, &format!("{field} is required")),
        }
    }

    /// 400 for a value that is not of type `expected`: "a string", "a boolean".
    pub(super) fn wrong_type(self, field: &str, expected: &str, got: &Value) -> ApiError {
        let expected_word = expected.trim_start_matches("a ").trim_start_matches("an ");
        match self {
            Self::OpenAi => ApiError::wrong_type(field, expected, got),
            Self::Anthropic => ApiError::worded(400, &format!("{field}: Input should be a valid {expected_word}")),
            Self::Ollama => {
                let message =
                    format!("json: cannot unmarshal value into Go struct field .{field} of type {expected_word}");
                ApiError::worded(400, &message)
            }
        }
    }

    /// 404 for a model that does not exist.
    pub(super) fn unknown_model(self, model: &str) -> ApiError {
        match self {
            Self::OpenAi => ApiError::unknown_model(model),
            Self::Anthropic => ApiError::worded(404, &format!("model: {model}")),
            Self::Ollama => self.of_status(404, false, model),
        }
    }

    /// Whether a request without `stream` is streamed.
    pub(super) fn streams_by_default(self) -> bool {
        self == Self::Ollama
    }

    /// The media type of a stream.
    pub(super) fn stream_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenAi | Self::Anthropic => "text/event-stream; charset=utf-8",
            Self::Ollama => "application/x-ndjson",
        })
    }

    /// The body of a refusal in this dialect's shape.
    pub(super) fn body(self, error: &ApiError, request_id: &str) -> Value {
        match self {
            Self::OpenAi => error.body(),
            Self::Anthropic => {
                json!({"type": "error", "error": messages::error(error), "request_id": request_id})
            }
            Self::Ollama => json!({"error": error.message}),
        }
    }

    /// Rewrites a refusal in this dialect's shape. Responses that do not carry an [`ApiError`] stay unchanged.
    pub(super) fn reshape(self, response: &mut Response, request_id: &str) {
        let Some(error) = response.extensions_mut().remove::<ApiError>() else { return };
        if self != Self::OpenAi {
            *response.body_mut() = Body::from(self.body(&error, request_id).to_string());
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_dialect() {
        let cases = [
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/v1/messages/nowhere", Dialect::Anthropic),
            ("/v1/messagesx", Dialect::OpenAi),
            ("/api/chat", Dialect::Ollama),
            ("/api/nowhere", Dialect::OpenAi),
            ("/v1/chat/completions", Dialect::OpenAi),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }
}
