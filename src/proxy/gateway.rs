//! The switchboard: Pingora calls a method, the method calls a phase.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{modules::http::HttpModules, upstreams::peer::HttpPeer, utils::tls::WrappedX509};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    context::Context,
    party::{Governance, Parties},
    phase,
    resolve::Resolver,
};
use crate::{
    config::{Config, Preset, Vendor},
    pricing::{Catalogue, Price},
    providers::ollama::ContextLengths,
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
}

impl Engines {
    /// The price of a target, by its provider's name or else its vendor's. What Ollama runs costs nothing, and OpenAI's
    /// moderation is free ("the moderation endpoint is free to use", OpenAI's guide to it).
    pub fn price(&self, target: &Target) -> Option<Arc<Price>> {
        static FREE: LazyLock<Arc<Price>> = LazyLock::new(|| Arc::new(Price::flat(PicoUsd::ZERO, PicoUsd::ZERO)));
        let vendor = target.provider.vendor;
        let listed = self.catalogue.price(&target.provider.name, &target.model);
        let listed = listed.or_else(|| self.catalogue.price(Preset::of(vendor).name, &target.model));
        let free = || {
            vendor == Vendor::Ollama || vendor == Vendor::OpenAi && target.model.split('-').nth(1) == Some("moderation")
        };
        listed.or_else(|| free().then_some(&FREE)).cloned()
    }
}

/// The OpenAI-compatible gateway as a Pingora proxy.
pub struct Gateway {
    engines: Arc<ArcSwap<Engines>>,
    governance: Arc<Governance>,
    metrics: Arc<Metrics>,
    resolver: Resolver,
    contexts: ContextLengths,
}

impl Gateway {
    /// A gateway that follows `engines` as they are swapped.
    pub fn new(engines: Arc<ArcSwap<Engines>>, governance: Arc<Governance>, metrics: Arc<Metrics>) -> Self {
        Self { engines, governance, metrics, resolver: Resolver::default(), contexts: ContextLengths::default() }
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

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<()> {
        phase::identify::prepare_connection(session, ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        phase::accept(session, ctx, &self.contexts).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        phase::commit(session, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        phase::attempt::begin(session, ctx, &self.resolver).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::attempt::rewrite_header(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::attempt::replace_body(body, ctx);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::respond::receive(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::respond::send(session, response, ctx);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        phase::relay::events(session, body, end, ctx)?;
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        phase::recover::from_connect(peer, ctx, error, &self.resolver)
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
