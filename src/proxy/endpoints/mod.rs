//! Endpoints that are not the way to a provider's model: each answers by itself, from what the gateway knows or has asked for.

pub mod count;
pub mod invalidate;
pub mod list;
pub mod models;
