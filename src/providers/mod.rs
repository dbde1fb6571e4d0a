//! The differences between providers: their APIs (adapters) and the translation between these, quirks of vendors of
//! OpenAI-compatible endpoints, and Ollama's context lengths.

pub mod adapter;
pub mod exchange;
pub mod ollama;
pub mod quirks;
pub mod translator;
