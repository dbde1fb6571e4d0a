//! Turns Anthropic's errors into OpenAI's.

use serde_json::Value;

use crate::openai::{self, ErrorBody};

/// The status and the error for an OpenAI client, from an error reply of Anthropic or of a proxy in front of it.
///
/// The status is the provider's, except for two that OpenAI's clients do not know: 529 becomes 503, and 402 becomes the 429 that
/// OpenAI itself sends when there is no credit. Anthropic also has a 400 for missing credit. Text that is not JSON is cut.
pub fn read_error(status: u16, body: &[u8]) -> (u16, ErrorBody) {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| value["error"][key].as_str().filter(|text| !text.is_empty());
    match (text("type").and_then(Kind::of), text("message")) {
        (Some(kind), Some(message)) => kind.error(status, message),
        _ => (client_status(status), openai::read_error(status, None, body)),
    }
}

/// The error in an `error` event of a stream, with the status that belongs to the error's type.
pub(super) fn of_event(data: &[u8]) -> ErrorBody {
    let value: Value = serde_json::from_slice(data).unwrap_or_default();
    let kind = value["error"]["type"].as_str().and_then(Kind::of);
    read_error(kind.map_or(500, Kind::status), data).1
}

/// Anthropic's types of error.
#[derive(Clone, Copy)]
enum Kind {
    InvalidRequest,
    Authentication,
    Billing,
    Permission,
    NotFound,
    TooLarge,
    RateLimit,
    Api,
    Timeout,
    Overloaded,
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "invalid_request_error" => Self::InvalidRequest,
            "authentication_error" => Self::Authentication,
            "billing_error" => Self::Billing,
            "permission_error" => Self::Permission,
            "not_found_error" => Self::NotFound,
            "request_too_large" => Self::TooLarge,
            "rate_limit_error" => Self::RateLimit,
            "api_error" => Self::Api,
            "timeout_error" => Self::Timeout,
            "overloaded_error" => Self::Overloaded,
            _ => return None,
        })
    }

    /// The status that Anthropic sends with errors of this type.
    fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Authentication => 401,
            Self::Billing => 402,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::TooLarge => 413,
            Self::RateLimit => 429,
            Self::Api => 500,
            Self::Timeout => 504,
            Self::Overloaded => 529,
        }
    }

    fn error(self, status: u16, message: &str) -> (u16, ErrorBody) {
        let (kind, code) = match self {
            Self::InvalidRequest if is_without_credit(message) => return Self::Billing.error(402, message),
            Self::InvalidRequest if is_too_long(message) => {
                let mut error = ErrorBody::new(message, "invalid_request_error", Some("context_length_exceeded"));
                error.param = Some("messages".into());
                return (client_status(status), error);
            }
            Self::InvalidRequest => ("invalid_request_error", None),
            Self::Authentication => ("invalid_request_error", Some("invalid_api_key")),
            Self::Billing => ("insufficient_quota", Some("insufficient_quota")),
            Self::Permission => ("invalid_request_error", Some("permission_denied")),
            Self::NotFound => ("invalid_request_error", Some("model_not_found")),
            Self::TooLarge => ("invalid_request_error", Some("request_too_large")),
            Self::RateLimit => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::Api => ("server_error", None),
            Self::Timeout => ("server_error", Some("timeout")),
            Self::Overloaded => ("server_error", Some("overloaded")),
        };
        (client_status(status), ErrorBody::new(message, kind, code))
    }
}

fn client_status(status: u16) -> u16 {
    if status == 402 { 429 } else { openai::map_status(status) }
}

fn is_too_long(message: &str) -> bool {
    ["prompt is too long", "exceed context limit"].iter().any(|words| message.contains(words))
}

fn is_without_credit(message: &str) -> bool {
    message.contains("credit balance is too low")
}
