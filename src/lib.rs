//! ChittyCan Gateway: an OpenAI-compatible LLM gateway on Pingora.
//!
//! # The map
//!
//! The modules in layers, the lowest first. Each layer imports only from layers below it; siblings of one layer meet in a phase
//! of `proxy`. `tests/it/layers.rs` fails on any other import. `types`, `openai`, `sse` and `dialect` are the crate `wire`, named
//! here as modules of this one; the simulated provider is the crate `simulator`.
//!
//! | layer | module | contents |
//! |---|---|---|
//! | L0 | [`types`] | ids, money, usage, secrets |
//! | L0 | [`error`] | faults: who has to act, whether a retry may help, what the client may read |
//! | L1 | [`capacity`] | what the process may use at once: a memory budget, threads for long work |
//! | L1 | [`openai`] | endpoints, peeking into and splicing raw bodies, usage, error shapes, the stream relay |
//! | L1 | [`sse`] | event boundaries, writing events |
//! | L1 | [`tokenizer`] | counts the tokens of a text |
//! | L2 | [`dialect`] | translators: OpenAI Chat to and from Anthropic Messages, OpenAI Responses, Ollama |
//! | L2 | [`config`] | the YAML file, the environment, all faults at once, the schema |
//! | L2 | [`guards`] | inspect prompts and replies on their way, and may block them |
//! | L2 | [`store`] | persistent tables: traits, ownership, changes by other processes; `store/sqlite`, one kind of store |
//! | L3 | [`cache`] | the completion cache: deterministic requests, keys, entries in memory and on disk, flights, purges |
//! | L3 | [`connections`] | limits on clients' connections: which take too long or have to make room |
//! | L3 | [`identity`] | credentials and the identities that they stand for: `chitty_` tokens, scopes |
//! | L3 | [`ledger`] | budgets: reserve → settle or release; entries, journal, alerts, reports |
//! | L3 | [`limits`] | requests, LLM tokens, money and concurrency per tenant and token |
//! | L3 | [`objects`] | the owners of the objects that providers keep: files, batches, stored responses and the like |
//! | L3 | [`pricing`] | the price catalogue and the cost of a usage |
//! | L3 | [`routing`] | client-facing model → ordered deployments |
//! | L3 | [`providers`] | an adapter for each vendor API; translation of requests and replies; quirks of OpenAI-compatible vendors; Ollama's context lengths |
//! | L3 | [`stored_responses`] | responses that the gateway keeps for providers without the Responses API |
//! | L3 | [`telemetry`] | metrics and the log |
//! | L4 | [`tenants`] | tenants and callers, with the rules, meters and budgets that apply to them |
//! | L5 | [`snapshot`] | a configuration in force: one value, replaced by a reload |
//! | L6 | [`proxy`] | the Pingora `ProxyHttp`: one file per phase |
//! | L6 | [`admin`] | the admin listener: health, readiness, metrics; a JSON API for tokens, tenants, spend and cache |
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
