//! The composition root: configuration → engines → a Pingora server, its reloads and its end.

mod handover;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora_core::{
    apps::HttpServerOptions,
    listeners::{ListenerConfig, TcpSocketOptions, tls::TlsSettings},
    protocols::l4::stream::L4BufferSettings,
    server::{
        ExecutionPhase, RunArgs, Server as PingoraServer,
        configuration::{Opt, ServerConf},
    },
    services::listening::Service,
    tls::RootCertStore,
    utils::tls::{WrappedX509, parse_x509},
};
use pingora_proxy::http_proxy_service_with_name;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use socket2::{Domain, Protocol, Socket, Type};

use handover::{Incoming, Outgoing, Signals};

use crate::{
    admin::{Admin, AxumApp},
    cache::{Cache, Purges},
    config::{Config, FileText, Listener, Loaded},
    identity::Directory,
    ledger::{Ledger, Snapshot},
    objects::Objects,
    pricing::Catalogue,
    proxy::{Authorities, Engines, Gateway, Governance, Parties},
    routing::RouteTable,
    store::StoreError,
    telemetry::Metrics,
};

/// After the listeners closed, the process waits this long without an open request before it exits: a connection that
/// was accepted in the last moment has not become a request yet.
const QUIET: Duration = Duration::from_millis(250);

/// At the end the ledger's last entries have this long to be written. What is not written then is recovered at the next start.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Bytes read ahead on a client's connection.
const READ_BUFFER: usize = 4096;

/// Why the gateway cannot start or reload; each line names its place.
#[derive(Debug)]
pub struct StartError(pub Vec<String>);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for StartError {}

/// Loads the configuration afresh; called on every reload.
pub type Load = Box<dyn Fn() -> Result<Loaded, StartError> + Send>;

/// A gateway that is composed but not running yet.
pub struct Server {
    pingora: PingoraServer,
    /// Where the client API will listen, free ports filled in.
    pub addresses: Vec<SocketAddr>,
    /// Where the admin API will listen.
    pub admin: Option<SocketAddr>,
    engines: Arc<ArcSwap<Engines>>,
    governance: Arc<Governance>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    /// Holds the ports that were chosen here until Pingora has them.
    reserved: Vec<Socket>,
    /// The gateway that this one takes over from.
    before: Option<Incoming>,
    outgoing: Arc<Outgoing>,
}

impl Server {
    /// Builds the engines and binds nothing yet but the ports that the system is to choose.
    ///
    /// With `upgrade`, reservations, database and listeners are taken over from the process that gets SIGQUIT; this waits for it.
    ///
    /// # Errors
    /// A database that another gateway owns, a gateway that does not hand over, an address in use, an unreadable certificate or price file.
    pub fn compose(config: Config, upgrade: bool) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new().map_err(|e| StartError(vec![e.to_string()]))?);
        let ready = Arc::new(AtomicBool::new(false));
        let socket = config.server.upgrade_socket.clone();
        let before = match upgrade {
            true => Some(Incoming::wait(&socket, &config.database.path).map_err(|error| StartError(vec![error]))?),
            false => None,
        };
        let snapshot = before.as_ref().map(|before| &before.snapshot);
        let ledger = Ledger::open_after(&config.database, snapshot).map_err(|error| match error {
            StoreError::Owned(message) => StartError(vec![message]),
            error => StartError(vec![format!("{}: {error}", config.database.path.display())]),
        })?;
        let purges = Purges::follow(&config.database.path);
        let cache = Cache::open(&config.cache, purges).map_err(|error| StartError(vec![format!("cache: {error}")]))?;
        let directory = Directory::follow(&config.database.path);
        let objects = Arc::new(Objects::open(&config.database.path));
        let governance = Arc::new(Governance::new(directory, ledger, Arc::new(cache), objects));
        let engines = Arc::new(ArcSwap::from_pointee(engines(config, &governance)?));
        if let Some(snapshot) = snapshot {
            inherit(&engines, &governance, snapshot);
        }
        let config = engines.load().config.clone();
        tracing::info!("who can spend: {}", config.who_can_spend(governance.directory.holders()));
        let mut sockets = Sockets { reserved: Vec::new(), faults: Vec::new(), upgrade };

        let conf = ServerConf {
            threads: config.server.threads,
            upgrade_sock: handover::listeners_socket(&socket).display().to_string(),
            grace_period_seconds: Some(config.server.shutdown_grace.as_secs()),
            graceful_shutdown_timeout_seconds: Some(1),
            upstream_keepalive_pool_size: config.server.upstream_pool,
            // Our own plan bounds the attempts, also after a reload; this is the fail-safe behind it.
            max_retries: 255,
            ..ServerConf::default()
        };
        let opt = upgrade.then(|| Opt { upgrade: true, ..Opt::default() });
        let mut pingora = PingoraServer::new_with_opt_and_conf(opt, conf);

        let gateway = Gateway::new(engines.clone(), governance.clone(), metrics.clone());
        let mut client_api = http_proxy_service_with_name(&pingora.configuration, gateway, "client API");
        if config.listeners.iter().any(|listener| listener.http2 && listener.tls.is_none())
            && let Some(proxy) = client_api.app_logic_mut()
        {
            let mut options = HttpServerOptions::default();
            options.h2c = true;
            proxy.server_options = Some(options);
        }
        let addresses: Vec<_> =
            config.listeners.iter().map(|listener| sockets.listen(&mut client_api, listener)).collect();
        let admin = config.admin.map(|address| {
            let api = Admin {
                metrics: metrics.clone(),
                ready: ready.clone(),
                engines: engines.clone(),
                governance: governance.clone(),
            };
            let mut service = Service::new("admin API".to_owned(), AxumApp::new(api.router()));
            service.threads = Some(1);
            let listener = Listener { address, tls: None, http2: false };
            let address = sockets.listen(&mut service, &listener);
            pingora.add_service(service);
            address
        });
        if !sockets.faults.is_empty() {
            return Err(StartError(sockets.faults));
        }
        governance.ledger.announce(addresses.iter().chain(&admin).map(ToString::to_string).collect());
        pingora.add_service(client_api);
        let outgoing = Outgoing::new(socket, governance.ledger.clone());
        let reserved = sockets.reserved;
        Ok(Self { pingora, addresses, admin, engines, governance, metrics, ready, reserved, before, outgoing })
    }

    /// A handle to reload the configuration of the running server; `text` is the file in force.
    pub fn reloader(&self, load: Load, text: FileText) -> Reloader {
        Reloader {
            load,
            in_force: Mutex::new(text),
            engines: self.engines.clone(),
            governance: self.governance.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Set once the client API accepts connections, cleared when it stops.
    pub fn ready(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// The signals that end the process: SIGQUIT hands over to a successor, SIGTERM lets open requests end, SIGINT does not.
    pub fn signals(&self) -> RunArgs {
        RunArgs { shutdown_signal: Box::new(Signals(self.outgoing.clone())) }
    }

    /// Serves until a signal of `args` ends it. `on_idle` is called once, when a graceful end has begun and no request is
    /// open any more; the binary exits there, since Pingora itself would wait for the whole grace period.
    pub fn run(mut self, args: RunArgs, on_idle: impl FnOnce() + Send + 'static) {
        if let Some(before) = self.before.take() {
            let (engines, governance) = (self.engines.clone(), self.governance.clone());
            let listeners = PathBuf::from(&self.pingora.configuration.upgrade_sock);
            thread::spawn(move || {
                before.follow(&listeners, |snapshot| inherit(&engines, &governance, &snapshot));
                governance.ledger.predecessor_ended();
            });
        }
        self.pingora.bootstrap();
        let reserved = self.reserved.iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect();
        let all = self.addresses.iter().chain(&self.admin).copied().collect();
        announce_when_ready(all, self.addresses.clone(), reserved, self.ready.clone());
        let mut phases = self.pingora.watch_execution_phase();
        let (metrics, ready, governance) = (self.metrics.clone(), self.ready.clone(), self.governance.clone());
        let outgoing = self.outgoing.clone();
        thread::spawn(move || {
            loop {
                match phases.blocking_recv() {
                    Ok(ExecutionPhase::GracefulTerminate | ExecutionPhase::GracefulUpgradeTransferringFds) => {
                        ready.store(false, Ordering::Release);
                    }
                    Ok(ExecutionPhase::ShutdownGracePeriod) => break,
                    Ok(_) => {}
                    // Lagging skips phases, never the wait for the last one.
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
            outgoing.drained();
            wait_until_idle(&metrics);
            last_writes(&governance);
            on_idle();
        });
        let governance = self.governance.clone();
        self.pingora.run(args);
        // An end that did not wait for open requests: SIGINT, or a grace period that was too short.
        last_writes(&governance);
    }
}

/// Holds in the budgets of the tenants what the gateway before this one may still spend.
fn inherit(engines: &ArcSwap<Engines>, governance: &Governance, snapshot: &Snapshot) {
    let engines = engines.load();
    governance.ledger.inherit(snapshot, |tenant| Some(engines.parties.of(tenant)?.account.clone()));
}

fn last_writes(governance: &Governance) {
    governance.cache.close(LAST_WRITES);
    if !governance.objects.flush(LAST_WRITES) {
        tracing::error!("the owners of the last objects are not written; they are nobody's after a restart");
    }
    if !governance.ledger.close(LAST_WRITES) {
        tracing::error!("the last entries of the ledger are not written; their requests will be recovered");
    }
}

fn wait_until_idle(metrics: &Metrics) {
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(10));
        if metrics.open_requests() > 0 {
            quiet_since = Instant::now();
        }
    }
}

/// Pingora does not say when it listens, so we look.
fn announce_when_ready(
    all: Vec<SocketAddr>,
    addresses: Vec<SocketAddr>,
    reserved: Vec<SocketAddr>,
    ready: Arc<AtomicBool>,
) {
    thread::spawn(move || {
        for address in &all {
            while !is_listening(*address, reserved.contains(address)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        ready.store(true, Ordering::Release);
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(addresses = addresses.join(","), "ready");
    });
}

/// An address that can be bound once more is not listened on yet: the system refuses it only then, as long as both sides
/// allow reuse. A connection would tell too, but a TLS listener logs one that says nothing as an error; it serves for
/// reserved ports, which may always be bound again.
fn is_listening(address: SocketAddr, reserved: bool) -> bool {
    if reserved {
        return TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
    }
    let probe = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

struct Sockets {
    reserved: Vec<Socket>,
    faults: Vec<String>,
    upgrade: bool,
}

impl Sockets {
    /// Adds a listener to a service; returns its address with the port filled in.
    fn listen<A>(&mut self, service: &mut Service<A>, listener: &Listener) -> SocketAddr {
        let (address, chosen) = match self.claim(listener.address) {
            Ok(claimed) => claimed,
            Err(error) => {
                self.faults.push(format!("cannot listen on {}: {error}", listener.address));
                return listener.address;
            }
        };
        let mut options = TcpSocketOptions::default();
        options.so_reuseport = chosen.then_some(true);
        let mut endpoint = ListenerConfig::tcp(address.to_string())
            .tcp_socket_options(options)
            // Requests are small, and large bodies bypass this buffer: less memory for each open stream.
            .l4_buffer(L4BufferSettings::default().read(READ_BUFFER));
        if let Some(tls) = &listener.tls {
            let (cert, key) = (tls.cert.display().to_string(), tls.key.display().to_string());
            match tls_settings(&cert, &key) {
                Ok(mut settings) => {
                    if listener.http2 {
                        settings.enable_h2();
                    }
                    endpoint = endpoint.tls(settings);
                }
                Err(error) => {
                    self.faults.push(format!("TLS for {address}: {error}"));
                    return address;
                }
            }
        }
        service.add_listener(endpoint);
        address
    }

    /// Checks that an address is free, or reserves a free port for port 0. Pingora would panic in a task of its own
    /// and leave a process that serves nobody.
    fn claim(&mut self, address: SocketAddr) -> io::Result<(SocketAddr, bool)> {
        if self.upgrade && address.port() != 0 {
            return Ok((address, false));
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        let chosen = address.port() == 0;
        socket.set_reuse_port(chosen)?;
        socket.bind(&address.into())?;
        if !chosen {
            // Only listening tells whether another process listens there.
            socket.listen(1)?;
            return Ok((address, false));
        }
        let claimed = socket.local_addr()?.as_socket().unwrap_or(address);
        self.reserved.push(socket);
        Ok((claimed, true))
    }
}

fn tls_settings(cert: &str, key: &str) -> Result<TlsSettings, String> {
    match pingora_core::tls::load_certs_and_key_files(cert, key) {
        Ok(Some(_)) => TlsSettings::intermediate(cert, key).map_err(|e| e.to_string()),
        Ok(None) => Err(format!("{cert} or {key} holds no usable certificate or key")),
        Err(error) => Err(error.to_string()),
    }
}

fn engines(config: Config, governance: &Arc<Governance>) -> Result<Engines, StartError> {
    let catalogue = match &config.prices_file {
        None => Catalogue::builtin(),
        Some(path) => read_catalogue(path)?,
    };
    let routes = RouteTable::new(&config)
        .ok_or_else(|| StartError(vec![format!("default_provider: no provider '{}'", config.default_provider)]))?;
    let mut authorities = BTreeMap::new();
    for provider in config.providers.values() {
        if let Some(file) = &provider.ca_file {
            let read = read_authorities(file).map_err(|e| {
                StartError(vec![format!("providers.{}.ca_file: {}: {e}", provider.name, file.display())])
            })?;
            authorities.insert(provider.name.clone(), read);
        }
    }
    let config = Arc::new(config);
    let parties = Parties::new(config.clone(), governance.clone());
    Ok(Engines { config, routes, catalogue: Arc::new(catalogue), parties, authorities })
}

fn read_authorities(file: &Path) -> Result<Arc<Authorities>, String> {
    let certificates: Vec<CertificateDer> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    // Pingora parses them with a panic on failure; what rustls takes as an anchor parses.
    let mut check = RootCertStore::empty();
    for certificate in &certificates {
        check.add(certificate.clone()).map_err(|e| e.to_string())?;
    }
    Ok(certificates.iter().map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509)).collect())
}

fn read_catalogue(path: &PathBuf) -> Result<Catalogue, StartError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| StartError(vec![format!("prices.file: {shown}: {e}")]))?;
    Catalogue::builtin()
        .overlay(&text)
        .map_err(|faults| StartError(faults.iter().map(|fault| fault.in_file(path)).collect()))
}

/// Swaps a new configuration into the running server, whole or not at all.
pub struct Reloader {
    load: Load,
    /// The configuration file as it was when it was last applied.
    in_force: Mutex<FileText>,
    engines: Arc<ArcSwap<Engines>>,
    governance: Arc<Governance>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    /// Loads and applies the configuration; a faulty one is refused and the old one stays. Returns the files to watch now.
    ///
    /// # Errors
    /// Every fault of the new configuration.
    pub fn reload(&self) -> Result<Vec<PathBuf>, StartError> {
        self.apply(|_, _| None)
    }

    /// The same where nobody asked for it, but a file was seen to change: what looks like an interrupted write is refused.
    ///
    /// # Errors
    /// Every fault of the new configuration.
    pub fn reload_changed(&self) -> Result<Vec<PathBuf>, StartError> {
        self.apply(FileText::cut_off)
    }

    fn apply(&self, objection: fn(&FileText, &FileText) -> Option<String>) -> Result<Vec<PathBuf>, StartError> {
        match self.read(objection) {
            Ok((new, text, files)) => {
                let old = self.engines.swap(Arc::new(new));
                *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = text;
                let new = self.engines.load();
                let waiting = old.config.needs_restart(&new.config);
                if !waiting.is_empty() {
                    tracing::warn!(keys = waiting.join(", "), "these keys change with a restart or an upgrade only");
                }
                self.metrics.reload("applied");
                tracing::info!("configuration reloaded");
                let holders = self.governance.directory.holders();
                tracing::info!("who can spend: {}", new.config.who_can_spend(holders));
                Ok(files)
            }
            Err(error) => {
                self.metrics.reload("refused");
                tracing::error!(%error, "configuration refused, the old one stays");
                Err(error)
            }
        }
    }

    fn read(
        &self,
        objection: fn(&FileText, &FileText) -> Option<String>,
    ) -> Result<(Engines, FileText, Vec<PathBuf>), StartError> {
        let Loaded { config, text, files, .. } = (self.load)()?;
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(why) = objection(&in_force, &text) {
            return Err(StartError(vec![format!("the configuration file {why}")]));
        }
        Ok((engines(config, &self.governance)?, text, files))
    }
}
