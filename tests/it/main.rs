//! Integration tests: the real server on port 0, recording fakes, raw sockets. One binary, so that the gateway is linked
//! once. A module is a risk, not a source file.

// The whole crate is test code; the exemption in clippy.toml only reaches `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod adversary;
mod anonymous;
mod authenticators;
mod authorizers;
mod bodies;
mod boundary;
mod cache;
mod cache_admin;
mod cache_privacy;
mod certificates;
mod cli;
mod credentials;
mod cut_off;
mod dev_mode;
mod dialects;
mod dropin;
mod errors;
mod exchange;
mod failover;
mod guards;
mod hardening;
mod headers;
mod hosted_tools;
mod intruder;
mod layers;
mod leaving;
mod ledger_size;
mod lifecycle;
mod lost_database;
mod memory;
mod money;
mod objects;
mod ownership;
mod passthrough_keys;
mod prompt_caching;
mod quotes;
mod reserved;
mod slow_clients;
mod stored_responses;
mod streams;
mod strict;
mod support;
mod surface;
mod tenants;
mod tls;
mod treasury;
mod underpaid;
