//! The log output, which is set up once per process.

use std::io::{self, IsTerminal};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, registry::Registry, util::SubscriberInitExt,
};

use super::access;
use crate::config::Log;

/// Writes log lines to standard error. A second call changes nothing.
///
/// Pingora logs whole request headers at `debug`, including provider keys, so its own targets never go below
/// `warn`, whatever level is configured.
pub fn init(log: &Log) {
    let filter = Targets::new()
        .with_default(LevelFilter::from_level(log.level.min(Level::INFO)))
        .with_target("chittycan", LevelFilter::from_level(log.level))
        .with_target("pingora", LevelFilter::ERROR)
        .with_target("pingora_proxy", LevelFilter::OFF)
        .with_target("pingora_core", LevelFilter::ERROR)
        .with_target("h2", LevelFilter::ERROR)
        // The cache itself logs, once, when its disk fails.
        .with_target("foyer", LevelFilter::OFF);
    let output = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let layer = if log.json {
        output.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        output.boxed()
    };
    // Fails only if a logger is set already, as in tests that start many servers.
    let first = Registry::default().with(layer.with_filter(filter)).try_init().is_ok();
    if first && log.level >= Level::INFO {
        access::install(log.json);
    }
}
