//! The resolved configuration: what a snapshot is built from. It cannot be wrong.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::raw::Limits;
use super::{base_url::BaseUrl, presets::Preset};
use crate::capacity;
use crate::types::{Api, NanoUsd, PromptCaching, Secret, TenantId};

/// Everything `can serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the client API listens; at least one.
    pub listeners: Vec<Listener>,
    /// Where health and metrics listen; `None` switches the admin listener off.
    pub admin: Option<SocketAddr>,
    /// Host names under which the admin listener may be reached, in lower case and without a dot at the end.
    pub admin_hosts: Vec<String>,
    /// Process-wide settings.
    pub server: Server,
    /// Bounds on what a client may send.
    pub http: Http,
    /// Log format and level.
    pub log: Log,
    /// Vendor accounts by name.
    pub providers: BTreeMap<Arc<str>, Arc<Provider>>,
    /// Client-facing models in file order (defaults after the file's own).
    pub routes: Vec<Route>,
    /// Serves models no route names, and every `/v1/*` path the gateway does not understand.
    pub default_provider: Arc<str>,
    /// How often and when another attempt is made.
    pub retry: Retry,
    /// A price list to lay over the built-in one; readable when it was loaded.
    pub prices_file: Option<PathBuf>,
    /// How clients are recognised.
    pub auth: Auth,
    /// Tenants by name; the default tenant is always among them.
    pub tenants: BTreeMap<TenantId, Arc<Tenant>>,
    /// What a tenant has that is not named (the entry `*`); `None`: such a tenant does not exist.
    pub other_tenants: Option<Arc<Tenant>>,
    /// What all budgets have in common.
    pub budgets: Budgets,
    /// The completion cache.
    pub cache: Cache,
    /// Responses that are kept for providers that keep none.
    pub stored_responses: StoredResponses,
    /// Where tokens and the ledger are kept.
    pub database: Database,
    /// True with `CHITTYCAN_MODE=dev` or `mode: dev`: `ollama` is the only provider and serves every model through its
    /// [`Provider::model_map`].
    pub dev: bool,
    /// The simulated provider's pace.
    pub simulate: Simulate,
}

/// One client-facing socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key; plain text when absent.
    pub tls: Option<Tls>,
    /// HTTP/2 as well as HTTP/1.1: by ALPN on TLS, by prior knowledge on plain text.
    pub http2: bool,
}

/// PEM files of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Process-wide settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Worker threads of the client API.
    pub threads: usize,
    /// How long open requests may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// How long the listeners stay open after SIGTERM; `None`: as fits where the process runs.
    pub lame_duck: Option<Duration>,
    /// Connections of clients in all; `None`: as many as there are descriptors for.
    pub max_connections: Option<usize>,
    /// Connections of clients from one address; `None`: a part of all.
    pub max_connections_per_address: Option<usize>,
    /// Unix socket over which `can serve --upgrade` takes over from the running gateway, in a folder of its own.
    pub upgrade_socket: PathBuf,
    /// Idle upstream connections that each worker thread keeps for reuse.
    pub upstream_pool: usize,
    /// Bytes that bodies, what is made of them and held replies may take at once.
    pub memory_budget: u64,
}

impl Server {
    /// The memory budget for people: how much, and how much the process may use in all.
    pub fn memory_line(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let (budget, usable) = (mib(self.memory_budget), mib(capacity::usable_memory()));
        format!("{budget} MiB for bodies and held replies, of {usable} MiB that the process may use")
    }
}

/// Bounds on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Largest JSON body that is read; above it the client gets a 413.
    pub max_body_bytes: usize,
    /// Most values in a JSON body, keys counted as well; above it the client gets a 400.
    pub max_json_values: usize,
    /// A whole body must have arrived within this time, or the client gets a 408.
    pub body_timeout: Duration,
    /// The header of a request must have arrived within this time, or its connection is closed.
    pub header_timeout: Duration,
    /// Idle time after which a client's keep-alive connection is closed.
    pub keepalive: Duration,
    /// Largest JSON reply that is held back until its cost is known; above it the cost header is absent.
    pub max_held_reply_bytes: usize,
    /// Which web pages may call from a browser; `None`: those of no other origin.
    pub cors: Option<Cors>,
}

/// Which web pages may call the gateway from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Those of every origin.
    pub any_origin: bool,
    /// Those of these origins, as a browser writes them.
    pub origins: Vec<HeaderValue>,
    /// The request headers that they may send, as one list; `None`: those that they ask for.
    pub allow_headers: Option<HeaderValue>,
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

/// Log output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// One line per finished request.
    pub access: bool,
}

/// A vendor account.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name in the configuration, in `provider/model` and in `X-ChittyCan-Provider`.
    pub name: Arc<str>,
    /// Whose quirks apply.
    pub vendor: Vendor,
    /// Scheme, host, port and path prefix.
    pub base: BaseUrl,
    /// In which dialect it is asked.
    pub dialect: Dialect,
    /// It serves OpenAI's Responses API.
    pub responses_api: bool,
    /// The most output tokens to ask for on behalf of a client that states no limit.
    pub default_max_tokens: Option<u64>,
    /// Which key goes upstream.
    pub credentials: Credentials,
    /// How the key is sent.
    pub auth: AuthStyle,
    /// The gateway's key.
    pub key: Option<Secret>,
    /// Extra headers on every request to it; all marked sensitive, so that `Debug` hides their values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Further headers of clients that go to it.
    pub forward_headers: Vec<HeaderName>,
    /// Appended to every request's query (`api-version=preview`).
    pub query: Option<String>,
    /// Ask it for usage in streams. Where this is false it never gets `stream_options`.
    pub stream_usage: bool,
    /// Its own models are listed with those of the routes.
    pub list_models: bool,
    /// Offer HTTP/2 to it (by ALPN over TLS, by prior knowledge over plain text).
    pub http2: bool,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest silence while waiting for bytes from it.
    pub read_timeout: Duration,
    /// Longest a single write to it may block.
    pub write_timeout: Duration,
    /// PEM file with the only certificate authorities to trust for it.
    pub ca_file: Option<PathBuf>,
    /// In dev mode: client-facing model, or a pattern with one trailing `*` → its own model. Empty otherwise. Read it
    /// through [`Provider::mapped_model`], where a deployment names no model.
    pub model_map: BTreeMap<String, String>,
}

impl Provider {
    /// The public API whose paths and objects it has.
    pub fn api(&self) -> Api {
        self.dialect.api()
    }

    /// What is known of its vendor.
    pub fn preset(&self) -> &'static Preset {
        Preset::of(self.vendor)
    }

    /// The model to ask for when a client asked for `model` and the deployment names none: the map's entry, exact before
    /// the longest matching pattern, or `model` itself.
    pub fn mapped_model<'a>(&'a self, model: &'a str) -> &'a str {
        if let Some(name) = self.model_map.get(model) {
            return name;
        }
        let patterns = self.model_map.iter().filter_map(|(key, name)| Some((key.strip_suffix('*')?, name)));
        let matching = patterns.filter(|(prefix, _)| model.starts_with(prefix));
        matching.max_by_key(|(prefix, _)| prefix.len()).map_or(model, |(_, name)| name)
    }
}

/// How a provider wants its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `api-key: KEY` (Azure).
    ApiKeyHeader,
    /// `x-api-key: KEY`, and `authorization: Bearer KEY` for one that a login gave (Anthropic).
    XApiKey,
}

/// How a provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI's: Chat Completions and its neighbours.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Ollama's own `/api/chat`; its other endpoints are OpenAI's.
    Ollama,
}

/// Which vendor's rules a provider follows. Each is a preset; `Custom` is any other OpenAI-compatible endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Vendor {
    OpenAi,
    Anthropic,
    Groq,
    Ollama,
    Cohere,
    HuggingFace,
    Replicate,
    Together,
    Azure,
    Mistral,
    DeepSeek,
    Gemini,
    Xai,
    OpenRouter,
    Vllm,
    Custom,
}

/// Which key goes upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// A client's own key is passed through where it looks like the vendor's; any other client gets the gateway's key.
    /// OpenAI and Anthropic only.
    Auto,
    /// The client's own key, always; one that does not look like the vendor's is refused. OpenAI and Anthropic only.
    PassThrough,
    /// The gateway's key, always (none where the provider needs none).
    Mapped,
}

/// A client-facing model and the deployments that serve it, first to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Exact model name, or a pattern with one trailing `*`.
    pub model: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// In order of preference; at least one.
    pub deployments: Vec<Deployment>,
    /// What holds for its answers.
    pub cache: Arc<CacheRules>,
    /// A translation may leave nothing out.
    pub strict: bool,
    /// Tokens to ask for at most where the client states no limit.
    pub default_max_tokens: Option<u64>,
    /// When a translation for Anthropic adds breakpoints of the prompt cache.
    pub prompt_caching: PromptCaching,
}

/// Responses that are kept for providers that keep none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredResponses {
    /// How long after its last use one is kept.
    pub ttl: Duration,
    /// Bytes in all; 0: none is kept.
    pub memory: u64,
    /// Bytes of one tenant.
    pub tenant_memory: u64,
}

/// The completion cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// What holds where a route says nothing else.
    pub rules: Arc<CacheRules>,
    /// Bytes in memory.
    pub memory: usize,
    /// Where it is on disk.
    pub folder: PathBuf,
    /// Bytes on disk; 0 for memory only.
    pub disk: u64,
    /// What becomes of a provider's work that nobody waits for.
    pub abandoned: Abandoned,
    /// Names of tools with side effects, or patterns with one trailing `*`.
    pub side_effect_tools: Vec<String>,
}

/// What holds for the answers of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRules {
    /// Whether they are kept.
    pub enabled: bool,
    /// How long they are fresh.
    pub ttl: Duration,
    /// How long after that they may be served when no deployment answers.
    pub stale_if_error: Duration,
    /// Who shares them.
    pub namespace: Namespace,
    /// The largest that is kept, in bytes.
    pub max_entry: usize,
}

/// Who shares answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Each tenant alone.
    Tenant,
    /// All tenants.
    Shared,
}

/// What becomes of a provider's work when its client has left and nobody else waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Abandoned {
    /// It ends: no more is paid for.
    Cancel,
    /// It is let end, and its answer is kept.
    Finish,
}

/// One provider and one model name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Name of the provider.
    pub provider: Arc<str>,
    /// The provider's name for the model; the client's own name when absent.
    pub model: Option<String>,
}

/// How often and when another attempt is made before anything reached the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in total, the first included; at least 1.
    pub attempts: u32,
    /// Provider statuses after which the next deployment is tried.
    pub statuses: Vec<u16>,
}

/// How clients are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Clients without a `chitty_…` token are served at all.
    pub passthrough: bool,
    /// Whose requests those are, where `anonymous` names nobody.
    pub default_tenant: TenantId,
    /// The tenant as which they spend on the gateway's own keys.
    pub anonymous: Option<TenantId>,
    /// There are other tenants than the default one.
    pub tells_apart: bool,
}

/// A team or an organisation.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Whose limits and budgets hold for it too.
    pub parent: Option<TenantId>,
    /// Names, or patterns with one trailing `*`; empty allows all models.
    pub models: Vec<String>,
    /// Extra headers on its requests to providers; all marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Tokens to ask for at most where a client states no limit.
    pub default_max_tokens: Option<u64>,
    /// How much at once.
    pub limits: Limits,
    /// How much in total.
    pub budgets: Vec<Budget>,
    /// Paths whose cost cannot be told are allowed under a budget.
    pub unmetered_paths: bool,
    /// Which of the providers' objects it may see.
    pub provider_objects: ProviderObjects,
    /// Paths that manage a provider's account are allowed.
    pub provider_admin: bool,
}

/// Which of the objects that a provider keeps for the gateway's own key a tenant may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderObjects {
    /// What it or a tenant below it has made through this gateway.
    Own,
    /// All that the account has.
    All,
}

/// An amount of money for a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The amount.
    pub limit: NanoUsd,
    /// When it begins anew.
    pub period: Period,
    /// In which time zone; a name the time zone database knows.
    pub timezone: String,
    /// What could exceed it is refused.
    pub hard: bool,
    /// Percentages at which to alert, rising.
    pub alert_at: Vec<u32>,
}

/// When a budget begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Period {
    Daily,
    Weekly,
    #[default]
    Monthly,
    /// Never.
    Total,
}

impl Period {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Total => "total",
        }
    }
}

/// What all budgets have in common.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Status of a refusal: 402 or 429.
    pub exceeded_status: u16,
    /// What becomes of a stream that outgrows its reservation when nothing is left.
    pub overrun: Overrun,
    /// What becomes of a provider's work when its client leaves.
    pub client_left: ClientLeft,
    /// How long a request waits for money that is only held.
    pub wait: Duration,
    /// The most calls of tools that a provider runs for one request that states no limit.
    pub max_tool_calls: u64,
    /// Where alerts go.
    pub webhook: Option<Webhook>,
}

/// What becomes of a stream that outgrows its reservation when nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overrun {
    /// It ends with an error event.
    Stop,
    /// It runs on, over the budget.
    Finish,
}

/// What becomes of a provider's work when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientLeft {
    /// It ends.
    Cancel,
    /// It goes on to its end, which is paid for.
    Drain,
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// An http or https URL.
    pub url: String,
    /// Signs the calls.
    pub secret: Option<Secret>,
}

/// Where tokens and the ledger are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The SQLite file.
    pub path: PathBuf,
    /// What happens to requests while it cannot be written.
    pub on_failure: OnFailure,
    /// How long single entries are kept.
    pub retention: Duration,
    /// How long counts of refusals by minute are kept.
    pub refusal_retention: Duration,
}

/// What happens to requests while the database cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are served; what is to be written waits in memory.
    Serve,
    /// They are refused with 503.
    Refuse,
}

/// The simulated provider's pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulate {
    /// Time between two events of a stream.
    pub token_interval: Duration,
    /// Time before a reply starts.
    pub latency: Duration,
}

impl Config {
    /// The same gateway with the simulated provider at `addr` behind every provider: plain HTTP, no vendor's key, and the
    /// client's own model names.
    pub fn simulated(mut self, addr: SocketAddr) -> Self {
        let base = BaseUrl { tls: false, host: addr.ip().to_string(), port: addr.port(), prefix: "/v1".into() };
        for provider in self.providers.values_mut() {
            let provider = Arc::make_mut(provider);
            provider.base = base.clone();
            provider.key = Some(Secret::new("simulated"));
            provider.headers.clear();
            // How a client asks for faults.
            provider.forward_headers =
                ["x-simulate", "x-simulate-key"].map(HeaderName::from_static).into_iter().collect();
            provider.query = None;
            provider.http2 = false;
            provider.ca_file = None;
            provider.model_map.clear();
        }
        for deployment in self.routes.iter_mut().flat_map(|route| &mut route.deployments) {
            deployment.model = None;
        }
        self
    }

    /// The settings of a tenant; `None` for one that does not exist.
    pub fn tenant(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id).or(self.other_tenants.as_ref())
    }

    /// The keys whose change from `self` to `new` takes effect only after a restart.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        // Certificates and keys are read again, from wherever they are.
        let listens = |config: &Self| -> Vec<_> {
            config.listeners.iter().map(|listen| (listen.address, listen.tls.is_some(), listen.http2)).collect()
        };
        let changed = [
            ("listen", listens(self) != listens(new)),
            ("admin", self.admin != new.admin),
            ("server", self.server != Server { memory_budget: self.server.memory_budget, ..new.server.clone() }),
            ("log", self.log != new.log),
            ("cache.memory", self.cache.memory != new.cache.memory),
            ("cache.disk", self.cache.disk != new.cache.disk),
            ("database", self.database != new.database),
        ];
        changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }
}
