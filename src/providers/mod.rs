//! What differs between vendors of OpenAI-compatible endpoints, Ollama's context lengths, and the simulated provider.

pub mod ollama;
pub mod quirks;
pub mod simulated;
