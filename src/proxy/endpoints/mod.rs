//! Endpoints that call no model: each answers by itself, from what the gateway knows or has asked a provider for.

pub mod count;
pub mod invalidate;
pub mod list;
pub mod models;
