//! Metering: the most that a request can use, what its provider counts, and what is counted here where it does not. Nothing
//! here knows of a request's way; values go in and come out.
//!
//! | file | what it knows |
//! |---|---|
//! | `quote` | the most that a request can use, and how far a provider's count is believed |
//! | `bill` | what a reply told about usage, and what that comes to |
//! | `prompt` | the prompt, kept while a stream runs, counted from above |
//! | `tally` | a stream's tokens while it runs |
//! | `spoiled` | attempts that broke at work |
//! | `count` | what is counted after the end |

mod bill;
mod count;
mod prompt;
mod quote;
mod spoiled;
mod tally;

pub use bill::{Bill, Counted};
pub use count::{Count, Cut, Settled, count_prompt};
pub use prompt::{Measure, Prompt};
pub use quote::{Belief, Quote};
pub use spoiled::{NOTICE, Spoiled, generated_within};
pub use tally::{Cap, Tally};
