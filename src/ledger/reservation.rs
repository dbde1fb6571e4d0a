//! Money held back for one request, in all the budgets that it counts in.

use std::{fmt, sync::Arc};

use super::{
    Basis, Entry, Ledger, Subject,
    account::{Account, Slot},
    budget::Exceeded,
    journal::Pin,
};
use crate::types::NanoUsd;

/// Holds the worst case of a request until it is settled. Dropped without that, it gives everything back if no provider was
/// asked, and else settles at what it held: the provider may have charged it.
pub struct Reservation {
    /// `None` once it is settled.
    open: Option<Open>,
}

struct Open {
    ledger: Arc<Ledger>,
    account: Arc<Account>,
    slot: Slot,
    amount: NanoUsd,
    subject: Subject,
    /// Keeps the intent on disk until the entry is.
    pin: Option<Pin>,
    sent: bool,
}

impl Reservation {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        account: Arc<Account>,
        slot: Slot,
        subject: Subject,
        amount: NanoUsd,
    ) -> Self {
        Self { open: Some(Open { ledger, account, slot, amount, subject, pin: None, sent: false }) }
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

    /// As a killed process ends: nothing is settled, and the intent stays on disk.
    #[cfg(test)]
    pub(super) fn forget(mut self) {
        self.open = None;
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

    /// Holds more, where every budget has it, and writes that down as well.
    ///
    /// # Errors
    /// The budget that does not have it; what was held stays held.
    pub fn extend(&mut self, more: NanoUsd) -> Result<(), Exceeded> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.account.extend(open.slot, more)?;
        open.amount = open.amount.saturating_add(more);
        // Where it cannot be written, the first amount is what is recovered; the writer says so in the log.
        if let Ok(pin) = open.ledger.journal.note(&open.subject, open.amount) {
            // The line of the first amount may lie in an older segment, which can go: this line says more.
            open.pin = Some(pin);
        }
        Ok(())
    }

    /// Gives everything back and writes nothing: there was no request.
    pub(super) fn cancel(mut self) {
        if let Some(open) = self.open.take() {
            open.account.settle(open.slot, NanoUsd::ZERO);
        }
    }

    /// Counts what the request cost, gives the rest back, and writes the entry.
    pub fn settle(mut self, entry: Entry) {
        if let Some(open) = self.open.take() {
            open.close(entry);
        }
    }
}

impl Open {
    fn close(self, entry: Entry) {
        let cost = entry.cost;
        if let Some(pin) = self.pin.as_ref().filter(|_| cost != self.amount) {
            // What is given back may be another request's at once, and what both held is not to count in the next process.
            // Where it cannot be written, the journal is down, and the writer says so in the log.
            let _ = pin.note_end(self.subject.id, cost);
        }
        // First the entry, then the account: at a hand-over a request is open, or its entry is on its way into the file.
        self.ledger.write(entry, self.pin);
        self.ledger.raise(self.account.settle(self.slot, cost));
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
