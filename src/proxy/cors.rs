//! CORS: which web pages may call the gateway from a browser (`http.cors`).
//!
//! A provider's own CORS headers never reach the client, see `returned`.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority};
use pingora_http::RequestHeader;

use crate::{
    config::Cors,
    error::{Fault, GatewayError},
    tenants::Principal,
};

/// The methods that are served on any path: the answer to `OPTIONS`.
pub const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// The reply headers that a page may read besides the few that any page may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, age, content-disposition, location, \
     x-chittycan-attempts, x-chittycan-cache, x-chittycan-cache-key, x-chittycan-cost, x-chittycan-dropped, \
     x-chittycan-model, x-chittycan-provider, openai-model, openai-organization, openai-processing-ms, openai-version, \
     x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
);

const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");
const PREFLIGHT_VARIES: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");

/// The value of `access-control-allow-origin` for a request; `None` if the request does not come from a page of an allowed
/// origin.
fn allowed(rules: &Cors, request: &HeaderMap) -> Option<HeaderValue> {
    let origin = request.get(header::ORIGIN)?;
    match rules.any_origin {
        true => Some(ANY),
        false => rules.origins.contains(origin).then(|| origin.clone()),
    }
}

/// Refuses a web page's request that has no token and would be served with the gateway's keys. Any page in the browser of
/// somebody who can reach the gateway can send requests to it, even under a name of the page's own (DNS rebinding), but such a
/// page has no token.
///
/// # Errors
/// The page is neither of an allowed origin nor of the gateway's own address.
pub fn refuse_page(request: &RequestHeader, rules: Option<&Cors>, principal: &Principal) -> Result<(), GatewayError> {
    let Some(origin) = request.headers.get(header::ORIGIN) else { return Ok(()) };
    if !principal.is_anonymous() || principal.own_keys_only {
        return Ok(());
    }
    if rules.is_some_and(|rules| allowed(rules, &request.headers).is_some()) || is_of_this_address(origin, request) {
        return Ok(());
    }
    let message = "A web page can use this gateway without a token only if 'http.cors.allow_origins' names its origin.";
    Err(GatewayError::new(Fault::OriginNotAllowed, message))
}

/// True for a page from the very address that the request goes to, if that address is an IP address or `localhost`: any other
/// name can be made to mean another address.
fn is_of_this_address(origin: &HeaderValue, request: &RequestHeader) -> bool {
    let host = request.uri.authority().map(Authority::as_str);
    let host = host.or_else(|| request.headers.get(header::HOST)?.to_str().ok());
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let (Some(host), Some(page)) = (host, page) else { return false };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_fixed = bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost");
    is_fixed && page.eq_ignore_ascii_case(host)
}

/// Lets a page of an allowed origin read the reply to this request.
pub fn put(reply: &mut HeaderMap, rules: Option<&Cors>, request: &HeaderMap) {
    let Some(rules) = rules else { return };
    if !rules.any_origin {
        // For caches in between: a page of another origin gets another reply.
        reply.append(header::VARY, ORIGIN);
    }
    if let Some(origin) = allowed(rules, request) {
        reply.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        reply.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Answers a page's preflight request.
pub fn put_preflight(reply: &mut HeaderMap, rules: Option<&Cors>, request: &HeaderMap) {
    let Some(rules) = rules else { return };
    reply.insert(header::VARY, PREFLIGHT_VARIES);
    let Some(origin) = allowed(rules, request) else { return };
    reply.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    reply.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| is_list_of_names(names));
    if let Some(names) = rules.allow_headers.as_ref().or(asked) {
        reply.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    reply.insert(header::ACCESS_CONTROL_MAX_AGE, rules.max_age.as_secs().into());
}

fn is_list_of_names(value: &HeaderValue) -> bool {
    let names = || value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    names().all(|name| HeaderName::from_bytes(name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn from(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))])
    }

    #[test]
    fn only_a_listed_origin_is_allowed() {
        let one = HeaderValue::from_static("https://app.example.com");
        let mut rules =
            Cors { any_origin: false, origins: vec![one.clone()], allow_headers: None, max_age: Duration::ZERO };
        assert_eq!(allowed(&rules, &from("https://app.example.com")), Some(one));
        for other in
            ["http://app.example.com", "https://app.example.com.evil.example", "https://app.example.com:444", "null"]
        {
            assert_eq!(allowed(&rules, &from(other)), None, "{other}");
        }
        assert_eq!(allowed(&rules, &HeaderMap::new()), None);
        rules.any_origin = true;
        assert_eq!(allowed(&rules, &from("null")), Some(ANY));
    }

    #[test]
    fn a_page_is_of_this_address_only_where_no_name_can_lie() {
        for (origin, host, own) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080", "localhost:8080", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://localhost:3000", "localhost:8080", false),
            ("http://evil.example:8080", "evil.example:8080", false),
            ("http://localhost.evil.example", "localhost.evil.example", false),
            ("http://evil.example", "127.0.0.1:8080", false),
            ("null", "127.0.0.1", false),
            ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", false),
        ] {
            let mut request = RequestHeader::build("POST", b"/v1/chat/completions", None).unwrap();
            request.insert_header("host", host).unwrap();
            assert_eq!(is_of_this_address(&HeaderValue::from_static(origin), &request), own, "{origin} at {host}");
        }
    }

    #[test]
    fn only_names_are_mirrored() {
        for (value, good) in
            [("authorization, x-stainless-lang", true), ("a", true), ("", false), ("a,,b", false), ("a b", false)]
        {
            assert_eq!(is_list_of_names(&HeaderValue::from_static(value)), good, "{value}");
        }
    }
}
