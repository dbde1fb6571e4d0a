//! Listeners: accept connections, bound their number and their slowness, and hand them to an API.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    listeners::tls::Acceptor,
    protocols::Stream,
    server::{ListenFds, ShutdownWatch},
    services::Service,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::watch, time};

use super::stream::ClientStream;
use crate::connections::{Connection, Connections, Place, Timeouts};

/// Connections that the system queues until they are accepted; the system may lower this number.
const BACKLOG: i32 = 65_535;

/// The longest time between two sweeps for connections that take too long.
const SWEEP: Duration = Duration::from_millis(250);

/// How long nothing is accepted after the process ran out of descriptors.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// An API that serves connections.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Serves a connection to its end. `http2`: HTTP/2 may be used. `draining` turns true when the process begins to end.
    async fn serve(&self, stream: Stream, connection: Arc<Connection>, http2: bool, draining: &ShutdownWatch);

    /// The timeouts of connections that are in force now.
    fn timeouts(&self) -> Timeouts;
}

/// An address on which connections are accepted.
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// HTTP/2 may be used besides HTTP/1.1.
    pub http2: bool,
    /// The TLS acceptor, for a listener that speaks TLS.
    pub tls: Option<Acceptor>,
    /// `None` if another process listens there, which is to hand its listener over.
    listener: Option<std::net::TcpListener>,
}

impl Endpoint {
    /// Listens on an address; port 0 takes a free one. With `upgrade`, another gateway may listen on the address.
    ///
    /// # Errors
    /// The address is in use, or does not belong to this machine.
    pub fn bind(address: SocketAddr, upgrade: bool) -> io::Result<Self> {
        let listener = match listen(address) {
            Ok(listener) => Some(listener),
            Err(error) if upgrade && error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(error),
        };
        let address = listener.as_ref().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        Ok(Self { address, http2: false, tls: None, listener })
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sets the gateway ready when all listeners accept connections.
pub struct Startup {
    missing: AtomicUsize,
    ready: Arc<AtomicBool>,
    addresses: String,
}

impl Startup {
    /// Ready after this many listeners. `addresses` are written to the log.
    pub fn new(listeners: usize, ready: Arc<AtomicBool>, addresses: String) -> Arc<Self> {
        Arc::new(Self { missing: AtomicUsize::new(listeners), ready, addresses })
    }

    fn listening(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ready.store(true, Ordering::Release);
            tracing::info!(addresses = self.addresses, "ready");
        }
    }
}

/// An API on its listeners, as a service of Pingora's.
pub struct Listening<A> {
    /// The API's name in the log.
    pub name: &'static str,
    /// Number of worker threads; `None` for the process's default.
    pub threads: Option<usize>,
    /// What serves the connections.
    pub api: Arc<A>,
    /// Where connections are accepted.
    pub endpoints: Vec<Endpoint>,
    /// The open connections.
    pub connections: Arc<Connections>,
    /// Informed of each endpoint that accepts connections.
    pub startup: Arc<Startup>,
    /// Turns true when the process begins to end.
    pub draining: watch::Sender<bool>,
}

#[async_trait]
impl<A: Api> Service for Listening<A> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, _listeners_per_fd: usize) {
        tokio::spawn(sweep(self.api.clone(), self.connections.clone()));
        let mut accepting = Vec::new();
        for endpoint in self.endpoints.drain(..) {
            let address = endpoint.address;
            match open(endpoint, fds.as_ref()) {
                Ok((listener, endpoint)) => {
                    let acceptor = Accepting {
                        api: self.api.clone(),
                        connections: self.connections.clone(),
                        draining: self.draining.subscribe(),
                        endpoint: Arc::new(endpoint),
                    };
                    accepting.push(tokio::spawn(acceptor.run(listener, shutdown.clone())));
                    self.startup.listening();
                }
                Err(error) => tracing::error!(%address, %error, "cannot listen"),
            }
        }
        for task in accepting {
            // If a task has panicked, the others go on.
            let _ = task.await;
        }
        // From now on each reply is the last one on its connection.
        self.draining.send_replace(true);
    }

    fn name(&self) -> &str {
        self.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(self.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
    }
}

/// The listener that was handed over, or else the endpoint's own; adds it to the table for the next upgrade.
fn open(mut endpoint: Endpoint, fds: Option<&ListenFds>) -> io::Result<(TcpListener, Endpoint)> {
    let own = endpoint.listener.take();
    let name = endpoint.address.to_string();
    let Some(fds) = fds else {
        return Ok((TcpListener::from_std(own.ok_or(io::ErrorKind::AddrInUse)?)?, endpoint));
    };
    let mut fds = fds.lock();
    let listener = match (fds.get(&name), own) {
        (Some(fd), _) => adopt(*fd),
        (None, Some(own)) => own,
        (None, None) => listen(endpoint.address)?,
    };
    listener.set_nonblocking(true)?;
    fds.add(name, listener.as_raw_fd());
    Ok((TcpListener::from_std(listener)?, endpoint))
}

/// Takes over a listener that came from another process.
#[expect(unsafe_code, reason = "Pingora hands descriptors over as numbers")]
fn adopt(fd: RawFd) -> std::net::TcpListener {
    // SAFETY: Pingora received it for this address and leaves it to the one service that listens there.
    unsafe { std::net::TcpListener::from_raw_fd(fd) }
}

/// Closes connections that take too long, for as long as the process lives.
async fn sweep<A: Api>(api: Arc<A>, connections: Arc<Connections>) {
    loop {
        let timeouts = api.timeouts();
        let shortest = timeouts.header.min(timeouts.idle);
        time::sleep((shortest / 8).clamp(Duration::from_millis(5), SWEEP)).await;
        connections.sweep(timeouts);
    }
}

struct Accepting<A> {
    api: Arc<A>,
    connections: Arc<Connections>,
    draining: watch::Receiver<bool>,
    endpoint: Arc<Endpoint>,
}

impl<A: Api> Accepting<A> {
    /// Accepts connections until the process stops listening.
    async fn run(self, listener: TcpListener, mut shutdown: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                stopped = shutdown.wait_for(|stopped| *stopped) => {
                    drop(stopped);
                    return;
                }
            };
            match accepted {
                Ok((socket, peer)) => {
                    // If there is no room, the connection is closed: no request was read that could be answered.
                    let Ok(place) = self.connections.admit(peer.ip()) else { continue };
                    self.serve(socket, peer, place);
                }
                Err(error) if is_exhausted(&error) => {
                    tracing::error!(%error, "no connection can be accepted; the idle ones that are oldest are closed");
                    self.connections.relieve();
                    time::sleep(EXHAUSTED).await;
                }
                // The client has left already.
                Err(error) => tracing::debug!(%error, "a connection was not accepted"),
            }
        }
    }

    fn serve(&self, socket: tokio::net::TcpStream, peer: SocketAddr, place: Place) {
        let (api, endpoint, draining) = (self.api.clone(), self.endpoint.clone(), self.draining.clone());
        tokio::spawn(async move {
            // If this fails, the connection is closed already.
            let _ = socket.set_nodelay(true);
            let connection = place.connection.clone();
            let stream = ClientStream::new(socket, peer, place);
            let stream: Stream = match &endpoint.tls {
                None => Box::new(stream),
                Some(acceptor) => match acceptor.tls_handshake(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(error) => {
                        tracing::debug!(%peer, %error, "no TLS handshake");
                        return;
                    }
                },
            };
            api.serve(stream, connection, endpoint.http2, &draining).await;
        });
    }
}

/// True if the process, or the system, has no descriptors left (EMFILE, ENFILE).
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
