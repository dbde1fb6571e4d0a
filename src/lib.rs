//! ChittyCan Gateway: an OpenAI-compatible LLM gateway on Pingora.
//!
//! # The map
//!
//! A request walks down this list, a reply walks back up. Each layer imports only from layers below it;
//! siblings of one layer meet in a phase of `proxy`. `tests/it/layers.rs` fails on any other edge. `types`, `openai`, `sse` and `dialect`
//! are the crate `wire`, named here as modules of this one; the simulated provider is the crate `simulator`.
//!
//! | layer | module | what it knows |
//! |---|---|---|
//! | L0 | [`types`] | ids, money, usage, secrets |
//! | L0 | [`error`] | whose fault it is, may we retry, what may the client read |
//! | L1 | [`capacity`] | what the process may use at once: a budget of bytes, threads for work that takes long |
//! | L1 | [`openai`] | endpoints, peeking into and splicing raw bodies, usage, error shapes, the stream relay |
//! | L1 | [`sse`] | event boundaries, writing events |
//! | L1 | [`tokenizer`] | how many tokens a text has |
//! | L2 | [`dialect`] | translators: OpenAI Chat to and from Anthropic Messages, OpenAI Responses, Ollama |
//! | L2 | [`config`] | the YAML file, the environment, all faults at once, the schema |
//! | L2 | [`guards`] | what may look at prompts and replies on their way, and stop them |
//! | L2 | [`store`] | what is kept for long: traits of the tables and their owner, changes by other processes; `store/sqlite`, one kind of store |
//! | L3 | [`cache`] | what is deterministic, keys, entries in memory and on disk, flights, purges |
//! | L3 | [`connections`] | how many connections clients may have, which of them take too long or have to make room |
//! | L3 | [`identity`] | what a presented credential is and whom it stands for: `chitty_` tokens, scopes |
//! | L3 | [`ledger`] | budgets: reserve → settle or release; entries, journal, alerts, reports |
//! | L3 | [`limits`] | requests, LLM tokens, money and concurrency per tenant and token |
//! | L3 | [`objects`] | whose the objects are that providers keep: files, batches, stored responses and the like |
//! | L3 | [`pricing`] | the price catalogue and what a usage costs |
//! | L3 | [`routing`] | client-facing model → ordered deployments |
//! | L3 | [`providers`] | an adapter for each vendor API; a request's way into its dialect and back; quirks of OpenAI-compatible vendors; Ollama's context lengths |
//! | L3 | [`stored_responses`] | responses that are kept for a while in the place of providers that keep none |
//! | L3 | [`telemetry`] | metrics and the log |
//! | L4 | [`tenants`] | who asks, with the rules, meters and budgets that hold for them |
//! | L5 | [`snapshot`] | everything that a configuration is turned into: one value, swapped by a reload |
//! | L6 | [`proxy`] | the Pingora `ProxyHttp`: one file per phase |
//! | L6 | [`admin`] | second listener: health, readiness, metrics; tokens, tenants and their spend, the cache as a JSON API |
//! | L7 | [`server`] | composition root: config → snapshot → Pingora server, reload, shutdown |
//! | L8 | [`cli`] | `can serve`, `can check`, `can config`, `can auth`, `can cache`, `can registry`, `can simulate`, `can health` |

pub mod admin;
pub mod cache;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod connections;
pub mod error;
pub mod guards;
pub mod identity;
pub mod ledger;
pub mod limits;
pub mod objects;
pub mod pricing;
pub mod providers;
pub mod proxy;
pub mod routing;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod stored_responses;
pub mod telemetry;
pub mod tenants;
pub mod tokenizer;

pub use wire::{dialect, openai, sse, types};
