//! What differs between vendors of OpenAI-compatible endpoints, and the simulated provider.

pub mod quirks;
pub mod simulated;
