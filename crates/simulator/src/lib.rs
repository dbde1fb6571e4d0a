#![doc = include_str!("../../../docs/simulated-provider.md")]
// Tests may unwrap; the build without tests keeps the lint for the code itself.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod call;
mod chat;
mod completions;
mod connection;
mod dialect;
mod embeddings;
mod errors;
mod fault;
mod messages;
mod moderations;
mod ollama;
mod passthrough;
mod realtime;
mod responses;
mod router;
mod schema;
#[cfg(test)]
mod tests;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use call::World;
use connection::Connection;

/// Pause of the accept loop after a failed accept, so that the loop does not spin when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The behaviour of the simulated provider.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedConfig {
    /// Pause between the events of a stream. Zero sends them all at once.
    pub token_interval: Duration,
    /// Pause before every reply whose request does not set its own.
    pub latency: Duration,
    /// Names of the models that exist; `claude-*` matches by prefix and is not listed. Any other name is a 404.
    pub models: Vec<String>,
}

impl Default for SimulatedConfig {
    /// 5 ms between events, no latency, the models of the playbook and a few related ones.
    fn default() -> Self {
        let models = [
            "gpt-4o",
            "gpt-4o-mini",
            "o3-mini",
            "gpt-4.1",
            "gpt-4.1-mini",
            "gpt-5",
            "gpt-5-mini",
            "gpt-3.5-turbo",
            "gpt-3.5-turbo-instruct",
            "text-embedding-3-small",
            "text-embedding-3-large",
            "omni-moderation-latest",
            "claude-sonnet-4",
            "llama-3-70b",
            "claude-*",
            "llama*",
        ];
        Self {
            token_interval: Duration::from_millis(5),
            latency: Duration::ZERO,
            models: models.map(str::to_owned).to_vec(),
        }
    }
}

impl SimulatedConfig {
    /// The default without any pause, for tests.
    pub fn instant() -> Self {
        Self { token_interval: Duration::ZERO, ..Self::default() }
    }
}

/// A running simulated provider. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Simulated {
    addr: SocketAddr,
    world: Arc<World>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Simulated {
    /// Listens on `addr` (port 0 picks a free one) and serves on the current Tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(addr: SocketAddr, config: SimulatedConfig) -> io::Result<Simulated> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let world = Arc::new(World::new(config));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, Arc::clone(&world), stopped));
        Ok(Simulated { addr, world, stop: Some(stop), thread: None })
    }

    /// Like [`Simulated::bind`], for callers outside of any runtime: a separate thread runs a small runtime. Dropping the handle
    /// waits for that thread.
    ///
    /// # Errors
    /// The listener, the runtime or the thread cannot be created.
    pub fn spawn_thread(addr: SocketAddr, config: SimulatedConfig) -> io::Result<Simulated> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let world = Arc::new(World::new(config));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let served = Arc::clone(&world);
        let run = move || runtime.block_on(serve(listener, served, stopped));
        let thread = thread::Builder::new().name("simulated-provider".to_owned()).spawn(run)?;
        Ok(Simulated { addr, world, stop: Some(stop), thread: Some(thread) })
    }

    /// The address that the provider listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for a client or a gateway: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Number of requests that have arrived so far, refused ones included.
    pub fn requests(&self) -> u64 {
        self.world.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Dropping the sender tells the server to stop.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed where it happened.
            let _ = thread.join();
        }
    }
}

/// The routes alone, for use in another server. The directive `reset` then becomes a 502, or a cut.
pub fn router(config: SimulatedConfig) -> Router {
    router::build(Arc::new(World::new(config)))
}

/// Accepts until `stopped`; the connections end with this future.
async fn serve(listener: TcpListener, world: Arc<World>, mut stopped: oneshot::Receiver<()>) {
    let router = router::build(Arc::clone(&world));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return world.close(),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without `nodelay`, Nagle's algorithm may hold events back. Setting it fails only on a dead socket.
                    let _ = stream.set_nodelay(true);
                    let connection = Connection::default();
                    let router = router.clone().layer(axum::Extension(connection.clone()));
                    connections.spawn(one(connection.wrap(stream), connection, router));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Serves one connection until it ends or a fault resets it.
async fn one(socket: connection::Socket, connection: Connection, router: Router) {
    let server = auto::Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(router);
    tokio::select! {
        // The error is a client that disconnected or a cut on demand: either way the connection is over.
        _ = server.serve_connection_with_upgrades(TokioIo::new(socket), service) => {}
        () = connection.reset_asked() => {}
    }
}
