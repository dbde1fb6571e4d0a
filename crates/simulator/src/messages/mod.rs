//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API, as strict as the real one.
//!
//! Requests that the real API refuses are refused with its words and the path
//! (`messages.0.content.1.text.text: Field required`), so that errors in a gateway's translation are found. Where the real rule
//! depends on the model, the version in the model's name decides. Accepted requests get the same answers as in OpenAI's dialect:
//!
//! - *Tools* are called when `tool_choice` forces one, or when the last user text names them (several names: a call for
//!   each, unless `disable_parallel_tool_use`), or says "use the tool". After a tool result the answer is a text.
//! - *Thinking* comes first when it is enabled or adaptive, with a signature `sig_…`. Only such signatures are accepted back;
//!   a signature that was made here must also fit its text. A prompt with [`REDACT`] gets a `redacted_thinking` block instead.
//! - *A refusal* (`stop_reason`) answers a prompt with [`REFUSE`].
//! - *Structured output* is an example of the schema in `output_config.format`.
//! - *Caching*: the prompt up to a `cache_control` is written once and read from then on, as long as the server runs; there is
//!   no minimum length. The directive `cached=N` sets the tokens that are read instead.

mod cache;
mod check;
mod content;
mod limits;
mod node;
mod pairs;
mod reply;
mod strict;
#[cfg(test)]
mod tests;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::answer::{self, Heard};
use super::call::{Call, Reply, World, now};
use super::errors::ApiError;
use super::tools::{self, Tool};

/// In the last user text, makes the thinking redacted. The beginning of Anthropic's own test string.
const REDACT: &str = "ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING";

/// In the last user text, makes the answer a refusal. The beginning of Anthropic's own test string.
const REFUSE: &str = "ANTHROPIC_MAGIC_STRING_TRIGGER_REFUSAL";

/// The prefix of the signatures that are made and accepted here.
const SIGNATURE: &str = "sig_";

/// Answers `POST /v1/messages`.
pub(super) fn create(world: &World, parts: &Parts, call: &Call) -> Result<Reply, ApiError> {
    let asked = check::create(call, &parts.headers)?;
    let heard = hear(call);
    let offered = offered(call.body.get("tools"));
    let choice = call.body.get("tool_choice");
    let parallel = !choice.is_some_and(|c| c.get("disable_parallel_tool_use") == Some(&Value::Bool(true)));
    let called = tools::called(&offered, Some(&in_openai_words(choice)), parallel, &heard);
    let answer = reply::Answer::new(call, &asked, &heard, &called);
    let usage = cache::usage(world, call, &answer);
    let frame = reply::Frame::new(call, answer, usage);
    Ok(if call.stream { Reply::Events(frame.events()) } else { frame.whole().into() })
}

/// Answers `POST /v1/messages/count_tokens`.
pub(super) fn count_tokens(_: &World, parts: &Parts, call: &Call) -> Result<Reply, ApiError> {
    check::count(call, &parts.headers)?;
    Ok(json!({"input_tokens": cache::prompt_tokens(call)}).into())
}

/// Refuses a request without credentials or version, before its body is read.
///
/// # Errors
/// 401 or 400.
pub(super) fn admit(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
    let bearer = text("authorization").and_then(|v| v.strip_prefix("Bearer ")).is_some_and(|v| !v.trim().is_empty());
    if text("x-api-key").is_none() && !bearer {
        return Err(ApiError::worded(401, "x-api-key header is required"));
    }
    match text("anthropic-version") {
        None => Err(ApiError::worded(400, "anthropic-version: header is required")),
        Some("2026-10-21" | "2023-06-01" | "2023-01-01") => Ok(()),
        Some(other) => Err(ApiError::worded(400, &format!("anthropic-version: \"{other}\" is not a valid version"))),
    }
}

/// The `error` object of a refusal.
pub(super) fn error(error: &ApiError) -> Value {
    let mut object = json!({"type": error_type(error.status), "message": error.message});
    if error.code == Some(check::NO_THREADS) {
        object["details"] = json!({"error_code": check::NO_THREADS});
    }
    object
}

/// The `type` of a refusal with this status.
pub(super) fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// The message of a refusal with a status that a fault asks for.
pub(super) fn words(status: u16, model: &str) -> String {
    match status {
        401 => "invalid x-api-key".to_owned(),
        402 => "Your credit balance is too low to access the Anthropic API.".to_owned(),
        403 => "Your API key does not have permission to use the specified resource.".to_owned(),
        404 => format!("model: {model}"),
        413 => "Request exceeds the maximum size".to_owned(),
        429 => "This request would exceed the rate limit for your organization.".to_owned(),
        504 => "Request timed out".to_owned(),
        529 => "Overloaded".to_owned(),
        500.. => "Internal server error".to_owned(),
        _ => format!("Simulated status {status}."),
    }
}

/// The headers that every reply of Anthropic carries.
pub(super) fn stamp(headers: &mut HeaderMap, id: &str, limited: bool) {
    let reset = rfc3339(now() + if limited { 30 } else { 1 });
    let limits = [("requests", 4000, 3999), ("tokens", 480_000, 479_000)];
    let parts = [("input-tokens", 400_000, 399_500), ("output-tokens", 80_000, 79_500)];
    let mut put = |name: String, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    put("request-id".to_owned(), id);
    put("anthropic-organization-id".to_owned(), "00000000-0000-4000-8000-000000000000");
    for (what, limit, remaining) in limits.into_iter().chain(parts) {
        let remaining = if limited { 0 } else { remaining };
        put(format!("anthropic-ratelimit-{what}-limit"), &limit.to_string());
        put(format!("anthropic-ratelimit-{what}-remaining"), &remaining.to_string());
        put(format!("anthropic-ratelimit-{what}-reset"), &reset);
    }
}

/// A time, in seconds since the epoch, in the form that Anthropic and Ollama use (RFC 3339).
pub(super) fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // In years that begin in March the leap day is the last day; 400 years have 146 097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let (month, date) = (if march < 10 { march + 3 } else { march - 9 }, of_year - (153 * march + 2) / 5 + 1);
    let year = era * 400 + of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Reads the conversation. Text beside tool results is a new question, as in the other dialects.
fn hear(call: &Call) -> Heard {
    let mut heard = Heard::default();
    let messages = call.body.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for message in messages {
        let user = message.get("role").and_then(Value::as_str) == Some("user");
        let content = message.get("content").unwrap_or(&Value::Null);
        let said = text_of(content);
        let results: Vec<String> = content
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|block| block.get("type").and_then(Value::as_str) == Some("tool_result"))
            .map(|block| text_of(block.get("content").unwrap_or(&Value::Null)))
            .collect();
        heard.tool_result = (!results.is_empty() && said.is_empty()).then(|| results.join("\n"));
        if user && heard.tool_result.is_none() {
            heard.last_user = said;
        }
    }
    heard
}

/// The text of a content: a string, or the text blocks, one per line.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks
                .iter()
                .filter(|block| block.get("type").and_then(Value::as_str) == Some("text"))
                .filter_map(|block| block.get("text")?.as_str())
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// The tools that the client runs. Those that Anthropic runs are never called here.
fn offered(tools: Option<&Value>) -> Vec<Tool> {
    let client = |tool: &Value| {
        let name = tool.get("name")?.as_str()?;
        let parameters = match tool.get("type").and_then(Value::as_str) {
            None | Some("custom") => tool.get("input_schema")?.clone(),
            Some(kind) if kind.starts_with("bash_") || kind.starts_with("text_editor_") => {
                json!({"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]})
            }
            Some(_) => return None,
        };
        Some(Tool::function(name, parameters))
    };
    tools.and_then(Value::as_array).map(|list| list.iter().filter_map(client).collect()).unwrap_or_default()
}

fn in_openai_words(choice: Option<&Value>) -> Value {
    let field = |name| choice.and_then(|choice| choice.get(name)?.as_str());
    match (field("type"), field("name")) {
        (Some("any"), _) => json!("required"),
        (Some("none"), _) => json!("none"),
        (Some("tool"), Some(name)) => json!({"type": "function", "function": {"name": name}}),
        _ => json!("auto"),
    }
}

/// The signature of a thinking text.
fn sign(thinking: &str) -> String {
    format!("{SIGNATURE}{:016x}", answer::hash(thinking.as_bytes()))
}
