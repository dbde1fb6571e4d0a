//! Starts the real gateway inside the test process.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chittycan::{
    config::{Config, Limits, Loaded, Source},
    guards::{Guard, Guards},
    identity::{Authenticator, NewToken, Scopes, Token, Tokens},
    ledger::Treasury,
    routing::Authorizer,
    server::{Plugins, Reloader, Server, StartError},
};
use pingora_core::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::Notify;

/// How many requests the ledger has: its entries, and those that are only counted.
pub const RECORDED: &str = "SELECT (SELECT count(*) FROM entries) + (SELECT coalesce(sum(count), 0) FROM refusals)";

/// A running gateway; ends when dropped.
pub struct Gateway {
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub reloader: Reloader,
    pub file: PathBuf,
    stop: Arc<Notify>,
    idle: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

struct Stop(Arc<Notify>);

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        self.0.notified().await;
        ShutdownSignal::GracefulTerminate
    }
}

impl Gateway {
    /// Starts with this YAML. `listen` and `admin` are on port 0 unless the text says otherwise.
    pub fn start(yaml: &str) -> Self {
        Self::start_with_env(yaml, &[])
    }

    /// Starts with this YAML and environment.
    pub fn start_with_env(yaml: &str, env: &[(&str, &str)]) -> Self {
        Self::start_whole(yaml, env, Plugins::default())
    }

    /// Starts with this YAML and a guard.
    pub fn start_guarded(yaml: &str, guard: Arc<dyn Guard>) -> Self {
        Self::start_whole(yaml, &[], Plugins { guards: Guards::new(vec![guard]), ..Plugins::default() })
    }

    /// With an authorizer for a provider.
    pub fn start_authorized(yaml: &str, provider: &str, authorizer: Arc<dyn Authorizer>) -> Self {
        let authorizers = [(provider.to_owned(), authorizer)].into();
        Self::start_whole(yaml, &[], Plugins { authorizers, ..Plugins::default() })
    }

    /// With an authenticator beside the tokens.
    pub fn start_authenticated(yaml: &str, authenticator: Arc<dyn Authenticator>) -> Self {
        Self::start_whole(yaml, &[], Plugins { authenticators: vec![authenticator], ..Plugins::default() })
    }

    /// With budgets and limits that draw on a treasury.
    pub fn start_drawing(yaml: &str, treasury: Arc<dyn Treasury>) -> Self {
        Self::start_whole(yaml, &[], Plugins { treasury: Some(treasury), ..Plugins::default() })
    }

    fn start_whole(yaml: &str, env: &[(&str, &str)], plugins: Plugins) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let file = folder.path().join("can.yaml");
        let mut text = String::new();
        if !yaml.contains("listen:") {
            text.push_str("listen: [{address: 127.0.0.1:0, http2: true}]\n");
        }
        if !yaml.contains("admin:") {
            text.push_str("admin: {address: 127.0.0.1:0}\n");
        }
        if !yaml.contains("server:") {
            text.push_str("server: {threads: 2, shutdown_grace: 1s}\n");
        }
        text.push_str(yaml);
        std::fs::write(&file, &text).expect("the configuration is written");
        let env: Arc<[(String, String)]> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let load = {
            let (file, env) = (file.clone(), env.clone());
            move || -> Result<Loaded, StartError> {
                let env = env.clone();
                let look = move |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
                Config::load(&Source { file: Some(file.clone()), env: Arc::new(look), simulate: false })
                    .map_err(|faults| StartError(faults.iter().map(|fault| fault.in_file(&file)).collect()))
            }
        };
        let first = load().unwrap_or_else(|error| panic!("{error}"));
        let server = Server::compose_with(first.config, false, plugins).unwrap_or_else(|error| panic!("{error}"));
        let (addresses, admin) = (server.addresses.clone(), server.admin.expect("an admin listener"));
        let (ready, reloader) = (server.ready(), server.reloader(Box::new(load), first.text));
        let (stop, idle) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (signal, told) = (Stop(stop.clone()), idle.clone());
        thread::spawn(move || {
            server.run(RunArgs { shutdown_signal: Box::new(signal) }, move || told.store(true, Ordering::Release));
        });
        let begun = Instant::now();
        while !ready.load(Ordering::Acquire) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the gateway is not ready after 10 s");
            thread::sleep(Duration::from_millis(1));
        }
        Self { addresses, admin, reloader, file, stop, idle, _folder: folder }
    }

    /// One provider `openai` at this address, with the gateway's own key `sk-gateway`.
    pub fn over(upstream: SocketAddr) -> Self {
        Self::start(&providers(&[("openai", upstream)]))
    }

    /// The client API's base URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses[0])
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        reqwest::get(format!("http://{}/metrics", self.admin)).await.unwrap().text().await.unwrap()
    }

    /// The text of `/metrics` once it has this line. A request is counted right behind its last byte, which is not before
    /// a client can ask.
    pub async fn metrics_with(&self, line: &str) -> String {
        let begun = Instant::now();
        loop {
            let text = self.metrics().await;
            if text.lines().any(|found| found == line) {
                return text;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "no `{line}` after 15 s in\n{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.file.with_file_name("can.db")
    }

    /// A token of a tenant, known to the gateway when this returns.
    pub async fn token(&self, tenant: &str) -> String {
        self.token_of(&new_token(tenant)).await.1
    }

    /// A token of this kind, known to the gateway when this returns; and its secret.
    pub async fn token_of(&self, new: &NewToken) -> (Token, String) {
        let (mut session, _) = chittycan::store::sqlite::at(&self.database()).connect().unwrap();
        let (token, secret) = Tokens(&mut *session).create(new).unwrap();
        let secret = secret.expose().to_owned();
        let begun = Instant::now();
        loop {
            let reply = reqwest::Client::new().get(self.url("/v1/models")).bearer_auth(&secret).send().await.unwrap();
            if reply.status().as_u16() != 401 {
                return (token, secret);
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "the gateway does not learn of the token");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One number from the database, once everything so far is written. A request is recorded right behind its last byte:
    /// none may be open any more.
    pub async fn query(&self, sql: &str) -> i64 {
        self.metrics_with("can_requests_in_flight 0").await;
        let metrics = self.metrics_with("can_ledger_waiting_entries 0").await;
        assert!(metrics.contains("can_ledger_up{part=\"database\"} 1"), "{metrics}");
        let connection = chittycan::store::sqlite::open_to_read(&self.database()).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Begins a graceful end.
    pub fn terminate(&self) {
        self.stop.notify_one();
    }

    /// True once a graceful end found no open request.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// A token of a tenant with all that a client may do.
pub fn new_token(tenant: &str) -> NewToken {
    NewToken {
        tenant: tenant.into(),
        name: None,
        scopes: Scopes::CLIENT,
        models: Vec::new(),
        limits: Limits::default(),
        expires_at: None,
    }
}

/// YAML with mapped providers at these addresses and `gpt-4o` routed to all of them in order.
pub fn providers(list: &[(&str, SocketAddr)]) -> String {
    let mut yaml = String::from("providers:\n");
    for (name, address) in list {
        let preset = if name.starts_with("openai") { "openai" } else { "custom" };
        yaml.push_str(&format!(
            "  {name}: {{preset: {preset}, base_url: \"http://{address}/v1\", api_key: sk-gateway, credentials: mapped}}\n"
        ));
    }
    let to: Vec<_> = list.iter().map(|(name, _)| *name).collect();
    yaml.push_str(&format!("routes:\n  - {{model: gpt-4o, to: [{}]}}\n", to.join(", ")));
    yaml.push_str(&format!("default_provider: {}\n", list[0].0));
    yaml
}
