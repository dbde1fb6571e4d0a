//! What the phases of one request know of each other.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderValue;
use pingora_proxy::FailToProxy;

use crate::{
    cache::{Entry, Key, Lead},
    config::{CacheRules, Cors},
    connections::Connection,
    engines::Engines,
    error::Fault,
    ledger::Reservation,
    limits::Permit,
    openai::{CallPrices, Endpoint, Hosted, Labels, StreamRelay},
    pricing::Price,
    providers::exchange::{Exchange, StreamTranslator},
    proxy::{
        ask::Body,
        dispatch::{Attempt, Dispatch},
        held::Withheld,
        keeper::Keeper,
        metering::{Bill, Quote, Tally},
    },
    routing::{Candidates, FirstToLast, Plan, Reason, Target},
    stored_responses::Turn,
    telemetry::{InFlight, Metrics},
    tenants::{Governance, Principal},
    types::{RequestId, Secret, ServiceTier},
};

/// One request from its header to its record.
pub struct Context {
    /// The engines as they were when the request came; a reload does not change a request that is under way.
    pub engines: Arc<Engines>,
    /// The gateway's id for it.
    pub id: RequestId,
    /// When its header had arrived.
    pub started: Instant,
    /// What is asked for; `Other` until identified.
    pub endpoint: Endpoint,
    /// It wants to become a WebSocket.
    pub websocket: bool,
    /// The connection that it came on, if that serves one request at a time.
    pub connection: Option<Arc<Connection>>,
    /// The client is one of Anthropic's: it reads errors in that shape.
    pub anthropic: bool,
    /// What lives longer than a configuration: tokens, meters, budgets.
    pub governance: Arc<Governance>,
    /// The client's own credential for a provider.
    pub credential: Option<Secret>,
    /// The client's `chitty_` token, or what it presents as one.
    pub token: Option<Secret>,
    /// Who asks; `None` before that is known.
    pub principal: Option<Principal>,
    /// Its place among the open requests; given back on drop.
    pub permit: Option<Permit>,
    /// The most it can cost.
    pub quote: Option<Quote>,
    /// The tools in it that a provider runs itself.
    pub hosted: Option<Arc<Hosted>>,
    /// Money held for it; settled or given back on drop.
    pub reservation: Option<Reservation>,
    /// What is needed to count tokens if the provider does not.
    pub tally: Option<Box<Tally>>,
    /// The body, where the gateway reads it.
    pub body: Option<Box<Body>>,
    /// The body of a request that is only forwarded, where it was read for what it refers to.
    pub forwarded: Option<Bytes>,
    /// That body was read as JSON.
    pub forwarded_json: bool,
    /// Takes down what the provider's reply tells of objects.
    pub keeper: Option<Box<Keeper>>,
    /// For its response, where the gateway is to keep it in the provider's place.
    pub turn: Option<Box<Turn>>,
    /// What it has continued, before the whole conversation took its place.
    pub previous_response_id: Option<Arc<str>>,
    /// What the cache does with its reply.
    pub course: Course,
    /// What the cache knows of it; `None` where it has no part.
    pub cached: Option<Box<Cached>>,
    /// Where it may go, and who is asked.
    pub dispatch: Dispatch,
    /// True when the provider's reply has an end of its own: a length, chunks, or an HTTP/2 stream.
    pub framed: bool,
    /// Puts the provider's stream into the client's dialect, where that is another one.
    pub translator: Option<Box<StreamTranslator>>,
    /// How the provider's reply reaches the client.
    pub delivery: Delivery,
    /// How the exchange was given up, where it was a task of its own.
    pub given_up: Option<FailToProxy>,
    /// Another context has all that is known of the request: that of the task which goes on with it.
    pub handed_over: bool,
    /// The reply to an upload, where its body is held back.
    pub withheld: Option<Withheld>,
    /// What the reply told about usage; shared with the held reply's last step.
    bill: OnceLock<Arc<Mutex<Bill>>>,
    /// The gateway ended the stream because its budget was used up.
    pub stopped: bool,
    /// When the provider had said that the answer is finished, before it told what it counted.
    pub generated: Option<Instant>,
    /// When the provider's stream was last read.
    pub last_read: Option<Instant>,
    /// How long the provider's stream may have lain unread when it ended: its client did not take what there was.
    pub unread_for: Duration,
    /// When the relayed stream came to its end, good or bad.
    pub stream_over: Option<Instant>,
    /// When the first byte left for the client.
    pub first_byte: Option<Instant>,
    /// The fault the gateway answered with, if it did.
    pub fault: Option<Fault>,
    /// The metrics that observe it.
    pub metrics: Arc<Metrics>,
    /// Counts it as open; given back on drop. `None` for a stand-in.
    _open: Option<InFlight>,
}

/// How the provider's reply reaches the client.
#[derive(Default)]
pub enum Delivery {
    /// Byte for byte as it arrives.
    #[default]
    Pass,
    /// Held until complete, so that its header can carry the cost.
    Hold,
    /// Event by event.
    Relay(Box<StreamRelay>),
}

/// What the cache does with a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Course {
    /// It has no part in it.
    #[default]
    Bypass,
    /// It had none, and may keep this one.
    Miss,
    /// It serves one of its own, or one that is being made for another request.
    Hit,
    /// It serves one that has expired, because no deployment answered.
    Stale,
}

impl Course {
    /// The word in the header, the metrics and the ledger.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bypass => "BYPASS",
            Self::Miss => "MISS",
            Self::Hit => "HIT",
            Self::Stale => "STALE",
        }
    }

    /// The same as a header's value.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.label())
    }

    /// No provider was asked for the reply.
    pub fn is_served(self) -> bool {
        matches!(self, Self::Hit | Self::Stale)
    }
}

/// What the cache knows of a request.
pub struct Cached {
    /// What it asks, in 256 bits.
    pub key: Key,
    /// What holds for its route.
    pub rules: Arc<CacheRules>,
    /// The provider's name for the model that was routed to: an answer of another model is not kept.
    pub model: Arc<str>,
    /// The flight it leads.
    pub fill: Option<Arc<Lead>>,
    /// For when no deployment answers.
    pub stale: Option<Arc<Entry>>,
    /// What was served.
    pub served: Option<Arc<Entry>>,
    /// Takes the usage out of the events that the cache keeps, for a client that did not ask for it.
    pub veil: Option<Box<StreamRelay>>,
    /// What the request says of its caller: a reply that was made for others gets these in the place of theirs.
    pub labels: Labels,
}

impl Context {
    /// A new request.
    pub fn new(engines: Arc<Engines>, governance: &Arc<Governance>, metrics: &Arc<Metrics>) -> Self {
        Self::counted(engines, governance, metrics, Some(InFlight::enter(metrics)))
    }

    fn counted(
        engines: Arc<Engines>,
        governance: &Arc<Governance>,
        metrics: &Arc<Metrics>,
        open: Option<InFlight>,
    ) -> Self {
        Self {
            engines,
            governance: governance.clone(),
            token: None,
            principal: None,
            permit: None,
            quote: None,
            hosted: None,
            reservation: None,
            tally: None,
            id: RequestId::now(),
            started: Instant::now(),
            endpoint: Endpoint::Other,
            connection: None,
            anthropic: false,
            websocket: false,
            dispatch: Dispatch::default(),
            translator: None,
            credential: None,
            body: None,
            forwarded: None,
            forwarded_json: false,
            keeper: None,
            turn: None,
            previous_response_id: None,
            course: Course::Bypass,
            cached: None,
            framed: false,
            delivery: Delivery::Pass,
            given_up: None,
            handed_over: false,
            withheld: None,
            bill: OnceLock::new(),
            stopped: false,
            generated: None,
            last_read: None,
            unread_for: Duration::ZERO,
            stream_over: None,
            first_byte: None,
            fault: None,
            metrics: metrics.clone(),
            _open: open,
        }
    }

    /// For the client's side of an exchange that is a task of its own: all but its connection stays with `self`.
    pub fn stand_in(&mut self) -> Self {
        let stand_in = Self::counted(self.engines.clone(), &self.governance, &self.metrics, None);
        Self { handed_over: true, connection: self.connection.take(), ..stand_in }
    }

    /// Ends that.
    pub fn come_back(&mut self, own: Self) {
        let connection = self.connection.take();
        *self = Self { connection, ..own };
    }

    /// Which web pages may call.
    pub fn cors(&self) -> Option<&Cors> {
        self.engines.config.http.cors.as_ref()
    }

    /// Name of the provider of the current attempt; `-` before the first.
    pub fn provider(&self) -> &str {
        self.dispatch.provider()
    }

    /// The configured name the model is counted under; `-` before it is known.
    pub fn model_label(&self) -> &str {
        self.dispatch.plan().map_or("-", |plan| &plan.label)
    }

    /// The flight that this request leads.
    pub fn fill(&self) -> Option<&Arc<Lead>> {
        self.cached.as_ref()?.fill.as_ref()
    }

    /// The way back from the dialect of the current target.
    pub fn exchange(&self) -> Option<&Arc<Exchange>> {
        self.dispatch.attempt.as_ref()?.exchange.as_ref()
    }

    /// The price of the current target.
    pub fn price(&self) -> Option<Arc<Price>> {
        self.dispatch.attempt.as_ref()?.price.clone()
    }

    /// What the calls of tools cost that the current target's provider runs; `None` where it runs none for this request, or
    /// where the model has no price.
    pub fn call_prices(&self) -> Option<CallPrices> {
        let Attempt { target, price, .. } = self.dispatch.attempt.as_ref()?;
        self.engines.call_prices(&self.endpoint, self.hosted.as_ref(), target, price.as_deref()?)
    }

    /// Lets go of the request's body once no further attempt can follow: a stream may stay open for minutes.
    pub fn forget_body(&mut self) {
        self.body = None;
        self.forwarded = None;
        if let Some(attempt) = &mut self.dispatch.attempt {
            attempt.body = None;
        }
    }

    /// The tier that was asked for.
    pub fn tier(&self) -> ServiceTier {
        self.quote.map(|quote| quote.tier).unwrap_or_default()
    }

    /// The bill so far.
    pub fn bill(&self) -> MutexGuard<'_, Bill> {
        self.shared_bill().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bill for the last step of a held reply. Made when it is first needed: an open stream has none.
    pub fn shared_bill(&self) -> &Arc<Mutex<Bill>> {
        self.bill.get_or_init(Arc::default)
    }

    /// The deployments of a plan are those that may be asked.
    pub fn open_dispatch(&mut self, plan: Plan) {
        let most = self.engines.config.retry.attempts;
        self.dispatch.candidates = Some(Candidates::new(plan, most, &FirstToLast));
    }

    /// Narrows the deployments that may be asked, see [`Candidates::rule_out`]. Without candidates nothing is narrowed.
    ///
    /// # Errors
    /// None would be left.
    pub fn narrow(&mut self, mut why: impl FnMut(&Self, &Target) -> Option<Reason>) -> Result<(), Reason> {
        let Some(mut candidates) = self.dispatch.candidates.take() else { return Ok(()) };
        let outcome = candidates.rule_out(|target| why(self, target));
        self.dispatch.candidates = Some(candidates);
        outcome
    }
}
