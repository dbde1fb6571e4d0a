//! Listeners and their TLS files.

use std::net::SocketAddr;

use super::{Path, Resolver, clash};
use crate::config::{
    overlay::not_an_address,
    raw,
    resolved::{Listener, Tls},
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

    /// A readable PEM file that holds what it should: swapped files are the usual mistake.
    pub(super) fn pem(&mut self, text: &str, marker: &str, what: &str, path: &Path) -> Option<std::path::PathBuf> {
        let file = self.file(text, path)?;
        let content = std::fs::read(&file).unwrap_or_default();
        if memchr::memmem::find(&content, marker.as_bytes()).is_none() {
            self.fault(path, format!("`{}` holds no {what} in PEM form", file.display()));
        }
        Some(file)
    }
}
