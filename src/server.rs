//! The composition root: builds a snapshot from a configuration, and a Pingora server; also its reloads and its end.

mod ending;
mod front;
mod handover;
mod limits;
mod listen;
mod stream;
pub mod tls;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::{
    connectors::ConnectorOptions,
    server::{
        ExecutionPhase, RunArgs, Server as PingoraServer,
        configuration::{Opt, ServerConf},
    },
    tls::RootCertStore,
    utils::tls::{WrappedX509, parse_x509},
};
use pingora_proxy::http_proxy;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;

use ending::Ending;
use front::{AdminApi, ClientApi};
use handover::{Incoming, Outgoing, Signals};
use listen::{Endpoint, Listening, Startup};
use tls::{Certificates, Renewal};

use crate::{
    admin::{Admin, ClientListener, Readiness},
    cache::{Cache, Purges},
    capacity::Capacity,
    config::{Config, FileText, Listener, Loaded},
    connections::Connections,
    guards::Guards,
    identity::{Authenticator, Authenticators, Directory},
    ledger::{HandoverSnapshot, Ledger, Local, Treasury},
    objects::Objects,
    pricing::Catalogue,
    proxy::Gateway,
    routing::{Authorizers, RouteTable},
    snapshot::{Authorities, Peers, Snapshot},
    store::{self, StoreError},
    telemetry::{AccessLog, Metrics, Observer},
    tenants::{SharedState, TenantTable},
};

/// The default lame duck time if stderr is no terminal: long enough for a load balancer's health checks.
const LAME_DUCK: Duration = Duration::from_secs(5);

/// How long the last entries of the ledger may take to be written at the end. An entry that is not written then is recovered at
/// the next start.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Why the gateway cannot start or reload; each line names the place of its fault.
#[derive(Debug)]
pub struct StartError(pub Vec<String>);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for StartError {}

/// Loads the configuration anew; called on every reload.
pub type Load = Box<dyn Fn() -> Result<Loaded, StartError> + Send>;

/// A gateway that is composed but not running yet.
pub struct Server {
    pingora: PingoraServer,
    /// Addresses of the client API, with ports that the system chose filled in.
    pub addresses: Vec<SocketAddr>,
    /// Address of the admin API, if there is one.
    pub admin: Option<SocketAddr>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    shared: Arc<SharedState>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    certificates: Arc<Certificates>,
    /// The connection to the gateway that this one takes over from.
    before: Option<Incoming>,
    outgoing: Arc<Outgoing>,
    ending: Arc<Ending>,
}

/// What a program that embeds the gateway adds to it. The product itself adds nothing.
#[derive(Clone, Default)]
pub struct Plugins {
    /// Guards, which inspect prompts and replies.
    pub guards: Guards,
    /// Authorizers, by the name of their provider.
    pub authorizers: Authorizers,
    /// Authenticators for clients' credentials besides the tokens, on both listeners. A reload does not change them.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Where budgets draw their money, and meters their part of a limit; `None` for this process alone. A reload does not change
    /// it.
    pub treasury: Option<Arc<dyn Treasury>>,
}

impl Server {
    /// Builds the first snapshot and binds the listeners; no connection is accepted yet.
    ///
    /// With `upgrade`, reservations, database and listeners are taken over from the process that gets SIGQUIT; this call waits
    /// for that process.
    ///
    /// # Errors
    /// A database that another gateway owns, a gateway that does not hand over, an address in use, an unreadable certificate or
    /// price file.
    pub fn compose(config: Config, upgrade: bool) -> Result<Self, StartError> {
        Self::compose_with(config, upgrade, Plugins::default())
    }

    /// Like [`Self::compose`], with plugins, which a reload keeps.
    ///
    /// # Errors
    /// As for [`Self::compose`].
    pub fn compose_with(config: Config, upgrade: bool, plugins: Plugins) -> Result<Self, StartError> {
        let found = tls::check(&config);
        if !found.faults.is_empty() {
            return Err(StartError(found.faults.iter().map(ToString::to_string).collect()));
        }
        let metrics = Arc::new(Metrics::new().map_err(|e| StartError(vec![e.to_string()]))?);
        let ready = Arc::new(AtomicBool::new(false));
        let socket = config.server.upgrade_socket.clone();
        let store = store::sqlite::at(&config.database.path);
        let before = match upgrade {
            true => Some(Incoming::wait(&socket, &*store).map_err(|error| StartError(vec![error]))?),
            false => None,
        };
        let handed = before.as_ref().map(|before| &before.handed);
        let treasury = plugins.treasury.clone().unwrap_or_else(|| Arc::new(Local));
        let opened = Ledger::open_after(store.clone(), &config.database, treasury, handed);
        let ledger = opened.map_err(|error| match error {
            StoreError::Owned(message) => StartError(vec![message]),
            error => StartError(vec![format!("{}: {error}", config.database.path.display())]),
        })?;
        let purges = Purges::follow(store.clone());
        let cache = Cache::open(&config.cache, purges).map_err(|error| StartError(vec![format!("cache: {error}")]))?;
        let directory = Directory::follow(store.clone());
        let objects = Arc::new(Objects::open(store));
        let capacity = Arc::new(Capacity::new(Some(config.server.memory_budget)));
        let authenticators = Authenticators::new(directory.clone(), plugins.authenticators.clone());
        let shared = Arc::new(SharedState::new(directory, authenticators, ledger, Arc::new(cache), objects, capacity));
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(config, &shared, &metrics, plugins)?));
        if let Some(handed) = handed {
            inherit(&snapshot, &shared, handed);
        }
        let config = snapshot.load().config.clone();
        tracing::info!("who can spend: {}", config.who_can_spend(shared.authenticators.holders()));
        tracing::info!("memory budget: {}", config.server.memory_line());
        let conf = ServerConf {
            threads: config.server.threads,
            upgrade_sock: handover::listeners_socket(&socket).display().to_string(),
            grace_period_seconds: Some(config.server.shutdown_grace.as_secs()),
            graceful_shutdown_timeout_seconds: Some(1),
            upstream_keepalive_pool_size: config.server.upstream_pool,
            // The gateway's own plan bounds the attempts, even after a reload; this limit is a fail-safe.
            max_retries: 255,
            ..ServerConf::default()
        };
        let opt = upgrade.then(|| Opt { upgrade: true, ..Opt::default() });
        let mut pingora = PingoraServer::new_with_opt_and_conf(opt, conf);

        let mut faults = Vec::new();
        let mut certificates = Certificates::default();
        let endpoints = listeners(&config, upgrade, &mut certificates, &mut faults);
        let admin = config.admin.and_then(|address| endpoint(address, upgrade, &mut faults));
        if !faults.is_empty() {
            return Err(StartError(faults));
        }
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
        let admin_address = admin.as_ref().map(|endpoint| endpoint.address);
        let shown: Vec<_> = addresses.iter().chain(&admin_address).map(ToString::to_string).collect();
        let startup = Startup::new(shown.len(), ready.clone(), shown[..addresses.len()].join(","));
        let asked = |endpoint: &Endpoint| ClientListener { address: endpoint.address, tls: endpoint.tls.is_some() };
        let readiness = Arc::new(Readiness::new(ready.clone(), endpoints.iter().map(asked).collect()));
        shared.ledger.announce(shown);
        let draining = watch::Sender::new(false);
        let connections = Connections::new(limits::of_clients(&config.server));
        if let Some(endpoint) = admin {
            let state = Admin {
                metrics: metrics.clone(),
                readiness,
                snapshot: snapshot.clone(),
                shared: shared.clone(),
                connections: connections.clone(),
            };
            pingora.add_service(Listening {
                name: "admin API",
                threads: Some(1),
                api: Arc::new(AdminApi::new(state.router())),
                endpoints: vec![endpoint],
                connections: Connections::new(limits::OF_ADMIN),
                startup: startup.clone(),
                // The admin API reports on the gateway to its very end.
                draining: watch::Sender::new(false),
            });
        }
        let options = ConnectorOptions::from_server_conf(&pingora.configuration);
        let gateway = Gateway::new(snapshot.clone(), shared.clone(), metrics.clone(), options);
        let proxy = http_proxy(&pingora.configuration, gateway);
        pingora.add_service(Listening {
            name: "client API",
            threads: None,
            api: Arc::new(ClientApi::new(proxy, snapshot.clone())),
            endpoints,
            connections: connections.clone(),
            startup,
            draining: draining.clone(),
        });
        let outgoing = Outgoing::new(socket, shared.ledger.clone());
        let lame_duck =
            config.server.lame_duck.unwrap_or(if io::stderr().is_terminal() { Duration::ZERO } else { LAME_DUCK });
        let ending = Ending { ready: ready.clone(), draining, connections, metrics: metrics.clone(), lame_duck };
        certificates.tell(&metrics);
        Ok(Self {
            pingora,
            addresses,
            admin: admin_address,
            snapshot,
            shared,
            metrics,
            ready,
            certificates: Arc::new(certificates),
            before,
            outgoing,
            ending: Arc::new(ending),
        })
    }

    /// A handle to reload the configuration of the running server; `text` is the file in force.
    pub fn reloader(&self, load: Load, text: FileText) -> Reloader {
        Reloader {
            load,
            in_force: Mutex::new(text),
            snapshot: self.snapshot.clone(),
            shared: self.shared.clone(),
            metrics: self.metrics.clone(),
            certificates: self.certificates.clone(),
        }
    }

    /// Set once all listeners accept connections, cleared when the gateway begins to end.
    pub fn ready(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// The signals that end the process: SIGQUIT hands over to a successor, SIGTERM waits for open requests, SIGINT does not.
    pub fn signals(&self) -> RunArgs {
        RunArgs { shutdown_signal: Box::new(Signals { outgoing: self.outgoing.clone(), ending: self.ending.clone() }) }
    }

    /// How long a connection may be idle after a successor has the listeners: its client may believe that it is kept open. At
    /// most half of the grace period, so that the other half is left to a request that comes last.
    fn kept(&self) -> Duration {
        let config = &self.snapshot.load().config;
        config.http.keepalive.min(config.server.shutdown_grace / 2)
    }

    /// Serves until a signal of `args` ends it. `on_idle` is called once, when a graceful end has begun and no request is open
    /// any more; the binary exits there, since Pingora itself would wait for the whole grace period.
    pub fn run(mut self, args: RunArgs, on_idle: impl FnOnce() + Send + 'static) {
        if let Some(before) = self.before.take() {
            let (snapshot, shared) = (self.snapshot.clone(), self.shared.clone());
            let listeners = PathBuf::from(&self.pingora.configuration.upgrade_sock);
            thread::spawn(move || {
                before.follow(&listeners, |handed| inherit(&snapshot, &shared, &handed));
                shared.ledger.predecessor_ended();
            });
        }
        self.pingora.bootstrap();
        let mut phases = self.pingora.watch_execution_phase();
        let (ending, shared, outgoing) = (self.ending.clone(), self.shared.clone(), self.outgoing.clone());
        let kept = self.kept();
        self.certificates.watch(&self.metrics);
        thread::spawn(move || {
            loop {
                match phases.blocking_recv() {
                    Ok(ExecutionPhase::GracefulTerminate | ExecutionPhase::GracefulUpgradeTransferringFds) => {
                        ending.ready.store(false, Ordering::Release);
                    }
                    Ok(ExecutionPhase::ShutdownGracePeriod) => break,
                    Ok(_) => {}
                    // A receiver that lags skips phases, but never misses the wait for the last one.
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
            // Without a successor, a client that comes back finds no listener, whether its connection was kept or not.
            ending.wait(if outgoing.has_successor() { kept } else { Duration::ZERO });
            outgoing.drained();
            last_writes(&shared);
            on_idle();
        });
        let shared = self.shared.clone();
        self.pingora.run(args);
        // For an end that did not wait for open requests: SIGINT, or a grace period that was too short.
        last_writes(&shared);
    }
}

/// Holds, in the budgets of the tenants, the money that the gateway before this one may still spend.
fn inherit(snapshot: &ArcSwap<Snapshot>, shared: &SharedState, handed: &HandoverSnapshot) {
    let snapshot = snapshot.load();
    shared.ledger.inherit(handed, |tenant| Some(snapshot.tenants.of(tenant)?.account.clone()));
}

fn last_writes(shared: &SharedState) {
    shared.cache.close(LAST_WRITES);
    if !shared.objects.flush(LAST_WRITES) {
        tracing::error!("the owners of the last objects are not written; they are nobody's after a restart");
    }
    if !shared.ledger.close(LAST_WRITES) {
        tracing::error!("the last entries of the ledger are not written; their requests will be recovered");
    }
}

/// The listeners of the client API.
fn listeners(
    config: &Config,
    upgrade: bool,
    certificates: &mut Certificates,
    faults: &mut Vec<String>,
) -> Vec<Endpoint> {
    let open = |listener: &Listener| {
        let mut endpoint = endpoint(listener.address, upgrade, faults)?;
        endpoint.http2 = listener.http2;
        if let Some(tls) = &listener.tls {
            match certificates.serve(listener, tls, endpoint.address.to_string()) {
                Ok(settings) => endpoint.tls = Some(settings.build()),
                Err(error) => faults.push(format!("TLS for {}: {error}", listener.address)),
            }
        }
        Some(endpoint)
    };
    config.listeners.iter().filter_map(open).collect()
}

fn endpoint(address: SocketAddr, upgrade: bool, faults: &mut Vec<String>) -> Option<Endpoint> {
    Endpoint::bind(address, upgrade).map_err(|error| faults.push(format!("cannot listen on {address}: {error}"))).ok()
}

fn snapshot(
    config: Config,
    shared: &Arc<SharedState>,
    metrics: &Arc<Metrics>,
    plugins: Plugins,
) -> Result<Snapshot, StartError> {
    let catalogue = match &config.prices_file {
        None => Catalogue::builtin(),
        Some(path) => read_catalogue(path)?,
    };
    let routes = RouteTable::new(&config, &shared.deployments, &plugins.authorizers)
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
    let tenants = TenantTable::new(config.clone(), shared.clone());
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics.clone()];
    if config.log.access {
        observers.push(Arc::new(AccessLog::new(metrics.clone())));
    }
    let (catalogue, peers) = (Arc::new(catalogue), Peers::default());
    let Plugins { guards, authorizers, .. } = plugins;
    let number = Snapshot::next_number();
    Ok(Snapshot { config, number, routes, catalogue, tenants, authorities, peers, observers, guards, authorizers })
}

fn read_authorities(file: &Path) -> Result<Arc<Authorities>, String> {
    let certificates: Vec<CertificateDer> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    // Pingora panics on a certificate that it cannot parse; a certificate that rustls accepts as an anchor can be parsed.
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
    snapshot: Arc<ArcSwap<Snapshot>>,
    shared: Arc<SharedState>,
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
}

impl Reloader {
    /// Loads and applies the configuration; a faulty one is refused and the snapshot in force stays. Returns the files to watch
    /// from now on.
    ///
    /// # Errors
    /// Every fault of the new configuration.
    pub fn reload(&self) -> Result<Vec<PathBuf>, StartError> {
        self.apply(|_, _| None)
    }

    /// Like [`Self::reload`], for a file that was seen to change: a file that looks like an interrupted write is refused.
    ///
    /// # Errors
    /// Every fault of the new configuration.
    pub fn reload_changed(&self) -> Result<Vec<PathBuf>, StartError> {
        self.apply(FileText::cut_off)
    }

    fn apply(&self, objection: fn(&FileText, &FileText) -> Option<String>) -> Result<Vec<PathBuf>, StartError> {
        match self.read(objection) {
            Ok((new, text, files, renewal)) => {
                self.certificates.renew(renewal, &self.metrics);
                let old = self.snapshot.swap(Arc::new(new));
                *self.in_force.lock() = text;
                let new = self.snapshot.load();
                self.shared.capacity.memory.set_limit(new.config.server.memory_budget);
                let waiting = old.config.needs_restart(&new.config);
                if !waiting.is_empty() {
                    tracing::warn!(keys = waiting.join(", "), "these keys change with a restart or an upgrade only");
                }
                self.metrics.reload("applied");
                tracing::info!("configuration reloaded");
                let holders = self.shared.authenticators.holders();
                tracing::info!("who can spend: {}", new.config.who_can_spend(holders));
                Ok(files)
            }
            Err(error) => {
                self.metrics.reload("refused");
                tracing::error!(%error, "configuration refused; the configuration in force stays");
                Err(error)
            }
        }
    }

    fn read(
        &self,
        objection: fn(&FileText, &FileText) -> Option<String>,
    ) -> Result<(Snapshot, FileText, Vec<PathBuf>, Renewal), StartError> {
        let Loaded { config, text, files, .. } = (self.load)()?;
        let in_force = self.in_force.lock().clone();
        if let Some(why) = objection(&in_force, &text) {
            return Err(StartError(vec![format!("the configuration file {why}")]));
        }
        let renewal = self.certificates.read(&config).map_err(StartError)?;
        let snapshot_now = self.snapshot.load();
        let (guards, authorizers) = (snapshot_now.guards.clone(), snapshot_now.authorizers.clone());
        // The authenticators and the treasury are kept outside the snapshot, and survive a reload.
        let plugins = Plugins { guards, authorizers, ..Plugins::default() };
        Ok((snapshot(config, &self.shared, &self.metrics, plugins)?, text, files, renewal))
    }
}
