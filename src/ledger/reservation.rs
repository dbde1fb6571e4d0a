//! Money held back for one request, in all the budgets that it counts in.

use std::{fmt, sync::Arc};

use super::{
    Ledger,
    budget::{Budget, Crossed, Exceeded, Held},
    entry::{Basis, Entry, Subject},
    journal::Pin,
};
use crate::types::NanoUsd;

/// The budgets that a request counts in: its tenant's, then its ancestors'.
pub type Budgets = Arc<[Arc<Budget>]>;

/// Holds the worst case of a request until it is settled. Dropped without that, it gives everything back if no provider was
/// asked, and else settles at what it held: the provider may have charged it.
pub struct Reservation {
    /// `None` once it is settled.
    open: Option<Open>,
}

struct Open {
    ledger: Arc<Ledger>,
    budgets: Budgets,
    held: Vec<Held>,
    amount: NanoUsd,
    #[cfg(test)]
    noted: NanoUsd,
    subject: Subject,
    /// Keeps the intent on disk until the entry is.
    pin: Option<Pin>,
    sent: bool,
}

impl Reservation {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        budgets: Budgets,
        subject: Subject,
        amount: NanoUsd,
    ) -> Result<Self, Exceeded> {
        let held = hold_all(&budgets, subject.at, amount)?;
        Ok(Self {
            open: Some(Open {
                ledger,
                budgets,
                held,
                amount,
                #[cfg(test)]
                noted: amount,
                subject,
                pin: None,
                sent: false,
            }),
        })
    }

    pub(super) fn keep(&mut self, pin: Pin) {
        if let Some(open) = &mut self.open {
            open.pin = Some(pin);
        }
    }

    /// What is held.
    pub fn amount(&self) -> NanoUsd {
        self.open.as_ref().map_or(NanoUsd::ZERO, |open| open.amount)
    }

    #[cfg(test)]
    pub(super) fn open_mut(&mut self) -> &mut Option<impl Sized> {
        &mut self.open
    }

    /// What the journal knows of it: the first amount, without extensions.
    #[cfg(test)]
    pub(super) fn noted(&self) -> NanoUsd {
        self.open.as_ref().map_or(NanoUsd::ZERO, |open| open.noted)
    }

    /// Whose it is, with the moment that decides its period; `None` once it is settled.
    pub fn subject(&self) -> Option<&Subject> {
        self.open.as_ref().map(|open| &open.subject)
    }

    /// From now on a provider may charge for it.
    pub fn mark_sent(&mut self) {
        if let Some(open) = &mut self.open {
            open.sent = true;
        }
    }

    /// Holds more, where every budget has it.
    ///
    /// # Errors
    /// The budget that has not; what was held stays held.
    pub fn extend(&mut self, more: NanoUsd) -> Result<(), Exceeded> {
        let Some(open) = &mut self.open else { return Ok(()) };
        // A period that has begun since is another budget: its share is held there.
        let extra = hold_all(&open.budgets, open.subject.at, more)?;
        for ((budget, first), second) in open.budgets.iter().zip(&open.held).zip(&extra) {
            if !first.same_period(second) {
                budget.settle(*second, more, NanoUsd::ZERO);
            }
        }
        open.amount = open.amount.saturating_add(more);
        Ok(())
    }

    /// Gives everything back and writes nothing: there was no request.
    pub(super) fn cancel(mut self) {
        let Some(open) = self.open.take() else { return };
        for (budget, held) in open.budgets.iter().zip(&open.held) {
            budget.settle(*held, open.amount, NanoUsd::ZERO);
        }
    }

    /// Counts what the request cost, gives the rest back, and writes the entry.
    pub fn settle(mut self, entry: Entry) {
        if let Some(open) = self.open.take() {
            open.close(entry);
        }
    }
}

fn hold_all(budgets: &Budgets, now: u64, amount: NanoUsd) -> Result<Vec<Held>, Exceeded> {
    let mut held = Vec::with_capacity(budgets.len());
    for budget in budgets.iter() {
        match budget.hold(now, amount) {
            Ok(share) => held.push(share),
            Err(exceeded) => {
                for (budget, share) in budgets.iter().zip(held) {
                    budget.settle(share, amount, NanoUsd::ZERO);
                }
                return Err(exceeded);
            }
        }
    }
    Ok(held)
}

impl Open {
    fn close(self, entry: Entry) {
        let mut crossed: Vec<Crossed> = Vec::new();
        for (budget, held) in self.budgets.iter().zip(&self.held) {
            crossed.extend(budget.settle(*held, self.amount, entry.cost));
        }
        self.ledger.raise(crossed);
        self.ledger.write(entry, self.pin);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let (cost, basis) = match open.sent {
            true => (open.amount, Basis::Reserved),
            false => (NanoUsd::ZERO, Basis::Nothing),
        };
        let entry = Entry::bare(open.subject.clone(), cost, basis);
        open.close(entry);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open {
            Some(open) => write!(f, "{} held for {}", open.amount, open.subject.id),
            None => f.write_str("settled"),
        }
    }
}
