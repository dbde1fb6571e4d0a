//! The names under which the admin listener may be reached.
//!
//! A web page can make its own name resolve to a private address (DNS rebinding); the browser then takes the admin listener for
//! the page's own server and lets the page read what needs no token here, such as `/metrics`. Such a request carries the
//! page's name in `Host`, so only known names are served: IP addresses, `localhost` and the names in `admin.hosts`.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Admin,
    error::{ApiError, Code},
};

/// Paths of probes, which are served under any name: they reveal only whether the process is well.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Lets requests to a known name through, and requests without a name (HTTP/1.0), which no browser sends.
pub async fn require_known_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let snapshot = admin.snapshot.load();
    match stranger(&request, &snapshot.config.admin_hosts) {
        Some(host) if !PROBES.contains(&request.uri().path()) => {
            let message = format!(
                "The admin listener is not known as '{}'. Reach it by its IP address or as 'localhost', or name it in its \
                 configuration (admin.hosts).",
                host.chars().take(100).collect::<String>()
            );
            ApiError::new(Code::UnknownHost, message).into_response()
        }
        _ => next.run(request).await,
    }
}

/// The first name in the request that is not known; `None` if all are known.
fn stranger(request: &Request, known: &[String]) -> Option<String> {
    let lines = request.headers().get_all(header::HOST).iter();
    // A value that is not text counts as an unknown name.
    let named = lines.map(|value| value.to_str().unwrap_or("?").to_owned());
    let in_uri = Uri::authority(request.uri()).map(|authority| authority.as_str().to_owned());
    named.chain(in_uri).find(|host| !is_known(host, known))
}

/// Whether a `Host` header names this listener; the port does not matter.
fn is_known(host: &str, known: &[String]) -> bool {
    let host = host.trim();
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, rest)| {
            address.parse::<std::net::Ipv6Addr>().is_ok()
                && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    if port.is_some_and(|port| !is_port(port)) {
        return false;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || known.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_listed_names_are_known() {
        let known = ["can.monitoring.svc".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "10.1.2.3:8081",
            "[::1]:8081",
            "[::1]",
            "localhost",
            "LocalHost:8081",
            "localhost.",
            "can.monitoring.svc:8081",
            "CAN.monitoring.svc.",
        ] {
            assert!(is_known(host, &known), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "monitoring.svc",
            "x.can.monitoring.svc",
            "user@127.0.0.1",
            "[::1",
            "[::1].evil.example",
            "[::1]:evil.example",
            "[::1]:",
            "[::1]8081",
            "localhost:evil.example",
            "localhost:8081:evil.example",
            "localhost:",
            "127.0.0.1:x",
            "evil.example:127.0.0.1",
            "can.monitoring.svc:80.evil.example",
            "[evil.example]",
            "?",
        ] {
            assert!(!is_known(host, &known), "{host}");
        }
    }
}
