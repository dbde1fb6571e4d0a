//! The reference in Markdown.

/// Stub.
pub fn reference() -> String { String::new() }
