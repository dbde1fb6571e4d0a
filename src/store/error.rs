//! Why a store cannot be used, in words that are the same for every kind of store.

use std::{error::Error, fmt, io};

/// What the software below says itself.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// Somebody else writes, and went on for longer than the bounded wait.
    Busy(Cause),
    /// The store cannot be reached, read or written; in its own words.
    Failed(Cause),
    /// The file system's.
    Io(io::Error),
    /// Tables that another version of the gateway, or another program, has made.
    Foreign(String),
    /// Another gateway owns the store, or may own it under another name; the text says which.
    Owned(String),
    /// The store was deleted or replaced since it was opened, and nothing is accepted in its place yet.
    Lost(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(error) | Self::Failed(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Foreign(message) | Self::Owned(message) | Self::Lost(message) => f.write_str(message),
        }
    }
}

impl Error for StoreError {}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
