//! Metering: the most that a request can use, what its provider counts, and what is counted here where it does not. Nothing
//! here knows of a request's way; values go in and come out.
//!
//! | file | what it knows |
//! |---|---|
//! | `quote` | the most that a request can use, and how far a provider's count is believed |
//! | `bill` | what a reply told about usage, and what that comes to |
//! | `prompt` | the prompt, kept while a stream runs, counted from above |
//! | `stream_meter` | a stream's tokens while it runs |
//! | `billable_failure` | attempts that broke at work |
//! | `count` | what is counted after the end |

mod bill;
mod billable_failure;
mod count;
mod prompt;
mod quote;
mod stream_meter;

pub use bill::{Bill, Counted};
pub use billable_failure::{BillableFailure, NOTICE, generated_within};
pub use count::{Count, Cut, Settled, count_prompt};
pub use prompt::{Measure, Prompt};
pub use quote::{Belief, Quote};
pub use stream_meter::{Cap, StreamMeter};
