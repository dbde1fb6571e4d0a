//! The configuration: one YAML file plus the environment, resolved into values that cannot be wrong.
//!
//! ```text
//! text → yaml (tree with lines) → shape (against the schema of raw) → raw → overlay (environment, presets, default
//! routes) → resolve → Config
//! ```
//!
//! Every step goes on after a fault, so that one run reports all faults. `raw` mirrors the file; the schema, the commented
//! default file and the reference are generated from `raw`.

mod base_url;
mod emit;
mod fault;
mod load;
mod overlay;
mod presets;
mod raw;
mod reference;
mod resolve;
mod resolved;
mod shape;
mod spenders;
mod template;
mod values;
mod yaml;

pub use base_url::BaseUrl;
pub use fault::Fault;
pub(crate) use fault::{Path, PathStep, did_you_mean};
pub use load::{FileText, Loaded, Source, process_env};
pub use overlay::{ENVIRONMENT, EnvVar};
pub use presets::{ClientKeys, Free, LimitName, PRESETS, Preset};
pub use reference::reference;
pub(crate) use resolve::check_pattern;
pub use resolved::*;
pub use shape::schema;
pub use template::{default_file, dev_file};
pub use values::{HumanDuration, HumanUsd};
pub(crate) use yaml::{Node, Yaml};

#[cfg(test)]
mod tests;
