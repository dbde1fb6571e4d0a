//! Reads the credentials that a request presents, for both listeners.

use http::{HeaderMap, header};

/// The prefix with which a browser presents a key as a WebSocket subprotocol, because it cannot set headers there (OpenAI's
/// realtime API).
pub const SUBPROTOCOL_KEY: &str = "openai-insecure-api-key.";

/// A place of a credential in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `x-api-key`, which Anthropic's clients use.
    XApiKey,
    /// `api-key`, which Azure's clients use.
    ApiKey,
    /// Among the offered WebSocket subprotocols, see [`SUBPROTOCOL_KEY`].
    Subprotocol,
}

impl Place {
    /// The places where the client API looks, in this order.
    pub const CLIENT: &[Self] = &[Self::Bearer, Self::XApiKey, Self::ApiKey, Self::Subprotocol];
    /// The places where the admin API looks, in this order.
    pub const ADMIN: &[Self] = &[Self::Bearer, Self::XApiKey];
}

/// The credentials that a request presents in these places, in the order of the places. Of a repeated header that may occur only
/// once, the first line counts; a value that is empty or not printable is no credential.
pub fn presented<'a>(headers: &'a HeaderMap, places: &'a [Place]) -> impl Iterator<Item = &'a str> {
    let found = move |place: &Place| {
        let alone = match place {
            Place::Bearer => bearer(headers),
            Place::XApiKey => text(headers, "x-api-key"),
            Place::ApiKey => text(headers, "api-key"),
            Place::Subprotocol => None,
        };
        let offered = (*place == Place::Subprotocol).then(|| subprotocols(headers));
        alone.into_iter().chain(offered.into_iter().flatten())
    };
    places.iter().flat_map(found).map(str::trim).filter(|text| !text.is_empty())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credential)
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|word| word.trim().strip_prefix(SUBPROTOCOL_KEY))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn found(pairs: &[(&'static str, &'static str)], places: &[Place]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        presented(&headers, places).map(str::to_owned).collect()
    }

    #[test]
    fn each_place_is_read_in_its_order() {
        let all = [
            ("sec-websocket-protocol", "realtime, openai-insecure-api-key.e,openai-insecure-api-key. "),
            ("sec-websocket-protocol", "openai-insecure-api-key.f"),
            ("api-key", "d"),
            ("x-api-key", " c "),
            ("x-api-key", "second"),
            ("authorization", "bEARER  b"),
            ("authorization", "Bearer second"),
        ];
        assert_eq!(found(&all, Place::CLIENT), ["b", "c", "d", "e", "f"]);
        assert_eq!(found(&all, Place::ADMIN), ["b", "c"]);
        assert_eq!(found(&[], Place::CLIENT), [""; 0]);
    }

    #[test]
    fn what_is_no_credential_is_passed_over() {
        for value in ["", "b", "Basic b", "Bearer", "Bearer ", "Bearer\u{9}b", "Bearer \u{e9}"] {
            assert_eq!(found(&[("authorization", value)], Place::CLIENT), [""; 0], "{value}");
        }
        assert_eq!(found(&[("x-api-key", " "), ("api-key", "d")], Place::CLIENT), ["d"]);
    }
}
