//! Where tokens and the ledger are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{resolved::OnFailure, values::HumanDuration};

/// The SQLite file that keeps tokens, the ledger and alerts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// The path of the file, which is created if it does not exist. The files beside it with `-wal`, `-shm`, `-intents` and
    /// `-owner` in their names belong to it. One gateway owns the file; another gateway on the same file does not start.
    /// `CAN_DATABASE` overrides this path.
    /// A file that is deleted or replaced under a running gateway is noticed within seconds and logged as an error. The gateway
    /// goes on in a fresh file, or in another gateway database that lies in the file's place by then, and writes to it what it
    /// knows: tokens (revoked ones stay revoked), what was spent in the current periods, purges of the cache, owners of the
    /// providers' objects. Single entries, sums of past days, and alerts that no webhook has accepted yet are lost. To begin with
    /// an empty database, stop the gateway first.
    pub path: String,
    /// What happens while the file cannot be written: `serve` keeps new entries in memory and writes them later, `refuse` answers
    /// 503. While another gateway owns the file, the answer is 503 in any case.
    pub on_failure: OnFailure,
    /// How long single entries of the ledger are kept; older ones become sums per day. At least 35d.
    pub retention: HumanDuration,
    /// How long counts of requests that cost nothing and reached no provider are kept: refused requests, listings of models,
    /// clients that left. They are counted by minute, tenant and code; older counts become sums per day. At least 1d, and no
    /// longer than `retention`.
    pub refusal_retention: HumanDuration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            path: "can.db".into(),
            on_failure: OnFailure::Serve,
            retention: HumanDuration::secs(180 * 86_400),
            refusal_retention: HumanDuration::secs(30 * 86_400),
        }
    }
}
