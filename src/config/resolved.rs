//! The resolved configuration: what the engines are built from. It cannot be wrong.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use crate::types::Secret;

/// Everything `can serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the client API listens; at least one.
    pub listeners: Vec<Listener>,
    /// Where health and metrics listen; `None` switches the admin listener off.
    pub admin: Option<SocketAddr>,
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
    /// A price catalogue that replaces the built-in one.
    pub prices_file: Option<PathBuf>,
    /// True with `CHITTYCAN_MODE=dev` or `mode: dev`.
    pub dev: bool,
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
    /// Unix socket over which `can serve --upgrade` takes the listeners over.
    pub upgrade_socket: PathBuf,
    /// Idle upstream connections kept for reuse, per worker pool.
    pub upstream_pool: usize,
}

/// Bounds on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Largest JSON body that is read; above it the client gets a 413.
    pub max_body_bytes: usize,
    /// A whole body must have arrived within this time, or the client gets a 408.
    pub body_timeout: Duration,
    /// Idle time after which a client's keep-alive connection is closed.
    pub keepalive: Duration,
    /// Largest JSON reply that is held back until its cost is known; above it the cost header is absent.
    pub max_held_reply_bytes: usize,
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
    /// Which key goes upstream.
    pub credentials: Credentials,
    /// The gateway's key.
    pub key: Option<Secret>,
    /// Extra headers on every request to it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Appended to every request's query (`api-version=preview`).
    pub query: Option<String>,
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
    /// In dev mode: client-facing model → its own model; `*` is the fallback.
    pub model_map: BTreeMap<String, String>,
}

/// A parsed base URL such as `https://api.openai.com/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `https`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port, the scheme's default filled in.
    pub port: u16,
    /// Path in front of `/chat/completions`, without a trailing slash: `/v1`.
    pub prefix: String,
}

impl BaseUrl {
    /// The `host` header: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Which vendor's rules a provider follows. Each is a preset; `Custom` is any other OpenAI-compatible endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A client's own `sk-…` key is passed through; any other client gets the gateway's key. OpenAI only.
    Auto,
    /// The client's own credential, always. OpenAI only.
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
