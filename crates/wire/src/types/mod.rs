//! Ids, money, usage and secrets: types that every layer uses.

mod api;
mod caching;
mod ids;
mod money;
mod pattern;
mod secret;
mod usage;

pub use api::Api;
pub use caching::PromptCaching;
pub use ids::{RequestId, TenantId, TokenId, unix_now};
pub use money::{MoneyError, NanoUsd, PicoUsd};
pub use pattern::matches;
pub use secret::Secret;
pub use usage::{ServiceTier, Usage};
