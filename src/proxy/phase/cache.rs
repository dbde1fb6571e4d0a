//! Cache: answers from the cache, follows the flight of a request that is under way, or leads a flight for others.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    plan::{self, Presented},
    recall,
};
use crate::{
    cache::{
        Asked, Cache, Decision, Directives, Entry, Failure, FlightFollower, FlightStep, Form, Found, Key, KeyParts,
        Known, Lead, Outcome, Role, Server, decide, is_one_choice, key_of,
    },
    capacity::SMALL,
    config::{Abandoned, CacheRules, Config, Namespace},
    dialect,
    error::{Fault, GatewayError},
    objects::may_refer,
    openai::{self, Endpoint, ErrorBody, Labels, RelayOptions, StreamEnd, StreamKind, StreamRelay},
    providers::exchange,
    proxy::{
        ask::Body,
        caller::Caller,
        context::{CacheStatus, Cached, Context},
        forwarded,
        heavy::{self, Load},
        reply::{self, Reader},
        stop::{Stop, invalid},
    },
    routing::Candidates,
    sse::join,
    types::{NanoUsd, Usage, unix_now},
};

use pingora_http::RequestHeader;

/// A body that the cache does not know yet, with what its key was made of.
struct Unknown {
    prefix: Box<[u8]>,
    one_choice: bool,
}

/// The outcome for a follower of a flight.
enum After {
    /// The follower has its answer.
    Answered,
    /// The follower has to ask a provider itself.
    Ask,
    /// The flight has no leader any more.
    Again,
}

/// Answers from the cache, or records what the cache may keep. `true`: the reply has been sent.
pub async fn look(caller: &mut Caller<'_>, ctx: &mut Context) -> Result<bool, Stop> {
    let directives = Directives::read(&caller.request().headers).map_err(invalid)?;
    let (reason, mut unknown) = ask(caller.request(), ctx, &directives).await?;
    ctx.metrics.cache_asked(reason);
    let Some(cached) = &ctx.ticket.cached else {
        return if directives.only_if_cached { Err(not_cached().into()) } else { Ok(false) };
    };
    let cache = ctx.shared.cache.clone();
    let (key, rules) = (cached.key, cached.rules.clone());
    let Some(payer) = ctx.asker.principal.as_ref().map(|principal| principal.policy.id.clone()) else {
        return Ok(false);
    };
    if directives.no_cache {
        set_fill(ctx, cache.flights.alone(key, &payer));
        return Ok(false);
    }
    let max_age = directives.max_age.map(Duration::from_secs);
    loop {
        match cache.find(&key, &payer, &rules, max_age).await {
            Found::Fresh(entry, age) => {
                if serve(caller, ctx, &entry, CacheStatus::Hit, age).await? {
                    // What was asked twice is asked again.
                    unknown.take().into_iter().for_each(|unknown| keep_known(ctx, unknown));
                    return Ok(true);
                }
            }
            Found::Stale(entry) => {
                if let Some(cached) = &mut ctx.ticket.cached {
                    cached.stale = Some(entry);
                }
            }
            Found::Nothing => {}
        }
        if directives.only_if_cached {
            return Err(not_cached().into());
        }
        match cache.flights.join(key, &payer) {
            Role::Lead(lead) => {
                // An answer may have been stored between the look-up and joining the flight.
                if let Some((entry, age)) = cache.find_now(&key, &rules, max_age)
                    && serve(caller, ctx, &entry, CacheStatus::Hit, age).await?
                {
                    return Ok(true);
                }
                set_fill(ctx, lead);
                return Ok(false);
            }
            // The answer under way was asked for before a purge.
            Role::Follow(follower) if is_purged(ctx, &key, &follower) => {
                set_fill(ctx, cache.flights.alone(key, &payer));
                return Ok(false);
            }
            Role::Follow(follower) => match follow(caller, ctx, follower).await? {
                After::Answered => return Ok(true),
                After::Ask => {
                    ctx.ticket.cache_status = CacheStatus::Miss;
                    return Ok(false);
                }
                After::Again => {}
            },
        }
    }
}

fn is_purged(ctx: &Context, key: &Key, follower: &FlightFollower) -> bool {
    let served = follower.server();
    let served = served.as_ref().map(|server| (&*server.provider, &*server.model));
    let purges = &ctx.shared.cache.purges;
    purges.stamp_of(key, follower.payer(), ctx.model_label(), served) >= follower.born()
}

fn set_fill(ctx: &mut Context, lead: Lead) {
    ctx.ticket.cache_status = CacheStatus::Miss;
    if let Some(cached) = &mut ctx.ticket.cached {
        cached.flight = Some(Arc::new(lead));
    }
}

fn not_cached() -> GatewayError {
    GatewayError::new(Fault::NotCached, "The cache has no answer to this request, and it asks for nothing else.")
}

/// Keeps what was read in a body that the cache has answered.
fn keep_known(ctx: &Context, unknown: Unknown) {
    let (Some(principal), Some(body), Some(cached)) = (&ctx.asker.principal, &ctx.ask.body, &ctx.ticket.cached) else {
        return;
    };
    if body.hosted.is_some() || body.bytes.len() > SMALL {
        return;
    }
    ctx.shared.cache.known.keep(Known {
        tenant: principal.policy.id.clone(),
        endpoint: ctx.ask.endpoint.clone(),
        bytes: Bytes::copy_from_slice(&body.bytes),
        peek: body.peek.clone(),
        bound: body.bound,
        refers: may_refer(&body.bytes),
        configuration: ctx.snapshot.number,
        one_choice: unknown.one_choice,
        prefix: unknown.prefix,
        key: cached.key,
        labels: cached.labels.clone(),
    });
}

/// Works out whether the cache has a part in the request, and its key. Returns why not, for the metrics; empty if it has. If the
/// body is not known, also returns what is to be known of it.
async fn ask(
    request: &RequestHeader,
    ctx: &mut Context,
    directives: &Directives,
) -> Result<(&'static str, Option<Unknown>), Stop> {
    let not = |reason| Ok((reason, None));
    let Some(candidates) = &ctx.dispatch.candidates else { return not("endpoint") };
    let (rules, Some(first)) = (candidates.plan().cache.clone(), candidates.first()) else { return not("endpoint") };
    if !rules.enabled {
        return not("off");
    }
    if first.model.is_empty() {
        // The model is named by a stored prompt, and may be changed there.
        return not("stored_prompt");
    }
    let Some(body) = &ctx.ask.body else { return not("endpoint") };
    // OpenAI keeps a response unless told not to, and so does the gateway for providers that do not. The answer has the id of a
    // response that belongs to the first tenant: other tenants that shared the answer could not use it.
    if ctx.ask.endpoint == Endpoint::Responses
        && rules.namespace == Namespace::Shared
        && body.peek.store != Some(false)
        && (ctx.reply.turn.is_some()
            || candidates.left().any(|target| !exchange::is_translated(&ctx.ask.endpoint, &target.provider)))
    {
        return not("store");
    }
    let known = body.known.as_ref().filter(|known| known.configuration == ctx.snapshot.number);
    let (bytes, values) = (body.bytes.len(), body.values);
    // Most requests end here, so nothing is allocated before.
    let decision = match Load::reading(bytes) {
        load if load.is_light() => {
            let judged = known.map(|known| known.one_choice);
            judge(&ctx.ask.endpoint, body, directives, &ctx.snapshot.config, judged)
        }
        load => {
            let (endpoint, body) = (ctx.ask.endpoint.clone(), (**body).clone());
            let (directives, config) = (*directives, ctx.snapshot.config.clone());
            let work = move |_share| judge(&endpoint, &body, &directives, &config, None);
            heavy::run(&ctx.shared.capacity, load, work).await?
        }
    };
    if let Decision::Bypass(reason) = decision {
        return not(reason);
    }
    let model = first.model.clone();
    let providers = || candidates.left().map(|target| &*target.provider);
    let all = request.headers.iter();
    let mut headers: Vec<_> = all
        .filter(|(name, _)| forwarded::is_keyed(name, providers()))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    // A stable sort: the order of a header's lines counts.
    headers.sort_by(|a, b| a.0.cmp(b.0));
    let parts = KeyParts {
        namespace: &namespace(request, ctx, candidates, &rules),
        endpoint: ctx.ask.endpoint.label(),
        family: &family(candidates, &model, ctx.ask.previous_response_id.as_deref()),
        query: request.uri.query().unwrap_or_default(),
        headers: &headers,
        body: &body.bytes,
    };
    let prefix = parts.prefix();
    let (answer, unknown) = match known.filter(|known| *known.prefix == *prefix) {
        Some(known) => (Ok((known.key, known.labels.clone())), None),
        None => {
            let load = Load::canonical(bytes, values);
            let one_choice = is_one_choice(&body.peek, directives);
            let unknown = Unknown { prefix: prefix.as_slice().into(), one_choice };
            let answer = match load.is_light() {
                true => key_and_labels(prefix, body),
                false => {
                    let body = (**body).clone();
                    let work = move |_share| key_and_labels(prefix, &body);
                    // If there is no room for the key, the request goes on without the cache.
                    heavy::run(&ctx.shared.capacity, load, work).await.unwrap_or(Err("memory"))
                }
            };
            (answer, Some(unknown))
        }
    };
    match answer {
        Err(reason) => not(reason),
        Ok((key, labels)) => {
            let cached =
                Cached { key, rules, model, flight: None, stale: None, served: None, usage_filter: None, labels };
            ctx.ticket.cached = Some(Box::new(cached));
            Ok(("", unknown))
        }
    }
}

/// The most bytes of labels that a request may have to be cached.
const MOST_LABELS: usize = 64 << 10;

fn judge(endpoint: &Endpoint, body: &Body, directives: &Directives, config: &Config, judged: Option<bool>) -> Decision {
    let side_effect_tools = &config.cache.side_effect_tools;
    decide(&Asked { endpoint, peek: &body.peek, body: &body.bytes, directives, side_effect_tools, judged })
}

fn key_and_labels(prefix: Vec<u8>, body: &Body) -> Result<(Key, Labels), &'static str> {
    let key = key_of(prefix, &body.bytes).ok_or("body")?;
    let labels = Labels::of(&body.bytes);
    // The labels are kept for as long as the request is open.
    if labels.length() > MOST_LABELS { Err("body") } else { Ok((key, labels)) }
}

/// Who shares the answer: the tenant's clients, or all. Among these, only those for whom the provider sees the same account and
/// the same additions from the configuration.
fn namespace(request: &RequestHeader, ctx: &Context, candidates: &Candidates, rules: &CacheRules) -> Vec<u8> {
    let mut space = Vec::with_capacity(64);
    let mut part = |tag: u8, bytes: &[u8]| {
        space.push(tag);
        space.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        space.extend_from_slice(bytes);
    };
    if let Some(principal) = &ctx.asker.principal {
        match rules.namespace {
            Namespace::Tenant => part(b't', principal.policy.id.as_str().as_bytes()),
            Namespace::Shared => {}
        }
        // Clients without a token may be anybody (`auth.anonymous`): they do not get answers that were made for a tenant's token
        // holders.
        if principal.is_anonymous() && rules.namespace == Namespace::Tenant {
            part(b'n', b"");
        }
        // A tenant's own headers to the provider may change the answer.
        for (name, value) in &principal.policy.headers {
            part(b'h', name.as_str().as_bytes());
            part(b'v', value.as_bytes());
        }
    }
    // As in [`family`]: only the deployments whose answers are interchangeable.
    let model = candidates.first().map(|target| &target.model);
    let alike = candidates.left().filter(|target| Some(&target.model) == model);
    let mut fingerprints: Vec<_> = alike.map(|target| &target.wire.fingerprint).collect();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    for fingerprint in fingerprints {
        part(b'p', fingerprint);
    }
    let own = candidates.left().filter_map(|target| plan::credential(ctx, target)).find(Presented::is_own);
    if let Some(Presented::Own(key)) = own {
        part(b'k', blake3::hash(key.as_bytes()).as_bytes());
        // These headers name the account that the key opens.
        for name in ["openai-organization", "openai-project"] {
            if let Some(value) = request.headers.get(name) {
                part(b'a', value.as_bytes());
            }
        }
    }
    space
}

/// The deployments that serve the model of the first one: their answers are interchangeable.
fn family(candidates: &Candidates, model: &str, previous: Option<&str>) -> String {
    let mut providers: Vec<&str> =
        candidates.left().filter(|target| &*target.model == model).map(|target| &*target.provider.name).collect();
    providers.sort_unstable();
    // No provider's name has a comma or a line break, no model's a line break.
    // A strict route refuses what another one would answer with losses.
    let strict = if candidates.plan().strict { "\nstrict" } else { "" };
    // A response repeats the id of the response that it continues, which the body no longer states.
    let previous = previous.map_or_else(String::new, |id| format!("\nprevious {id}"));
    format!("{model}\n{}{strict}{previous}", providers.join(","))
}

/// Serves a whole answer in the form that the client wants. `false` if the answer cannot be put into that form.
pub async fn serve(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    entry: &Arc<Entry>,
    cache_status: CacheStatus,
    age: Duration,
) -> Result<bool, Stop> {
    let Some(rendered) = render(ctx, entry) else { return Ok(false) };
    send(caller, ctx, entry, rendered, cache_status, age).await?;
    Ok(true)
}

async fn send(
    caller: &mut Caller<'_>,
    ctx: &mut Context,
    entry: &Arc<Entry>,
    (form, body): (Form, Bytes),
    cache_status: CacheStatus,
    age: Duration,
) -> Result<(), Stop> {
    served(ctx, entry, cache_status);
    // Before the client can know of the response.
    recall::keep_served(ctx, entry, form, &body);
    let (provider, model) = (entry.provider.clone(), entry.model.clone());
    let server = Server { provider, model, dropped: entry.dropped.clone() };
    reply::stored(caller, ctx, &server, form, age, Some(body)).await.map_err(|_| Stop::Gone)
}

fn served(ctx: &mut Context, entry: &Arc<Entry>, cache_status: CacheStatus) {
    ctx.ticket.cache_status = cache_status;
    if let Some(cached) = &mut ctx.ticket.cached {
        cached.served = Some(entry.clone());
    }
}

/// The labels of this request, which a reply that was made for another request gets.
fn labels(ctx: &Context) -> Labels {
    ctx.ticket.cached.as_ref().map(|cached| cached.labels.clone()).unwrap_or_default()
}

fn render(ctx: &Context, entry: &Entry) -> Option<(Form, Bytes)> {
    let peek = ctx.ask.body.as_ref().map(|body| &body.peek);
    let wants_events = peek.is_some_and(|peek| peek.stream);
    let labels = ctx.ticket.cached.as_ref().map(|cached| &cached.labels).filter(|labels| !labels.is_empty());
    let body = match (labels, entry.form) {
        // It was kept without labels: there is nothing to look for.
        (None, _) => entry.body.clone(),
        (Some(labels), Form::Json) => labels.put_into(&entry.body)?,
        (Some(labels), Form::Events) => labels.put_into_events(&entry.body),
    };
    match (entry.form, wants_events) {
        (Form::Json, false) => Some((Form::Json, body)),
        (Form::Events, false) => Some((Form::Json, dialect::to_json(&ctx.ask.endpoint, &body)?)),
        (form, true) => {
            let events = match form {
                Form::Json => dialect::to_events(&ctx.ask.endpoint, &body)?,
                Form::Events => body,
            };
            Some((
                Form::Events,
                match hides_usage(ctx) {
                    true => {
                        let mut reader = reader(ctx);
                        let first = reader.feed(events);
                        join(first, reader.finish(&StreamEnd::Clean))
                    }
                    false => events,
                },
            ))
        }
    }
}

fn hides_usage(ctx: &Context) -> bool {
    let peek = ctx.ask.body.as_ref().map(|body| &body.peek);
    StreamKind::of(&ctx.ask.endpoint) == StreamKind::Chat && peek.is_none_or(|peek| !peek.include_usage)
}

/// Reads events as the cache keeps them, and leaves those parts that this client asked for.
fn reader(ctx: &Context) -> StreamRelay {
    StreamRelay::new(
        StreamKind::of(&ctx.ask.endpoint),
        RelayOptions { hide_usage: hides_usage(ctx), repair_tools: false },
    )
}

/// Follows the flight of another request.
async fn follow(caller: &mut Caller<'_>, ctx: &mut Context, mut follower: FlightFollower) -> Result<After, Stop> {
    let wants_events = ctx.ask.body.as_ref().is_some_and(|body| body.peek.stream);
    // A response that is to be kept has to be whole before its client knows of it.
    let reads_along = wants_events && ctx.reply.turn.is_none();
    let (mut reader, labels) = (reader(ctx), labels(ctx));
    loop {
        let next = async {
            match reads_along {
                true => follower.next().await,
                false => FlightStep::End(follower.end().await),
            }
        };
        let step = tokio::select! {
            biased;
            step = next => step,
            _ = caller.departure() => return Err(Stop::Gone),
        };
        let outcome = match step {
            FlightStep::Events(events) => {
                if ctx.reply.first_byte.is_none() {
                    ctx.ticket.cache_status = CacheStatus::Hit;
                    let unknown = || Server { provider: "-".into(), model: "-".into(), dropped: "".into() };
                    let server = follower.server().unwrap_or_else(unknown);
                    reply::stored(caller, ctx, &server, Form::Events, Duration::ZERO, None)
                        .await
                        .map_err(|_| Stop::Gone)?;
                }
                let out = reader.feed(labels.put_into_events(&events));
                if !out.is_empty() {
                    caller.write_body(Some(out), false).await.map_err(|_| Stop::Gone)?;
                }
                continue;
            }
            FlightStep::End(outcome) => outcome,
        };
        if ctx.reply.first_byte.is_some() {
            let whole = matches!(outcome, Outcome::Complete(..));
            if let Outcome::Complete(entry, _) = &outcome {
                served(ctx, entry, CacheStatus::Hit);
            }
            let end = match whole {
                true => StreamEnd::Clean,
                false => StreamEnd::Cut("the provider closed the connection in the middle of its reply".to_owned()),
            };
            if !whole {
                ctx.reply.fault = Some(Fault::UpstreamInterrupted);
            }
            let last = reader.finish(&end);
            if !last.is_empty() {
                caller.write_body(Some(last), false).await.map_err(|_| Stop::Gone)?;
            }
            caller.write_body(None, true).await.map_err(|_| Stop::Gone)?;
            return Ok(After::Answered);
        }
        return match outcome {
            Outcome::Complete(entry, document) => {
                let rendered = match document.filter(|_| !wants_events) {
                    Some(document) => labels.put_into(&document).map(|document| (Form::Json, document)),
                    None => render(ctx, &entry),
                };
                let Some(rendered) = rendered else { return Ok(After::Ask) };
                send(caller, ctx, &entry, rendered, CacheStatus::Hit, Duration::ZERO).await?;
                Ok(After::Answered)
            }
            Outcome::Failed(failure) => share(caller, ctx, &failure).await,
            Outcome::Cut => {
                let message = "The provider closed the connection before its reply was complete.";
                let failure = reply::failure(ctx, &GatewayError::new(Fault::UpstreamInterrupted, message));
                share(caller, ctx, &failure).await
            }
            Outcome::Solo => Ok(After::Ask),
            Outcome::Vacant => Ok(After::Again),
        };
    }
}

/// Passes the leader's error on, or an expired answer if there is one.
async fn share(caller: &mut Caller<'_>, ctx: &mut Context, failure: &Failure) -> Result<After, Stop> {
    if failure.status >= 500 && serve_stale(caller, ctx).await? {
        return Ok(After::Answered);
    }
    ctx.ticket.cache_status = CacheStatus::Miss;
    reply::shared_failure(caller, ctx, failure).await.map_err(|_| Stop::Gone)?;
    Ok(After::Answered)
}

/// Serves the expired answer, if there is one. `false` if not.
pub async fn serve_stale(caller: &mut Caller<'_>, ctx: &mut Context) -> Result<bool, Stop> {
    let Some(cached) = &ctx.ticket.cached else { return Ok(false) };
    let purges = &ctx.shared.cache.purges;
    let Some(entry) = cached.stale.clone().filter(|entry| purges.counts(&cached.key, entry)) else { return Ok(false) };
    let age = Duration::from_millis(unix_now().saturating_sub(entry.stored));
    serve(caller, ctx, &entry, CacheStatus::Stale, age).await
}

/// Whether an expired answer would be served in place of an error.
pub fn has_stale(ctx: &Context) -> bool {
    ctx.ticket.cached.as_ref().is_some_and(|cached| cached.stale.is_some())
}

/// The flight that a request leads, and whether its exchange runs to its end even if nobody waits for it.
pub fn leads(ctx: &Context) -> Option<(Arc<Lead>, bool)> {
    let finish = ctx.snapshot.config.cache.abandoned == Abandoned::Finish;
    ctx.flight().map(|lead| (lead.clone(), finish))
}

/// Prepares a stream that followers may read too.
pub fn begin_stream(ctx: &mut Context) {
    if ctx.flight().is_none() {
        return;
    }
    let usage_filter = hides_usage(ctx).then(|| Box::new(reader(ctx)));
    let server = ctx.dispatch.attempt.as_ref().map(|attempt| Server {
        provider: attempt.target.provider.name.clone(),
        model: attempt.target.model.clone(),
        dropped: attempt.dropped_for_all(),
    });
    if let Some(cached) = &mut ctx.ticket.cached
        && let Some(flight) = &cached.flight
    {
        cached.usage_filter = usage_filter;
        server.into_iter().for_each(|server| flight.served_by(server));
    }
}

/// Passes events on to the followers, without the leader's labels; returns the events for the leader's own client. `failed`: with
/// these events a provider ends a stream that it cannot complete.
pub fn share_events(ctx: &mut Context, events: Bytes, failed: bool) -> Bytes {
    let Some(cached) = &mut ctx.ticket.cached else { return events };
    // The provider's error message may quote the leader's labels: then only the leader gets it.
    if let Some(flight) = cached.flight.as_ref().filter(|_| !failed || cached.labels.is_empty()) {
        flight.push(Labels::default().put_into_events(&events));
    }
    match &mut cached.usage_filter {
        Some(usage_filter) => usage_filter.feed(events),
        None => events,
    }
}

/// Ends the flight of a stream: a whole stream is kept, and the followers learn how it ended.
pub fn end_stream(ctx: &mut Context, whole: Option<(Option<Usage>, Option<NanoUsd>)>) {
    let Some(flight) = ctx.flight().filter(|flight| !flight.is_over()).cloned() else { return };
    let outcome = match (whole, flight.events()) {
        (Some((usage, cost)), Some(events)) => {
            let answer = dialect::to_json(&ctx.ask.endpoint, &events);
            let good = answer.as_ref().is_some_and(|json| dialect::is_good(&ctx.ask.endpoint, json));
            match EntryBuilder::of(ctx) {
                Some(builder) => builder.make(Form::Events, events, answer, usage, cost, good),
                None => Outcome::Solo,
            }
        }
        (Some(_), None) => Outcome::Solo,
        (None, _) => Outcome::Cut,
    };
    flight.end(outcome);
}

/// Makes an entry of a whole reply. Holds no reference to the context, so that the last step of a held reply can own it.
pub struct EntryBuilder {
    cache: Arc<Cache>,
    lead: Arc<Lead>,
    rules: Arc<CacheRules>,
    endpoint: Endpoint,
    entry: Entry,
    /// A model other than the one that was routed to has answered.
    other_model: bool,
    /// The request has labels.
    labelled: bool,
    reader: Reader,
}

impl EntryBuilder {
    /// `None` for a request that leads no flight.
    pub fn of(ctx: &Context) -> Option<Self> {
        let cached = ctx.ticket.cached.as_ref()?;
        let lead = cached.flight.clone()?;
        let attempt = ctx.dispatch.attempt.as_ref()?;
        let target = &attempt.target;
        Some(Self {
            cache: ctx.shared.cache.clone(),
            rules: cached.rules.clone(),
            endpoint: ctx.ask.endpoint.clone(),
            other_model: target.model != cached.model,
            labelled: !cached.labels.is_empty(),
            reader: Reader::of(ctx),
            entry: Entry {
                form: Form::Json,
                body: Bytes::new(),
                born: lead.born(),
                stored: 0,
                tenant: ctx.asker.principal.as_ref()?.policy.id.clone(),
                route: ctx.model_label().into(),
                provider: target.provider.name.clone(),
                model: target.model.clone(),
                dropped: attempt.dropped_for_all(),
                usage: Usage::default(),
                cost: NanoUsd::ZERO,
            },
            lead,
        })
    }

    /// Ends the flight with a held reply that is complete.
    pub fn end(
        self,
        status: u16,
        headers: &http::HeaderMap,
        body: &Bytes,
        usage: Option<Usage>,
        cost: Option<NanoUsd>,
    ) {
        if status == 200 {
            let good = dialect::is_good(&self.endpoint, body);
            let lead = self.lead.clone();
            lead.end(match Labels::default().put_into(body) {
                Some(body) => self.make(Form::Json, body, None, usage, cost, good),
                None => Outcome::Solo,
            });
            return;
        }
        let told = |name: &http::HeaderName| {
            matches!(name.as_str(), "retry-after" | "retry-after-ms" | "x-should-retry" | "content-type")
        };
        let headers = headers.iter().filter(|(name, _)| told(name)).map(|(name, value)| (name.clone(), value.clone()));
        let body = match self.labelled {
            true => &self.without_words_of(status, body),
            false => body,
        };
        self.lead.end(match status {
            // The labels may be at fault, and followers have other labels.
            400..=428 | 430..=499 if self.labelled => Outcome::Solo,
            400.. => Outcome::Failed(Arc::new(Failure { status, headers: headers.collect(), body: body.clone() })),
            _ => Outcome::Solo,
        });
    }

    /// The error of a failed reply without the provider's message, which may quote the request's labels.
    fn without_words_of(&self, status: u16, body: &Bytes) -> Bytes {
        let told = openai::find_error(status, body);
        let (kind, code) = told.map_or((None, None), |error| (Some(error.r#type), error.code));
        let message = format!("The provider answered the same request of another caller with status {status}.");
        let error = ErrorBody::new(message, kind.as_deref().unwrap_or("server_error"), code.as_deref());
        self.reader.render(status, &error, &http::HeaderMap::new())
    }

    /// Makes the outcome for the followers, who get any whole reply, and stores the reply if it may be served again.
    fn make(
        self,
        form: Form,
        body: Bytes,
        document: Option<Bytes>,
        usage: Option<Usage>,
        cost: Option<NanoUsd>,
        good: bool,
    ) -> Outcome {
        let counted = usage.is_some() || self.endpoint == Endpoint::Moderations;
        let entry = Entry {
            form,
            body,
            stored: unix_now(),
            usage: usage.unwrap_or_default(),
            cost: cost.unwrap_or_default(),
            ..self.entry
        };
        let entry = Arc::new(entry);
        if good && counted && !self.other_model {
            // Stored before the flight ends, so that a request that comes then finds it.
            self.cache.keep(self.lead.key(), entry.clone(), &self.rules);
        }
        Outcome::Complete(entry, document)
    }
}
