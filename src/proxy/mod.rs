//! The Pingora proxy. The listing of `phase/` is a request's path:
//!
//! identify → admit → read → plan → count → cache → translate → attempt → respond → relay → recover → finish → settle
//!
//! [`Gateway`] is the switchboard that Pingora calls; [`downstream`] is the one place that touches Pingora's session
//! internals; `party` joins a tenant's rules with its meters and budgets; [`reply`] is the only door for replies the gateway makes itself;
//! `rates` renames Anthropic's rate limit headers.

pub mod context;
pub mod downstream;
mod gateway;
mod headers;
mod party;
mod phase;
mod rates;
pub mod reply;
mod resolve;

pub use gateway::{Authorities, Engines, Gateway};
pub use party::{Governance, Parties};
