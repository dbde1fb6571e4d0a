//! The OpenAPI document, generated from the handlers and their bodies.

use std::collections::BTreeMap;

use axum::Json;
use utoipa::{
    IntoResponses, Modify, OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, Response, ResponseBuilder,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{cache, error::ErrorBody, health, tenants, tokens};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ChittyCan Gateway: admin API",
        description = "Tokens, tenants, cache and health of a running gateway, on its admin listener. Every path under `/api/v1` \
                       needs a `chitty_` token with the scope `admin`. Money is a decimal number in text, times are RFC 3339."
    ),
    paths(
        tokens::create,
        tokens::list,
        tokens::show,
        tokens::revoke,
        tokens::rotate,
        tenants::list,
        tenants::show,
        cache::show,
        cache::invalidate,
        health::show,
        health::healthz,
        health::readyz,
        health::metrics,
        show,
    ),
    components(schemas(ErrorBody)),
    security(("bearer" = []), ("api_key" = [])),
    servers((url = "http://127.0.0.1:8081", description = "The default address of the admin listener.")),
    tags(
        (name = "tokens", description = "Credentials of the gateway's clients."),
        (name = "tenants", description = "Tenants, their limits and the state of their budgets."),
        (name = "cache", description = "The completion cache: its contents, its use, and purges."),
        (name = "operation", description = "Health, metrics and this document."),
    ),
    modifiers(&Schemes, &OptionalBodies)
)]
struct Document;

/// Adds the two headers in which a token may be sent.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("chitty_…")
            .description(Some("A token with the scope `admin`."))
            .build();
        let header = ApiKeyValue::with_description("x-api-key", "A token with the scope `admin`.");
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(header)));
    }
}

/// Marks every request body as optional, except the one of a purge.
struct OptionalBodies;

impl Modify for OptionalBodies {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let purge = Some("invalidate_cache");
        let operations = document.paths.paths.values_mut().filter_map(|item| item.post.as_mut());
        let operations = operations.filter(|operation| operation.operation_id.as_deref() != purge);
        for body in operations.filter_map(|operation| operation.request_body.as_mut()) {
            if let RefOr::T(body) = body {
                body.required = None;
            }
        }
    }
}

/// The replies that every path under `/api/v1` has.
pub struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let reply = |description: &str| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).build();
            ResponseBuilder::new().description(description).content("application/json", content).build().into()
        };
        BTreeMap::from([
            ("401".to_owned(), reply("No token, or one that opens nothing.")),
            ("403".to_owned(), reply("The token lacks the scope `admin`.")),
            ("421".to_owned(), reply("The listener is not known under the name in `Host` (`admin.hosts`).")),
            ("503".to_owned(), reply("The tokens or the database cannot be read or written at the moment.")),
        ])
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    tag = "operation",
    operation_id = "openapi",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1."))
)]
pub async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

/// The OpenAPI document of the admin listener.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::admin;

    #[test]
    fn the_committed_document_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin-openapi.json");
        let generated = document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("CAN_UPDATE_DOCS").is_some() {
            fs::write(&path, &generated).unwrap();
        }
        let fresh = fs::read_to_string(&path).unwrap_or_default() == generated;
        assert!(fresh, "docs/admin-openapi.json is out of date; run: scripts/docs.sh");
    }

    #[test]
    fn every_path_that_is_served_is_documented_and_no_other() {
        let guarded = admin::guarded_routes().into_iter().map(|(path, _)| format!("{}{path}", admin::API));
        let served: BTreeSet<_> =
            admin::open_routes().into_iter().map(|(path, _)| path.to_owned()).chain(guarded).collect();
        let documented: BTreeSet<_> = document().paths.paths.keys().cloned().collect();
        assert_eq!(documented, served);
    }
}
