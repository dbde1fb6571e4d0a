//! providers

pub mod simulated;
