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
    /// Unix socket over which `can serve --upgrade` takes over from the running gateway. Its folder must belong to the
    /// gateway's user and be closed to others (0700); it is made where it is missing. Without it: `socket` in the folder
    /// named like the database with `-upgrade`, such as `can.db-upgrade`.
    #[schemars(example = &"/run/can/upgrade")]
    pub upgrade_socket: Option<String>,
    /// Idle upstream connections that each worker thread keeps open for reuse.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub upstream_pool: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self { threads: 0, shutdown_grace: HumanDuration::secs(30), upgrade_socket: None, upstream_pool: 512 }
    }
}
