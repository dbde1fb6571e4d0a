//! Identify: finds out which endpoint is asked, and with which credentials.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    error::{Fault, GatewayError},
    identity::{Credentials, Place, SUBPROTOCOL_KEY},
    objects::decode,
    openai::Endpoint,
    providers::adapter::ANTHROPIC_VERSION,
    proxy::{caller::Caller, context::Context},
    types::matches,
};

/// Sets the client's timeouts, before the first body byte is read.
pub fn prepare_connection(caller: &mut Caller<'_>, ctx: &mut Context) {
    ctx.ask.websocket = caller.is_websocket();
    let http = &ctx.snapshot.config.http;
    // For bodies that are forwarded; a body that the gateway reads has a limit for the whole. A WebSocket may be silent for as
    // long as both ends like.
    caller.set_patience((!ctx.ask.websocket).then_some(http.body_timeout), http.keepalive);
}

/// Reads the request line and headers.
///
/// # Errors
/// A path outside `/v1/`, or one that names the same place in a disguised way (`//`, `..`, `;`, encoded slashes): it could reach
/// a provider unmetered. A query that makes a server read another method.
pub fn identify(caller: &Caller<'_>, ctx: &mut Context) -> Result<Endpoint, GatewayError> {
    let request = caller.request();
    let Credentials { claimed, key } = ctx.shared.authenticators.sort(&request.headers, Place::CLIENT);
    (ctx.asker.claimed, ctx.asker.credential) = (claimed, key);
    let path = request.uri.path();
    // Every client of Anthropic's API states which version of the API it wants.
    ctx.ask.anthropic = request.headers.contains_key(ANTHROPIC_VERSION) || path.starts_with("/v1/messages");
    if request.method == http::Method::TRACE {
        // TRACE would send the credentials back.
        return Err(GatewayError::new(Fault::MethodNotAllowed, "TRACE is not served."));
    }
    let lists_models = request.method == http::Method::GET && path.starts_with("/v1/models/");
    if is_disguised(path) || !lists_models && hides_structure(path) {
        return Err(unknown(&request.method, path));
    }
    if request.uri.query().is_some_and(overrides_method) {
        let message = "The query parameter '_method' is not forwarded: some servers take it for the request's method.";
        return Err(GatewayError::new(Fault::InvalidRequest, message).with_param(Some("_method")));
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

/// True for a path that a provider might read as another path than the gateway does.
fn is_disguised(path: &str) -> bool {
    path.contains("//")
        || path.contains(['\\', ';'])
        || path.split('/').any(|segment| matches!(segment, "." | ".."))
        || path.contains('%') && path.split('/').any(|segment| matches!(&*decode(segment, false), "." | ".."))
}

/// True for a query with the parameter `_method`, by which some servers let a form choose the method.
fn overrides_method(query: &str) -> bool {
    let names = query.split(['&', ';']).map(|pair| pair.split('=').next().unwrap_or_default());
    names.filter(|name| name.len() >= 7).any(|name| decode(name, false).eq_ignore_ascii_case("_method"))
}

/// True if `%XX` stands for a character that needs no encoding, for a separator, or for white space: most servers decode it
/// before they route, so that they would see another path.
fn hides_structure(path: &str) -> bool {
    path.contains('%')
        && path.split('%').skip(1).any(|rest| {
            let code = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            code.is_none_or(|byte| {
                byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\?#; %".contains(&byte)
            })
        })
}

/// WebSocket subprotocols that do not name an account (`*` stands for any rest): OpenAI's realtime API, its betas, and the name
/// of its Agents SDK. OpenAI reads others as headers (`openai-organization.org-…`, `openai-project.proj_…`).
const SUBPROTOCOLS: &[&str] = &["openai-agents-sdk.*", "openai-beta.*", "realtime"];

/// Removes every key from the WebSocket subprotocols on offer; the key that is used goes upstream in a header of its own. With a
/// key of the gateway's only [`SUBPROTOCOLS`] stay; with one of the client's, all others do.
pub fn remove_subprotocols(headers: &mut HeaderMap, own_credential: bool) {
    let lines = || headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let is_neutral = |word: &[u8]| SUBPROTOCOLS.iter().any(|known| matches(known, word));
    let stays = |word: &&[u8]| match own_credential {
        true => !word.starts_with(SUBPROTOCOL_KEY.as_bytes()),
        false => is_neutral(word),
    };
    let words = || lines().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    if words().all(|word| stays(&word)) {
        return;
    }
    let kept: Vec<_> = words().filter(stays).collect();
    match HeaderValue::from_bytes(&kept.join(&b", "[..])) {
        Ok(value) if !kept.is_empty() => drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value)),
        _ => drop(headers.remove(header::SEC_WEBSOCKET_PROTOCOL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Authenticators, Directory},
        store::sqlite,
        types::Secret,
    };

    /// The token and the key that a request presents.
    fn credentials(headers: &HeaderMap) -> (Option<Secret>, Option<Secret>) {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Directory::follow(sqlite::at(&folder.path().join("can.db")));
        let found = Authenticators::new(tokens, Vec::new()).sort(headers, Place::CLIENT);
        (found.claimed, found.key)
    }

    #[test]
    fn disguised_paths_are_seen() {
        for path in
            ["/v1//chat/completions", "/v1/../v1/files", "/v1/%2e%2e/x", "/v1/models/%2E%2e/x", "/v1/a\\b", "/v1/.%2e"]
        {
            assert!(is_disguised(path), "{path}");
        }
        for path in ["/v1/files;x=1", "/v1/;a/chat/completions", "/v1/chat/completions;", "/;/v1/files"] {
            assert!(is_disguised(path), "{path}");
        }
        for path in [
            "/v1/chat%2Fcompletions",
            "/v1/chat/%63ompletions",
            "/v1/x%20",
            "/v1/x%3fy",
            "/v1/x%",
            "/v1/x%zz",
            "/v1/files%3bx=1",
            "/v1/files%3Bx=1",
            "/v1/%25",
        ] {
            assert!(hides_structure(path), "{path}");
        }
        for path in
            ["/v1/chat/completions", "/v1/files/file-abc", "/v1/a..b", "/v1/models/ft:gpt-4o:x", "/v1/caf%C3%A9"]
        {
            assert!(!is_disguised(path) && !hides_structure(path), "{path}");
        }
    }

    #[test]
    fn a_query_chooses_no_method() {
        for query in ["_method=DELETE", "a=1&_METHOD=put", "a=1;_method=DELETE", "%5fmethod=x", "_%6Dethod", "_method"]
        {
            assert!(overrides_method(query), "{query}");
        }
        for query in ["", "method=1", "a=_method", "x_method=1", "_methods=1", "limit=20&after=file-1"] {
            assert!(!overrides_method(query), "{query}");
        }
    }

    #[test]
    fn a_key_among_subprotocols_is_taken_out_alone() {
        let mut headers = HeaderMap::new();
        let offered = "realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        assert_eq!(credentials(&headers).1.map(|s| s.expose().to_owned()).as_deref(), Some("sk-1"));
        remove_subprotocols(&mut headers, true);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "realtime, openai-beta.realtime-v1");
        assert!(credentials(&headers).1.is_none());
        for line in
            ["openai-insecure-api-key.sk-2, openai-insecure-api-key.chitty_2", "openai-insecure-api-key.chitty_3"]
        {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(line));
        }
        let found = credentials(&headers);
        assert_eq!([found.0, found.1].map(|s| s.unwrap().expose().to_owned()), ["chitty_2", "sk-2"]);
        remove_subprotocols(&mut headers, true);
        let left: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().collect();
        assert_eq!(left, ["realtime, openai-beta.realtime-v1"]);
    }

    #[test]
    fn no_subprotocol_chooses_an_account_of_the_gateways_key() {
        let offered = "realtime, openai-organization.org-x, openai-beta.realtime-v1,openai-project.proj_x , openai-agents-sdk.0.1";
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("OpenAI-Project.proj_y, realtime.x"));
        let mut own = headers.clone();
        remove_subprotocols(&mut own, true);
        assert_eq!(own, headers, "with the client's own key all stays as it came");
        remove_subprotocols(&mut headers, false);
        let left: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().collect();
        assert_eq!(left, ["realtime, openai-beta.realtime-v1, openai-agents-sdk.0.1"]);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("openai-project.proj_x"));
        remove_subprotocols(&mut headers, false);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_credential_is_found_in_each_of_its_places() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            credentials(&headers).1.map(|s| s.expose().to_owned())
        };
        assert_eq!(with("authorization", "Bearer sk-1").as_deref(), Some("sk-1"));
        assert_eq!(with("authorization", "bearer  sk-1").as_deref(), Some("sk-1"));
        assert_eq!(with("authorization", "Basic dTpw"), None);
        assert_eq!(with("authorization", "Bearer "), None);
        assert_eq!(with("x-api-key", "sk-2").as_deref(), Some("sk-2"));
        assert_eq!(with("api-key", "sk-3").as_deref(), Some("sk-3"));
    }

    #[test]
    fn a_token_is_told_from_a_key_wherever_it_stands() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
            let (token, key) = credentials(&headers.collect());
            (token.map(|s| s.expose().to_owned()), key.map(|s| s.expose().to_owned()))
        };
        let some = |text: &str| Some(text.to_owned());
        for place in ["x-api-key", "api-key"] {
            assert_eq!(with(&[(place, "chitty_1")]), (some("chitty_1"), None));
            let both = with(&[("authorization", "Bearer sk-own"), (place, "chitty_1")]);
            assert_eq!(both, (some("chitty_1"), some("sk-own")));
        }
        assert_eq!(with(&[("authorization", "Bearer chitty_' OR '1'='1")]), (some("chitty_' OR '1'='1"), None));
        assert_eq!(with(&[("authorization", "Bearer Chitty_1")]), (None, some("Chitty_1")));
    }
}
