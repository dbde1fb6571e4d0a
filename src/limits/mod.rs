//! Limits on rates and concurrency: requests, LLM tokens and money per tenant and token.
//!
//! A request passes a *chain* of meters (its token's, its tenant's, the parent tenant's). [`Permit::enter`] takes
//! one request and one slot from all of them or from none, [`Permit::charge`] takes the estimate of LLM tokens and
//! money from all or from none once the body is known, [`Permit::correct`] replaces the estimate by the actual numbers,
//! and dropping the [`Permit`] gives the slots back.
//!
//! # Counting
//!
//! The count of a sliding window is estimated as Cloudflare does: the count of the previous window, times the share of it
//! that the last interval still covers, plus the count of the current window. The counts are
//! [`pingora_limits::rate::Rate`]s. A `Rate` begins a window only when it is called; the time in between is kept beside
//! it, because otherwise a refused request would put off the time that an earlier refused request was promised.
//!
//! *One `Rate` of one slot per meter and window.* A `Rate` is a count-min sketch: keys share its slots, and the count of a
//! key is the least of its slots. With the default of 4 rows of 1024 slots, 10 000 tenants put ten into every slot; a
//! tenant is alone in one of its four with a chance of 1 in 4 400, so all but two or three would pay for others. After
//! one request of each only those few read 1, and the mean is 7.7: tenants would be refused at an eighth of their
//! limits. With one slot and one key no slot is shared, and a window takes 300 bytes instead of 64 KiB.
//!
//! *A `Rate` never leaves its meter's mutex.* A `Rate` must not be called from two threads at the end of an interval: a
//! thread that read the clock before another thread closed the interval computes `now - last_reset` below zero, which
//! panics in a debug build and clears both intervals in a release build. Besides, checking and adding have to be one step;
//! otherwise two threads could both take the last request. The meters of a chain are locked in the order of their
//! addresses, so two chains cannot wait for each other, however a reload changes the order of the tenants.
//!
//! *Concurrency is a separate integer.* `Inflight` of `pingora_limits` is also a sketch, of a fixed size, shared by all of
//! its keys.

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
