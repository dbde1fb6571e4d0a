//! Ids, money, usage and secrets: the nouns every layer speaks.

mod money;
mod secret;
mod usage;

pub use money::{MoneyError, NanoUsd, PicoUsd};
pub use secret::Secret;
pub use usage::{ServiceTier, Usage};
