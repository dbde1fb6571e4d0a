//! What differs between providers: their APIs (adapters) and the translation between them, quirks of vendors of OpenAI-compatible endpoints,
//! Ollama's context lengths; and the simulated provider.

pub mod adapter;
pub mod exchange;
pub mod ollama;
pub mod quirks;
pub mod simulated;
pub mod translator;
