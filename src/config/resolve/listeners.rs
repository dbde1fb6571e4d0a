//! Listeners and their TLS files.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{Path, Resolver, clash};
use crate::config::{
    overlay::not_an_address,
    raw,
    resolved::{Cors, Listener, Tls},
};

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, listen: &[raw::Listen]) -> Vec<Listener> {
        let root = Path::of(&["listen"]);
        if listen.is_empty() {
            self.fault(&root, "needs at least one address");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, entry) in listen.iter().enumerate() {
            let path = root.index(index);
            let tls = entry.tls.as_ref().and_then(|tls| self.tls(tls, &path.key("tls")));
            let Some(address) = self.address(&entry.address, &path.key("address")) else { continue };
            if let Some(other) = listeners.iter().find(|other| clash(other.address, address)) {
                let message = format!("{address} clashes with {}, another entry of `listen`", other.address);
                self.fault(&path.key("address"), message);
            }
            listeners.push(Listener { address, tls, http2: entry.http2 });
        }
        listeners
    }

    pub(super) fn admin(&mut self, admin: &raw::Admin, listeners: &[Listener]) -> Option<SocketAddr> {
        let raw::Admin::On(entry) = admin else { return None };
        let path = Path::of(&["admin", "address"]);
        let address = self.address(&entry.address, &path)?;
        if let Some(other) = listeners.iter().find(|other| clash(other.address, address)) {
            self.fault(&path, format!("{address} clashes with {}, an entry of `listen`", other.address));
        }
        Some(address)
    }

    pub(super) fn admin_hosts(&mut self, admin: &raw::Admin) -> Vec<String> {
        let raw::Admin::On(entry) = admin else { return Vec::new() };
        let path = Path::of(&["admin", "hosts"]);
        let mut hosts = Vec::new();
        for (index, text) in entry.hosts.iter().enumerate() {
            let host = text.trim().trim_end_matches('.').to_ascii_lowercase();
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(letters) {
                let message = format!("`{text}` is not a host name such as `can.monitoring.svc`, without a port");
                self.fault(&path.index(index), message);
            }
            hosts.push(host);
        }
        hosts
    }

    /// The CORS settings; `None` if no origin is allowed.
    pub(super) fn cors(&mut self, raw: &raw::Cors) -> Option<Cors> {
        const LONGEST: Duration = Duration::from_secs(86_400);
        let path = Path::of(&["http", "cors"]);
        let mut origins = Vec::new();
        for (index, text) in raw.allow_origins.iter().enumerate().filter(|(_, text)| *text != "*") {
            match origin(text) {
                Some(origin) => origins.push(origin),
                None => {
                    let message =
                        format!("`{text}` is not an origin such as `https://app.example.com`, without a path, nor `*`");
                    self.fault(&path.key("allow_origins").index(index), message);
                }
            }
        }
        for (index, text) in raw.allow_headers.iter().enumerate() {
            if HeaderName::from_bytes(text.as_bytes()).is_err() {
                self.fault(&path.key("allow_headers").index(index), "not a header name");
            }
        }
        if raw.max_age.0 > LONGEST {
            self.fault(&path.key("max_age"), "must not be longer than 24h");
        }
        let headers = raw.allow_headers.join(", ").to_ascii_lowercase();
        (!raw.allow_origins.is_empty()).then(|| Cors {
            any_origin: raw.allow_origins.iter().any(|origin| origin == "*"),
            origins,
            allow_headers: HeaderValue::try_from(headers).ok().filter(|headers| !headers.is_empty()),
            max_age: raw.max_age.0,
        })
    }

    fn address(&mut self, text: &str, path: &Path) -> Option<SocketAddr> {
        match text.trim().parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.fault(path, not_an_address(text));
                None
            }
        }
    }

    fn tls(&mut self, tls: &raw::Tls, path: &Path) -> Option<Tls> {
        let cert = self.pem(&tls.cert, "CERTIFICATE-----", "certificate", &path.key("cert"));
        let key = self.pem(&tls.key, "PRIVATE KEY-----", "private key", &path.key("key"));
        Some(Tls { cert: cert?, key: key? })
    }

    /// Checks that a PEM file can be read and contains `marker`: swapping certificate and key is the usual mistake.
    pub(super) fn pem(&mut self, text: &str, marker: &str, what: &str, path: &Path) -> Option<std::path::PathBuf> {
        let file = self.file(text, path)?;
        let content = std::fs::read(&file).unwrap_or_default();
        if memchr::memmem::find(&content, marker.as_bytes()).is_none() {
            self.fault(path, format!("`{}` holds no {what} in PEM form", file.display()));
        }
        Some(file)
    }
}

/// Parses an origin as browsers write it: scheme, host and perhaps a port, in lower case.
fn origin(text: &str) -> Option<HeaderValue> {
    let text = text.trim().to_ascii_lowercase();
    let (scheme, host) = text.split_once("://")?;
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let good = !scheme.is_empty() && scheme.bytes().all(letters) && !host.is_empty();
    let host = host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\,;*".contains(&byte));
    (good && host).then(|| HeaderValue::try_from(&text).ok()).flatten()
}
