//! The yardstick: a Pingora pass-through that does nothing but name its upstream.
//!
//! Same crate versions, allocator and thread count as the gateway, and like it without the compression module.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora_core::modules::http::HttpModules;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

use crate::{Failure, children};

/// Serves until the parent process goes away.
pub fn run(listen: Option<SocketAddr>, upstream: Option<SocketAddr>) -> Result<(), Failure> {
    let (Some(listen), Some(upstream)) = (listen, upstream) else {
        return Err("the pass-through needs --listen and --upstream".into());
    };
    children::exit_with_parent();
    let conf = ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, PassThrough(upstream));
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}

struct PassThrough(SocketAddr);

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}
