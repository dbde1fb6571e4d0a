//! Dispatch: who may serve a request, who is asked, and what has become of it.

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

/// Where a request may go, and who is asked.
#[derive(Default)]
pub struct Dispatch {
    /// `None` before it is known what is asked for.
    pub candidates: Option<Candidates>,
    /// What the attempt that comes next will send.
    pub prepared: Option<Box<Prepared>>,
    /// The attempt under way or the last one.
    pub attempt: Option<Attempt>,
    /// Why another attempt could not be prepared for the moment.
    pub refusal: Option<Box<GatewayError>>,
    /// Earlier attempts that a provider was at work on when they broke: it may charge for them.
    pub billable_failures: Vec<BillableFailure>,
    /// The context that Ollama is asked to run the model with.
    pub context_wish: Option<u64>,
}

impl Dispatch {
    /// What holds for the request where it may go.
    pub fn plan(&self) -> Option<&Plan> {
        self.candidates.as_ref().map(Candidates::plan)
    }

    /// The one that is asked first, or would be.
    pub fn first(&self) -> Option<&Target> {
        self.candidates.as_ref()?.first()
    }

    /// Attempts so far.
    pub fn asked(&self) -> u32 {
        self.candidates.as_ref().map_or(0, Candidates::asked)
    }

    /// When the attempt under way, or the last one, began.
    pub fn began(&self) -> Option<Instant> {
        self.candidates.as_ref()?.began()
    }

    /// The status that it was answered with.
    pub fn status(&self) -> Option<u16> {
        self.candidates.as_ref()?.status()
    }

    /// Name of the provider of the attempt under way or the last one; `-` before the first.
    pub fn provider(&self) -> &str {
        self.attempt.as_ref().map_or("-", |attempt| &attempt.target.provider.name)
    }

    /// Asks the one that was asked last once more, see [`Candidates::repeat`].
    pub fn repeat(&mut self) -> bool {
        self.candidates.as_mut().is_some_and(Candidates::repeat)
    }

    /// The attempt under way was answered.
    pub fn answered(&mut self, status: u16, metrics: &Metrics) {
        let Some(candidates) = &mut self.candidates else { return };
        candidates.answered(status);
        if let (Some(attempt), Some(began)) = (&self.attempt, candidates.began()) {
            metrics.attempt_answered(&attempt.target.provider.name, status, began.elapsed());
        }
    }

    /// The attempt under way is over: the one place where that is told.
    pub fn end(&mut self, outcome: AttemptOutcome, metrics: &Metrics) {
        let Some(record) = self.candidates.as_mut().and_then(|candidates| candidates.end(outcome)) else { return };
        if let Some(failure) = outcome.failure() {
            metrics.attempt_failed(&record.deployment.provider, failure);
        }
    }

    /// The last attempt broke after its request had gone out, without an answer.
    pub fn broke_at_work(&self) -> bool {
        let last = self.candidates.as_ref().and_then(|candidates| candidates.records().last());
        last.is_some_and(|record| record.outcome.is_at_work())
    }

    /// What was asked was not the client's request: nobody has been asked for that.
    pub fn start_over(&mut self, fresh: bool) {
        (self.prepared, self.attempt) = (None, None);
        if let Some(candidates) = &mut self.candidates {
            candidates.start_over(fresh);
        }
    }
}

/// What the next attempt sends.
pub struct Prepared {
    /// The body as its provider gets it.
    pub body: Option<Bytes>,
    /// The way back from its dialect, where that is another one than the client's.
    pub exchange: Option<Arc<Exchange>>,
}

/// One try at one target.
pub struct Attempt {
    /// Where to.
    pub target: Target,
    /// What that costs, where the price list knows.
    pub price: Option<Arc<Price>>,
    /// The body as this provider gets it.
    pub body: Option<Bytes>,
    /// The way back from its dialect, where that is another one than the client's.
    pub exchange: Option<Arc<Exchange>>,
    /// True when the client's own credential goes upstream.
    pub own_credential: bool,
    /// Its request is on its way: from here on the provider may charge for it.
    pub is_sent: bool,
}

impl Attempt {
    /// How its model's tokens are counted.
    pub fn measure(&self) -> Measure {
        let marked = self.exchange.as_ref().is_some_and(|exchange| exchange.marks_cache);
        Measure::of(&self.target, marked)
    }

    /// What its translation left out, as the header tells it.
    pub fn dropped(&self) -> Arc<str> {
        self.exchange.as_ref().map_or_else(|| "".into(), |exchange| exchange.dropped.join(", ").into())
    }

    /// The same for those who ask the same with other labels: `metadata.team` would tell them a word of the caller's.
    pub fn dropped_for_all(&self) -> Arc<str> {
        let dropped = self.exchange.iter().flat_map(|exchange| &exchange.dropped);
        let told: Vec<_> = dropped.map(|name| &**name).filter(|name| !is_of_a_label(name)).collect();
        told.join(", ").into()
    }
}

fn is_of_a_label(dropped: &str) -> bool {
    is_label(dropped.split(['.', '[']).next().unwrap_or_default())
}
