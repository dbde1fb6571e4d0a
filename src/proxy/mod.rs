//! The Pingora proxy. A request's path through `phase/`:
//!
//! identify → admit → read → plan → recall → own → inspect → cache → translate → lead → exchange (attempt → respond → relay → recover) → finish → settle
//!
//! [`Gateway`] implements the methods that Pingora calls. The state of one request is a [`context::Context`], whose parts are
//! values: `ask`, `dispatch`, `stream` and the like.
//!
//! - `caller`: the client of a request; `apart`: the client's side of an exchange that runs as a task of its own, for
//!   followers.
//! - `upstream`: the connections to providers, and how a request is sent and its answer is read; `duplex`: reads from a
//!   connection while a large body is sent on it; `resolve`: host names to addresses.
//! - `held`: a reply that is held back until it is complete; [`reply`]: every reply that the gateway makes itself.
//! - `metering`: the count of tokens and cost.
//! - `keeper`: records the objects that a reply names; `known_models`: what providers report about their models.
//! - `stop`: why a request goes no further.
//! - `endpoints`: endpoints that call no model.
//! - `rates`: renames Anthropic's rate limit headers; `headers`: many header changes at once.
//! - `cors`: which web pages may call the gateway.
//! - `encoding`: decodes compressed request bodies.
//! - `forwarded`: the request headers that go to providers; `returned`: the reply headers that do not reach the client.
//! - `conceal`: removes the account's details from a provider's errors.
//! - `heavy`: work on large bodies, within the memory budget and on threads of its own.

mod apart;
mod ask;
mod caller;
mod conceal;
pub mod context;
mod cors;
mod dispatch;
mod duplex;
pub mod encoding;
mod endpoints;
pub mod forwarded;
mod gateway;
mod headers;
mod heavy;
mod held;
mod keeper;
mod known_models;
mod metering;
mod phase;
mod rates;
pub mod reply;
mod resolve;
pub mod returned;
mod stop;
mod stream;
mod upstream;

pub use gateway::Gateway;
