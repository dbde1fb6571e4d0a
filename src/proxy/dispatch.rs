//! Dispatch: the candidates for a request, the current attempt, and the outcome of each.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::metering::{BillableFailure, Measure};
use crate::{
    error::GatewayError,
    openai::is_label,
    pricing::Price,
    providers::exchange::Exchange,
    routing::{AttemptOutcome, Candidates, Plan, Target},
    telemetry::Metrics,
};

/// The candidates for a request, and its attempts.
#[derive(Default)]
pub struct Dispatch {
    /// `None` before the request is known.
    pub candidates: Option<Candidates>,
    /// What the next attempt will send.
    pub prepared: Option<Box<Prepared>>,
    /// The attempt under way or the last one.
    pub attempt: Option<Attempt>,
    /// Why another attempt could not be prepared for the moment.
    pub refusal: Option<Box<GatewayError>>,
    /// Earlier attempts that broke while a provider was at work on them: the provider may charge for them.
    pub billable_failures: Vec<BillableFailure>,
    /// The context length, in tokens, that Ollama is asked to run the model with.
    pub context_wish: Option<u64>,
}

impl Dispatch {
    /// The request's plan.
    pub fn plan(&self) -> Option<&Plan> {
        self.candidates.as_ref().map(Candidates::plan)
    }

    /// The target that is asked first, or would be.
    pub fn first(&self) -> Option<&Target> {
        self.candidates.as_ref()?.first()
    }

    /// Number of attempts so far.
    pub fn asked(&self) -> u32 {
        self.candidates.as_ref().map_or(0, Candidates::asked)
    }

    /// When the attempt under way, or the last one, began.
    pub fn began(&self) -> Option<Instant> {
        self.candidates.as_ref()?.began()
    }

    /// The status that the attempt under way, or the last one, was answered with.
    pub fn status(&self) -> Option<u16> {
        self.candidates.as_ref()?.status()
    }

    /// Name of the provider of the attempt under way or the last one; `-` before the first.
    pub fn provider(&self) -> &str {
        self.attempt.as_ref().map_or("-", |attempt| &attempt.target.provider.name)
    }

    /// Asks the last target once more, see [`Candidates::repeat`].
    pub fn repeat(&mut self) -> bool {
        self.candidates.as_mut().is_some_and(Candidates::repeat)
    }

    /// Records that the attempt under way was answered.
    pub fn answered(&mut self, status: u16, metrics: &Metrics) {
        let Some(candidates) = &mut self.candidates else { return };
        candidates.answered(status);
        if let (Some(attempt), Some(began)) = (&self.attempt, candidates.began()) {
            metrics.attempt_answered(&attempt.target.provider.name, status, began.elapsed());
        }
    }

    /// Ends the attempt under way: the only place where an attempt's end is recorded.
    pub fn end(&mut self, outcome: AttemptOutcome, metrics: &Metrics) {
        let Some(record) = self.candidates.as_mut().and_then(|candidates| candidates.end(outcome)) else { return };
        if let Some(failure) = outcome.failure() {
            metrics.attempt_failed(&record.deployment.provider, failure);
        }
    }

    /// The last attempt broke after its request was sent, and without an answer.
    pub fn broke_at_work(&self) -> bool {
        let last = self.candidates.as_ref().and_then(|candidates| candidates.records().last());
        last.is_some_and(|record| record.outcome.is_at_work())
    }

    /// Forgets the attempts so far: they asked something for the gateway, and the client's request has not been sent yet.
    pub fn start_over(&mut self, fresh: bool) {
        (self.prepared, self.attempt) = (None, None);
        if let Some(candidates) = &mut self.candidates {
            candidates.start_over(fresh);
        }
    }
}

/// What the next attempt sends.
pub struct Prepared {
    /// The body as the target's provider gets it.
    pub body: Option<Bytes>,
    /// The translation back from the provider's dialect, if that differs from the client's.
    pub exchange: Option<Arc<Exchange>>,
}

/// One try at one target.
pub struct Attempt {
    /// The target that is asked.
    pub target: Target,
    /// The target's price, if the catalogue has one.
    pub price: Option<Arc<Price>>,
    /// The body as this provider gets it.
    pub body: Option<Bytes>,
    /// The translation back from the provider's dialect, if that differs from the client's.
    pub exchange: Option<Arc<Exchange>>,
    /// True when the client's own credential goes upstream.
    pub own_credential: bool,
    /// The request is on its way: from here on the provider may charge for it.
    pub is_sent: bool,
}

impl Attempt {
    /// How the tokens of the target's model are counted.
    pub fn measure(&self) -> Measure {
        let marked = self.exchange.as_ref().is_some_and(|exchange| exchange.marks_cache);
        Measure::of(&self.target, marked)
    }

    /// The parameters that the translation dropped, as the header lists them.
    pub fn dropped(&self) -> Arc<str> {
        self.exchange.as_ref().map_or_else(|| "".into(), |exchange| exchange.dropped.join(", ").into())
    }

    /// Like [`Self::dropped`], for followers, whose labels may differ: `metadata.team` would tell them a key that the caller
    /// chose.
    pub fn dropped_for_all(&self) -> Arc<str> {
        let dropped = self.exchange.iter().flat_map(|exchange| &exchange.dropped);
        let told: Vec<_> = dropped.map(|name| &**name).filter(|name| !is_of_a_label(name)).collect();
        told.join(", ").into()
    }
}

fn is_of_a_label(dropped: &str) -> bool {
    is_label(dropped.split(['.', '[']).next().unwrap_or_default())
}
