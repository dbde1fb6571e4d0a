//! How much at once: requests, LLM tokens, money and concurrency per tenant and token.
//!
//! A request walks past a *chain* of meters (its token's, its tenant's, the parent tenant's). [`Permit::enter`] takes
//! one request and one slot from all of them or from none, [`Permit::charge`] does the same with the estimate of LLM
//! tokens and money once the body is known, [`Permit::correct`] puts the truth in the estimate's place, and dropping
//! the [`Permit`] gives the slots back.
//!
//! # Counting
//!
//! A window's estimate is Cloudflare's: what the window before counted, times the share of it that the last interval
//! still covers, plus what the current window counted. The counts are [`pingora_limits::rate::Rate`]s. A `Rate` begins
//! a window only when it is called; the time between is kept beside it, or a refused request would put off the time
//! that the one before it was promised.
//!
//! *One `Rate` of one slot per meter and window.* A `Rate` is a count-min sketch: keys share its slots, and a key is
//! told the least of its slots. With the default of 4 rows of 1024 slots, 10 000 tenants put ten into every slot; a
//! tenant is alone in one of its four with a chance of 1 in 4 400, so all but two or three would pay for others. After
//! one request of each only those few read 1, and the mean is 7.7: tenants would be refused at an eighth of their
//! limits. With one slot and one key there is nobody to share with, and a window takes 300 bytes instead of 64 KiB.
//!
//! *A `Rate` never leaves its meter's mutex.* It may not be called from two threads at the end of an interval: one
//! that read the clock before another closed the interval computes `now - last_reset` below zero, which panics in a
//! debug build and in a release build clears both intervals. Besides, checking and adding have to be one step, or two
//! threads take the last request together. The meters of a chain are locked in the order of their addresses, so two
//! chains cannot wait for each other, whatever a reload makes of the tenants' order.
//!
//! *Concurrency is an integer of its own.* `pingora_limits`' `Inflight` is a sketch too, of a fixed size, shared by
//! all of its keys.

mod meter;
mod permit;
mod quota;
mod refusal;
#[cfg(test)]
mod tests;
mod window;

pub use meter::{Meter, Rules};
pub use permit::Permit;
pub use quota::{Quota, go_duration, push_go_duration};
pub use refusal::{Kind, Refusal};
