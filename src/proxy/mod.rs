//! The Pingora proxy. A request's path through `phase/`:
//!
//! identify → admit → read → plan → recall → own → inspect → cache → translate → lead → exchange (attempt → respond → relay → recover) → finish → settle
//!
//! [`Gateway`] is the switchboard that Pingora calls. What is known of a request is a [`context::Context`], whose parts are values: `ask`, `dispatch`,
//! `stream` and the like. `caller` is the client of a request, `apart` the way to one whose answer others read along, `upstream` are the ways to
//! providers, with what sends a request on one and reads its answer, `duplex` listens to one while a large body is sent, and `held` is a reply that is held back until it is complete. `metering` counts; `keeper`
//! takes down which objects a reply tells of; `known_models` keeps what providers say of their models; `stop` is why a request goes no further;
//! `endpoints` are those that ask no model; [`reply`] is the only door for replies the gateway makes itself; `rates` renames Anthropic's rate limit headers; `cors` tells browsers which pages may call; `encoding` decodes compressed bodies; `forwarded` lists the request headers that go to providers,
//! `returned` the reply headers that do not come back, `conceal` takes the account out of a provider's errors; `heavy` does work
//! on large bodies, within the memory budget and on threads of its own.

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
