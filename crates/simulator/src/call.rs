//! A JSON call on its way through the provider: it is read, parsed, delayed or failed by its faults, answered and rendered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::SimulatedConfig;
use super::answer;
use super::connection::Connection;
use super::dialect::Dialect;
use super::errors::ApiError;
use super::fault::{BodyStep, Event, Faults};
use super::messages;

/// Largest JSON body that is read.
const BODY_LIMIT: usize = 256 << 20;

/// Most keys of `fail-first`, cached prompts and loaded models, each, that are remembered; beyond that all are forgotten.
const KEYS: usize = 10_000;

/// The state that all requests of one server share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SimulatedConfig,
    pub(super) requests: AtomicU64,
    failures: Mutex<HashMap<String, u32>>,
    /// Hashes of the prompt prefixes that Messages has put into its cache.
    cached: Mutex<HashSet<u64>>,
    /// The models that Ollama has loaded, each with its context length.
    loaded: Mutex<BTreeMap<String, u64>>,
    closed: watch::Sender<bool>,
}

impl World {
    pub(super) fn new(config: SimulatedConfig) -> Self {
        Self {
            config,
            requests: AtomicU64::new(0),
            failures: Mutex::default(),
            cached: Mutex::default(),
            loaded: Mutex::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Tells upgraded sockets, which outlive their connection, that the server has stopped.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Resolves when the server has stopped.
    pub(super) async fn closed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Whether the model is listed or matched by a pattern such as `claude-*`.
    pub(super) fn knows(&self, model: &str) -> bool {
        self.config.models.iter().any(|known| match known.strip_suffix('*') {
            Some(prefix) => model.starts_with(prefix),
            None => known == model,
        })
    }

    /// How many of `prefixes`, shortest first, were cached: all up to the longest one that is in the cache. Adds all of them to
    /// the cache.
    pub(super) fn cache(&self, prefixes: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator) -> usize {
        let mut cached = self.cached.lock();
        if cached.len() >= KEYS {
            cached.clear();
        }
        let mut known = 0;
        for (i, prefix) in prefixes.enumerate().rev() {
            if !cached.insert(prefix) && known == 0 {
                known = i + 1;
            }
        }
        known
    }

    /// Loads `model` into Ollama with `context` tokens; without `context` a loaded model keeps its own. Returns its context
    /// length.
    pub(super) fn load(&self, model: &str, context: Option<u64>, default: u64) -> u64 {
        let mut loaded = self.loaded.lock();
        if loaded.len() >= KEYS {
            loaded.clear();
        }
        let running = context.or_else(|| loaded.get(model).copied()).unwrap_or(default);
        loaded.insert(model.to_owned(), running);
        running
    }

    /// The models that Ollama has loaded, and the context length of each.
    pub(super) fn loaded(&self) -> BTreeMap<String, u64> {
        self.loaded.lock().clone()
    }

    /// Arms or disarms `faults` by the count of requests with its `fail-first` key.
    fn count_failures(&self, faults: &mut Faults) {
        let Some(first) = faults.fail_first else { return };
        let mut failures = self.failures.lock();
        if failures.len() >= KEYS {
            failures.clear();
        }
        let seen = failures.entry(faults.key.clone().unwrap_or_default()).or_default();
        *seen = seen.saturating_add(1);
        if *seen > first {
            faults.disarm();
        } else if !faults.is_armed() {
            faults.status = Some(503);
        }
    }

    /// Applies the faults that come before any answer. `Err` is the reply that they cause.
    pub(super) async fn strike(
        &self,
        faults: &mut Faults,
        connection: Option<&Connection>,
        dialect: Dialect,
        model: &str,
    ) -> Result<(), Response> {
        self.count_failures(faults);
        let latency = faults.latency.unwrap_or(self.config.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if faults.reset && faults.cut.is_none() {
            return Err(vanish(connection).await);
        }
        match faults.status {
            Some(status) => Err(refusal(faults, status, dialect, model)),
            None => Ok(()),
        }
    }
}

/// One JSON request, parsed as far as every endpoint needs it.
pub(super) struct Call {
    pub(super) body: Map<String, Value>,
    /// The model's name without directives.
    pub(super) model: String,
    pub(super) faults: Faults,
    /// Hash of the body's bytes: the seed of ids.
    pub(super) digest: u64,
    pub(super) stream: bool,
}

impl Call {
    /// The value of a field, with an explicit `null` read as absent.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.body.get(field).filter(|value| !value.is_null())
    }

    /// An integer field inside `range`.
    pub(super) fn integer(&self, field: &str, range: std::ops::RangeInclusive<i64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let n = value.as_i64().ok_or_else(|| ApiError::wrong_type(field, "an integer", value))?;
        let (side, sign, bound, code) = match n {
            n if n < *range.start() => ("below minimum", ">=", range.start(), "integer_below_min_value"),
            n if n > *range.end() => ("above maximum", "<=", range.end(), "integer_above_max_value"),
            n => return Ok(u64::try_from(n).ok()),
        };
        let message =
            format!("Invalid '{field}': integer {side} value. Expected a value {sign} {bound}, but got {n} instead.");
        Err(ApiError::invalid(field, code, message))
    }

    /// Checks a decimal field against `low..=high`.
    pub(super) fn decimal(&self, field: &str, low: f64, high: f64) -> Result<(), ApiError> {
        let Some(value) = self.get(field) else { return Ok(()) };
        let n = value.as_f64().ok_or_else(|| ApiError::wrong_type(field, "a decimal", value))?;
        let (side, sign, bound, code) = match n {
            n if n < low => ("below minimum", ">=", low, "decimal_below_min_value"),
            n if n > high => ("above maximum", "<=", high, "decimal_above_max_value"),
            _ => return Ok(()),
        };
        let message =
            format!("Invalid '{field}': decimal {side} value. Expected a value {sign} {bound}, but got {n:?} instead.");
        Err(ApiError::invalid(field, code, message))
    }

    /// The decimal parameters that chat, legacy completions and responses share.
    pub(super) fn sampling(&self) -> Result<(), ApiError> {
        self.decimal("temperature", 0.0, 2.0)?;
        self.decimal("top_p", 0.0, 1.0)?;
        self.decimal("frequency_penalty", -2.0, 2.0)?;
        self.decimal("presence_penalty", -2.0, 2.0)
    }

    /// `stream_options.include_usage`; options without `stream` are refused as OpenAI does.
    pub(super) fn include_usage(&self) -> Result<bool, ApiError> {
        let Some(options) = self.get("stream_options") else { return Ok(false) };
        if !self.stream {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.".to_owned();
            return Err(ApiError::invalid("stream_options", "invalid_parameter", message));
        }
        Ok(options.get("include_usage").and_then(Value::as_bool).unwrap_or(false) && !self.faults.no_usage)
    }

    /// `stop`: one string, or a list of up to four.
    pub(super) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let wrong = |value| ApiError::wrong_type("stop", "a string or an array of strings", value);
        match self.get("stop") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(list)) if list.len() <= 4 => {
                list.iter().map(|s| s.as_str().map(str::to_owned).ok_or_else(|| wrong(s))).collect()
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// The size of a piece: larger when `big` asked for content of a set size.
    pub(super) fn piece(&self) -> usize {
        if self.faults.big.is_some() { self.faults.line.unwrap_or(1) * 1024 } else { answer::PIECE }
    }
}

/// The answer of an endpoint.
pub(super) enum Reply {
    Json(String),
    Events(Vec<Event>),
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Reply::Json(value.to_string())
    }
}

/// An endpoint: a function from a call to its answer. OpenAI's are pure; the others remember what is cached or loaded.
#[derive(Clone, Copy)]
pub(super) enum Endpoint {
    OpenAi(fn(&Call) -> Result<Reply, ApiError>),
    Anthropic(fn(&World, &Parts, &Call) -> Result<Reply, ApiError>),
    Ollama(fn(&World, &Call) -> Result<Reply, ApiError>),
}

impl Endpoint {
    fn dialect(self) -> Dialect {
        match self {
            Endpoint::OpenAi(_) => Dialect::OpenAi,
            Endpoint::Anthropic(_) => Dialect::Anthropic,
            Endpoint::Ollama(_) => Dialect::Ollama,
        }
    }
}

/// Serves one JSON call from reading to rendering.
pub(super) async fn serve(world: Arc<World>, request: Request, endpoint: Endpoint) -> Response {
    let (parts, body) = request.into_parts();
    let connection = parts.extensions.get::<Connection>().cloned();
    match answer(&world, &parts, body, endpoint, connection.as_ref()).await {
        Ok((reply, faults)) => {
            let (interval, dialect) = (world.config.token_interval, endpoint.dialect());
            render(reply, &faults, interval, dialect, connection)
        }
        Err(Stop::Refused(error)) => error.into_response(),
        Err(Stop::Struck(response)) => *response,
    }
}

/// The directives of the request's headers.
pub(super) fn header_faults(parts: &Parts) -> Result<Faults, ApiError> {
    let mut faults = Faults::default();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    for value in parts.headers.get_all("x-simulate") {
        faults.add(&text(value), ',')?;
    }
    if let Some(key) = parts.headers.get("x-simulate-key") {
        faults.key = Some(text(key));
    }
    Ok(faults)
}

/// Renders a body that is known in full, with the faults that apply to it.
pub(super) fn render_body(
    body: Bytes,
    content_type: &'static str,
    faults: &Faults,
    connection: Option<Connection>,
) -> Response {
    let length = body.len();
    let mut response = Response::new(play(faults.script_body(body), connection));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Nanoseconds of the clock, to make request ids differ across runs.
pub(super) fn nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos())
}

/// Reads and discards a body, so that the connection can be used again.
pub(super) async fn drain(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

enum Stop {
    Refused(ApiError),
    Struck(Box<Response>),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Stop::Refused(error)
    }
}

async fn answer(
    world: &World,
    parts: &Parts,
    body: Body,
    endpoint: Endpoint,
    connection: Option<&Connection>,
) -> Result<(Reply, Faults), Stop> {
    let dialect = endpoint.dialect();
    let mut faults = header_faults(parts)?;
    let struck = |response| Stop::Struck(Box::new(response));
    if faults.early {
        world.strike(&mut faults, connection, dialect, "the model").await.map_err(struck)?;
        // Faults that were applied before the body was read must not be applied again.
        (faults.fail_first, faults.latency) = (None, Some(Duration::ZERO));
    }
    let bytes = read(body).await?;
    if dialect == Dialect::Anthropic {
        messages::admit(&parts.headers)?;
    }
    let mut body = parse(&bytes, dialect)?;
    let model = match body.get("model") {
        Some(Value::String(model)) => match model.split_once('@').filter(|(name, _)| !name.is_empty()) {
            Some((name, directives)) => {
                faults.add(directives, '+')?;
                name.to_owned()
            }
            None => model.clone(),
        },
        // Moderations have a default model; other endpoints that need a model check that below.
        None | Some(Value::Null) => String::new(),
        Some(other) => return Err(dialect.wrong_type("model", "a string", other).into()),
    };
    world.strike(&mut faults, connection, dialect, &model).await.map_err(struck)?;
    let stream = match body.remove("stream") {
        Some(Value::Bool(stream)) => stream,
        None | Some(Value::Null) => dialect.streams_by_default(),
        Some(other) => return Err(dialect.wrong_type("stream", "a boolean", &other).into()),
    };
    let named = if model.is_empty() && parts.uri.path().ends_with("/moderations") {
        "omni-moderation-latest".to_owned()
    } else if model.is_empty() {
        return Err(dialect.missing("model").into());
    } else if !world.knows(&model) || (dialect == Dialect::Anthropic && !model.starts_with("claude")) {
        return Err(dialect.unknown_model(&model).into());
    } else {
        model
    };
    let call = Call { body, model: named, faults, digest: answer::hash(&bytes), stream };
    let reply = match endpoint {
        Endpoint::OpenAi(endpoint) => endpoint(&call)?,
        Endpoint::Anthropic(endpoint) => endpoint(world, parts, &call)?,
        Endpoint::Ollama(endpoint) => endpoint(world, &call)?,
    };
    Ok((reply, call.faults))
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_LIMIT)),
        Err(_) => Err(ApiError::not_json()),
    }
}

fn parse(bytes: &[u8], dialect: Dialect) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(body)) => Ok(body),
        _ => Err(dialect.not_json()),
    }
}

fn refusal(faults: &Faults, status: u16, dialect: Dialect, model: &str) -> Response {
    let mut response = if faults.html {
        let page = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
        ([(header::CONTENT_TYPE, "text/html")], page).into_response()
    } else if faults.empty || matches!(status, 204 | 304) {
        StatusCode::OK.into_response()
    } else {
        dialect.of_status(status, faults.quota, model).into_response()
    };
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in [("retry-after", &faults.retry_after), ("retry-after-ms", &faults.retry_after_ms)] {
        if let Some(value) = value.as_ref().and_then(|v| HeaderValue::from_str(v).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Resets the connection and never answers. Without a handle, in a router that another server serves, answers 502.
async fn vanish(connection: Option<&Connection>) -> Response {
    match connection {
        Some(connection) => {
            connection.reset();
            std::future::pending().await
        }
        None => ApiError::of_status(502, false, "").into_response(),
    }
}

fn render(
    reply: Reply,
    faults: &Faults,
    interval: Duration,
    dialect: Dialect,
    connection: Option<Connection>,
) -> Response {
    match reply {
        Reply::Json(json) => render_body(Bytes::from(json), "application/json", faults, connection),
        Reply::Events(events) => {
            let mut response = Response::new(play(faults.script_events(&events, interval), connection));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, dialect.stream_type());
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    }
}

/// A body that performs `steps`.
fn play(steps: Vec<BodyStep>, connection: Option<Connection>) -> Body {
    if let [BodyStep::Send(whole)] = steps.as_slice() {
        return Body::from(whole.clone());
    }
    let acts = stream::unfold((steps.into_iter(), connection), |(mut steps, connection)| async move {
        loop {
            match steps.next()? {
                BodyStep::Send(bytes) => return Some((Ok(bytes), (steps, connection))),
                BodyStep::Flush => tokio::task::yield_now().await,
                BodyStep::Pause(time) => tokio::time::sleep(time).await,
                BodyStep::Stall => std::future::pending::<()>().await,
                BodyStep::Cut => {
                    // Pending once makes hyper flush what was sent; the error then makes it close without an end.
                    tokio::task::yield_now().await;
                    return Some((Err(std::io::Error::other("cut on demand")), (steps, connection)));
                }
                BodyStep::Reset => {
                    // A reset discards what the peer has not read yet, so give it a moment to read.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if let Some(connection) = &connection {
                        connection.reset();
                        std::future::pending::<()>().await;
                    }
                    return Some((Err(std::io::Error::other("reset on demand")), (steps, connection)));
                }
            }
        }
    });
    Body::from_stream(acts.fuse())
}
