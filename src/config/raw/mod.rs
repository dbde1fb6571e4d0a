//! The configuration file as it is written: one module per section.
//!
//! The doc comments of these types are the reference (`docs/configuration.md`), the comments of `conf/can.yaml` and the
//! descriptions in `conf/can.schema.json`. Nothing here is checked beyond its shape: `resolve` does that.

mod cache;
mod database;
mod dev;
mod http;
mod listen;
mod log;
mod providers;
mod retry;
mod routes;
mod server;
mod simulate;
mod stored_responses;
mod tenants;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    cache::{Cache, RouteCache},
    database::Database,
    dev::Dev,
    http::{Cors, Http},
    listen::{Admin, AdminListener, Listen, Off, Tls},
    log::{Log, LogFormat},
    providers::Provider,
    retry::Retry,
    routes::{Prices, Route, Target},
    server::Server,
    simulate::Simulate,
    stored_responses::StoredResponses,
    tenants::{Auth, Budget, Budgets, Limits, Tenant},
};

/// The configuration of `can serve`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "ChittyCan Gateway configuration")]
pub struct File {
    /// `normal`, or `dev`: every model is served by a local Ollama, see `dev`. `CHITTYCAN_MODE` overrides it.
    pub mode: Mode,
    /// Where the client API listens, at least one address. `CAN_LISTEN` overrides the address of the first entry.
    /// A change takes effect after a restart.
    pub listen: Vec<Listen>,
    /// Where health, readiness, metrics and the admin API listen, or `off`. Keep this listener private: only the API under
    /// `/api/v1` asks for a credential, which is a token with the scope `admin`.
    /// `CAN_ADMIN_LISTEN` overrides the address. A change of the address takes effect after a restart.
    pub admin: Admin,
    /// Settings of the process. A change takes effect after a restart.
    pub server: Server,
    /// Bounds on what a client may send.
    pub http: Http,
    /// What is logged, on standard error. A change takes effect after a restart.
    pub log: Log,
    /// Vendor accounts by name. A provider exists for each preset with a base URL, under the preset's name, and takes its key
    /// from the environment (`OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, …). An entry changes the provider of that name or adds
    /// another.
    #[schemars(example = providers::example())]
    pub providers: BTreeMap<String, Provider>,
    /// Client-facing models and the deployments that serve them. The built-in routes are those of the example; a route in the
    /// file replaces every built-in route whose model it names or matches.
    #[schemars(example = routes::defaults())]
    pub routes: Vec<Route>,
    /// The provider that serves models without a route, and every `/v1/*` path that the gateway does not understand.
    pub default_provider: String,
    /// How often and when another attempt is made, before anything has reached the client.
    pub retry: Retry,
    /// What a model costs.
    pub prices: Prices,
    /// How clients are recognised. `can auth token create` creates `chitty_…` tokens.
    pub auth: Auth,
    /// The tenants by name: their limits, budgets and rights. `*` stands for every tenant that is not named, each with its own
    /// counters; without the entry `*` a tenant has to be named here before it can have tokens.
    #[schemars(example = tenants::example())]
    pub tenants: BTreeMap<String, Tenant>,
    /// Settings of all budgets.
    pub budgets: Budgets,
    /// The completion cache: deterministic answers are served again without asking a provider.
    pub cache: Cache,
    /// Responses of providers without the Responses API, which the gateway keeps for a while in the providers' place, so that
    /// `previous_response_id`, items of type `item_reference` (Vercel's AI SDK sends them), and `GET` and `DELETE` of
    /// `/v1/responses/{id}` work as they do with OpenAI. Responses requested with `store: false` are not kept. Kept responses are
    /// in memory only: a restart loses them, and another gateway does not know them. The holders of a tenant's tokens share them;
    /// a client without a token has its own, identified by the key that it presents or, with the gateway's key, by its address.
    /// The answer for a response that is no longer kept is 404, after which a client sends the whole conversation.
    pub stored_responses: StoredResponses,
    /// The SQLite file that keeps tokens, the ledger and alerts. A change takes effect after a restart.
    pub database: Database,
    /// Settings of `mode: dev`.
    pub dev: Dev,
    /// The simulated provider of `can serve --simulate`.
    pub simulate: Simulate,
}

impl Default for File {
    fn default() -> Self {
        Self {
            mode: Mode::Normal,
            listen: vec![Listen::default()],
            admin: Admin::default(),
            server: Server::default(),
            http: Http::default(),
            log: Log::default(),
            providers: BTreeMap::new(),
            routes: Vec::new(),
            default_provider: "openai".into(),
            retry: Retry::default(),
            prices: Prices::default(),
            auth: Auth::default(),
            tenants: BTreeMap::new(),
            budgets: Budgets::default(),
            cache: Cache::default(),
            stored_responses: StoredResponses::default(),
            database: Database::default(),
            dev: Dev::default(),
            simulate: Simulate::default(),
        }
    }
}

/// How models are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Models are served by their routes.
    Normal,
    /// Every model is served by a local Ollama.
    Dev,
}

/// The built-in routes.
pub fn default_routes() -> Vec<Route> {
    routes::defaults()
}
