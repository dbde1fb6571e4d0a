//! The public APIs that clients use and whose objects providers store.

/// A public API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's API.
    OpenAi,
    /// Anthropic's API.
    Anthropic,
}
