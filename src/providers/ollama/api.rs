//! Queries to Ollama's own API, over plain HTTP/1.1. They are rare (a few per model and minute), so each uses a connection of its
//! own.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{Effort, Lengths};
use crate::config::{AuthStyle, Provider};

/// How long a query that loads no model may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes. `/api/show` repeats licences and lists tensors.
const MAX_ANSWER: usize = 8 << 20;

/// Why a context length is not known.
#[derive(Debug)]
pub enum Unknown {
    /// No connection could be made.
    Unreachable(io::Error),
    /// No answer arrived in time.
    Slow,
    /// The answer is not HTTP, broke off or was too long.
    Broken(String),
    /// A status other than 200, with the path that was asked.
    Refused(&'static str, u16),
    /// The answer lacks the number.
    Unsaid(&'static str),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "it cannot be reached: {cause}"),
            Self::Slow => f.write_str("it did not answer in time"),
            Self::Broken(cause) => write!(f, "its answer cannot be read: {cause}"),
            Self::Refused(path, status) => write!(f, "it answered {path} with status {status}"),
            Self::Unsaid(what) => f.write_str(what),
        }
    }
}

/// The context lengths of `model`, by as few queries as possible.
///
/// # Errors
/// A query that Ollama does not answer.
pub async fn lengths(provider: &Provider, model: &str, effort: Effort) -> Result<Lengths, Unknown> {
    let question = json!({ "model": model }).to_string();
    let show: Show = parse(&post(provider, "/api/show", question, PATIENCE).await?)?;
    let maximum = show.maximum();
    // A model that Ollama's cloud serves is never loaded by this server.
    let running = show.num_ctx().or_else(|| maximum.filter(|_| show.is_remote()));
    let (None, Effort::Load { for_embeddings }) = (running, effort) else { return Ok(Lengths { running, maximum }) };

    // Without a prompt these requests load the model, with the same options as the request to come, and return.
    let (path, order) = if for_embeddings {
        ("/api/embed", json!({ "model": model, "input": "" }))
    } else {
        ("/api/generate", json!({ "model": model, "stream": false }))
    };
    post(provider, path, order.to_string(), provider.read_timeout).await?;
    let loaded: Loaded = parse(&call(provider, Method::GET, "/api/ps", String::new(), PATIENCE).await?)?;
    match loaded.context_length(model) {
        Some(length) => Ok(Lengths { running: Some(length), maximum }),
        None => Err(Unknown::Unsaid("/api/ps lists no context_length for the model; Ollama may be too old")),
    }
}

/// The fields of `/api/show` that are used.
#[derive(Deserialize)]
struct Show {
    /// Lines of a name and a value.
    #[serde(default)]
    parameters: String,
    #[serde(default)]
    model_info: Map<String, Value>,
    #[serde(default)]
    remote_host: String,
}

impl Show {
    fn num_ctx(&self) -> Option<u64> {
        self.parameters.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let value = words.by_ref().next().filter(|name| *name == "num_ctx").and_then(|_| words.next())?;
            value.parse().ok().filter(|length| *length > 0)
        })
    }

    /// `llama.context_length` where `general.architecture` is `llama`.
    fn maximum(&self) -> Option<u64> {
        let architecture = self.model_info.get("general.architecture")?.as_str()?;
        self.model_info.get(&format!("{architecture}.context_length"))?.as_u64().filter(|length| *length > 0)
    }

    fn is_remote(&self) -> bool {
        !self.remote_host.is_empty()
    }
}

/// The answer of `/api/ps`: the models that are loaded.
#[derive(Deserialize)]
struct Loaded {
    #[serde(default)]
    models: Vec<LoadedModel>,
}

#[derive(Deserialize)]
struct LoadedModel {
    #[serde(default)]
    name: String,
    /// In tokens; Ollama before 0.11 does not report it.
    #[serde(default)]
    context_length: u64,
}

impl Loaded {
    fn context_length(&self, model: &str) -> Option<u64> {
        let wanted = full_name(model);
        let found = self.models.iter().find(|loaded| full_name(&loaded.name).eq_ignore_ascii_case(&wanted))?;
        Some(found.context_length).filter(|length| *length > 0)
    }
}

/// The name in full: Ollama shows `llama3.2:latest` for `llama3.2`, and leaves out the name of its own registry.
fn full_name(model: &str) -> String {
    let short = model.strip_prefix("registry.ollama.ai/").unwrap_or(model);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') { short.to_owned() } else { format!("{short}:latest") }
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Unknown> {
    serde_json::from_slice(answer).map_err(|cause| Unknown::Broken(cause.to_string()))
}

async fn post(provider: &Provider, path: &'static str, body: String, patience: Duration) -> Result<Bytes, Unknown> {
    call(provider, Method::POST, path, body, patience).await
}

/// Sends one query; connecting counts as part of `patience`.
async fn call(
    provider: &Provider,
    method: Method,
    path: &'static str,
    body: String,
    patience: Duration,
) -> Result<Bytes, Unknown> {
    timeout(patience, exchange(provider, request(provider, method, path, body)?, path))
        .await
        .map_err(|_| Unknown::Slow)?
}

/// The native API is beside `/v1`, under the same prefix if there is one, and takes the same credential.
fn request(provider: &Provider, method: Method, path: &str, body: String) -> Result<Request<Full<Bytes>>, Unknown> {
    let base = &provider.base;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", base.root()))
        .header(header::HOST, base.authority())
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = &provider.key {
        request = match provider.auth {
            AuthStyle::Bearer => request.header(header::AUTHORIZATION, format!("Bearer {}", key.expose())),
            AuthStyle::ApiKeyHeader => request.header("api-key", key.expose()),
            AuthStyle::XApiKey => request.header("x-api-key", key.expose()),
        };
    }
    for (name, value) in &provider.headers {
        request = request.header(name, value);
    }
    request.body(Full::from(body)).map_err(|_| Unknown::Unsaid("its address makes no request"))
}

async fn exchange(provider: &Provider, request: Request<Full<Bytes>>, path: &'static str) -> Result<Bytes, Unknown> {
    let broken = |cause: hyper::Error| Unknown::Broken(cause.to_string());
    let base = &provider.base;
    let connect = TcpStream::connect((base.host.as_str(), base.port));
    let stream =
        timeout(provider.connect_timeout, connect).await.map_err(|_| Unknown::Slow)?.map_err(Unknown::Unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection's task ends with this function, even if its future is dropped half-way.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER);
    let body = body.collect().await.map_err(|cause| Unknown::Broken(cause.to_string()))?;
    if status == 200 { Ok(body.to_bytes()) } else { Err(Unknown::Refused(path, status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Show {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_parameters_and_the_architecture_are_read() {
        let nomic = show(
            r#"{"modelfile":"…","parameters":"stop                           \"num_ctx 5\"\nnum_ctx                        8192",
                "details":{"family":"nomic-bert"},
                "model_info":{"general.architecture":"nomic-bert","nomic-bert.context_length":2048,"x.context_length":7}}"#,
        );
        assert_eq!((nomic.num_ctx(), nomic.maximum()), (Some(8192), Some(2048)));
        assert_eq!(Lengths { running: nomic.num_ctx(), maximum: nomic.maximum() }.limit(), Some(2048));
        assert!(!nomic.is_remote());
        let bare = show("{}");
        assert_eq!((bare.num_ctx(), bare.maximum()), (None, None));
        for parameters in ["num_ctx", "num_ctx x", "num_ctx 0", "num_ctx -1", "xnum_ctx 5", ""] {
            let show = Show { parameters: parameters.into(), ..show("{}") };
            assert_eq!(show.num_ctx(), None, "{parameters}");
        }
        assert!(show(r#"{"remote_host":"https://ollama.com:443"}"#).is_remote());
    }

    #[test]
    fn a_loaded_model_is_found_under_each_of_its_names() {
        let text = r#"{"models":[{"name":"qwen3:8b","context_length":8192},{"name":"llama3.2:latest","context_length":4096},
            {"name":"hf.co/a/B:Q4","context_length":512},{"name":"old:latest"}]}"#;
        let loaded: Loaded = parse(text.as_bytes()).unwrap();
        let cases = [
            ("llama3.2", Some(4096)),
            ("llama3.2:latest", Some(4096)),
            ("library/Llama3.2", Some(4096)),
            ("registry.ollama.ai/library/llama3.2:latest", Some(4096)),
            ("hf.co/a/b:q4", Some(512)),
            ("qwen3:8b", Some(8192)),
            ("qwen3", None),
            ("old", None),
        ];
        for (model, length) in cases {
            assert_eq!(loaded.context_length(model), length, "{model}");
        }
        assert_eq!(parse::<Loaded>(b"{}").unwrap().context_length("llama3.2"), None);
    }
}
