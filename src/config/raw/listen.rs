//! Listeners.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One client-facing socket.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address and port. `0.0.0.0:8080` stands for all IPv4 addresses, `[::]:8080` for all addresses; port 0 takes a free port.
    pub address: String,
    /// Serve HTTP/2 beside HTTP/1.1: by ALPN with `tls`, by prior knowledge without.
    pub http2: bool,
    /// Certificate and key (PEM). Without them the listener serves plain text. Both are read again on every reload, and a change
    /// of one of the files causes a reload: later connections get the new certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Tls::example())]
    pub tls: Option<Tls>,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: "127.0.0.1:8080".into(), http2: true, tls: None }
    }
}

/// PEM files of a TLS listener. A key that does not belong to the certificate is refused: the gateway does not start, and a
/// reload keeps the pair in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, the server's own certificate first.
    pub cert: String,
    /// The private key.
    pub key: String,
}

impl Tls {
    fn example() -> Self {
        Self { cert: "/etc/can/tls.crt".into(), key: "/etc/can/tls.key".into() }
    }
}

/// The admin listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Admin {
    /// No admin listener.
    Off(Off),
    /// An admin listener.
    On(AdminListener),
}

impl Default for Admin {
    fn default() -> Self {
        Self::On(AdminListener::default())
    }
}

/// The word `off`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Off {
    /// Switched off.
    Off,
}

/// The address and the host names of the admin listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminListener {
    /// Address and port.
    pub address: String,
    /// Host names under which the admin listener may be reached, such as the name of a service in a cluster. A request for
    /// another name is refused with 421, because a web page can make its own name resolve to this address (DNS rebinding). IP
    /// addresses and `localhost` are always accepted, and `/healthz` and `/readyz` answer under any name. `CAN_ADMIN_HOSTS`
    /// overrides the list (names separated by commas).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["can.monitoring.svc", "gateway"])]
    pub hosts: Vec<String>,
}

impl Default for AdminListener {
    fn default() -> Self {
        Self { address: "127.0.0.1:8081".into(), hosts: Vec::new() }
    }
}
