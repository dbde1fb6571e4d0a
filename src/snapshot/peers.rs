//! Peers: each address of a provider as Pingora's pool knows it, made once and shared by all requests.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pingora_core::{protocols::ALPN, upstreams::peer::HttpPeer};

use super::Authorities;
use crate::config::Provider;

/// Idle connections to providers are dropped before the usual server closes them (OpenAI and most others: 60 s or more).
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(50);

/// Peers that are kept: a name may resolve to new addresses without end.
const MOST: usize = 1_024;

/// Peers by the name of their provider and their address.
type Known = HashMap<(Arc<str>, SocketAddr), Arc<HttpPeer>>;

/// The peers of one configuration.
#[derive(Default)]
pub struct Peers(ArcSwap<Known>);

impl Peers {
    /// The peer at an address of a provider. If `ca` is given, it trusts only these authorities.
    pub fn at(&self, provider: &Provider, address: SocketAddr, ca: Option<&Arc<Authorities>>) -> Arc<HttpPeer> {
        let key = (provider.name.clone(), address);
        if let Some(peer) = self.0.load().get(&key) {
            return peer.clone();
        }
        let mut peer = peer(provider, address);
        peer.options.ca = ca.cloned();
        let peer = Arc::new(peer);
        self.0.rcu(|known| {
            let mut known = if known.len() < MOST { Known::clone(known) } else { Known::new() };
            known.insert(key.clone(), peer.clone());
            known
        });
        peer
    }
}

fn peer(provider: &Provider, address: SocketAddr) -> HttpPeer {
    let base = &provider.base;
    let mut peer = HttpPeer::new(address, base.tls, base.host.clone());
    let options = &mut peer.options;
    options.connection_timeout = Some(provider.connect_timeout);
    options.total_connection_timeout = Some(provider.connect_timeout);
    options.read_timeout = Some(provider.read_timeout);
    // Always set: if a provider answers without reading the body, a write blocks until this timeout.
    options.write_timeout = Some(provider.write_timeout);
    options.idle_timeout = Some(UPSTREAM_IDLE);
    if provider.http2 {
        options.alpn = if base.tls { ALPN::H2H1 } else { ALPN::H2 };
        options.max_h2_streams = 128;
    }
    peer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};

    #[test]
    fn an_address_has_one_peer_and_no_more_are_kept_than_that() {
        let source = Source { env: Arc::new(|_: &str| None), ..Source::new(None) };
        let text = "providers: {mine: {base_url: \"http://mine.example/v1\", api_key: k}}";
        let config = Config::load_text(text, &source).unwrap().config;
        let (peers, provider) = (Peers::default(), &config.providers["mine"]);
        let address = |port: usize| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        let first = peers.at(provider, address(1), None);
        assert!(Arc::ptr_eq(&first, &peers.at(provider, address(1), None)));
        assert_eq!(first.options.read_timeout, Some(provider.read_timeout));
        for port in 2..3 * MOST {
            assert!(!Arc::ptr_eq(&first, &peers.at(provider, address(port), None)));
        }
        assert!(peers.0.load().len() <= MOST);
    }
}
