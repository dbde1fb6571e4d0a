//! Bounds on what a client may send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{HumanDuration, HumanSize};

/// Bounds on what a client may send.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Largest JSON body that is read; a larger one is refused with 413. Forwarded uploads have no limit here.
    pub max_body: HumanSize,
    /// The most values in a JSON body: objects, arrays, their elements and members, keys counted as well. A body with more is
    /// refused with 400, because its parsed form would take a hundred times its size in memory.
    #[schemars(range(min = 65_536, max = 100_000_000))]
    pub max_json_values: u32,
    /// A whole JSON body must have arrived within this time; otherwise the request is refused with 408.
    pub body_timeout: HumanDuration,
    /// The header of a request must have arrived within this time from its first byte, and the header of the first request within
    /// this time from the beginning of the connection, handshakes included; otherwise the connection is closed.
    pub header_timeout: HumanDuration,
    /// How long a client's idle connection stays open.
    pub keepalive: HumanDuration,
    /// Largest JSON reply that is held back until its cost is known; a larger one carries no `X-ChittyCan-Cost`.
    pub max_held_reply: HumanSize,
    /// Which web pages may call the gateway from a browser.
    pub cors: Cors,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            max_body: HumanSize::mib(64),
            max_json_values: 1_000_000,
            body_timeout: HumanDuration::secs(60),
            header_timeout: HumanDuration::secs(15),
            keepalive: HumanDuration::secs(60),
            max_held_reply: HumanSize::mib(8),
            cors: Cors::default(),
        }
    }
}

/// Which web pages may call the gateway from a browser. The gateway itself answers every `OPTIONS` request, without a credential,
/// and a provider's own CORS headers never reach a client.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Origins such as `https://app.example.com`, or `*` for all. With an empty list no page of another origin may read a
    /// reply.
    #[schemars(example = ["https://app.example.com"])]
    pub allow_origins: Vec<String>,
    /// Names of the request headers that a page may send. With an empty list: the headers that the page asks for.
    #[schemars(example = ["Authorization", "Content-Type"])]
    pub allow_headers: Vec<String>,
    /// How long a browser may remember the answer to its preflight request. At most 24h.
    pub max_age: HumanDuration,
}

impl Default for Cors {
    fn default() -> Self {
        Self { allow_origins: Vec::new(), allow_headers: Vec::new(), max_age: HumanDuration::secs(600) }
    }
}
