//! The end of a gateway that still gets requests: the gateway announces its end first.
//!
//! ```text
//! SIGTERM ─▶ /readyz 503, replies say `Connection: close` ─ lame duck ─▶ listeners close ─▶ open requests end ─▶ exit
//! SIGQUIT ─▶ a successor has the listeners ─▶ replies say `Connection: close`, connections that were kept serve one more
//!            request ─▶ exit
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{connections::Connections, telemetry::Metrics};

/// After the listeners closed, the process waits this long without an open request before it exits: a connection that was
/// accepted in the last moment may not have become a request yet.
const QUIET: Duration = Duration::from_millis(250);

/// What has to be informed and waited for at the end.
pub struct Ending {
    /// Cleared at once, so that no new client comes.
    pub ready: Arc<AtomicBool>,
    /// When set, each reply is the last one on its connection.
    pub draining: watch::Sender<bool>,
    /// The clients' connections.
    pub connections: Arc<Connections>,
    /// Counts the open requests.
    pub metrics: Arc<Metrics>,
    /// How long the listeners stay open after the announcement.
    pub lame_duck: Duration,
}

impl Ending {
    /// Announces to clients and load balancers that this gateway ends, and gives them time to notice.
    pub async fn announce(&self) {
        self.ready.store(false, Ordering::Release);
        self.draining.send_replace(true);
        if !self.lame_duck.is_zero() {
            tracing::info!(lame_duck = ?self.lame_duck, "ending: the listeners stay open for a while");
            tokio::time::sleep(self.lame_duck).await;
        }
    }

    /// To be called after the listeners closed: waits until no request is open, and none can come on a connection that clients
    /// may believe to be kept open. Idle connections are closed after `patience`. Blocks.
    pub fn wait(&self, patience: Duration) {
        self.connections.drain(patience);
        let is_open = || self.metrics.open_requests() > 0 || !patience.is_zero() && self.connections.live() > 0;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(10));
            if is_open() {
                quiet_since = Instant::now();
            }
        }
    }
}
