//! Many header changes at once.
//!
//! Pingora keeps the case of every header name in a second map, and each single change parses the name again and changes both
//! maps. Names are case-insensitive, so these functions take the plain map out, change it, and put it back without the second
//! map.

use std::mem;

use http::{HeaderMap, HeaderName, request, response};
use pingora_http::{RequestHeader, ResponseHeader};

/// Changes a request header in place.
pub fn change_request(header: &mut RequestHeader, change: impl FnOnce(&mut request::Parts)) {
    let empty: RequestHeader = http::Request::new(()).into_parts().0.into();
    let mut parts: request::Parts = mem::replace(header, empty).into();
    change(&mut parts);
    *header = parts.into();
}

/// Changes a response header in place.
pub fn change_response(header: &mut ResponseHeader, change: impl FnOnce(&mut response::Parts)) {
    let empty: ResponseHeader = http::Response::new(()).into_parts().0.into();
    let mut parts: response::Parts = mem::replace(header, empty).into();
    change(&mut parts);
    *header = parts.into();
}

/// Removes the headers whose name `doomed` is true for. One walk over the few headers that are there is cheaper than a look-up
/// for each name that might be.
pub fn remove(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in &found {
        headers.remove(name);
    }
}
