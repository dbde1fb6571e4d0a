//! Settle: the usage and cost of a request once it is over, and the count of a stream's tokens while it runs.
//!
//! A provider's own count is taken, as far as it is possible. If there is none (the client left, the stream broke, a vendor does
//! not count), an upper bound of prompt and answer is counted off the request's path: with the model's own tokenizer, or by bytes
//! if that is not available. Tokens that may have been generated unseen (a model that thinks, sound, a reply that nobody
//! received) are bounded by what can physically have been generated in the time there was: the ledger never states less than the
//! provider can have charged. A stream is counted while it runs, in small portions, only if it may outgrow a hard budget.

use std::{borrow::Cow, sync::Arc, time::Duration};

use pingora_http::RequestHeader;

use super::admit;
use crate::{
    config::Overrun,
    dialect,
    error::GatewayError,
    ledger::{Basis, Entry, Exceeded, Refusal, Reservation, Subject},
    limits::Permit,
    openai::{Endpoint, ErrorBody, ThinkingWish},
    providers::quirks,
    proxy::{
        context::{Context, Delivery},
        dispatch::Attempt,
        metering::{Cap, Count, Counted, Cut, Measure, NOTICE, Prompt, Settled, StreamMeter, generated_within},
    },
    telemetry::Record,
    types::Api,
    types::{NanoUsd, ServiceTier, Usage},
};

/// The status recorded for a client that left before its reply; nginx's convention.
pub const CLIENT_CLOSED: u16 = 499;

/// The least time from the beginning of a provider's tool call until the model reads on: the call is generated, goes to another
/// server, and its result goes through the model. Searches take a second, containers longer.
const CALL_TAKES: Duration = Duration::from_millis(250);

/// A meter for a stream that begins, in case its provider does not count.
pub fn stream_meter(ctx: &Context) -> Option<StreamMeter> {
    ctx.asker.principal.as_ref()?;
    let (attempt, price) = (ctx.dispatch.attempt.as_ref()?, ctx.price());
    let prompt = Prompt::keep(&ctx.ask.endpoint, ctx.grant.quote(), ctx.ask.body.as_ref().map(|body| &body.bytes));
    let (model, measure, capacity) = (attempt.target.model.clone(), attempt.measure(), ctx.shared.capacity.clone());
    Some(StreamMeter::begin(model, measure, prompt, may_think(ctx), price.as_deref(), cap(ctx), capacity))
}

/// The cap of a stream that has to stop at the end of its budget.
fn cap(ctx: &Context) -> Option<Cap> {
    let (reservation, price, quote) = (ctx.grant.reservation.as_ref()?, ctx.price()?, ctx.grant.quote()?);
    if is_capped(ctx) { Cap::of(reservation, &price, quote) } else { None }
}

/// The most that is settled for the current attempt if its answer is longer than the request allows; `None` if the full cost is
/// settled although it exceeds a budget.
pub fn ceiling(ctx: &Context) -> Option<NanoUsd> {
    let reservation = ctx.grant.reservation.as_ref().filter(|_| is_capped(ctx))?;
    let lost = ctx.dispatch.billable_failures.iter().map(|failure| failure.worst_case).sum();
    Some(reservation.amount().saturating_sub(lost))
}

/// Whether a settlement must never exceed a hard budget.
fn is_capped(ctx: &Context) -> bool {
    let has_hard_budget = ctx.asker.principal.as_ref().is_none_or(|principal| principal.policy.has_hard_budget);
    has_hard_budget && ctx.snapshot.config.budgets.overrun == Overrun::Stop
}

/// Whether the model of the current attempt may generate what its reply does not show.
fn may_think(ctx: &Context) -> bool {
    let (Some(attempt), Some(price)) = (&ctx.dispatch.attempt, ctx.price()) else { return true };
    if !price.may_think() || matches!(ctx.ask.endpoint, Endpoint::Embeddings | Endpoint::Moderations) {
        return false;
    }
    let switches = quirks::thinking_switches(&attempt.target.provider, &attempt.target.model);
    // A translation says no more about thinking than the client does, and reading the body again takes time.
    let said = ctx.ask.body.as_ref().is_none_or(|body| body.peek.speaks_of_thinking());
    let wish = match &attempt.body {
        Some(body) if said => ThinkingWish::of(body, switches),
        Some(_) => ThinkingWish::Unsaid,
        None => ThinkingWish::On,
    };
    match wish {
        ThinkingWish::Off => false,
        ThinkingWish::On => true,
        ThinkingWish::Unsaid => {
            let claude = attempt.target.provider.api() == Api::Anthropic;
            !claude || dialect::claude_thinks_unasked(&attempt.target.model)
        }
    }
}

/// The error for the event that ends a stream whose budget is used up.
pub fn overrun(ctx: &Context, exceeded: &Exceeded) -> ErrorBody {
    let GatewayError { fault, message, .. } = admit::over_budget(exceeded, &ctx.snapshot.config);
    ErrorBody::new(format!("The stream was stopped. {message}"), fault.kind(), Some(fault.code()))
}

/// How a request ended.
pub struct End {
    /// The status that the client got; 499 if it left.
    pub status: u16,
    /// Time until the reply's first byte.
    pub first_byte: Option<Duration>,
    /// Time until the reply's last byte.
    pub duration: Duration,
    /// Why the request failed.
    pub error: Option<Cow<'static, str>>,
}

/// Everything that is still to be done for a request that is over, detached from its session.
pub struct Closing {
    subject: Option<Subject>,
    reservation: Option<Reservation>,
    permit: Option<Permit>,
    /// LLM tokens that were charged to the limits.
    estimate: u64,
    /// The gateway's own count never makes a budget be exceeded: a stream is stopped where its reservation ends.
    is_capped: bool,
    ledger: Arc<crate::ledger::Ledger>,
    /// Code of the error that the gateway answered with; `-` for none.
    code: &'static str,
    /// The request was answered from the cache.
    is_served: bool,
    /// The request's record, without usage and cost.
    record: Record,
}

/// The bound of a stream with the provider's tools whose client left, from what the provider has shown: each call that has begun
/// makes the model read its prompt once more, with the results in it. Calls that began unseen are paid for too, and each takes at
/// least [`CALL_TAKES`]. `None` if the stream does not show its calls, or ended in another way.
fn cut(ctx: &Context, status: u16, so_far: Option<Usage>) -> Option<Cut> {
    let (Some(stream), Some(quote), None) = (ctx.stream(), ctx.grant.quote(), ctx.exchange()) else {
        return None;
    };
    if status != CLIENT_CLOSED || stream.over.is_some() || !quote.tells_of_calls {
        return None;
    }
    let calls = ctx.call_prices()?;
    let window = stream.unread_for.saturating_add(NOTICE).as_millis().saturating_sub(CALL_TAKES.as_millis());
    let unseen_calls = u64::try_from(window.div_ceil(CALL_TAKES.as_millis())).unwrap_or(u64::MAX);
    let begun = stream.relay.calls()?.begun()?.saturating_add(unseen_calls);
    let generated = unseen(ctx).max(stream.relay.generated_bytes());
    let first = so_far.map(|usage| usage.prompt_tokens);
    let prompt_tokens = calls.prompt_after(begun, (first, quote.shown_prompt), generated, quote.longest_prompt);
    Some(Cut { prompt_tokens: prompt_tokens.min(quote.most_prompt), calls: calls.most()? })
}

/// The cost of a request, or the count that it takes to know it.
pub enum SettleVerdict {
    /// The cost is known.
    Known(Settled),
    /// Its tokens have to be counted first.
    Count(Box<Count>),
}

/// Takes everything from a context that closes the request, and returns the cost or the count that is needed first.
pub fn close(request: &RequestHeader, ctx: &mut Context, end: End) -> (Closing, SettleVerdict) {
    let (doubted, beyond) = {
        let bill = ctx.bill();
        let beyond = bill.counted.map_or(NanoUsd::ZERO, |counted| counted.beyond);
        (bill.doubted || bill.counted.is_some_and(|counted| counted.doubted), beyond)
    };
    let verdict = match verdict(ctx, end.status) {
        SettleVerdict::Known(settled) if !ctx.dispatch.billable_failures.is_empty() => {
            let mut count = count_of(ctx, String::new());
            count.known = Some(settled);
            SettleVerdict::Count(Box::new(count))
        }
        verdict => verdict,
    };
    // A reservation was dated when it was made: its entry counts in the same period.
    let dated = ctx.grant.reservation.as_ref().and_then(Reservation::subject).cloned();
    let closing = Closing {
        subject: dated.or_else(|| ctx.asker.principal.as_ref().map(|principal| admit::subject(ctx, principal))),
        reservation: ctx.grant.reservation.take(),
        permit: ctx.grant.permit.take(),
        estimate: ctx.grant.quote().map_or(0, |quote| quote.tokens),
        is_capped: is_capped(ctx),
        ledger: ctx.shared.ledger.clone(),
        code: ctx.reply.fault.map_or("-", |fault| fault.code()),
        is_served: ctx.ticket.cache_status.is_served(),
        record: Record { doubted, beyond, ..record(request, ctx, end) },
    };
    (closing, verdict)
}

/// The record of a request before it is settled.
fn record(request: &RequestHeader, ctx: &Context, end: End) -> Record {
    let nobody = || Arc::<str>::from("-");
    let target = ctx.dispatch.attempt.as_ref().map(|attempt| &attempt.target);
    let asked = target.map_or_else(nobody, |target| target.provider.name.clone());
    let served = ctx.ticket.cached.as_ref().and_then(|cached| cached.served.as_ref());
    let has_model = ctx.ask.endpoint.reads_body();
    let model = target.filter(|target| has_model && !target.model.is_empty()).map(|target| target.model.clone());
    let principal = ctx.asker.principal.as_ref();
    let End { status, first_byte, duration, error } = end;
    Record {
        id: ctx.arrival.id,
        method: request.method.clone(),
        uri: request.uri.clone(),
        endpoint: ctx.ask.endpoint.label(),
        is_understood: has_model,
        tenant: principal.map(|principal| principal.policy.id.clone()),
        token: principal.and_then(|principal| Some(principal.identity.as_ref()?.id.clone())),
        route: ctx.dispatch.plan().map_or_else(nobody, |plan| plan.label.clone()),
        provider: served.map_or_else(|| asked.clone(), |entry| entry.provider.clone()),
        asked,
        model: served.map(|entry| entry.model.clone()).or(model).unwrap_or_else(nobody),
        attempts: ctx.dispatch.asked(),
        cache: ctx.ticket.cache_status.label(),
        status,
        first_byte,
        duration,
        usage: None,
        cost: None,
        basis: Basis::Nothing.label(),
        saved: served.map_or(NanoUsd::ZERO, |entry| entry.cost),
        beyond: NanoUsd::ZERO,
        doubted: false,
        error,
    }
}

fn verdict(ctx: &mut Context, status: u16) -> SettleVerdict {
    let nothing = Settled { usage: None, cost: Some(NanoUsd::ZERO), basis: Basis::Nothing };
    if ctx.ticket.cache_status.is_served() && ctx.dispatch.asked() == 0 {
        return SettleVerdict::Known(nothing);
    }
    let bill = std::mem::take(&mut *ctx.bill());
    if let Some(Counted { usage, cost, .. }) = bill.counted {
        let basis = if cost.is_some() { Basis::Provider } else { Basis::Unpriced };
        return SettleVerdict::Known(Settled { usage: Some(usage), cost, basis });
    }
    let served = ctx.dispatch.status().is_some_and(|status| (200..300).contains(&status));
    if ctx.ask.endpoint == Endpoint::Other {
        // The cost of a forwarded request is unknown.
        return SettleVerdict::Known(if served {
            Settled { cost: None, basis: Basis::Unpriced, ..nothing }
        } else {
            nothing
        });
    }
    let streamed = matches!(ctx.reply.delivery, Delivery::Relay(_));
    // A provider that was at work when the client left, when the gateway's timeout ended, or that broke off may charge for it.
    let sent = ctx.dispatch.attempt.as_ref().is_some_and(|attempt| attempt.is_sent);
    let unheard = ctx.dispatch.status().is_none() && (status == CLIENT_CLOSED && sent || ctx.dispatch.broke_at_work());
    let free = matches!(
        ctx.ask.endpoint,
        Endpoint::Moderations | Endpoint::CountTokens | Endpoint::Models | Endpoint::Model(_)
    );
    if !served && !unheard || free {
        return SettleVerdict::Known(nothing);
    }
    // A whole reply reached the client, and its number of tokens is unknown.
    let whole =
        served && !streamed && status < 400 && bill.uncounted.is_none() && ctx.ask.endpoint != Endpoint::Embeddings;
    let stream_meter = ctx.stream().and_then(|stream| stream.stream_meter.as_ref());
    let may_think = stream_meter.map_or_else(|| may_think(ctx), |stream_meter| stream_meter.may_think());
    // Of a stream and of a whole reply everything but the thinking was seen; of a reply that broke before that, nothing.
    let seen = streamed || bill.uncounted.is_some();
    let cut = cut(ctx, status, bill.so_far);
    let text = match (&mut ctx.reply.delivery, bill.uncounted) {
        (Delivery::Relay(stream), _) if cut.is_some() => Some(stream.relay.take_generated()),
        // The provider has read more than the gateway can count.
        _ if ctx.grant.quote().is_some_and(|quote| quote.unbounded_prompt) => None,
        (Delivery::Relay(stream), _) => Some(stream.relay.take_generated()),
        (_, Some(text)) => text,
        _ if whole => None,
        _ => Some(String::new()),
    };
    let price = ctx.price();
    let Some(text) = text else {
        // The generated text is unknown, so the most that it can have been is settled.
        return SettleVerdict::Known(match (&ctx.grant.reservation, price) {
            (Some(reservation), Some(_)) => {
                Settled { usage: None, cost: Some(reservation.amount()), basis: Basis::Reserved }
            }
            _ => Settled { usage: None, cost: None, basis: Basis::Unpriced },
        });
    };
    // Sound has no text that could be counted.
    let media = bill.media || ctx.grant.quote().is_some_and(|quote| quote.media);
    let mut count = count_of(ctx, text);
    (count.so_far, count.cut, count.media) = (bill.so_far, cut, media);
    let exact = count.measure.as_ref().is_some_and(Measure::is_exact);
    let predicted = ctx.grant.quote().map_or(0, |quote| quote.prediction);
    count.unseen = match () {
        () if may_think || !seen || media || predicted > 0 || cut.is_some() => unseen(ctx),
        // Another vendor's tokenizer may make a token of each byte, but no faster than the model generates.
        () if !exact => unseen(ctx).min(count.bytes),
        () => 0,
    };
    SettleVerdict::Count(Box::new(count))
}

/// The most tokens that the provider can have generated for the last attempt: as many as the time allows, within what the request
/// allows.
fn unseen(ctx: &Context) -> u64 {
    let (Some(began), Some(price), Some(quote)) = (ctx.dispatch.began(), ctx.price(), ctx.grant.quote()) else {
        return 0;
    };
    // If there are several answers, the first one that is finished says nothing about the others.
    let (generated, over) = ctx.stream().map_or((None, None), |stream| (stream.generated, stream.over));
    let finished = generated.filter(|_| quote.choices == 1);
    let time = match finished.or(over) {
        Some(end) => end.duration_since(began),
        None => began.elapsed() + NOTICE,
    };
    generated_within(&price, quote, time)
}

/// The count of what was generated and is not counted yet.
fn count_of(ctx: &mut Context, text: String) -> Count {
    let model = ctx.dispatch.attempt.as_ref().map_or_else(|| "-".into(), |attempt| attempt.target.model.clone());
    let (mut bytes, mut named) = (text.len() as u64, None);
    let mut stream_meter = None;
    if let Delivery::Relay(stream) = &mut ctx.reply.delivery {
        (bytes, named) = (stream.relay.generated_bytes(), stream.relay.service_tier());
        stream_meter = stream.stream_meter.take();
    }
    let (prompt, measure, counted, counting) = match stream_meter {
        Some(stream_meter) => {
            let (prompt, measure, counted, counting) = stream_meter.into_rest();
            (prompt, Some(measure), counted, counting)
        }
        None => {
            let body = ctx.ask.body.as_ref().map(|body| &body.bytes);
            let prompt = Prompt::of(&ctx.ask.endpoint, ctx.grant.quote(), body);
            (prompt, ctx.dispatch.attempt.as_ref().map(Attempt::measure), 0, Vec::new())
        }
    };
    Count {
        prompt,
        model,
        measure,
        text,
        bytes,
        counted,
        counting,
        capacity: ctx.shared.capacity.clone(),
        prompt_estimate: ctx.grant.quote().map_or(0, |quote| quote.prompt_estimate),
        unseen: 0,
        media: false,
        ceiling: ctx.grant.reservation.as_ref().map_or(NanoUsd::MAX, Reservation::amount),
        price: ctx.price(),
        // A provider may serve the standard tier instead of the one that was asked for.
        tiers: named.map_or([ctx.tier(), ServiceTier::Standard], |named| [named, named]),
        so_far: None,
        known: None,
        cut: None,
        billable_failures: std::mem::take(&mut ctx.dispatch.billable_failures),
    }
}

impl Closing {
    /// Settles the money, corrects the limits, and writes the ledger's entry. Returns the complete record.
    pub fn settle(self, settled: Settled) -> Record {
        let Self { subject, reservation, permit, estimate, is_capped, ledger, code, is_served, mut record } = self;
        let (provider, model) = (&*record.provider, &*record.model);
        let mut cost = settled.cost.unwrap_or_default();
        let mut over = NanoUsd::ZERO;
        if let Some(reservation) = &reservation {
            // The gateway's own count is an estimate; it never makes a budget be exceeded.
            if is_capped && matches!(settled.basis, Basis::Counted | Basis::Bounded) {
                cost = cost.min(reservation.amount());
            }
            over = cost.saturating_sub(reservation.amount()).saturating_add(record.beyond);
            if over > NanoUsd::ZERO {
                tracing::warn!(provider, model, usd = %over, "a request cost more than the most that was expected");
            }
        }
        if record.doubted {
            tracing::warn!(provider, model, usd = %cost, "a provider counted what is not possible: settled at the bound");
        }
        if let Some(mut permit) = permit {
            // A request whose tokens are unknown stays at its estimate.
            let unknown = if settled.basis == Basis::Nothing { 0 } else { estimate };
            permit.correct(settled.usage.map_or(unknown, |usage| usage.total_tokens()), cost);
        }
        (record.usage, record.cost, record.beyond) = (settled.usage, settled.cost.map(|_| cost), over);
        record.basis = settled.basis.label();
        let Some(subject) = subject else { return record };
        let is_listing = matches!(subject.endpoint, "models" | "model");
        let cost_nothing = settled.basis == Basis::Nothing && record.attempts == 0 && record.saved == NanoUsd::ZERO;
        if cost_nothing && reservation.is_none() && !is_served && (record.status >= 400 || is_listing) {
            let refusal =
                Refusal { tenant: subject.tenant, status: record.status, code, is_listing, cache: record.cache };
            ledger.refuse(refusal, subject.at);
            return record;
        }
        let entry = Entry {
            provider: record.provider.clone(),
            model: record.model.clone(),
            usage: settled.usage.unwrap_or_default(),
            status: record.status,
            attempts: record.attempts,
            saved: record.saved,
            cache: record.cache,
            first_byte: record.first_byte,
            duration: record.duration,
            ..Entry::bare(subject, cost, settled.basis)
        };
        match reservation {
            Some(reservation) => reservation.settle(entry),
            None => ledger.record(entry),
        }
        record
    }
}
