//! The switchboard: Pingora calls a method, the method calls a phase.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_core::{
    connectors::{ConnectorOptions, http::Connector},
    modules::http::HttpModules,
    upstreams::peer::HttpPeer,
    utils::tls::WrappedX509,
};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    context::Context,
    held::Withheld,
    party::{Governance, Parties},
    peers::Peers,
    phase,
    resolve::Resolver,
};
use crate::{
    config::{Config, Dialect, Preset, Vendor},
    connections::Connection,
    dialect::anthropic::MAX_SEARCHES,
    openai::{CallPrices, Endpoint, Hosted, Kind},
    pricing::{Catalogue, Price},
    providers::{exchange, ollama::ContextLengths},
    routing::{RouteTable, Target},
    telemetry::Metrics,
    types::PicoUsd,
};

/// Certificate authorities in the form Pingora's peers take.
pub type Authorities = [WrappedX509];

/// Everything a configuration is turned into. A reload builds a new one and swaps it in.
pub struct Engines {
    /// The configuration itself.
    pub config: Arc<Config>,
    /// Models to deployments.
    pub routes: RouteTable,
    /// Models to prices.
    pub catalogue: Arc<Catalogue>,
    /// Tenants with their rules, meters and budgets.
    pub parties: Parties,
    /// The only certificate authorities to trust, for providers that name some.
    pub authorities: BTreeMap<Arc<str>, Arc<Authorities>>,
    /// Providers as Pingora's pool knows them.
    pub peers: Peers,
}

impl Engines {
    /// The price of a target, by its provider's name or else its vendor's. What an Ollama of one's own runs costs nothing, and
    /// OpenAI's moderation is free ("the moderation endpoint is free to use", OpenAI's guide to it).
    pub fn price(&self, endpoint: &Endpoint, target: &Target) -> Option<Arc<Price>> {
        static FREE: LazyLock<Arc<Price>> = LazyLock::new(|| Arc::new(Price::flat(PicoUsd::ZERO, PicoUsd::ZERO)));
        let listed = self.catalogue.price(&target.provider.name, &target.model);
        let listed = listed.or_else(|| self.catalogue.price(Preset::of(target.provider.vendor).name, &target.model));
        listed.or_else(|| is_free(endpoint, target).then_some(&FREE)).cloned()
    }

    /// When the model of a target was released, in seconds since 1970, where the price list tells.
    pub fn released(&self, target: &Target) -> Option<u64> {
        let listed = |provider: &str| self.catalogue.released(provider, &target.model);
        listed(&target.provider.name).or_else(|| listed(Preset::of(target.provider.vendor).name))
    }

    /// What the calls of tools cost that the target's provider runs for a request; `None` where it runs none. `hosted` are
    /// those that the request itself names.
    pub fn call_prices(
        &self,
        endpoint: &Endpoint,
        hosted: Option<&Arc<Hosted>>,
        target: &Target,
        price: &Price,
    ) -> Option<CallPrices> {
        static SEARCH: LazyLock<Arc<Hosted>> = LazyLock::new(|| Arc::new(Hosted::search_model()));
        let provider = &target.provider;
        let searches = || {
            let knows = matches!(provider.vendor, Vendor::OpenAi | Vendor::Azure);
            let always = || SEARCH_MODELS.iter().any(|part| target.model.contains(part));
            knows && *endpoint == Endpoint::ChatCompletions && always()
        };
        let hosted = match hosted {
            Some(hosted) if exchange::is_translated(endpoint, provider) => {
                // A translation leaves them out, or refuses the request, but for one.
                let searches = hosted.tools.iter().any(|tool| tool.kind == Kind::Search);
                let becomes_search = *endpoint == Endpoint::ChatCompletions && provider.dialect == Dialect::Anthropic;
                if !searches || !becomes_search {
                    return None;
                }
                static TRANSLATED: LazyLock<Arc<Hosted>> =
                    LazyLock::new(|| Arc::new(Hosted::translated_search(MAX_SEARCHES)));
                TRANSLATED.clone()
            }
            Some(hosted) => hosted.clone(),
            None if searches() => SEARCH.clone(),
            None => return None,
        };
        let vendor = Preset::of(provider.vendor).name;
        let price = |tool: &str| {
            let own = self.catalogue.call(&provider.name, price, tool);
            own.or_else(|| self.catalogue.call(vendor, price, tool))
        };
        Some(CallPrices::new(hosted, self.config.budgets.max_tool_calls, price))
    }
}

/// Parts of the names of OpenAI's models that search the web for every answer.
const SEARCH_MODELS: [&str; 2] = ["-search-preview", "-search-api"];

/// OpenAI's models for moderation, dated and `-latest` names aside.
const MODERATION: [&str; 2] = ["omni-moderation", "text-moderation"];

/// What costs nothing without being listed.
fn is_free(endpoint: &Endpoint, target: &Target) -> bool {
    let (provider, model) = (&target.provider, &*target.model);
    match provider.vendor {
        // Ollama passes models of its cloud on to ollama.com, where they are paid for.
        Vendor::Ollama => {
            let host = provider.base.host.to_ascii_lowercase();
            let model = model.to_ascii_lowercase();
            let in_cloud = host == "ollama.com" || host.ends_with(".ollama.com");
            !in_cloud && !model.ends_with("-cloud") && !model.ends_with(":cloud")
        }
        Vendor::OpenAi => {
            let is = |name: &str| model.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            *endpoint == Endpoint::Moderations && MODERATION.iter().any(|name| is(name))
        }
        _ => false,
    }
}

/// The OpenAI-compatible gateway as a Pingora proxy.
pub struct Gateway {
    engines: Arc<ArcSwap<Engines>>,
    governance: Arc<Governance>,
    metrics: Arc<Metrics>,
    resolver: Resolver,
    contexts: ContextLengths,
    /// Keeps the connections to providers, but for those of uploads and WebSockets.
    connector: Connector,
    /// What providers say of their models.
    models: phase::models::Known,
}

impl Gateway {
    /// A gateway that follows `engines` as they are swapped, and keeps connections as `options` say.
    pub fn new(
        engines: Arc<ArcSwap<Engines>>,
        governance: Arc<Governance>,
        metrics: Arc<Metrics>,
        options: ConnectorOptions,
    ) -> Self {
        let capacity = governance.capacity.clone();
        Self {
            engines,
            governance,
            metrics,
            resolver: Resolver::default(),
            contexts: ContextLengths::new(capacity),
            connector: Connector::new(Some(options)),
            models: phase::models::Known::default(),
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora moves it through several futures, whose size every connection pays for.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.engines.load_full(), &self.governance, &self.metrics))
    }

    /// No modules: a compression module would run before the held reply is read.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// The listener gives each request of HTTP/1 its connection along; its header has come by now.
    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Box<Context>,
        connection: Box<dyn Any + Send + Sync>,
    ) {
        if let Ok(connection) = connection.downcast::<Arc<Connection>>() {
            connection.request_began();
            ctx.connection = Some(*connection);
        }
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<()> {
        phase::identify::prepare_connection(session, ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        let upstream =
            phase::exchange::Upstream { connector: &self.connector, resolver: &self.resolver, models: &self.models };
        phase::accept(session, ctx, &self.contexts, &upstream).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        phase::commit(session, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        phase::attempt::begin(session, ctx, &self.resolver).await.map(|peer| Box::new(Arc::unwrap_or_clone(peer)))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::attempt::rewrite_header(session, request, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::respond::receive(session, response, ctx)?;
        phase::respond::withhold(response, ctx);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if !response.status.is_informational() || response.status.as_u16() == 101 {
            phase::respond::downgrade(session, response);
            ctx.first_byte.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if let Some(keeper) = &mut ctx.keeper
            && let Some(bytes) = body
        {
            keeper.pass(bytes);
        }
        if ctx.withheld.is_some() {
            let out = Withheld::take(&mut ctx.withheld, body.take().unwrap_or_default(), end)?;
            *body = Some(out).filter(|out| !out.is_empty());
        }
        Ok(None)
    }

    /// Trailers end a body too.
    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Bytes>> {
        let body = Withheld::take(&mut ctx.withheld, Bytes::new(), true)?;
        Ok(Some(body).filter(|body| !body.is_empty()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        phase::recover::from_connect(ctx, error, &self.resolver)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        phase::recover::from_exchange(session, ctx, error, client_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Box<Context>) -> FailToProxy {
        phase::recover::give_up(session, ctx, error).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        phase::finish::record(session, ctx, error);
    }

    /// The access line tells every failure once; Pingora's own line would tell it again.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
