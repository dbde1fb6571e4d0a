//! Where budgets have their money from, and meters their part of a limit.
//!
//! ```text
//! treasury ──opening, draw──▶ budget here ──hold, extend, settle: at once, exactly, without asking anybody
//!     ◀────── give back ───────┘
//! ```
//!
//! A gateway alone grants itself everything ([`Local`]). Several that share one limit draw parts of it from one place, so that all
//! of them together spend no more than one would; whatever happens in the middle of a reply is settled in the part that is here.

use futures::future::BoxFuture;

use super::budget::BudgetKey;
use crate::types::NanoUsd;

/// Grants parts of limits.
pub trait Treasury: Send + Sync {
    /// What a hard budget may hold and spend as it is made, or as a period of it begins. It is asked under the budget's lock, so it
    /// answers at once.
    fn opening(&self, of: &Purse) -> Grant;

    /// More for a budget whose grant does not suffice: `wanted` at least, or nothing. A request waits for it, for no longer than
    /// `budgets.wait`, and no other draws for the same budget meanwhile. One that is dropped while it waits has granted nothing.
    fn draw<'a>(&'a self, of: &'a Purse, wanted: NanoUsd) -> BoxFuture<'a, Drawn>;

    /// Takes back what was granted and is neither spent nor held: the process ends, or the grant came after its period.
    fn give_back(&self, of: &Purse, left: NanoUsd);

    /// The part of a limit that the meter of a tenant, token or other identity (`of`) counts to here; asked whenever a
    /// configuration sets the limit. `what` is the limit's name, `requests_per_minute` for one.
    fn share(&self, of: &str, what: &'static str, limit: u64) -> u64;
}

/// One period of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purse {
    /// Which budget.
    pub key: BudgetKey,
    /// First millisecond of the period.
    pub start: u64,
    /// How much it is for all who draw from it together.
    pub limit: NanoUsd,
}

/// What a budget begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Its whole limit, now and later: nobody else draws from it.
    Everything,
    /// So much, besides what it knows as spent already.
    Part(NanoUsd),
}

/// The answer to a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// So much more.
    More(NanoUsd),
    /// Nothing now: others hold what is left.
    Held,
    /// Nothing in this period: it is spent.
    Spent,
}

/// Grants everything: one process has all of every limit.
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
