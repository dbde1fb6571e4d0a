//! What the phases of one request know of each other.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use pingora_proxy::FailToProxy;

use crate::{
    cache::{Entry, Key, Lead},
    config::{CacheRules, Cors},
    connections::Connection,
    error::Fault,
    ledger::Reservation,
    limits::Permit,
    openai::{CallPrices, Labels, StreamRelay},
    pricing::Price,
    providers::{
        adapter::{self, Adapter},
        exchange::Exchange,
    },
    proxy::{
        ask::Ask,
        dispatch::{Attempt, Dispatch},
        held::Withheld,
        keeper::Keeper,
        metering::{Bill, Quote},
        stream::Stream,
    },
    routing::{Candidates, FirstToLast, Plan, Reason, Target},
    snapshot::Snapshot,
    stored_responses::Turn,
    telemetry::{InFlight, Metrics},
    tenants::{Principal, SharedState},
    types::{RequestId, Secret, ServiceTier},
};

/// One request from its header to its record.
pub struct Context {
    /// The configuration as it was when the request came; a reload does not change a request that is under way.
    pub snapshot: Arc<Snapshot>,
    /// What lives longer than a configuration: tokens, meters, budgets.
    pub shared: Arc<SharedState>,
    /// The metrics that observe it.
    pub metrics: Arc<Metrics>,
    /// How it came.
    pub arrival: Arrival,
    /// Who asks.
    pub asker: Asker,
    /// What is asked.
    pub ask: Ask,
    /// What it may use.
    pub grant: Grant,
    /// The cache's part in it.
    pub ticket: Ticket,
    /// Where it may go, and who is asked.
    pub dispatch: Dispatch,
    /// What becomes of the answer.
    pub reply: Reply,
    /// Whether another task goes on with it.
    pub handed: Handed,
}

/// How a request came.
pub struct Arrival {
    /// The gateway's id for it.
    pub id: RequestId,
    /// When its header had arrived.
    pub started: Instant,
    /// The connection that it came on, if that serves one request at a time.
    pub connection: Option<Arc<Connection>>,
    /// Counts it as open; given back on drop. `None` for a stand-in.
    _open: Option<InFlight>,
}

/// Who asks.
#[derive(Default)]
pub struct Asker {
    /// The client's own credential for a provider.
    pub credential: Option<Secret>,
    /// What an authenticator claims: a `chitty_` token, or what is presented as one. It goes to no provider.
    pub claimed: Option<Secret>,
    /// The tenant and all that holds for it; `None` before that is known.
    pub principal: Option<Principal>,
}

impl Asker {
    /// Whether nothing of the gateway's own keys is for it, as nothing is for who is not known.
    pub fn is_stranger(&self) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.own_keys_only)
    }
}

/// What a request may use, given back or settled at its end.
#[derive(Default)]
pub struct Grant {
    /// Its place among the open requests; given back on drop.
    pub permit: Option<Permit>,
    /// What it can cost.
    pub terms: Terms,
    /// Money held for it; settled or given back on drop.
    pub reservation: Option<Reservation>,
}

impl Grant {
    /// The most that the request can cost, where that is counted.
    pub fn quote(&self) -> Option<&Quote> {
        match &self.terms {
            Terms::UpTo(quote) => Some(quote),
            Terms::Unknown | Terms::Uncounted => None,
        }
    }
}

/// What a request can cost.
#[derive(Default)]
pub enum Terms {
    /// Nobody has found out: it goes to no provider.
    #[default]
    Unknown,
    /// Nothing, or the gateway does not count it and its caller may use it all the same.
    Uncounted,
    /// At most this.
    UpTo(Quote),
}

/// The cache's part in a request.
#[derive(Default)]
pub struct Ticket {
    /// What the cache does with its reply.
    pub cache_status: CacheStatus,
    /// What the cache knows of it; `None` where it has no part.
    pub cached: Option<Box<Cached>>,
}

/// What becomes of the answer.
#[derive(Default)]
pub struct Reply {
    /// How it reaches the client.
    pub delivery: Delivery,
    /// True when the provider's reply has an end of its own: a length, chunks, or an HTTP/2 stream.
    pub framed: bool,
    /// Takes down what it tells of objects.
    pub keeper: Option<Box<Keeper>>,
    /// For a response that the gateway is to keep in the provider's place.
    pub turn: Option<Box<Turn>>,
    /// The reply to an upload, where its body is held back.
    pub withheld: Option<Withheld>,
    /// What it told about usage; shared with the held reply's last step.
    bill: OnceLock<Arc<Mutex<Bill>>>,
    /// When the first byte left for the client.
    pub first_byte: Option<Instant>,
    /// The fault the gateway answered with, if it did.
    pub fault: Option<Fault>,
}

/// Whether another task goes on with a request.
#[derive(Default)]
pub enum Handed {
    /// No.
    #[default]
    Here,
    /// Another context has all that is known of it.
    Over,
    /// The task has given it up, and told the client.
    Back(FailToProxy),
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
    Relay(Box<Stream>),
}

/// What the cache does with a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheStatus {
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

impl CacheStatus {
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
    pub flight: Option<Arc<Lead>>,
    /// For when no deployment answers.
    pub stale: Option<Arc<Entry>>,
    /// What was served.
    pub served: Option<Arc<Entry>>,
    /// Takes the usage out of the events that the cache keeps, for a client that did not ask for it.
    pub usage_filter: Option<Box<StreamRelay>>,
    /// What the request says of its caller: a reply that was made for others gets these in the place of theirs.
    pub labels: Labels,
}

impl Context {
    /// A new request.
    pub fn new(snapshot: Arc<Snapshot>, shared: &Arc<SharedState>, metrics: &Arc<Metrics>) -> Self {
        Self::counted(snapshot, shared, metrics, Some(InFlight::enter(metrics)))
    }

    fn counted(
        snapshot: Arc<Snapshot>,
        shared: &Arc<SharedState>,
        metrics: &Arc<Metrics>,
        open: Option<InFlight>,
    ) -> Self {
        Self {
            snapshot,
            shared: shared.clone(),
            metrics: metrics.clone(),
            arrival: Arrival { id: RequestId::now(), started: Instant::now(), connection: None, _open: open },
            asker: Asker::default(),
            ask: Ask::default(),
            grant: Grant::default(),
            ticket: Ticket::default(),
            dispatch: Dispatch::default(),
            reply: Reply::default(),
            handed: Handed::Here,
        }
    }

    /// For the client's side of an exchange that is a task of its own: all but its connection stays with `self`.
    pub fn stand_in(&mut self) -> Self {
        let mut stand_in = Self::counted(self.snapshot.clone(), &self.shared, &self.metrics, None);
        stand_in.handed = Handed::Over;
        stand_in.arrival.connection = self.arrival.connection.take();
        stand_in
    }

    /// Ends that.
    pub fn come_back(&mut self, own: Self) {
        let connection = self.arrival.connection.take();
        *self = own;
        self.arrival.connection = connection;
    }

    /// The stream that the answer is, where it is one.
    pub fn stream(&self) -> Option<&Stream> {
        match &self.reply.delivery {
            Delivery::Relay(stream) => Some(stream),
            _ => None,
        }
    }

    /// Which web pages may call.
    pub fn cors(&self) -> Option<&Cors> {
        self.snapshot.config.http.cors.as_ref()
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
    pub fn flight(&self) -> Option<&Arc<Lead>> {
        self.ticket.cached.as_ref()?.flight.as_ref()
    }

    /// The adapter of the current target; OpenAI's where there is none.
    pub fn adapter(&self) -> &'static dyn Adapter {
        self.dispatch.attempt.as_ref().map_or(&adapter::OpenAi, |attempt| adapter::of(&attempt.target.provider))
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
        self.snapshot.call_prices(&self.ask.endpoint, self.ask.hosted.as_ref(), target, price.as_deref()?)
    }

    /// Lets go of the request's body once no further attempt can follow: a stream may stay open for minutes.
    pub fn forget_body(&mut self) {
        self.ask.body = None;
        self.ask.forwarded = None;
        if let Some(attempt) = &mut self.dispatch.attempt {
            attempt.body = None;
        }
    }

    /// The tier that was asked for.
    pub fn tier(&self) -> ServiceTier {
        self.grant.quote().map(|quote| quote.tier).unwrap_or_default()
    }

    /// The bill so far.
    pub fn bill(&self) -> MutexGuard<'_, Bill> {
        self.shared_bill().lock()
    }

    /// The bill for the last step of a held reply. Made when it is first needed: an open stream has none.
    pub fn shared_bill(&self) -> &Arc<Mutex<Bill>> {
        self.reply.bill.get_or_init(Arc::default)
    }

    /// The deployments of a plan are those that may be asked.
    pub fn open_dispatch(&mut self, plan: Plan) {
        let most = self.snapshot.config.retry.attempts;
        self.dispatch.candidates = Some(Candidates::new(plan, most, &FirstToLast));
    }

    /// Narrows the deployments that may be asked, see [`Candidates::rule_out`].
    ///
    /// # Errors
    /// None would be left, or there are none yet.
    pub fn narrow(&mut self, mut why: impl FnMut(&Self, &Target) -> Option<Reason>) -> Result<(), Reason> {
        let Some(mut candidates) = self.dispatch.candidates.take() else { return Err(Reason::Other) };
        let outcome = candidates.rule_out(|target| why(self, target));
        self.dispatch.candidates = Some(candidates);
        outcome
    }
}
