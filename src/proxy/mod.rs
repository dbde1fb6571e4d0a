//! The Pingora proxy. The listing of `phase/` is a request's path:
//!
//! identify → read → plan → attempt → respond → relay → recover → finish
//!
//! [`Gateway`] is the switchboard that Pingora calls; [`downstream`] is the one place that touches Pingora's session
//! internals; [`reply`] is the only door for replies the gateway makes itself.

pub mod context;
pub mod downstream;
mod gateway;
mod headers;
mod phase;
pub mod reply;
mod resolve;

pub use gateway::{Authorities, Engines, Gateway};
