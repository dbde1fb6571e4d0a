//! Ways to providers, which live as long as the process.

use pingora_core::connectors::http::Connector;

use super::{known_models::KnownModels, resolve::Resolver};

/// Ways to providers.
pub struct Upstream {
    /// Keeps the connections, but for those of uploads and WebSockets.
    pub connector: Connector,
    /// Host names to addresses.
    pub resolver: Resolver,
    /// What providers say of their models.
    pub models: KnownModels,
}
