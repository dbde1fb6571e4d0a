//! Who may use the API: holders of a `chitty_` token with the scope `admin`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Admin,
    error::{ApiError, Code},
};
use crate::identity::{PREFIX, Scope, Token};

/// The token a request was made with; handlers name it in the log.
#[derive(Clone)]
pub struct Caller(pub Arc<Token>);

/// Lets a request with an admin token through, and keeps every reply out of caches.
pub async fn require_admin(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let mut response = match authorize(&admin, request.headers()).await {
        Ok(token) => {
            request.extensions_mut().insert(Caller(token));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<Arc<Token>, ApiError> {
    let presented = presented(headers).ok_or_else(|| {
        let message = format!("Present a token with the scope 'admin' as `Authorization: Bearer {PREFIX}…`.");
        ApiError::new(Code::InvalidApiKey, message)
    })?;
    let token = admin.governance.directory.authenticate_fresh(presented).await?;
    if !token.scopes.has(Scope::Admin) {
        return Err(ApiError::new(Code::MissingScope, "The token lacks the scope 'admin'."));
    }
    Ok(token)
}

/// What is presented as a token: in `Authorization: Bearer` or `x-api-key`, the first that looks like one.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    [bearer, text("x-api-key")].into_iter().flatten().map(str::trim).find(|text| text.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_both_of_its_places() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            presented(&pairs.collect()).map(str::to_owned)
        };
        let found = Some("chitty_1".to_owned());
        assert_eq!(with(&[("authorization", "Bearer chitty_1")]), found);
        assert_eq!(with(&[("authorization", "bearer  chitty_1 ")]), found);
        assert_eq!(with(&[("x-api-key", "chitty_1")]), found);
        assert_eq!(with(&[("authorization", "Bearer sk-own"), ("x-api-key", "chitty_1")]), found);
        for other in ["", "chitty_1", "Basic chitty_1", "Bearer", "Bearer ", "Bearer sk-own"] {
            assert_eq!(with(&[("authorization", other)]), None, "{other}");
        }
        assert_eq!(with(&[]), None);
    }
}
