//! The resolved configuration, which a snapshot is built from. Its values are checked: it has no faults.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::raw::Limits;
use super::{base_url::BaseUrl, presets::Preset};
use crate::capacity;
use crate::types::{Api, NanoUsd, PromptCaching, Secret, TenantId};

/// The complete configuration of `can serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listeners of the client API; at least one.
    pub listeners: Vec<Listener>,
    /// The address of the admin listener (health, metrics, admin API); `None` switches it off.
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
    /// Client-facing models in the order of the file, followed by the built-in routes.
    pub routes: Vec<Route>,
    /// The provider that serves models without a route, and every `/v1/*` path that the gateway does not understand.
    pub default_provider: Arc<str>,
    /// How often and when another attempt is made.
    pub retry: Retry,
    /// A price list to lay over the built-in one; the file was readable when the configuration was loaded.
    pub prices_file: Option<PathBuf>,
    /// How clients are recognised.
    pub auth: Auth,
    /// Tenants by name; the default tenant is always among them.
    pub tenants: BTreeMap<TenantId, Arc<Tenant>>,
    /// The settings of every tenant that is not named (the entry `*`); `None`: such a tenant does not exist.
    pub other_tenants: Option<Arc<Tenant>>,
    /// Settings of all budgets.
    pub budgets: Budgets,
    /// The completion cache.
    pub cache: Cache,
    /// Settings of the responses that the gateway keeps for providers without the Responses API.
    pub stored_responses: StoredResponses,
    /// The file that keeps tokens and the ledger.
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
    /// Address and port; port 0 takes a free port.
    pub address: SocketAddr,
    /// Certificate and key; `None` for plain text.
    pub tls: Option<Tls>,
    /// Serve HTTP/2 as well as HTTP/1.1: by ALPN on TLS, by prior knowledge on plain text.
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
    /// How long the listeners stay open after SIGTERM; `None`: 5 s, but 0 s on a terminal.
    pub lame_duck: Option<Duration>,
    /// The most connections of all clients together; `None`: derived from the process's limit of file descriptors.
    pub max_connections: Option<usize>,
    /// The most connections from one client address; `None`: a part of `max_connections`.
    pub max_connections_per_address: Option<usize>,
    /// Unix socket over which `can serve --upgrade` takes over from the running gateway, in a folder of its own.
    pub upgrade_socket: PathBuf,
    /// Idle upstream connections that each worker thread keeps for reuse.
    pub upstream_pool: usize,
    /// Bytes that bodies, what is built from them, and held replies may take at once.
    pub memory_budget: u64,
}

impl Server {
    /// A line about the memory budget for people: its size, and how much memory the process may use in all.
    pub fn memory_line(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let (budget, usable) = (mib(self.memory_budget), mib(capacity::usable_memory()));
        format!("{budget} MiB for bodies and held replies, of {usable} MiB that the process may use")
    }
}

/// Bounds on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The largest JSON body that is read, in bytes; a larger one gets a 413.
    pub max_body_bytes: usize,
    /// The most values in a JSON body, keys counted as well; a body with more gets a 400.
    pub max_json_values: usize,
    /// A whole body must have arrived within this time, or the client gets a 408.
    pub body_timeout: Duration,
    /// The header of a request must have arrived within this time, or its connection is closed.
    pub header_timeout: Duration,
    /// Idle time after which a client's keep-alive connection is closed.
    pub keepalive: Duration,
    /// The largest JSON reply, in bytes, that is held back until its cost is known; a larger reply has no cost header.
    pub max_held_reply_bytes: usize,
    /// Which web pages may call the gateway from a browser; `None`: no pages of other origins.
    pub cors: Option<Cors>,
}

/// Which web pages may call the gateway from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Pages of every origin may call.
    pub any_origin: bool,
    /// Pages of these origins may call; written as browsers write them.
    pub origins: Vec<HeaderValue>,
    /// The request headers that pages may send, as one list; `None`: the headers that they ask for.
    pub allow_headers: Option<HeaderValue>,
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

/// Log output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Write one JSON object per line instead of text.
    pub json: bool,
    /// The least serious level that is logged: `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// Write one line per finished request.
    pub access: bool,
}

/// A vendor account.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The provider's name in the configuration, in `provider/model` and in `X-ChittyCan-Provider`.
    pub name: Arc<str>,
    /// The vendor whose quirks apply.
    pub vendor: Vendor,
    /// Scheme, host, port and path prefix.
    pub base: BaseUrl,
    /// The dialect of requests to the provider.
    pub dialect: Dialect,
    /// True if the provider serves OpenAI's Responses API.
    pub responses_api: bool,
    /// The most output tokens to ask for on behalf of a client that states no limit.
    pub default_max_tokens: Option<u64>,
    /// Which key is sent upstream.
    pub credentials: Credentials,
    /// How the key is sent.
    pub auth: AuthStyle,
    /// The gateway's key.
    pub key: Option<Secret>,
    /// Extra headers on every request to the provider; all marked sensitive, so that `Debug` hides their values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Further client headers that are forwarded to the provider.
    pub forward_headers: Vec<HeaderName>,
    /// Appended to every request's query (`api-version=preview`).
    pub query: Option<String>,
    /// Ask the provider for usage in streams. If this is false, the provider never gets `stream_options`.
    pub stream_usage: bool,
    /// List the provider's own models with those of the routes.
    pub list_models: bool,
    /// Offer HTTP/2 to the provider (by ALPN over TLS, by prior knowledge over plain text).
    pub http2: bool,
    /// The longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// The longest silence while waiting for bytes from the provider.
    pub read_timeout: Duration,
    /// The longest time that a single write to the provider may block.
    pub write_timeout: Duration,
    /// PEM file with the only certificate authorities to trust for the provider; `None`: the usual public ones.
    pub ca_file: Option<PathBuf>,
    /// In dev mode: maps a client-facing model, or a pattern with one trailing `*`, to the provider's model. Empty otherwise.
    /// Read it through [`Provider::mapped_model`] if a deployment names no model.
    pub model_map: BTreeMap<String, String>,
}

impl Provider {
    /// The public API whose paths and objects the provider has.
    pub fn api(&self) -> Api {
        self.dialect.api()
    }

    /// The preset of the provider's vendor.
    pub fn preset(&self) -> &'static Preset {
        Preset::of(self.vendor)
    }

    /// The model to ask for if a client asked for `model` and the deployment names none: the map's entry (an exact name wins over
    /// the longest matching pattern), or `model` itself.
    pub fn mapped_model<'a>(&'a self, model: &'a str) -> &'a str {
        if let Some(name) = self.model_map.get(model) {
            return name;
        }
        let patterns = self.model_map.iter().filter_map(|(key, name)| Some((key.strip_suffix('*')?, name)));
        let matching = patterns.filter(|(prefix, _)| model.starts_with(prefix));
        matching.max_by_key(|(prefix, _)| prefix.len()).map_or(model, |(_, name)| name)
    }
}

/// The header in which a provider takes its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `api-key: KEY` (Azure).
    ApiKeyHeader,
    /// `x-api-key: KEY`, or `authorization: Bearer KEY` for a key from a login (Anthropic).
    XApiKey,
}

/// The API in which the gateway sends requests to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI's API: Chat Completions and its neighbours.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Ollama's own `/api/chat`; for all other endpoints OpenAI's API.
    Ollama,
}

/// The vendor whose rules a provider follows. Each vendor is a preset; `Custom` is any other OpenAI-compatible endpoint.
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

/// Which key is sent upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// A client's own key is passed through if it looks like the vendor's; otherwise the gateway's key is sent.
    /// OpenAI and Anthropic only.
    Auto,
    /// Always the client's own key; a key that does not look like the vendor's is refused. OpenAI and Anthropic only.
    PassThrough,
    /// Always the gateway's key (none if the provider needs none).
    Mapped,
}

/// A client-facing model and the deployments that serve it, first to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Exact model name, or a pattern with one trailing `*`.
    pub model: String,
    /// Other names for the model.
    pub aliases: Vec<String>,
    /// The deployments in order of preference; at least one.
    pub deployments: Vec<Deployment>,
    /// The cache rules for the route's answers.
    pub cache: Arc<CacheRules>,
    /// Refuse a request if a translation would drop any of its parameters.
    pub strict: bool,
    /// The limit of an answer, in tokens, to ask for if the client states none.
    pub default_max_tokens: Option<u64>,
    /// When a translation for Anthropic adds breakpoints of the prompt cache.
    pub prompt_caching: PromptCaching,
}

/// Settings of the responses that the gateway keeps for providers without the Responses API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredResponses {
    /// How long a response is kept after its last use.
    pub ttl: Duration,
    /// Bytes of all kept responses together; 0: none is kept.
    pub memory: u64,
    /// Bytes of one tenant's kept responses.
    pub tenant_memory: u64,
}

/// The completion cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The rules for routes that override nothing.
    pub rules: Arc<CacheRules>,
    /// The most bytes in memory.
    pub memory: usize,
    /// The folder of the cache on disk.
    pub folder: PathBuf,
    /// The most bytes on disk; 0 for memory only.
    pub disk: u64,
    /// What happens to a provider's work that nobody waits for.
    pub abandoned: Abandoned,
    /// Names of tools with side effects, or patterns with one trailing `*`.
    pub side_effect_tools: Vec<String>,
}

/// The cache rules for the answers of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRules {
    /// Whether answers are kept and served again.
    pub enabled: bool,
    /// How long an answer is fresh.
    pub ttl: Duration,
    /// How long after its `ttl` an answer may still be served if no deployment answers.
    pub stale_if_error: Duration,
    /// Who shares answers.
    pub namespace: Namespace,
    /// The largest answer that is kept, in bytes.
    pub max_entry: usize,
}

/// Who shares answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Each tenant has its own answers.
    Tenant,
    /// All tenants share answers.
    Shared,
}

/// What happens to a provider's work when its client has left and nobody else waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Abandoned {
    /// The work is ended: nothing more is paid for.
    Cancel,
    /// The provider finishes, and its answer is kept.
    Finish,
}

/// One provider and one model name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The name of the provider.
    pub provider: Arc<str>,
    /// The provider's name for the model; `None`: the client's name.
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
    /// Serve clients without a `chitty_…` token.
    pub passthrough: bool,
    /// The tenant of clients without a token, if `anonymous` names none.
    pub default_tenant: TenantId,
    /// The tenant as which clients without a token spend on the gateway's own keys.
    pub anonymous: Option<TenantId>,
    /// True if there are other tenants than the default one.
    pub tells_apart: bool,
}

/// A team or an organisation.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The tenant whose limits and budgets also apply to this one.
    pub parent: Option<TenantId>,
    /// The allowed models: names, or patterns with one trailing `*`; an empty list allows all models.
    pub models: Vec<String>,
    /// Extra headers on the tenant's requests to providers; all marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The limit of an answer, in tokens, to ask for if a client states none.
    pub default_max_tokens: Option<u64>,
    /// Limits on rates and on concurrent requests.
    pub limits: Limits,
    /// Limits on the total spend.
    pub budgets: Vec<Budget>,
    /// Allow paths whose cost the gateway cannot tell, although there is a budget.
    pub unmetered_paths: bool,
    /// Which of the providers' objects the tenant may see.
    pub provider_objects: ProviderObjects,
    /// Allow paths that manage a provider's account.
    pub provider_admin: bool,
}

/// Which of the objects that a provider keeps for the gateway's own key a tenant may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderObjects {
    /// The objects that the tenant or a tenant below it has created through this gateway.
    Own,
    /// All objects of the account.
    All,
}

/// An amount of money for a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The amount.
    pub limit: NanoUsd,
    /// How often the budget begins anew.
    pub period: Period,
    /// The time zone of its periods; a name that the time zone database knows.
    pub timezone: String,
    /// Refuse a request that could exceed the budget; false: only alert.
    pub hard: bool,
    /// Percentages of the budget at which to alert, in ascending order.
    pub alert_at: Vec<u32>,
}

/// How often a budget begins anew.
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
    /// The name of the period in the configuration and the tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Total => "total",
        }
    }
}

/// Settings of all budgets.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// The status of a refusal: 402 or 429.
    pub exceeded_status: u16,
    /// What happens to a stream that outgrows its reservation when the budget has nothing left.
    pub overrun: Overrun,
    /// What happens to a provider's work when its client leaves.
    pub client_left: ClientLeft,
    /// How long a request waits for money that requests under way hold.
    pub wait: Duration,
    /// The most calls of provider-run tools for one request that states no limit.
    pub max_tool_calls: u64,
    /// The receiver of alerts.
    pub webhook: Option<Webhook>,
}

/// What happens to a stream that outgrows its reservation when the budget has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overrun {
    /// The stream ends with an error event.
    Stop,
    /// The stream runs on, over the budget.
    Finish,
}

/// What happens to a provider's work when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientLeft {
    /// The work is ended.
    Cancel,
    /// The provider finishes, and the whole answer is paid for.
    Drain,
}

/// The receiver of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// An http or https URL.
    pub url: String,
    /// The secret that signs the calls; `None`: unsigned.
    pub secret: Option<Secret>,
}

/// The file that keeps tokens and the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The SQLite file.
    pub path: PathBuf,
    /// What happens to requests while the file cannot be written.
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
    /// Requests are served; their entries wait in memory.
    Serve,
    /// Requests are refused with 503.
    Refuse,
}

/// The simulated provider's pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulate {
    /// The time between two events of a stream.
    pub token_interval: Duration,
    /// The time before a reply starts.
    pub latency: Duration,
}

impl Config {
    /// The configuration with the simulated provider at `addr` in the place of every provider: plain HTTP, no vendor's key, and
    /// the client's own model names.
    pub fn simulated(mut self, addr: SocketAddr) -> Self {
        let base = BaseUrl { tls: false, host: addr.ip().to_string(), port: addr.port(), prefix: "/v1".into() };
        for provider in self.providers.values_mut() {
            let provider = Arc::make_mut(provider);
            provider.base = base.clone();
            provider.key = Some(Secret::new("simulated"));
            provider.headers.clear();
            // The headers by which a client asks the simulated provider for faults.
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

    /// The settings of a tenant; `None` if the tenant does not exist.
    pub fn tenant(&self, id: &TenantId) -> Option<&Arc<Tenant>> {
        self.tenants.get(id).or(self.other_tenants.as_ref())
    }

    /// The keys whose change from `self` to `new` takes effect only after a restart.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        // Certificates and keys are read again on a reload, so a change of their paths needs no restart.
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
