//! The two APIs on a connection: the Pingora proxy for clients, a router for operators. Both report to the connection when
//! requests begin and end.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::{ALPN, Stream, http::ServerSession},
    server::ShutdownWatch,
};
use pingora_proxy::HttpProxy;

use super::listen::Api;
use crate::{
    connections::{Connection, Timeouts},
    proxy::Gateway,
    snapshot::Snapshot,
};

/// Timeouts of the admin API; Prometheus scrapes at least once a minute.
const ADMIN_TIMEOUTS: Timeouts = Timeouts { header: Duration::from_secs(15), idle: Duration::from_secs(90) };

/// The client API.
pub struct ClientApi {
    proxy: Arc<HttpProxy<Gateway>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Options for connections without TLS on which HTTP/2 may be used.
    h2c: HttpServerOptions,
}

impl ClientApi {
    /// Serves with this proxy; `snapshot` has the timeouts in force.
    pub fn new(proxy: HttpProxy<Gateway>, snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        let mut h2c = HttpServerOptions::default();
        h2c.h2c = true;
        Self { proxy: Arc::new(proxy), snapshot, h2c }
    }
}

#[async_trait]
impl Api for ClientApi {
    async fn serve(&self, stream: Stream, connection: Arc<Connection>, http2: bool, draining: &ShutdownWatch) {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            connection.set_multiplexed();
        }
        let options = http2.then(|| self.h2c.clone());
        let served = Arc::new(Served { proxy: self.proxy.clone(), connection, options });
        served.process_new(stream, draining).await;
    }

    fn timeouts(&self) -> Timeouts {
        let http = &self.snapshot.load().config.http;
        Timeouts { header: http.header_timeout, idle: http.keepalive }
    }
}

/// One connection that is being served.
struct Served {
    proxy: Arc<HttpProxy<Gateway>>,
    connection: Arc<Connection>,
    options: Option<HttpServerOptions>,
}

#[async_trait]
impl HttpServerApp for Served {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.is_http2() {
            // In HTTP/2 the request's header has arrived by now.
            let _request = self.connection.request();
            return self.proxy.process_new_http(session, shutdown).await;
        }
        // The gateway gets the connection, and tells it when the request's header has arrived.
        session.set_connection_user_context(Some(Box::new(self.connection.clone())));
        let reused = self.proxy.process_new_http(session, shutdown).await;
        if reused.is_some() {
            self.connection.request_ended();
        }
        reused
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.options.as_ref()
    }
}

/// The admin API.
pub struct AdminApi {
    router: Router,
}

impl AdminApi {
    /// Serves this router.
    pub fn new(router: Router) -> Self {
        Self { router }
    }
}

#[async_trait]
impl Api for AdminApi {
    async fn serve(&self, stream: Stream, connection: Arc<Connection>, _http2: bool, draining: &ShutdownWatch) {
        let mut draining = draining.clone();
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request| {
            let open = connection.request();
            let reply = router.call(request);
            async move {
                let reply = reply.await;
                drop(open);
                reply
            }
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::pin!(served);
        tokio::select! {
            // A client that breaks off is not reported.
            _ = served.as_mut() => return,
            _ = draining.wait_for(|draining| *draining) => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }

    fn timeouts(&self) -> Timeouts {
        ADMIN_TIMEOUTS
    }
}
