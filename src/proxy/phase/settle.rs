//! Settle: what a request used and cost, once it is over; and the count of a stream's tokens while it runs.
//!
//! A provider's own count is the truth, as far as it is possible. Where it does not come (the client left, the stream broke,
//! a vendor does not count), prompt and answer are counted from above, off the request's path: with the model's own
//! tokenizer, or by bytes where it is not here. What may have been generated unseen (a model that thinks, sound, a reply
//! that nobody received) is bounded by what can physically have been generated in the time there was: the ledger never says
//! less than the provider can have charged. Only a stream that may outgrow a hard budget is counted while it runs, in small
//! portions.

mod prompt;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

pub use self::prompt::Measure;
use self::prompt::{Prompt, PromptTokens, Writes};
use super::admit;
use crate::{
    capacity::{Capacity, NotRun},
    config::{Dialect, Overrun},
    dialect,
    error::GatewayError,
    ledger::{Basis, Entry, Exceeded, Refusal, Reservation, Subject},
    limits::Permit,
    openai::{Endpoint, ErrorBody, Piece, StreamRelay, ThinkingWish, read_prompt},
    pricing::Price,
    providers::quirks,
    proxy::{
        context::{Belief, Context, Course, Delivery, Quote},
        dispatch::Spoiled,
    },
    telemetry::Metrics,
    tokenizer,
    types::{NanoUsd, ServiceTier, Usage},
};

/// Generated text is counted in portions of this size: a stream holds no more of it.
const PORTION: usize = 16 * 1024;

/// Tokens by which a stream's reservation grows when it needs more.
const EXTENSION: u64 = 256;

/// A chat message has about this many tokens around its text (OpenAI's cookbook, "How to count tokens").
const PER_MESSAGE: u64 = 4;

/// What a provider goes on generating after we have let go of it: until it notices.
const NOTICE: Duration = Duration::from_millis(250);

/// No provider's tool takes less from the beginning of its call until the model reads on: the call is generated, goes to
/// another server, and its result through the model. Searches take a second, containers longer.
const CALL_TAKES: Duration = Duration::from_millis(250);

/// A provider's count, as far as it is believed, and what it comes to.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// LLM tokens.
    pub usage: Usage,
    /// By the catalogue; `None` for a model without a price.
    pub cost: Option<NanoUsd>,
    /// The provider counted what is not possible: the bound stands in for it.
    pub doubted: bool,
    /// What the provider's count comes to beyond what was reserved, where no more than that is settled.
    pub beyond: NanoUsd,
}

impl Counted {
    /// Of a usage that was read. `shown` tells how many bytes the provider has shown of its answer. An answer that is longer
    /// than the request allows is charged up to `ceiling`.
    pub fn of(
        usage: Usage,
        quote: Option<&Quote>,
        price: Option<&Price>,
        tier: ServiceTier,
        shown: impl FnOnce() -> u64,
        ceiling: Option<NanoUsd>,
    ) -> Self {
        let (usage, belief) = quote.map_or((usage, Belief::Possible), |quote| quote.believe(usage, shown));
        let cost = price.map(|price| match belief {
            // Of what kind the tokens were is not known either.
            Belief::Impossible => price.worst_case(usage.prompt_tokens, usage.completion_tokens, tier),
            Belief::Possible | Belief::Shown => price.cost(&usage, tier),
        });
        let ceiling = ceiling.filter(|_| belief != Belief::Possible).unwrap_or(NanoUsd::MAX);
        let beyond = cost.map_or(NanoUsd::ZERO, |cost| cost.saturating_sub(ceiling));
        Self { usage, cost: cost.map(|cost| cost.min(ceiling)), doubted: belief == Belief::Impossible, beyond }
    }

    /// With what the calls of tools cost that the provider ran. Without a price of its calls nobody knows what it cost.
    pub fn with_calls(self, calls: Option<NanoUsd>) -> Self {
        Self { cost: self.cost.zip(calls).map(|(tokens, calls)| tokens.saturating_add(calls)), ..self }
    }
}

/// About how many tokens a text has, by its size alone: enough where no money hangs on it.
fn estimate(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// Whether money hangs on the count of a model's tokens. Else an estimate by size will do, and no tables are loaded.
fn has_price(price: Option<&Price>) -> bool {
    const MUCH: u64 = 1_000_000_000;
    price.is_some_and(|price| price.worst_case(MUCH, MUCH, ServiceTier::Auto) > NanoUsd::ZERO)
}

/// Counts a stream's tokens in case the provider does not.
pub struct Tally {
    /// Money hangs on the count.
    priced: bool,
    /// The model may generate what its reply does not show.
    may_think: bool,
    prompt: Prompt,
    measure: Measure,
    model: Arc<str>,
    counted: u64,
    counting: Vec<Counting>,
    capacity: Arc<Capacity>,
    /// Generated tokens that the reservation pays for; `None` where nothing has to stop.
    cap: Option<Cap>,
}

/// A count of a portion that is under way, and the bytes of the portion: where the count fails, they are the bound.
type Counting = (JoinHandle<Result<u64, NotRun>>, u64);

struct Cap {
    tokens: u64,
    /// Of [`EXTENSION`] more.
    extension: NanoUsd,
}

/// Likely tokens of the prompt in a request body, by the model's tokenizer: what a client is told that asks for a count. Blocks.
pub fn count_prompt(model: &str, body: &[u8]) -> u64 {
    let mut tokens: u64 = 0;
    let read = read_prompt(body, &mut |piece| {
        tokens += match piece {
            Piece::Text(text) => tokenizer::count(model, text),
            Piece::Number => 1,
            Piece::Message => PER_MESSAGE,
        };
    });
    match read {
        Ok(()) => tokens,
        // What is no JSON, or is nested too deep, counts as the text that it is.
        Err(_) => tokenizer::count(model, &String::from_utf8_lossy(body)),
    }
}

impl Tally {
    /// For a stream that begins.
    pub fn begin(ctx: &Context) -> Option<Self> {
        ctx.principal.as_ref()?;
        let model = ctx.dispatch.attempt.as_ref()?.target.model.clone();
        let measure = Measure::of(ctx.dispatch.attempt.as_ref()?);
        let (may_think, prompt, cap) = (may_think(ctx), Prompt::keep(ctx), Cap::of(ctx));
        let (priced, capacity) = (has_price(ctx.price().as_deref()), ctx.governance.capacity.clone());
        Some(Self { priced, may_think, prompt, measure, model, counted: 0, counting: Vec::new(), capacity, cap })
    }

    /// Looks at what was generated since the last time. An error says that nothing is left to pay for it with: it must not
    /// be relayed.
    ///
    /// # Errors
    /// The budget that has not enough.
    pub fn follow(&mut self, relay: &mut StreamRelay, reservation: Option<&mut Reservation>) -> Result<(), Exceeded> {
        let pending = relay.generated_pending() as u64;
        if let (Some(cap), Some(reservation)) = (&mut self.cap, reservation) {
            // A token is at least a byte: below this nothing has to be counted. A portion takes a third of a millisecond.
            if self.counted + pending <= cap.tokens && pending <= PORTION as u64 {
                if pending > cap.tokens / 2 {
                    // Half-way there: the tables are loaded by the time they are needed, and only then.
                    tokenizer::prepare(&self.model);
                }
                return Ok(());
            }
            let more = tokenizer::count(&self.model, &relay.take_generated());
            while self.counted + more > cap.tokens {
                reservation.extend(cap.extension)?;
                cap.tokens += EXTENSION;
            }
            self.counted += more;
        } else if pending > PORTION as u64 && !self.priced {
            self.counted += estimate(relay.take_generated().len() as u64);
        } else if pending > PORTION as u64 {
            let (model, text) = (self.model.clone(), relay.take_generated());
            let bytes = text.len() as u64;
            let capacity = self.capacity.clone();
            let count = async move { capacity.parsing.run_surely(move || tokenizer::count(&model, &text)).await };
            self.counting.push((tokio::spawn(count), bytes));
        }
        Ok(())
    }
}

/// The most that is settled for the current attempt where its answer is longer than the request allows; `None` where the truth
/// is settled, although it exceeds a budget.
pub fn ceiling(ctx: &Context) -> Option<NanoUsd> {
    let reservation = ctx.reservation.as_ref().filter(|_| is_capped(ctx))?;
    let lost = ctx.dispatch.spoiled.iter().map(|spoiled| spoiled.worst_case).sum();
    Some(reservation.amount().saturating_sub(lost))
}

/// What is settled never makes a hard budget be exceeded.
fn is_capped(ctx: &Context) -> bool {
    let has_hard_budget = ctx.principal.as_ref().is_some_and(|principal| principal.party.has_hard_budget);
    has_hard_budget && ctx.engines.config.budgets.overrun == Overrun::Stop
}

/// Whether the model of the current attempt may generate what its reply does not show.
fn may_think(ctx: &Context) -> bool {
    let (Some(attempt), Some(price)) = (&ctx.dispatch.attempt, ctx.price()) else { return true };
    if !price.may_think() || matches!(ctx.endpoint, Endpoint::Embeddings | Endpoint::Moderations) {
        return false;
    }
    let switches = quirks::thinking_switches(attempt.target.provider.vendor, &attempt.target.model);
    // A translation says no more of it than the client; to read the body again takes time.
    let said = ctx.body.as_ref().is_none_or(|body| body.peek.speaks_of_thinking());
    let wish = match &attempt.body {
        Some(body) if said => ThinkingWish::of(body, switches),
        Some(_) => ThinkingWish::Unsaid,
        None => ThinkingWish::On,
    };
    match wish {
        ThinkingWish::Off => false,
        ThinkingWish::On => true,
        ThinkingWish::Unsaid => {
            let claude = attempt.target.provider.dialect == Dialect::Anthropic;
            !claude || dialect::claude_thinks_unasked(&attempt.target.model)
        }
    }
}

impl Cap {
    fn of(ctx: &Context) -> Option<Self> {
        let budgeted = ctx.principal.as_ref().is_some_and(|principal| principal.party.has_hard_budget);
        if !budgeted || ctx.engines.config.budgets.overrun == Overrun::Finish {
            return None;
        }
        let (reservation, price, quote) = (ctx.reservation.as_ref()?, ctx.price()?, ctx.quote?);
        let tier = ctx.tier();
        let extension = price.worst_case(0, EXTENSION, tier);
        if extension == NanoUsd::ZERO {
            return None;
        }
        let prompt = price.worst_case(quote.prompt_estimate, 0, tier);
        let left = reservation.amount().saturating_sub(prompt);
        let tokens = u128::from(left.0) * u128::from(EXTENSION) / u128::from(extension.0);
        Some(Self { tokens: u64::try_from(tokens).unwrap_or(u64::MAX), extension })
    }
}

/// The event that ends a stream whose budget is used up.
pub fn overrun(ctx: &Context, exceeded: &Exceeded) -> ErrorBody {
    let GatewayError { fault, message, .. } = admit::over_budget(exceeded, &ctx.engines.config);
    ErrorBody::new(format!("The stream was stopped. {message}"), fault.kind(), Some(fault.code()))
}

/// How a request ended, for its entry.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// What the client got; 499 if it left.
    pub status: u16,
    /// Until the reply's first byte.
    pub first_byte: Option<Duration>,
    /// Until its last.
    pub duration: Duration,
}

/// What a request used and cost.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// LLM tokens.
    pub usage: Option<Usage>,
    /// `None` where the model has no price.
    pub cost: Option<NanoUsd>,
    /// Where the cost comes from.
    pub basis: Basis,
}

/// Everything that is still to be done for a request that is over; free of its session.
pub struct Closing {
    subject: Option<Subject>,
    reservation: Option<Reservation>,
    permit: Option<Permit>,
    /// LLM tokens that were charged in the limits.
    estimate: u64,
    /// Our own count never makes a budget be exceeded: a stream is stopped where its reservation ends.
    is_capped: bool,
    /// The provider's count was not possible.
    doubted: bool,
    /// What was counted beyond what is settled.
    beyond: NanoUsd,
    metrics: Arc<Metrics>,
    ledger: Arc<crate::ledger::Ledger>,
    provider: Arc<str>,
    model: Arc<str>,
    attempts: u32,
    course: Course,
    /// Of the error that the gateway answered with; `-` for none.
    code: &'static str,
    saved: NanoUsd,
    end: End,
}

/// What has to be counted before a request can be closed.
pub struct Count {
    prompt: Prompt,
    model: Arc<str>,
    measure: Option<Measure>,
    text: String,
    /// Bytes of all that was generated and seen: tokens of another vendor's model have at least one.
    bytes: u64,
    counted: u64,
    counting: Vec<Counting>,
    capacity: Arc<Capacity>,
    /// Likely tokens of the prompt, by its size.
    prompt_estimate: u64,
    /// Tokens that may have been generated in all, seen or not.
    unseen: u64,
    /// It may be something else than text that was generated.
    media: bool,
    /// The most that what was not seen can cost.
    ceiling: NanoUsd,
    price: Option<Arc<Price>>,
    /// The tiers that it may be charged in.
    tiers: [ServiceTier; 2],
    /// What the provider had counted when the stream ended, as far as it is believed.
    so_far: Option<Usage>,
    /// What the last attempt cost, where that is known already.
    known: Option<Settled>,
    /// What is known of a stream with tools of the provider's that its client has left.
    cut: Option<Cut>,
    /// Attempts that broke before it.
    spoiled: Vec<Spoiled>,
}

/// The most that a stream with tools of the provider's has used until its client left, besides what it generated.
#[derive(Clone, Copy, Debug)]
struct Cut {
    prompt_tokens: u64,
    calls: NanoUsd,
}

impl Cut {
    /// By what the provider has shown: each call that has begun makes the model read its prompt once more, with the results in
    /// it. A call that nobody saw begin is paid for, and may be over only after [`CALL_TAKES`]. `None` where the stream does
    /// not tell of its calls, or of a stream that ended otherwise.
    fn of(ctx: &Context, status: u16, so_far: Option<Usage>) -> Option<Self> {
        let (Delivery::Relay(relay), Some(quote), None) = (&ctx.delivery, &ctx.quote, ctx.exchange()) else {
            return None;
        };
        if status != super::finish::CLIENT_CLOSED || ctx.stream_over.is_some() || !quote.tells_of_calls {
            return None;
        }
        let calls = ctx.call_prices()?;
        let window = ctx.unread_for.saturating_add(NOTICE).as_millis().saturating_sub(CALL_TAKES.as_millis());
        let unseen_calls = u64::try_from(window.div_ceil(CALL_TAKES.as_millis())).unwrap_or(u64::MAX);
        let begun = relay.calls()?.begun()?.saturating_add(unseen_calls);
        let generated = unseen(ctx).max(relay.generated_bytes());
        let first = so_far.map(|usage| usage.prompt_tokens);
        let prompt_tokens = calls.prompt_after(begun, (first, quote.shown_prompt), generated, quote.longest_prompt);
        Some(Self { prompt_tokens: prompt_tokens.min(quote.most_prompt), calls: calls.most()? })
    }
}

/// What a request cost, or what it takes to know that.
pub enum Verdict {
    /// It is known.
    Known(Settled),
    /// Its tokens have to be counted first.
    Count(Box<Count>),
}

/// Takes from a context what closes it, and says what it cost or what has to be counted first.
pub fn close(ctx: &mut Context, end: End) -> (Closing, Verdict) {
    let (doubted, beyond) = {
        let bill = ctx.bill();
        let beyond = bill.counted.map_or(NanoUsd::ZERO, |counted| counted.beyond);
        (bill.doubted || bill.counted.is_some_and(|counted| counted.doubted), beyond)
    };
    let verdict = match verdict(ctx, end.status) {
        Verdict::Known(settled) if !ctx.dispatch.spoiled.is_empty() => {
            let mut count = Count::of(ctx, String::new());
            count.known = Some(settled);
            Verdict::Count(Box::new(count))
        }
        verdict => verdict,
    };
    let nobody: Arc<str> = "-".into();
    let target = ctx.dispatch.attempt.as_ref().map(|attempt| &attempt.target);
    let served = ctx.cached.as_ref().and_then(|cached| cached.served.clone());
    let has_model = ctx.endpoint.reads_body();
    // A reservation was dated when it was made: its entry counts in the same period.
    let dated = ctx.reservation.as_ref().and_then(Reservation::subject).cloned();
    let closing = Closing {
        subject: dated.or_else(|| ctx.principal.as_ref().map(|principal| admit::subject(ctx, principal))),
        provider: match &served {
            Some(entry) => entry.provider.clone(),
            None => target.map_or_else(|| nobody.clone(), |target| target.provider.name.clone()),
        },
        model: match &served {
            Some(entry) => entry.model.clone(),
            None => match target.filter(|target| has_model && !target.model.is_empty()) {
                Some(target) => target.model.clone(),
                None => nobody,
            },
        },
        reservation: ctx.reservation.take(),
        permit: ctx.permit.take(),
        estimate: ctx.quote.map_or(0, |quote| quote.tokens),
        is_capped: is_capped(ctx),
        doubted,
        beyond,
        metrics: ctx.metrics.clone(),
        ledger: ctx.governance.ledger.clone(),
        attempts: ctx.dispatch.asked(),
        course: ctx.course,
        code: ctx.fault.map_or("-", |fault| fault.code()),
        saved: served.map_or(NanoUsd::ZERO, |entry| entry.cost),
        end,
    };
    (closing, verdict)
}

fn verdict(ctx: &mut Context, status: u16) -> Verdict {
    let nothing = Settled { usage: None, cost: Some(NanoUsd::ZERO), basis: Basis::Nothing };
    if ctx.course.is_served() && ctx.dispatch.asked() == 0 {
        return Verdict::Known(nothing);
    }
    let bill = std::mem::take(&mut *ctx.bill());
    if let Some(Counted { usage, cost, .. }) = bill.counted {
        let basis = if cost.is_some() { Basis::Provider } else { Basis::Unpriced };
        return Verdict::Known(Settled { usage: Some(usage), cost, basis });
    }
    let answered = ctx.dispatch.attempt.as_ref().and_then(|attempt| attempt.status);
    let served = answered.is_some_and(|status| (200..300).contains(&status));
    if ctx.endpoint == Endpoint::Other {
        // Nobody can tell what it costs.
        return Verdict::Known(if served {
            Settled { cost: None, basis: Basis::Unpriced, ..nothing }
        } else {
            nothing
        });
    }
    let streamed = matches!(ctx.delivery, Delivery::Relay(_));
    // A provider that was at work when the client left, or when our patience ended, or that broke off: it may charge for it.
    let sent = ctx.dispatch.attempt.as_ref().is_some_and(|attempt| attempt.is_sent);
    let unheard =
        answered.is_none() && (status == super::finish::CLIENT_CLOSED && sent || ctx.dispatch.broke_at_work());
    let free =
        matches!(ctx.endpoint, Endpoint::Moderations | Endpoint::CountTokens | Endpoint::Models | Endpoint::Model(_));
    if !served && !unheard || free {
        return Verdict::Known(nothing);
    }
    // A whole reply reached the client, and nobody knows how much it was.
    let whole = served && !streamed && status < 400 && bill.uncounted.is_none() && ctx.endpoint != Endpoint::Embeddings;
    let may_think = ctx.tally.as_ref().map_or_else(|| may_think(ctx), |tally| tally.may_think);
    // Of a stream and of a whole reply all but the thinking was seen; of what broke before that, nothing.
    let seen = streamed || bill.uncounted.is_some();
    let cut = Cut::of(ctx, status, bill.so_far);
    let text = match (&mut ctx.delivery, bill.uncounted) {
        (Delivery::Relay(relay), _) if cut.is_some() => Some(relay.take_generated()),
        // The provider has read more than we can count.
        _ if ctx.quote.is_some_and(|quote| quote.unbounded_prompt) => None,
        (Delivery::Relay(relay), _) => Some(relay.take_generated()),
        (_, Some(text)) => text,
        _ if whole => None,
        _ => Some(String::new()),
    };
    let price = ctx.price();
    let Some(text) = text else {
        // It cannot be told what was generated: the most it can have been.
        return Verdict::Known(match (&ctx.reservation, price) {
            (Some(reservation), Some(_)) => {
                Settled { usage: None, cost: Some(reservation.amount()), basis: Basis::Reserved }
            }
            _ => Settled { usage: None, cost: None, basis: Basis::Unpriced },
        });
    };
    // Sound has no text that could be counted.
    let media = bill.media || ctx.quote.is_some_and(|quote| quote.media);
    let mut count = Count::of(ctx, text);
    (count.so_far, count.cut, count.media) = (bill.so_far, cut, media);
    let exact = count.measure.as_ref().is_some_and(Measure::is_exact);
    let predicted = ctx.quote.map_or(0, |quote| quote.prediction);
    count.unseen = match () {
        () if may_think || !seen || media || predicted > 0 || cut.is_some() => unseen(ctx),
        // Another vendor's tokenizer may make a token of each byte, but no faster than the model generates.
        () if !exact => unseen(ctx).min(count.bytes),
        () => 0,
    };
    Verdict::Count(Box::new(count))
}

/// The most tokens that the provider can have generated for the last attempt: all it can have done in the time there was,
/// within what the request allows.
fn unseen(ctx: &Context) -> u64 {
    let (Some(attempt), Some(price), Some(quote)) = (&ctx.dispatch.attempt, ctx.price(), &ctx.quote) else { return 0 };
    // Of several answers the first that is finished says nothing about the others.
    let finished = ctx.generated.filter(|_| quote.choices == 1);
    let time = match finished.or(ctx.stream_over) {
        Some(end) => end.duration_since(attempt.started),
        None => Instant::now().duration_since(attempt.started) + NOTICE,
    };
    generated_within(&price, quote, time)
}

/// The most tokens that a provider can have generated in this time, within what the request allows. What it was given as a
/// prediction counts when it is rejected, and is not generated at any pace.
fn generated_within(price: &Price, quote: &Quote, time: Duration) -> u64 {
    let generated = price.generated_within(time).saturating_mul(quote.choices);
    generated.saturating_add(quote.prediction).min(quote.most_answer)
}

impl Spoiled {
    /// Of an attempt that broke just now, after it had `worked` for so long.
    pub fn after(worked: Duration, measure: Measure, price: Arc<Price>, quote: &Quote) -> Self {
        let generated = generated_within(&price, quote, worked + NOTICE);
        Self { price, measure, unbounded: quote.unbounded_prompt, generated, worst_case: quote.worst_case }
    }
}

/// The most that a usage can cost of which nobody has told the parts: what was written to the prompt cache, what was an image,
/// what was thinking or sound. `prompt` is `None` where the provider has told those of the prompt.
fn dearest(
    price: &Price,
    usage: &Usage,
    prompt: Option<PromptTokens>,
    media: bool,
    tiers: [ServiceTier; 2],
) -> NanoUsd {
    let (mut prompts, mut most) = (vec![*usage], NanoUsd::ZERO);
    if let Some(PromptTokens { tokens, images, writes }) = prompt {
        let image = Usage { image_prompt_tokens: images, ..*usage };
        prompts[0] = image;
        if writes != Writes::Nothing {
            prompts.push(Usage { cache_write_tokens: tokens, ..*usage });
        }
        if writes == Writes::Long {
            prompts.push(Usage { cache_write_1h_tokens: tokens, ..*usage });
        }
    }
    let completion = usage.completion_tokens;
    for usage in prompts {
        let thought = Usage { reasoning_tokens: completion, ..usage };
        let sound = Usage { audio_completion_tokens: if media { completion } else { 0 }, ..usage };
        for (usage, tier) in [usage, thought, sound].iter().flat_map(|usage| tiers.map(|tier| (usage, tier))) {
            most = most.max(price.cost(usage, tier));
        }
    }
    most
}

impl Count {
    /// What was generated besides what is counted already.
    fn of(ctx: &mut Context, text: String) -> Self {
        let model = ctx.dispatch.attempt.as_ref().map_or_else(|| "-".into(), |attempt| attempt.target.model.clone());
        let (mut bytes, mut named) = (text.len() as u64, None);
        if let Delivery::Relay(relay) = &ctx.delivery {
            (bytes, named) = (relay.generated_bytes(), relay.service_tier());
        }
        let (prompt, measure, counted, counting) = match ctx.tally.take() {
            Some(tally) => (tally.prompt, Some(tally.measure), tally.counted, tally.counting),
            None => (Prompt::of(ctx), ctx.dispatch.attempt.as_ref().map(Measure::of), 0, Vec::new()),
        };
        Self {
            prompt,
            model,
            measure,
            text,
            bytes,
            counted,
            counting,
            capacity: ctx.governance.capacity.clone(),
            prompt_estimate: ctx.quote.map_or(0, |quote| quote.prompt_estimate),
            unseen: 0,
            media: false,
            ceiling: ctx.reservation.as_ref().map_or(NanoUsd::MAX, Reservation::amount),
            price: ctx.price(),
            // A provider may serve another tier than the one it was asked for: the standard one.
            tiers: named.map_or([ctx.tier(), ServiceTier::Standard], |named| [named, named]),
            so_far: None,
            known: None,
            cut: None,
            spoiled: std::mem::take(&mut ctx.dispatch.spoiled),
        }
    }

    /// Counts, on the pool for blocking work.
    pub async fn count(self) -> Settled {
        let Self { prompt, model, measure, text, counted, counting, .. } = self;
        let mut shown = counted;
        for (portion, bytes) in counting {
            shown = shown.saturating_add(portion.await.ok().and_then(Result::ok).unwrap_or(bytes));
        }
        let exact = measure.as_ref().is_some_and(Measure::is_exact);
        // Not asked for where it is known: to count takes time.
        let is_known = self.known.is_some();
        let own = measure.filter(|_| !is_known && self.so_far.is_none() && self.cut.is_none());
        let measures: Vec<Measure> = self.spoiled.iter().map(|spoiled| spoiled.measure.clone()).collect();
        let (most, text_bytes) = (prompt.most(), text.len() as u64);
        let (prompt, rest, prompts) = if has_price(self.price.as_deref()) || !measures.is_empty() {
            let counted = self.capacity.parsing.run_surely(move || {
                let mut prompts = Prompts { prompt, known: Vec::new() };
                let own = own.map(|measure| prompts.count(&measure));
                let rest = if is_known { 0 } else { tokenizer::count(&model, &text) };
                (own, rest, measures.iter().map(|measure| prompts.count(measure)).collect::<Vec<_>>())
            });
            let unknown = |_| {
                let most = PromptTokens { tokens: most, images: 0, writes: Writes::Long };
                // A token is at least a byte.
                (Some(most), text_bytes, self.spoiled.iter().map(|_| most).collect())
            };
            counted.await.unwrap_or_else(unknown)
        } else {
            let likely = PromptTokens { tokens: self.prompt_estimate, images: 0, writes: Writes::Nothing };
            (Some(likely), estimate(text_bytes), Vec::new())
        };
        let mut shown = shown.saturating_add(rest);
        if !exact {
            // Another vendor's tokenizer may count more than ours does.
            shown = tokenizer::with_margin(shown).min(self.bytes);
        }
        let usage = match self.so_far {
            Some(usage) => Usage { completion_tokens: usage.completion_tokens.max(shown), ..usage },
            None => {
                let prompt_tokens = prompt.map_or(0, |prompt| prompt.tokens);
                Usage { prompt_tokens, completion_tokens: shown, ..Usage::default() }
            }
        };
        let (tiers, media) = (self.tiers, self.media);
        let mut settled = match (self.known, self.price) {
            (Some(known), _) => known,
            (None, Some(price)) if let Some(Cut { prompt_tokens, calls }) = self.cut => {
                let completion_tokens = usage.completion_tokens.max(self.unseen);
                let tokens =
                    tiers.map(|tier| price.worst_case(prompt_tokens, completion_tokens, tier)).into_iter().max();
                let cost = tokens.unwrap_or_default().saturating_add(calls);
                let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
                Settled { usage: Some(usage), cost: Some(cost.min(self.ceiling)), basis: Basis::Bounded }
            }
            (None, Some(price)) => {
                let cost = dearest(&price, &usage, prompt, media, tiers);
                let most = Usage { completion_tokens: usage.completion_tokens.max(self.unseen), ..usage };
                let at_most = dearest(&price, &most, prompt, media, tiers).min(self.ceiling);
                match at_most > cost {
                    true => Settled { usage: Some(most), cost: Some(at_most), basis: Basis::Bounded },
                    false => Settled { usage: Some(usage), cost: Some(cost), basis: Basis::Counted },
                }
            }
            (None, None) => Settled { usage: Some(usage), cost: None, basis: Basis::Unpriced },
        };
        for (spoiled, prompt) in self.spoiled.into_iter().zip(prompts) {
            let Spoiled { price, unbounded, generated, worst_case, .. } = spoiled;
            let lost = Usage { prompt_tokens: prompt.tokens, completion_tokens: generated, ..Usage::default() };
            let lost_cost = match unbounded {
                true => worst_case,
                false => dearest(&price, &lost, Some(prompt), media, tiers).min(worst_case),
            };
            let cost = settled.cost.unwrap_or_default().saturating_add(lost_cost);
            let usage = settled.usage.unwrap_or_default();
            let prompt_tokens = usage.prompt_tokens.saturating_add(lost.prompt_tokens);
            let completion_tokens = usage.completion_tokens.saturating_add(lost.completion_tokens);
            settled.usage = Some(Usage { prompt_tokens, completion_tokens, ..usage });
            settled.cost = Some(cost);
            if settled.basis == Basis::Nothing {
                settled.basis = if lost.completion_tokens > 0 { Basis::Bounded } else { Basis::Counted };
            }
        }
        settled
    }
}

/// A prompt as several models count it, each once.
struct Prompts {
    prompt: Prompt,
    known: Vec<(Measure, PromptTokens)>,
}

impl Prompts {
    fn count(&mut self, measure: &Measure) -> PromptTokens {
        if let Some((_, tokens)) = self.known.iter().find(|(known, _)| known == measure) {
            return *tokens;
        }
        let tokens = self.prompt.count(measure);
        self.known.push((measure.clone(), tokens));
        tokens
    }
}

impl Closing {
    /// Who served it; `-` for nobody.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// Settles the money, corrects the limits, and writes the entry. Returns what it came to.
    pub fn settle(self, settled: Settled) -> Settled {
        let Self {
            subject,
            reservation,
            permit,
            estimate,
            is_capped,
            doubted,
            beyond,
            metrics,
            ledger,
            provider,
            model,
            attempts,
            end,
            course,
            code,
            saved,
        } = self;
        let mut cost = settled.cost.unwrap_or_default();
        if let Some(reservation) = &reservation {
            // Our own count is an estimate; it never makes a budget be exceeded.
            if is_capped && matches!(settled.basis, Basis::Counted | Basis::Bounded) {
                cost = cost.min(reservation.amount());
            }
            let over = cost.saturating_sub(reservation.amount()).saturating_add(beyond);
            if over > NanoUsd::ZERO {
                metrics.beyond_reservation(over);
                tracing::warn!(provider = &*provider, model = &*model, usd = %over, "a request cost more than the most that was expected");
            }
        }
        if doubted {
            metrics.usage_doubted(&provider);
            tracing::warn!(provider = &*provider, model = &*model, usd = %cost, "a provider counted what is not possible: settled at the bound");
        }
        if let Some(mut permit) = permit {
            // What nobody could count stays at its estimate.
            let unknown = if settled.basis == Basis::Nothing { 0 } else { estimate };
            permit.correct(settled.usage.map_or(unknown, |usage| usage.total_tokens()), cost);
        }
        let settled = Settled { cost: settled.cost.map(|_| cost), ..settled };
        if saved > NanoUsd::ZERO {
            metrics.saved(saved);
        }
        let Some(subject) = subject else { return settled };
        let is_listing = matches!(subject.endpoint, "models" | "model");
        let cost_nothing = settled.basis == Basis::Nothing && attempts == 0 && saved == NanoUsd::ZERO;
        if cost_nothing && reservation.is_none() && !course.is_served() && (end.status >= 400 || is_listing) {
            let cache = course.label();
            let refusal = Refusal { tenant: subject.tenant, status: end.status, code, is_listing, cache };
            ledger.refuse(refusal, subject.at);
            return settled;
        }
        let entry = Entry {
            provider,
            model,
            usage: settled.usage.unwrap_or_default(),
            status: end.status,
            attempts,
            saved,
            cache: course.label(),
            first_byte: end.first_byte,
            duration: end.duration,
            ..Entry::bare(subject, cost, settled.basis)
        };
        match reservation {
            Some(reservation) => reservation.settle(entry),
            None => ledger.record(entry),
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_prompt_is_counted_text_by_text() {
        let body = serde_json::json!({
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "hello world"}],
            "metadata": {"note": "this is no prompt and does not count at all"},
        });
        // "user", "hello world" and what stands around a message.
        assert_eq!(count_prompt("gpt-4o", body.to_string().as_bytes()), 1 + 2 + PER_MESSAGE);
        assert_eq!(count_prompt("text-embedding-3-small", br#"{"input": [[1, 2, 3], [4]]}"#), 4);
        // What is nested too deep counts as the text that it is.
        let deep = format!(r#"{{"input":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(count_prompt("gpt-4o", deep.as_bytes()), tokenizer::count("gpt-4o", &deep));
    }
}
