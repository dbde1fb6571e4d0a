//! Why a store cannot be used: one error type for every kind of store.

use std::{error::Error, fmt, io};

/// The error of the underlying software.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a store cannot be used.
#[derive(Debug)]
pub enum StoreError {
    /// Another writer held the store for longer than the bounded wait.
    Busy(Cause),
    /// The store cannot be reached, read or written; the text is the underlying software's.
    Failed(Cause),
    /// An error of the file system.
    Io(io::Error),
    /// The tables were created by a version of the gateway that this one cannot read, or by another program.
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
