//! The gateway as Pingora sees it: each method that Pingora calls calls a phase.

use std::{
    any::Any,
    mem,
    sync::Arc,
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
};
use pingora_error::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    caller::Caller, context::Context, held::Withheld, known_models::KnownModels, phase, resolve::Resolver,
    upstream::Upstream,
};
use crate::{
    connections::Connection, providers::ollama::ContextLengths, proxy::context::Handed, snapshot::Snapshot,
    telemetry::Metrics, tenants::SharedState,
};

/// The OpenAI-compatible gateway as a Pingora proxy.
pub struct Gateway {
    snapshot: Arc<ArcSwap<Snapshot>>,
    shared: Arc<SharedState>,
    metrics: Arc<Metrics>,
    contexts: ContextLengths,
    upstream: Arc<Upstream>,
}

impl Gateway {
    /// A gateway that follows `snapshot` as it is swapped, and keeps connections as `options` say.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        shared: Arc<SharedState>,
        metrics: Arc<Metrics>,
        options: ConnectorOptions,
    ) -> Self {
        let capacity = shared.capacity.clone();
        Self {
            snapshot,
            shared,
            metrics,
            contexts: ContextLengths::new(capacity),
            upstream: Arc::new(Upstream {
                connector: Connector::new(Some(options)),
                resolver: Resolver::default(),
                models: KnownModels::default(),
            }),
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora moves it through several futures, whose size every connection pays for.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.snapshot.load_full(), &self.shared, &self.metrics))
    }

    /// No modules: a compression module would compress a held reply before the gateway reads it.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// The listener hands on the connection of each HTTP/1 request; the request's header has arrived by now.
    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Box<Context>,
        connection: Box<dyn Any + Send + Sync>,
    ) {
        if let Ok(connection) = connection.downcast::<Arc<Connection>>() {
            connection.request_began();
            ctx.arrival.connection = Some(*connection);
        }
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<()> {
        phase::identify::prepare_connection(&mut Caller::new(session), ctx);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        phase::accept(&mut Caller::new(session), ctx, &self.contexts, &self.upstream).await
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        phase::commit(&mut Caller::new(session), ctx).await
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        phase::attempt::begin(ctx, &self.upstream.resolver).await.map(|peer| Box::new(Arc::unwrap_or_clone(peer)))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::attempt::rewrite_header(session.req_header(), request, ctx)?;
        phase::attempt::sign_forwarded(request, ctx)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        phase::respond::receive(session.req_header(), response, ctx)?;
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
            phase::respond::downgrade(&mut Caller::new(session), response);
            ctx.reply.first_byte.get_or_insert_with(Instant::now);
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
        if let Some(keeper) = &mut ctx.reply.keeper
            && let Some(bytes) = body
        {
            keeper.pass(bytes);
        }
        if ctx.reply.withheld.is_some() {
            let out = Withheld::take(&mut ctx.reply.withheld, body.take().unwrap_or_default(), end)?;
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
        let body = Withheld::take(&mut ctx.reply.withheld, Bytes::new(), true)?;
        Ok(Some(body).filter(|body| !body.is_empty()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        phase::recover::from_connect(ctx, error, &self.upstream.resolver)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        phase::recover::from_exchange(&mut Caller::new(session), ctx, error, client_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Box<Context>) -> FailToProxy {
        match mem::take(&mut ctx.handed) {
            Handed::Back(end) => end,
            handed => {
                ctx.handed = handed;
                phase::recover::give_up(&mut Caller::new(session), ctx, error).await
            }
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        phase::finish::record(&mut Caller::new(session), ctx, error);
    }

    /// The access log has one line for every failure; Pingora's own line would repeat it.
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
