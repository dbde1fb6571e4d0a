//! Who may use the API: holders of a credential with the scope `admin`, which is a `chitty_` token or a credential that another
//! authenticator knows.

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
use crate::identity::{Identity, PREFIX, Place, Scope};

/// The identity of a request's credential; handlers name it in the log.
#[derive(Clone)]
pub struct Caller(pub Arc<Identity>);

/// Lets a request with an admin token through, and keeps every reply out of caches.
pub async fn require_admin(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let mut response = match authorize(&admin, request.headers()).await {
        Ok(identity) => {
            request.extensions_mut().insert(Caller(identity));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<Arc<Identity>, ApiError> {
    let authenticators = &admin.shared.authenticators;
    let claimed = authenticators.sort(headers, Place::ADMIN).claimed.ok_or_else(|| {
        let message = format!("Present a token with the scope 'admin' as `Authorization: Bearer {PREFIX}…`.");
        ApiError::new(Code::InvalidApiKey, message)
    })?;
    let identity = authenticators.authenticate(claimed.expose()).verdict().await?;
    if !identity.scopes.has(Scope::Admin) {
        return Err(ApiError::new(Code::MissingScope, "The token lacks the scope 'admin'."));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Authenticators, Directory},
        store::sqlite,
    };

    fn presented(headers: &HeaderMap) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Directory::follow(sqlite::at(&folder.path().join("can.db")));
        let found = Authenticators::new(tokens, Vec::new()).sort(headers, Place::ADMIN);
        found.claimed.map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn a_token_is_found_in_both_of_its_places() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            presented(&pairs.collect())
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
        assert_eq!(with(&[("api-key", "chitty_1")]), None, "not a place of this API");
    }
}
