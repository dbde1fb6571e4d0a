//! Settings of the process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::HumanDuration;

/// Settings of the process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Worker threads of the client API; 0 is one per core.
    #[schemars(range(max = 1024))]
    pub threads: u32,
    /// How long open requests may go on after SIGTERM. The process exits earlier when it is idle.
    pub shutdown_grace: HumanDuration,
    /// Unix socket over which `can serve --upgrade` takes the listeners over.
    pub upgrade_socket: String,
    /// Idle upstream connections that each worker thread keeps open for reuse.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub upstream_pool: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: 0,
            shutdown_grace: HumanDuration::secs(30),
            upgrade_socket: "/tmp/can-upgrade.sock".into(),
            upstream_pool: 512,
        }
    }
}
