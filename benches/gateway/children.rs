//! The processes under measurement, and the guards that end them.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chittycan::config::Limits;
use chittycan::identity::{NewToken, Scopes, Tokens};

use crate::Failure;
use crate::wire::Wire;

/// How long a process may take until it serves; the gateway promises 200 ms on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(15);

/// Something the client can send requests to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// The process whose CPU and memory count for this target.
    pub pid: u32,
}

pub const DIRECT: &str = "direct";
pub const BARE: &str = "bare pingora";
/// A second pass-through: how far two equal processes differ is the noise of the run.
pub const BARE_AGAIN: &str = "bare again";
pub const GATEWAY: &str = "gateway";
/// The gateway again, with a model whose provider speaks Anthropic's dialect.
pub const TRANSLATED: &str = "gateway, translated";

/// A mock upstream with the proxies in front of it. All of them end when this is dropped.
pub struct Fleet {
    pub targets: Vec<Target>,
    _children: Vec<Running>,
}

impl Fleet {
    /// Starts fresh processes and returns once each has answered. `gateway` is the `can` binary, if it takes part.
    pub async fn start(gateway: Option<&Path>) -> Result<Self, Failure> {
        let (mut upstream, at) = start_upstream()?;
        let mut targets = vec![Target { name: DIRECT, address: at, pid: upstream.child.id() }];
        upstream.ready("direct", at, "/v1/models").await?;
        let mut children = vec![upstream];
        for name in [BARE, BARE_AGAIN] {
            let address = free_address()?;
            let mut bare = start_bare(address, at)?;
            bare.ready(name, address, "/v1/models").await?;
            targets.push(Target { name, address, pid: bare.child.id() });
            children.push(bare);
        }
        if let Some(binary) = gateway {
            let (address, admin) = (free_address()?, free_address()?);
            let mut can = start_gateway(binary, address, admin, at)?;
            can.ready(GATEWAY, admin, "/readyz").await?;
            targets.push(Target { name: GATEWAY, address, pid: can.child.id() });
            children.push(can);
        }
        Ok(Self { targets, _children: children })
    }

    /// The targets without those of the given names.
    pub fn without(&self, names: &[&str]) -> Vec<Target> {
        self.targets.iter().filter(|target| !names.contains(&target.name)).copied().collect()
    }
}

/// A child process that lives as long as its guard, also when the bench panics or is told to stop.
struct Running {
    child: Child,
    /// Configuration and log of the gateway.
    scratch: Option<tempfile::TempDir>,
}

impl Running {
    /// Polls until the process answers 200 on `path`, within a bound.
    async fn ready(&mut self, name: &str, address: SocketAddr, path: &str) -> Result<(), Failure> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            let attempt = tokio::time::timeout(Duration::from_secs(1), status_of(address, path)).await;
            if matches!(attempt, Ok(Ok(200))) {
                return Ok(());
            }
            let ended = self.child.try_wait()?.map(|status| format!("ended with {status}"));
            if ended.is_some() || Instant::now() > limit {
                let state = ended.unwrap_or_else(|| format!("did not answer 200 on {path} of {address} in time"));
                return Err(format!("{name}: {state}{}", self.said()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of the process's log, for the error message.
    fn said(&self) -> String {
        let log = self.scratch.as_ref().and_then(|scratch| std::fs::read_to_string(scratch.path().join("log")).ok());
        let mut said = String::new();
        for line in log.iter().flat_map(|log| log.lines().rev().take(10).collect::<Vec<_>>().into_iter().rev()) {
            let _ = write!(said, "\n  {line}");
        }
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a child of the bench end with its parent, however that ended: the pipe on its stdin closes then.
pub fn exit_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0)
    });
}

fn start_upstream() -> Result<(Running, SocketAddr), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "upstream"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut upstream = Running { child: command.spawn()?, scratch: None };
    let mut line = String::new();
    if let Some(out) = upstream.child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    let address = line.trim().parse().map_err(|_| "the mock upstream did not say where it listens")?;
    Ok((upstream, address))
}

fn start_bare(listen: SocketAddr, upstream: SocketAddr) -> Result<Running, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "bare", "--listen", &listen.to_string(), "--upstream", &upstream.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    Ok(Running { child: command.spawn()?, scratch: None })
}

fn start_gateway(
    binary: &Path,
    listen: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
) -> Result<Running, Failure> {
    let scratch = tempfile::tempdir()?;
    let config = scratch.path().join("can.yaml");
    std::fs::write(&config, configuration(listen, admin, upstream))?;
    let (mut database, _) = chittycan::store::sqlite::at(&scratch.path().join("can.db")).connect()?;
    let team = NewToken {
        tenant: "team".into(),
        name: None,
        scopes: Scopes::CLIENT,
        models: Vec::new(),
        limits: Limits::default(),
        expires_at: None,
    };
    let (_, secret) = Tokens(&mut *database).create(&team)?;
    TOKEN.with_borrow_mut(|token| secret.expose().clone_into(token));
    let log = std::fs::File::create(scratch.path().join("log"))?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(&config).current_dir(scratch.path());
    // The caller's keys and settings must not change what is measured. Allocator options may be an experiment, and
    // the pass-through inherits them, too.
    command.env_clear().envs(std::env::vars().filter(|(name, _)| name.starts_with("MIMALLOC_")));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
    Ok(Running { child, scratch: Some(scratch) })
}

thread_local! {
    /// The token of the gateway that was started last; every target gets it, only the gateway reads it.
    static TOKEN: RefCell<String> = RefCell::new("sk-bench-client".to_owned());
}

/// What a client presents.
pub fn token() -> String {
    TOKEN.with_borrow(String::clone)
}

/// Every feature on, except the log line per request, which the pass-through does not write either.
fn configuration(listen: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "listen: [{{address: \"{listen}\"}}]\n\
         admin: {{address: \"{admin}\"}}\n\
         server: {{threads: 1}}\n\
         log: {{level: warn, access: false}}\n\
         providers:\n\
         \x20 openai: {{preset: openai, base_url: \"http://{upstream}/v1\", api_key: sk-bench, credentials: mapped}}\n\
         \x20 anthropic: {{base_url: \"http://{upstream}/v1\", api_key: sk-ant-bench, credentials: mapped}}\n\
         retry: {{attempts: 2}}\n\
         tenants:\n\
         \x20 company: {{budgets: [{{usd: 1000000000}}, {{usd: 100000000, period: daily}}]}}\n\
         \x20 team:\n\
         \x20   parent: company\n\
         \x20   limits: {{requests_per_second: 1000000000, requests_per_minute: 1000000000, tokens_per_minute: 1000000000000, \
         usd_per_minute: 1000000, concurrent_requests: 100000}}\n\
         \x20   budgets: [{{usd: 100000000}}]\n"
    )
}

/// A port that was free a moment ago. Two processes cannot share the listener itself.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

async fn status_of(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut wire = Wire::connect(address).await?;
    wire.send(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    Ok(wire.head().await?.map_or(0, |head| head.status()))
}
