//! Server-sent events as bytes: finds their boundaries without copying, and writes them.
//!
//! The format is the event stream of the WHATWG HTML standard, section 9.2.6.

mod scan;
mod write;

pub use scan::{DEFAULT_MAX_EVENT, EventTooLarge, Fields, RawEvent, Scanner};
pub use write::{DONE, data_event, join, write_data};
