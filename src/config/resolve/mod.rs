//! Turns the file as written into the configuration as used: the meaning of every value is checked.

mod cache;
mod listeners;
mod providers;
mod routes;
mod tenants;

pub use routes::check_pattern;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread,
};

use super::{
    fault::{Fault, Path, PathStep, did_you_mean},
    raw::{self, LogFormat, Mode},
    resolved::*,
    yaml::{Node, Yaml},
};
use crate::{capacity, types::PromptCaching};

/// The smallest memory budget that serves bodies of the usual size, in bytes.
const LEAST_MEMORY_BUDGET: u64 = 4 << 20;

/// The inputs of resolving besides the file's content.
pub struct Context<'a> {
    /// The file with its lines, without the faulty values.
    pub tree: &'a Node,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// For `--simulate`: keys are not read.
    pub simulate: bool,
    /// The directory where relative paths start.
    pub base_dir: PathBuf,
    /// The providers that the file names, including faulty ones.
    pub named: BTreeSet<String>,
}

/// A configuration without faults.
pub struct Resolved {
    /// Ready to use.
    pub config: Config,
    /// Settings that are allowed but probably a mistake.
    pub warnings: Vec<Fault>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// The names under `providers`.
pub fn named_providers(tree: &Node) -> BTreeSet<String> {
    match tree.get("providers").map(|node| &node.value) {
        Some(Yaml::Map(entries)) => entries.iter().map(|(name, _)| name.clone()).collect(),
        _ => BTreeSet::new(),
    }
}

/// Resolves `file`. `faults` are the faults found so far; they are returned together with the new ones, sorted.
pub fn resolve(file: &raw::File, context: Context<'_>, faults: Vec<Fault>) -> Result<Resolved, Vec<Fault>> {
    let mut resolver = Resolver { context, faults, warnings: Vec::new(), files: Vec::new() };
    let config = resolver.config(file);
    let Resolver { mut faults, mut warnings, files, .. } = resolver;
    match config {
        Some(config) if faults.is_empty() => {
            warnings.sort();
            Ok(Resolved { config, warnings, files })
        }
        _ => {
            faults.sort();
            faults.dedup();
            Err(faults)
        }
    }
}

/// Collects faults, warnings and files while resolving.
struct Resolver<'a> {
    context: Context<'a>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    files: Vec<PathBuf>,
}

impl Resolver<'_> {
    fn config(&mut self, file: &raw::File) -> Option<Config> {
        let listeners = self.listeners(&file.listen);
        let admin = self.admin(&file.admin, &listeners);
        let admin_hosts = self.admin_hosts(&file.admin);
        let providers = self.providers(&file.providers);
        let routes = self.routes(file);
        let default_provider: Arc<str> = file.default_provider.as_str().into();
        self.known_provider(&default_provider, &file.providers, &Path::of(&["default_provider"]));
        let prices_file = file.prices.file.as_ref().and_then(|path| self.file(path, &Path::of(&["prices", "file"])));
        let (tenants, other_tenants) = self.tenants(&file.tenants, &file.auth.default_tenant);
        let auth = self.auth(&file.auth, &file.tenants);
        let budgets = self.budgets(&file.budgets);
        let database = self.database(&file.database);
        let server = self.server(&file.server, &database);
        let cache = self.cache(&file.cache, &database);
        let config = Config {
            listeners,
            admin,
            admin_hosts,
            server,
            http: Http {
                max_body_bytes: file.http.max_body.bytes(),
                max_json_values: file.http.max_json_values as usize,
                body_timeout: file.http.body_timeout.0,
                header_timeout: file.http.header_timeout.0,
                keepalive: file.http.keepalive.0,
                max_held_reply_bytes: file.http.max_held_reply.bytes(),
                cors: self.cors(&file.http.cors),
            },
            log: Log {
                json: file.log.format == LogFormat::Json,
                level: file.log.level.into(),
                access: file.log.access,
            },
            providers,
            routes,
            default_provider,
            retry: Retry { attempts: file.retry.attempts, statuses: file.retry.statuses.clone() },
            prices_file,
            auth,
            tenants,
            other_tenants,
            budgets,
            cache,
            stored_responses: self.stored_responses(&file.stored_responses),
            database,
            dev: file.mode == Mode::Dev,
            simulate: Simulate { token_interval: file.simulate.token_interval.0, latency: file.simulate.latency.0 },
        };
        self.no_zero_time(file);
        let dev_ollama = self.dev_ollama(&file.dev, &config);
        match file.mode {
            Mode::Normal => {
                self.warn_of_missing_keys(file, &config);
                self.warn_of_keys_sent_elsewhere(&config);
                Some(config)
            }
            Mode::Dev => dev_ollama.map(|ollama| in_dev_mode(config, ollama)),
        }
    }

    fn server(&mut self, server: &raw::Server, database: &Database) -> Server {
        if server.upgrade_socket.as_ref().is_some_and(|path| path.trim().is_empty()) {
            self.fault(&Path::of(&["server", "upgrade_socket"]), "the path is empty");
        }
        let cores = || thread::available_parallelism().map_or(1, |cores| cores.get());
        Server {
            threads: if server.threads == 0 { cores() } else { server.threads as usize },
            shutdown_grace: server.shutdown_grace.0,
            lame_duck: server.lame_duck.map(|span| span.0),
            max_connections: server.max_connections.map(|most| most as usize),
            max_connections_per_address: server.max_connections_per_address.map(|most| most as usize),
            upgrade_socket: match &server.upgrade_socket {
                Some(path) => self.context.base_dir.join(path),
                None => {
                    let mut folder = database.path.clone().into_os_string();
                    folder.push("-upgrade");
                    PathBuf::from(folder).join("socket")
                }
            },
            upstream_pool: server.upstream_pool as usize,
            memory_budget: self.memory_budget(server),
        }
    }

    fn memory_budget(&mut self, server: &raw::Server) -> u64 {
        let configured = server.memory_budget.map(|size| size.0);
        if configured.is_some_and(|bytes| bytes < LEAST_MEMORY_BUDGET) {
            self.fault(&Path::of(&["server", "memory_budget"]), "must be at least 4MiB");
        }
        capacity::budget_of(configured)
    }

    /// Reports bounds of zero in `http`, which no request could meet.
    fn no_zero_time(&mut self, file: &raw::File) {
        let http = [
            ("body_timeout", file.http.body_timeout.0),
            ("header_timeout", file.http.header_timeout.0),
            ("keepalive", file.http.keepalive.0),
        ];
        for (key, span) in http {
            if span.is_zero() {
                self.fault(&Path::of(&["http", key]), "must be longer than 0");
            }
        }
        if file.http.max_body.0 == 0 {
            self.fault(&Path::of(&["http", "max_body"]), "must be larger than 0");
        }
    }

    /// Warns of providers that the file names or uses by default and that have no key.
    fn warn_of_missing_keys(&mut self, file: &raw::File, config: &Config) {
        if self.context.simulate {
            return;
        }
        for (name, provider) in &config.providers {
            let preset = super::Preset::of(provider.vendor);
            let wanted = self.context.named.contains(&**name) || *name == config.default_provider;
            let keyless = provider.key.is_none() && preset.needs_key && provider.credentials == Credentials::Mapped;
            if wanted && keyless && file.providers[&**name].headers.is_empty() {
                let variables = preset.key_vars.join(" or ");
                let message = format!("no key: set {variables}, or `api_key`; requests to it will fail");
                let warning = self.located(&Path::of(&["providers", name]), message);
                self.warnings.push(warning);
            }
        }
    }

    /// Warns if clients' own keys would go to a host that is not their vendor's, because of a default and not of a setting.
    fn warn_of_keys_sent_elsewhere(&mut self, config: &Config) {
        for (name, provider) in &config.providers {
            let path = Path::of(&["providers", name]);
            let entry = self.context.tree.get("providers").and_then(|providers| providers.get(name));
            let chosen = entry.is_some_and(|entry| entry.get("credentials").is_some());
            let host = provider.base.host.as_str();
            let Some(keys) = provider.preset().client_keys else { continue };
            let is_home = host.strip_suffix(keys.home).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            if provider.credentials != Credentials::Mapped && !chosen && !is_home && !self.context.simulate {
                let prefix = keys.prefix;
                let message = format!(
                    "clients' own keys (`{prefix}…`) are passed on to `{host}`; write `credentials: mapped` to keep them from \
                     it, or `auto` if they are meant for it"
                );
                let warning = self.located(&path, message);
                self.warnings.push(warning);
            }
        }
    }

    /// Resolves a path from the configuration against the base directory; `None`, with a fault, if the file cannot be read.
    fn file(&mut self, text: &str, path: &Path) -> Option<PathBuf> {
        let full = self.context.base_dir.join(text);
        match fs::File::open(&full).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => {
                self.fault(path, format!("`{}` is a directory", full.display()));
                None
            }
            Ok(_) => {
                self.files.push(full.clone());
                Some(full)
            }
            Err(error) => {
                self.fault(path, format!("cannot read `{}`: {error}", full.display()));
                None
            }
        }
    }

    /// Reports `name` if there is no provider of that name.
    fn known_provider(&mut self, name: &str, known: &BTreeMap<String, raw::Provider>, path: &Path) -> bool {
        if known.contains_key(name) || self.context.named.contains(name) {
            return true;
        }
        let hint = match (did_you_mean(name, known.keys().map(String::as_str)), super::Preset::named(name)) {
            (guess, _) if !guess.is_empty() => guess,
            (_, Some(preset)) => format!("; add `{}` under `providers` with its base_url", preset.name),
            _ => format!("; known: {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        };
        self.fault(path, format!("no provider is called `{name}`{hint}"));
        false
    }

    fn fault(&mut self, path: &Path, message: impl Into<String>) {
        let fault = self.located(path, message.into());
        // A value with a fault in its shape was replaced by its default; a fault of the default would only confuse.
        if !self.faults.iter().any(|known| known.path == fault.path && !fault.path.is_empty()) {
            self.faults.push(fault);
        }
    }

    /// True if a fault was reported for exactly this value.
    fn is_faulty(&self, path: &Path) -> bool {
        let path = path.to_string();
        self.faults.iter().any(|fault| fault.path == path)
    }

    /// The fault with its line: the line of the value, or of the nearest enclosing value that the file has. List items are named
    /// with their index in the file.
    fn located(&self, path: &Path, message: String) -> Fault {
        let (mut node, mut line, mut origin) = (Some(self.context.tree), None, Path::default());
        for step in path.steps() {
            let (found, step) = match (node.map(|node| &node.value), step) {
                (Some(Yaml::List(items)), PathStep::Index(at)) => match items.get(*at) {
                    Some((index, item)) => (Some(item), PathStep::Index(*index)),
                    None => (None, step.clone()),
                },
                (Some(Yaml::Map(_)), PathStep::Key(key)) => (node.and_then(|node| node.get(key)), step.clone()),
                _ => (None, step.clone()),
            };
            origin = origin.step(step);
            line = found.map(|node| node.line).or(line);
            node = found;
        }
        Fault { line, path: origin.to_string(), message }
    }
}

/// The configuration with every model served by Ollama and no other provider, so that no request can cost anything.
fn in_dev_mode(config: Config, ollama: Provider) -> Config {
    let name: Arc<str> = ollama.name.clone();
    let exact = ollama.model_map.keys().filter(|model| !model.ends_with('*')).cloned();
    let mut routes: Vec<Route> = Vec::new();
    let models = config.routes.into_iter().map(|route| (route.model, route.aliases));
    for (model, aliases) in models.chain(exact.map(|model| (model, Vec::new()))) {
        let known = routes.iter().any(|route| route.model == model || route.aliases.contains(&model));
        if !known {
            let deployments = vec![Deployment { provider: name.clone(), model: None }];
            let cache = config.cache.rules.clone();
            let prompt_caching = PromptCaching::default();
            routes.push(Route {
                model,
                aliases,
                deployments,
                cache,
                strict: false,
                default_max_tokens: None,
                prompt_caching,
            });
        }
    }
    let providers = [(name.clone(), Arc::new(ollama))].into();
    Config { providers, routes, default_provider: name, ..config }
}

/// True if one process cannot listen on both addresses.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
