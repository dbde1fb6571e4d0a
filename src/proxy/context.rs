//! The state that the phases of one request share.

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
    /// State that outlives a snapshot: tokens, meters, budgets.
    pub shared: Arc<SharedState>,
    /// The metrics that observe the request.
    pub metrics: Arc<Metrics>,
    /// How the request arrived.
    pub arrival: Arrival,
    /// Who asks.
    pub asker: Asker,
    /// What is asked.
    pub ask: Ask,
    /// What the request may use.
    pub grant: Grant,
    /// The cache's part in the request.
    pub ticket: Ticket,
    /// Which deployments may be asked, and which one is.
    pub dispatch: Dispatch,
    /// What becomes of the answer.
    pub reply: Reply,
    /// Whether another task has taken the request over.
    pub handed: Handed,
}

/// How a request came.
pub struct Arrival {
    /// The gateway's id for it.
    pub id: RequestId,
    /// When its header had arrived.
    pub started: Instant,
    /// The connection that the request came on, if the connection serves one request at a time.
    pub connection: Option<Arc<Connection>>,
    /// Counts the request as open until dropped. `None` for a stand-in.
    _open: Option<InFlight>,
}

/// Who asks.
#[derive(Default)]
pub struct Asker {
    /// The client's own credential for a provider.
    pub credential: Option<Secret>,
    /// The client's credential for an authenticator: a `chitty_` token, or a value presented as one. No provider gets it.
    pub claimed: Option<Secret>,
    /// The tenant, its policy and its scopes; `None` before the client is identified.
    pub principal: Option<Principal>,
}

impl Asker {
    /// Whether the client may not use the gateway's own keys. True as well before the client is identified.
    pub fn is_stranger(&self) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.own_keys_only)
    }
}

/// What a request may use, given back or settled at its end.
#[derive(Default)]
pub struct Grant {
    /// The request's place among the open requests; given back on drop.
    pub permit: Option<Permit>,
    /// What the request can cost.
    pub terms: Terms,
    /// Money held for the request; settled or given back on drop.
    pub reservation: Option<Reservation>,
}

impl Grant {
    /// The most that the request can cost, if the gateway counts its cost.
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
    /// Not worked out: the request goes to no provider.
    #[default]
    Unknown,
    /// Nothing, or the gateway does not count the cost and the client may send the request all the same.
    Uncounted,
    /// At most this much.
    UpTo(Quote),
}

/// The cache's part in a request.
#[derive(Default)]
pub struct Ticket {
    /// What the cache does with the reply.
    pub cache_status: CacheStatus,
    /// What the cache knows of the request; `None` if the cache has no part in it.
    pub cached: Option<Box<Cached>>,
}

/// What becomes of the answer.
#[derive(Default)]
pub struct Reply {
    /// How the reply reaches the client.
    pub delivery: Delivery,
    /// True when the provider's reply has an end of its own: a length, chunks, or an HTTP/2 stream.
    pub framed: bool,
    /// Records the objects that the reply names.
    pub keeper: Option<Box<Keeper>>,
    /// The turn of a response that the gateway is to store in the provider's place.
    pub turn: Option<Box<Turn>>,
    /// The reply to an upload, where its body is held back.
    pub withheld: Option<Withheld>,
    /// The usage that the reply reported; shared with the last step of a held reply.
    bill: OnceLock<Arc<Mutex<Bill>>>,
    /// When the first byte was written to the client.
    pub first_byte: Option<Instant>,
    /// The fault the gateway answered with, if it did.
    pub fault: Option<Fault>,
}

/// Whether another task has taken a request over.
#[derive(Default)]
pub enum Handed {
    /// No.
    #[default]
    Here,
    /// Another context has taken the request over.
    Over,
    /// The task has given the request up, and has told the client.
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
    /// The cache has no part in the reply.
    #[default]
    Bypass,
    /// The cache had no answer, and may keep this one.
    Miss,
    /// The cache serves an answer that it keeps, or one that is being made for another request.
    Hit,
    /// The cache serves an answer that has expired, because no deployment answered.
    Stale,
}

impl CacheStatus {
    /// The status as written in the header, the metrics and the ledger.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bypass => "BYPASS",
            Self::Miss => "MISS",
            Self::Hit => "HIT",
            Self::Stale => "STALE",
        }
    }

    /// The status as a header's value.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.label())
    }

    /// The reply came from the cache; no provider was asked.
    pub fn is_served(self) -> bool {
        matches!(self, Self::Hit | Self::Stale)
    }
}

/// What the cache knows of a request.
pub struct Cached {
    /// The request's cache key, of 256 bits.
    pub key: Key,
    /// The cache rules of the request's route.
    pub rules: Arc<CacheRules>,
    /// The provider's name for the model that was routed to: an answer of another model is not kept.
    pub model: Arc<str>,
    /// The flight that the request leads.
    pub flight: Option<Arc<Lead>>,
    /// An expired answer, for use if no deployment answers.
    pub stale: Option<Arc<Entry>>,
    /// The answer that was served.
    pub served: Option<Arc<Entry>>,
    /// Removes the usage from the events that the cache keeps, for a client that did not ask for it.
    pub usage_filter: Option<Box<StreamRelay>>,
    /// The labels that the request gives its caller: a reply that was made for another request gets them in place of its own.
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

    /// A context for the client's side of an exchange that becomes a task of its own. `self` keeps everything but the connection.
    pub fn stand_in(&mut self) -> Self {
        let mut stand_in = Self::counted(self.snapshot.clone(), &self.shared, &self.metrics, None);
        stand_in.handed = Handed::Over;
        stand_in.arrival.connection = self.arrival.connection.take();
        stand_in
    }

    /// Takes the request back from that task: `own` replaces the stand-in, which passes its connection on.
    pub fn come_back(&mut self, own: Self) {
        let connection = self.arrival.connection.take();
        *self = own;
        self.arrival.connection = connection;
    }

    /// The stream, if the answer is one.
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

    /// The translation back from the dialect of the current target.
    pub fn exchange(&self) -> Option<&Arc<Exchange>> {
        self.dispatch.attempt.as_ref()?.exchange.as_ref()
    }

    /// The price of the current target.
    pub fn price(&self) -> Option<Arc<Price>> {
        self.dispatch.attempt.as_ref()?.price.clone()
    }

    /// The prices of the tool calls that the current target's provider runs; `None` if the provider runs none for this request,
    /// or if the model has no price.
    pub fn call_prices(&self) -> Option<CallPrices> {
        let Attempt { target, price, .. } = self.dispatch.attempt.as_ref()?;
        self.snapshot.call_prices(&self.ask.endpoint, self.ask.hosted.as_ref(), target, price.as_deref()?)
    }

    /// Drops the request's body once no further attempt can follow: a stream may stay open for minutes.
    pub fn forget_body(&mut self) {
        self.ask.body = None;
        self.ask.forwarded = None;
        if let Some(attempt) = &mut self.dispatch.attempt {
            attempt.body = None;
        }
    }

    /// The service tier that was asked for.
    pub fn tier(&self) -> ServiceTier {
        self.grant.quote().map(|quote| quote.tier).unwrap_or_default()
    }

    /// The bill so far.
    pub fn bill(&self) -> MutexGuard<'_, Bill> {
        self.shared_bill().lock()
    }

    /// The bill, shared with the last step of a held reply. Made when it is first needed: an open stream has none.
    pub fn shared_bill(&self) -> &Arc<Mutex<Bill>> {
        self.reply.bill.get_or_init(Arc::default)
    }

    /// Makes the deployments of a plan the request's candidates.
    pub fn open_dispatch(&mut self, plan: Plan) {
        let most = self.snapshot.config.retry.attempts;
        self.dispatch.candidates = Some(Candidates::new(plan, most, &FirstToLast));
    }

    /// Narrows the candidates, see [`Candidates::rule_out`].
    ///
    /// # Errors
    /// No candidate would be left, or there are none yet.
    pub fn narrow(&mut self, mut why: impl FnMut(&Self, &Target) -> Option<Reason>) -> Result<(), Reason> {
        let Some(mut candidates) = self.dispatch.candidates.take() else { return Err(Reason::Other) };
        let outcome = candidates.rule_out(|target| why(self, target));
        self.dispatch.candidates = Some(candidates);
        outcome
    }
}
