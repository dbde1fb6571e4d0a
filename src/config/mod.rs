//! The configuration: one YAML file plus the environment, resolved into values that cannot be wrong.

mod resolved;

pub use resolved::*;
