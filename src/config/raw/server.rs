//! Settings of the process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{HumanDuration, HumanSize};

/// Settings of the process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Worker threads of the client API; 0 stands for one per core.
    #[schemars(range(max = 1024))]
    pub threads: u32,
    /// How long open requests may go on after SIGTERM. The process exits earlier if it is idle.
    pub shutdown_grace: HumanDuration,
    /// How long the gateway goes on accepting connections after SIGTERM: `/readyz` answers 503, and each reply says that its
    /// connection closes, so that load balancers and clients go elsewhere before the gateway ends. Without it: 5s, or 0s on a
    /// terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"5s")]
    pub lame_duck: Option<HumanDuration>,
    /// The most connections that all clients together may have. If there is no room for another connection, the oldest one that
    /// was never served is closed, or else the oldest idle one. Without it: half of the file descriptors that the process may
    /// have (`ulimit -n`), less 256, and at most 50000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), example = &10_000)]
    pub max_connections: Option<u32>,
    /// The most connections from one IPv4 address, or from one IPv6 network of 64 bits. Without it: three quarters of
    /// `max_connections`, because a load balancer in front of the gateway is one address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), example = &1_000)]
    pub max_connections_per_address: Option<u32>,
    /// Unix socket over which `can serve --upgrade` takes over from the running gateway. The socket's folder must belong to the
    /// gateway's user and be closed to others (0700); a missing folder is created. Without it: `socket` in a folder named after
    /// the database with `-upgrade` at the end, such as `can.db-upgrade`.
    #[schemars(example = &"/run/can/upgrade")]
    pub upgrade_socket: Option<String>,
    /// Idle upstream connections that each worker thread keeps open for reuse.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub upstream_pool: u32,
    /// The memory, in bytes, that all requests together may use at once for bodies, for what is built from them (JSON trees,
    /// translated bodies) and for held replies. It is reserved before it is used; bodies and replies of up to 64KiB are exempt. A
    /// request that finds no room waits for 2 s, then gets a 503 with `retry-after` (code `gateway_overloaded`); a body of more
    /// than half of the budget is refused with 413. The translation of a body to another dialect takes about five times the
    /// body's size. Without it: a quarter of the memory that the process may use, which is the machine's memory or the limit of
    /// its control group.
    #[schemars(example = &"512MiB")]
    pub memory_budget: Option<HumanSize>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: 0,
            shutdown_grace: HumanDuration::secs(30),
            lame_duck: None,
            max_connections: None,
            max_connections_per_address: None,
            upgrade_socket: None,
            upstream_pool: 512,
            memory_budget: None,
        }
    }
}
