//! The source of the money that budgets grant, and of the part of a limit that meters count to.
//!
//! ```text
//! treasury ──opening, draw──▶ budget here ──hold, extend, settle: at once, exactly, without asking anybody
//!     ◀────── give back ───────┘
//! ```
//!
//! A single gateway grants itself everything ([`Local`]). Several gateways that share one limit draw parts of it from one place,
//! so that together they spend no more than one would; in the middle of a reply only the part that is here counts.

use futures::future::BoxFuture;

use super::budget::BudgetKey;
use crate::types::NanoUsd;

/// Grants parts of limits to the budgets and meters of this process.
pub trait Treasury: Send + Sync {
    /// What a hard budget may hold and spend when it is created or when a period of it begins. The method is called under the
    /// budget's lock, so it must return at once.
    fn opening(&self, of: &Purse) -> Grant;

    /// Grants more to a budget whose grant does not suffice: at least `wanted`, or nothing. A request waits for the answer, but
    /// no longer than `budgets.wait`; no other request draws for the same budget meanwhile. A draw that is dropped before it has
    /// answered has granted nothing.
    fn draw<'a>(&'a self, of: &'a Purse, wanted: NanoUsd) -> BoxFuture<'a, Drawn>;

    /// Takes back what was granted and is neither spent nor held: when the process ends, when the last request that counts in a
    /// removed budget has ended, or when the grant came after the end of its period. The method may be called under a lock, so it
    /// must return at once.
    fn give_back(&self, of: &Purse, left: NanoUsd);

    /// The part of a limit that the meter of a tenant, token or other identity (`of`) may use here; called whenever a
    /// configuration sets the limit. `what` is the name of the limit, for example `requests_per_minute`.
    fn share(&self, of: &str, what: &'static str, limit: u64) -> u64;
}

/// One period of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purse {
    /// The identity of the budget.
    pub key: BudgetKey,
    /// First millisecond of the period, since 1970.
    pub start: u64,
    /// The limit of the budget for all processes together.
    pub limit: NanoUsd,
}

/// What a budget begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Its whole limit, now and later: nobody else draws from it.
    Everything,
    /// This amount, on top of what the budget already counts as spent.
    Part(NanoUsd),
}

/// The answer to a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// This amount is granted in addition.
    More(NanoUsd),
    /// Nothing now: other processes hold what is left.
    Held,
    /// Nothing in this period: the limit is spent.
    Spent,
}

/// Grants everything: a single process has the whole of every limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Treasury for Local {
    fn opening(&self, _: &Purse) -> Grant {
        Grant::Everything
    }

    fn draw<'a>(&'a self, _: &'a Purse, _: NanoUsd) -> BoxFuture<'a, Drawn> {
        Box::pin(std::future::ready(Drawn::Held))
    }

    fn give_back(&self, _: &Purse, _: NanoUsd) {}

    fn share(&self, _: &str, _: &'static str, limit: u64) -> u64 {
        limit
    }
}
