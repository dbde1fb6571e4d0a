//! Where tokens and the ledger are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{resolved::OnFailure, values::HumanDuration};

/// The SQLite file that keeps tokens, the ledger and alerts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// The file; it is made where it is not there. Its neighbours with `-wal`, `-shm`, `-intents` and `-owner` in their names
    /// belong to it. One gateway owns it; another one on the same file does not start. `CAN_DATABASE` replaces it.
    /// A file that is deleted or replaced under a running gateway is noticed within seconds and logged as an error. The gateway goes
    /// on in a fresh one, or in one of its own that lies there now, and writes into it what it knows: tokens (one that was
    /// revoked stays so), what is spent of the current periods, purges of the cache, owners of the providers' objects. Lost are
    /// single entries, sums of days that are over, and alerts that no webhook has taken yet. Stop the gateway to begin anew.
    pub path: String,
    /// While it cannot be written: `serve` goes on with what is in memory and writes it down later, `refuse` answers 503.
    /// A file that belongs to another gateway closes this one's ledger: 503 in any case.
    pub on_failure: OnFailure,
    /// How long single entries of the ledger are kept; older ones become sums per day. At least 35d.
    pub retention: HumanDuration,
    /// How long requests that cost nothing and reached no provider are kept: refused ones, listings of models, clients that left.
    /// They are counted by minute, tenant and code; older ones become sums per day. At least 1d, and no longer than `retention`.
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
