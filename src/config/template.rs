//! Template.

/// Stub.
pub fn default_file() -> String { String::new() }
/// Stub.
pub fn dev_file() -> String { String::new() }
