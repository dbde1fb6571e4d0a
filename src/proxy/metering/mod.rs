//! Metering: the most that a request can use, its provider's token count, and the gateway's count if the provider sends none.
//! Nothing in this module knows about the phases of a request: values go in and come out.
//!
//! | file | what it knows |
//! |---|---|
//! | `quote` | the most that a request can use, and how far a provider's count is believed |
//! | `bill` | the usage that a reply reports, and its cost |
//! | `prompt` | the prompt, kept while a stream runs, and an upper bound of its tokens |
//! | `stream_meter` | a stream's tokens while it runs |
//! | `billable_failure` | attempts that broke while a provider was at work |
//! | `count` | the count after a request's end |

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
