//! The refusals of the admin API: one shape, and a closed list of codes.

use axum::{
    Json,
    extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::identity::{Refused, TokenError};

/// The longest message, in characters: some messages quote what the client sent.
const MAX_MESSAGE: usize = 500;

/// The reason as a code, for programs. Codes that the client API also has mean the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body, the query or the path is invalid.
    InvalidRequest,
    /// There is no token, or the token is not valid.
    InvalidApiKey,
    /// The token lacks the scope `admin`.
    MissingScope,
    /// No tenant of this name is configured or in use.
    UnknownTenant,
    /// No token has this id.
    UnknownToken,
    /// There is no such path.
    UnknownUrl,
    /// The path exists, but does not have this method.
    MethodNotAllowed,
    /// The name in `Host` is not a known name of the listener (`admin.hosts`).
    UnknownHost,
    /// The token is revoked or has expired.
    TokenEnded,
    /// The body is too large.
    RequestTooLarge,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// The gateway cannot read its tokens.
    IdentityUnavailable,
    /// The database cannot be read or written.
    DatabaseUnavailable,
    /// A fault of the gateway.
    InternalError,
}

impl Code {
    /// The HTTP status of the code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Self::MissingScope => StatusCode::FORBIDDEN,
            Self::UnknownTenant | Self::UnknownToken | Self::UnknownUrl => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::TokenEnded => StatusCode::CONFLICT,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdentityUnavailable | Self::DatabaseUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal, on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    code: Code,
    message: String,
}

/// The body of every reply with a status of 400 and above.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A message for people.
    pub message: String,
    /// A code for programs.
    pub code: Code,
}

impl ApiError {
    /// A refusal with a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(cut);
            message.push('…');
        }
        Self { code, message }
    }

    /// A refusal of an invalid request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// A fault of the gateway.
    pub fn internal() -> Self {
        Self::new(Code::InternalError, "The gateway failed to answer. Its log says more.")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { message: self.message, code: self.code } };
        let mut response = (self.code.status(), Json(body)).into_response();
        if self.code == Code::InvalidApiKey {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::new(Code::InvalidApiKey, "The token is not one of this gateway's."),
            Refused::Expired => Self::new(Code::InvalidApiKey, "The token has expired."),
            Refused::Revoked => Self::new(Code::InvalidApiKey, "The token was revoked."),
            Refused::Unavailable => {
                Self::new(Code::IdentityUnavailable, "The gateway cannot check the credential at the moment.")
            }
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Unknown(_) => Self::new(Code::UnknownToken, sentence(&error)),
            TokenError::Ended(..) => Self::new(Code::TokenEnded, sentence(&error)),
            TokenError::Invalid(_) => Self::invalid(sentence(&error)),
            TokenError::NoRandom => {
                tracing::error!("the system has no random numbers");
                Self::internal()
            }
            TokenError::Store(error) => {
                // The client learns that the database fails; where and why is only for the log.
                tracing::error!(%error, "the admin API cannot use the database");
                Self::new(Code::DatabaseUnavailable, "The gateway cannot use its database at the moment.")
            }
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::PAYLOAD_TOO_LARGE => Code::RequestTooLarge,
            _ => Code::InvalidRequest,
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::RequestTooLarge,
            _ => Code::InvalidRequest,
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(rejection.body_text())
    }
}

/// The error as a sentence: capitalised and with a full stop, because the command line shows the same texts after a colon.
fn sentence(error: &TokenError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_an_end() {
        let error = ApiError::invalid("é".repeat(10_000));
        assert_eq!(error.message.chars().count(), MAX_MESSAGE + 1);
        assert!(error.message.ends_with('…'));
    }

    #[test]
    fn the_database_is_not_described_to_clients() {
        let store = std::io::Error::other("/secret/path").into();
        let error = ApiError::from(TokenError::Store(store));
        assert_eq!(error.code.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!error.message.contains("secret"));
        let unknown = ApiError::from(TokenError::Unknown("tok_x".into()));
        assert_eq!(unknown.message, "No token has the id `tok_x`.");
    }
}
