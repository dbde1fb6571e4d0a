//! Money held back for one request, in all the budgets that it counts in.

use std::{fmt, sync::Arc};

use super::{
    Basis, Entry, Ledger, Subject,
    account::{Account, Slot},
    budget::Exceeded,
    journal::Pin,
};
use crate::types::NanoUsd;

/// Holds the worst-case cost of a request until the request is settled. A reservation that is dropped unsettled gives
/// everything back if no provider was called; otherwise it settles at the amount held, because the provider may have charged it.
pub struct Reservation {
    /// `None` once the request is settled.
    open: Option<Open>,
}

struct Open {
    ledger: Arc<Ledger>,
    account: Arc<Account>,
    slot: Slot,
    amount: NanoUsd,
    subject: Subject,
    /// Keeps the intent on disk until the entry is in the file.
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

    /// The amount that is held.
    pub fn amount(&self) -> NanoUsd {
        self.open.as_ref().map_or(NanoUsd::ZERO, |open| open.amount)
    }

    /// Ends the reservation as a killed process would: nothing is settled, and the intent stays on disk.
    #[cfg(test)]
    pub(super) fn forget(mut self) {
        self.open = None;
    }

    /// The request, its tenant and the moment that decides its period; `None` once the request is settled.
    pub fn subject(&self) -> Option<&Subject> {
        self.open.as_ref().map(|open| &open.subject)
    }

    /// Notes that from now on a provider may charge for the request.
    pub fn mark_sent(&mut self) {
        if let Some(open) = &mut self.open {
            open.sent = true;
        }
    }

    /// Holds more if every budget has enough left, and writes the new amount to the journal.
    ///
    /// # Errors
    /// The budget that does not have enough left; what was held stays held.
    pub fn extend(&mut self, more: NanoUsd) -> Result<(), Exceeded> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.account.extend(open.slot, more)?;
        open.amount = open.amount.saturating_add(more);
        // If the new amount cannot be written, a recovery counts the earlier one; the writer says so in the log.
        if let Ok(pin) = open.ledger.journal.note(&open.subject, open.amount) {
            // The earlier line may lie in an older segment. That segment may be deleted: the new line names the larger amount.
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

    /// Counts the cost of the request, gives the rest back, and writes the entry.
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
            // Another request may hold at once what is given back here; after a crash the next process must not count both
            // amounts. If the line cannot be written, the journal is down, and the writer says so in the log.
            let _ = pin.note_end(self.subject.id, cost);
        }
        // First the entry, then the account: at a hand-over a request is still open, or its entry is on its way to the file.
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
