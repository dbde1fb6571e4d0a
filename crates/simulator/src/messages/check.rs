//! Checks the request except for its messages: which fields exist, their values, and which exclude each other.

use axum::http::HeaderMap;
use serde_json::Value;

use super::super::call::Call;
use super::super::errors::ApiError;
use super::content::{self, Inventory, Place};
use super::limits;
use super::node::{Checked, Node};
use super::strict;

/// The parameters that the answer depends on, besides the conversation and its tools.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) max_tokens: u64,
    pub(super) stops: Vec<String>,
    pub(super) thinking: bool,
    /// The thinking is not shown, only its signature.
    pub(super) omitted: bool,
    pub(super) schema: Option<Value>,
}

/// The fields of both endpoints.
const SHARED: [&str; 8] =
    ["model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"];

/// The fields of `/v1/messages` alone. `stream` has been taken out before.
const CREATE: [&str; 11] = [
    "max_tokens",
    "metadata",
    "service_tier",
    "stop_sequences",
    "temperature",
    "top_k",
    "top_p",
    "container",
    "inference_geo",
    "speed",
    "diagnostics",
];

/// Fields that the versions of the API since 2026 do not have.
const SAMPLING: [&str; 3] = ["temperature", "top_k", "top_p"];

/// The first version of the API without the [`SAMPLING`] fields.
const WITHOUT_SAMPLING: &str = "2026-10-21";

/// The error code that SDKs look for before they send a conversation without `thread`.
pub(super) const NO_THREADS: &str = "thread_unsupported_request";

/// Fields that exist only with a beta: the field, and the beginning of the beta's name.
const BETA: [(&str, &str); 3] = [
    ("context_management", "context-management-"),
    ("mcp_servers", "mcp-client-"),
    ("output_format", "structured-outputs-"),
];

/// Tools that Anthropic defines: the type, the only name it may have, and its own fields.
const DEFINED: [(&str, &str, &[&str]); 7] = [
    ("bash_20250124", "bash", &[]),
    ("text_editor_20250124", "str_replace_editor", &[]),
    ("text_editor_20250429", "str_replace_based_edit_tool", &[]),
    ("text_editor_20250728", "str_replace_based_edit_tool", &["max_characters"]),
    ("web_search_20250305", "web_search", &WEB),
    ("web_search_20260209", "web_search", &WEB),
    (
        "web_fetch_20250910",
        "web_fetch",
        &["max_uses", "allowed_domains", "blocked_domains", "citations", "max_content_tokens"],
    ),
];

const WEB: [&str; 4] = ["max_uses", "allowed_domains", "blocked_domains", "user_location"];

/// The fields of every tool, besides those of its kind.
const TOOL: [&str; 7] =
    ["type", "name", "cache_control", "strict", "defer_loading", "allowed_callers", "input_examples"];

/// Checks a request of `/v1/messages`.
pub(super) fn create(call: &Call, headers: &HeaderMap) -> Checked<Asked> {
    fields(call, headers, &CREATE)?;
    let max_tokens = need(call, "max_tokens")?.integer(1)?;
    let mut asked = Asked { max_tokens, ..Asked::default() };
    shared(call, headers, &mut asked)?;
    sampling(call, asked.thinking)?;
    asked.stops = stops(call)?;
    metadata(call)?;
    if let Some(tier) = top(call, "service_tier") {
        tier.one_of(&["auto", "standard_only"])?;
    }
    Ok(asked)
}

/// Checks a request of `/v1/messages/count_tokens`.
pub(super) fn count(call: &Call, headers: &HeaderMap) -> Checked {
    fields(call, headers, &[])?;
    if call.stream {
        return Err(extra("stream"));
    }
    // Nothing limits the output of a count.
    let mut asked = Asked { max_tokens: u64::MAX, ..Asked::default() };
    shared(call, headers, &mut asked)
}

fn shared(call: &Call, headers: &HeaderMap, asked: &mut Asked) -> Checked {
    // Checked in the order of the prompt, in which the lifetimes of cache entries must not increase.
    let mut inventory = Inventory::default();
    let names = tools(call, &mut inventory)?;
    system(call, &mut inventory)?;
    content::conversation(&need(call, "messages")?, &mut inventory, has_beta(headers, "files-api-"))?;
    if let Some(control) = top(call, "cache_control").filter(|node| !node.value.is_null()) {
        inventory.breakpoint(&control)?;
    }
    if inventory.uses_tools && names.is_empty() {
        return wrong("Requests which include `tool_use` or `tool_result` blocks must define tools");
    }
    let forced = tool_choice(call, &names)?;
    thinking(call, headers, asked)?;
    if asked.thinking && forced {
        return wrong("Thinking may not be enabled when tool_choice forces tool use.");
    }
    output(call, asked)
}

fn top<'a>(call: &'a Call, name: &'a str) -> Option<Node<'a>> {
    call.body.get(name).map(|value| Node::top(name, value))
}

fn need<'a>(call: &'a Call, name: &'a str) -> Checked<Node<'a>> {
    top(call, name).ok_or_else(|| ApiError::worded(400, &format!("{name}: Field required")))
}

fn wrong<T>(message: &str) -> Checked<T> {
    Err(ApiError::worded(400, message))
}

fn extra(field: &str) -> ApiError {
    ApiError::worded(400, &format!("{field}: Extra inputs are not permitted"))
}

fn has_beta(headers: &HeaderMap, beginning: &str) -> bool {
    let values = headers.get_all("anthropic-beta").into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|beta| beta.trim().starts_with(beginning))
}

fn fields(call: &Call, headers: &HeaderMap, own: &[&str]) -> Checked {
    let known = |field: &str| {
        SHARED.contains(&field)
            || own.contains(&field)
            || BETA.iter().any(|(name, beta)| *name == field && has_beta(headers, beta))
    };
    let version = headers.get("anthropic-version").and_then(|version| version.to_str().ok());
    let gone = |field: &str| SAMPLING.contains(&field) && version.is_some_and(|version| version >= WITHOUT_SAMPLING);
    if top(call, "thread").is_some() && has_beta(headers, "message-threads-") {
        let error = ApiError::worded(400, "thread: Threads are not available for this request.");
        return Err(ApiError { code: Some(NO_THREADS), ..error });
    }
    match call.body.keys().find(|field| !known(field) || gone(field)) {
        Some(unknown) => Err(extra(unknown)),
        None => Ok(()),
    }
}

/// Checks the tools; returns their names.
fn tools<'a>(call: &'a Call, inventory: &mut Inventory) -> Checked<Vec<&'a str>> {
    let Some(tools) = top(call, "tools") else { return Ok(Vec::new()) };
    for tool in tools.items()? {
        one_tool(&tool, inventory)?;
    }
    let list = tools.value.as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<&str> = list.iter().filter_map(|tool| tool.get("name")?.as_str()).collect();
    if names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
        return wrong("tools: Tool names must be unique.");
    }
    Ok(names)
}

fn one_tool(tool: &Node, inventory: &mut Inventory) -> Checked {
    tool.object()?;
    let kind = match tool.given("type") {
        None => "custom",
        Some(_) => {
            let tags: Vec<&'static str> =
                ["custom"].into_iter().chain(DEFINED.iter().map(|(kind, ..)| *kind)).collect();
            tool.variant(&tags)?
        }
    };
    let inner = tool.tagged(kind);
    match DEFINED.iter().find(|(known, ..)| *known == kind) {
        Some((_, name, fields)) => {
            inner.closed(&[&TOOL[..], fields].concat())?;
            inner.need("name")?.one_of(&[name])?;
        }
        None => custom(&inner)?,
    }
    if let Some(control) = inner.given("cache_control") {
        inventory.breakpoint(&control)?;
    }
    Ok(())
}

fn custom(tool: &Node) -> Checked {
    tool.closed(&[&TOOL[..], &["description", "input_schema", "eager_input_streaming"]].concat())?;
    tool.need("name")?.name(128)?;
    if let Some(description) = tool.key("description") {
        description.text()?;
    }
    let strict = tool.key("strict").map_or(Ok(false), |strict| strict.boolean())?;
    let schema = tool.need("input_schema")?;
    schema.object()?;
    schema.need("type")?.one_of(&["object"])?;
    if ["oneOf", "allOf", "anyOf"].iter().any(|keyword| schema.key(keyword).is_some()) {
        return Err(schema.wrong("input_schema does not support oneOf, allOf, or anyOf at the top level"));
    }
    if let Some(properties) = schema.given("properties") {
        properties.object()?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let bad = |key: &String| key.is_empty() || key.len() > 64 || !key.chars().all(good);
        if properties.value.as_object().is_some_and(|object| object.keys().any(bad)) {
            return Err(properties.wrong("Property keys should match pattern '^[a-zA-Z0-9_.-]{1,64}$'"));
        }
    }
    if strict { strict::check(&schema) } else { Ok(()) }
}

fn system(call: &Call, inventory: &mut Inventory) -> Checked {
    let Some(system) = top(call, "system") else { return Ok(()) };
    if system.value.is_string() {
        return Ok(());
    }
    content::blocks(&system, Place::System, inventory)
}

/// Checks `tool_choice`; returns whether it forces a call.
fn tool_choice(call: &Call, names: &[&str]) -> Checked<bool> {
    let Some(choice) = top(call, "tool_choice") else { return Ok(false) };
    let kind = choice.variant(&["auto", "any", "tool", "none"])?;
    let inner = choice.tagged(kind);
    match kind {
        "none" => inner.closed(&["type"])?,
        "tool" => inner.closed(&["type", "name", "disable_parallel_tool_use"])?,
        _ => inner.closed(&["type", "disable_parallel_tool_use"])?,
    }
    if let Some(flag) = inner.key("disable_parallel_tool_use") {
        flag.boolean()?;
    }
    if names.is_empty() {
        return wrong("tool_choice: may only be specified while providing tools");
    }
    if kind == "tool" {
        let node = inner.need("name")?;
        let name = node.text()?;
        if !names.contains(&name) {
            return wrong(&format!("Tool '{name}' not found in provided tools"));
        }
    }
    Ok(matches!(kind, "any" | "tool"))
}

fn thinking(call: &Call, headers: &HeaderMap, asked: &mut Asked) -> Checked {
    let Some(thinking) = top(call, "thinking") else { return Ok(()) };
    let mut kinds = vec!["enabled", "disabled", "adaptive"];
    if limits::pauses(&call.model) {
        kinds.push("between_tools");
    }
    let kind = thinking.variant(&kinds)?;
    let inner = thinking.tagged(kind);
    match kind {
        "disabled" | "between_tools" => return inner.closed(&["type"]),
        "adaptive" => inner.closed(&["type", "display"])?,
        _ => inner.closed(&["type", "budget_tokens", "display"])?,
    }
    if let Some(display) = inner.given("display") {
        asked.omitted = display.one_of(&["summarized", "omitted"])? == "omitted";
    }
    if !limits::thinks(&call.model) {
        return wrong("thinking: thinking is not supported on this model");
    }
    if kind == "adaptive" && !limits::adapts(&call.model) {
        return wrong("adaptive thinking is not supported on this model");
    }
    if kind == "enabled" {
        let budget = inner.need("budget_tokens")?.integer(1024)?;
        // Interleaved thinking spends its budget over several replies.
        if budget >= asked.max_tokens && !has_beta(headers, "interleaved-thinking-") {
            return wrong("`max_tokens` must be greater than `thinking.budget_tokens`.");
        }
        content::resumes_thinking(call.body.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice))?;
    }
    asked.thinking = true;
    Ok(())
}

fn sampling(call: &Call, thinking: bool) -> Checked {
    let share = |name| top(call, name).map(|node| node.share()).transpose();
    let (temperature, top_p) = (share("temperature")?, share("top_p")?);
    let top_k = top(call, "top_k").map(|node| node.integer(0)).transpose()?;
    if temperature.is_some() && top_p.is_some() && limits::is_recent(&call.model) {
        return wrong("`temperature` and `top_p` cannot both be specified for this model. Please use only one.");
    }
    if !thinking {
        return Ok(());
    }
    if temperature.is_some_and(|t| t != 1.0) {
        return wrong("`temperature` may only be set to 1 when thinking is enabled.");
    }
    if top_k.is_some() {
        return wrong("`top_k` must be unset when thinking is enabled.");
    }
    if top_p.is_some_and(|p| p < 0.95) {
        return wrong("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.");
    }
    Ok(())
}

fn stops(call: &Call) -> Checked<Vec<String>> {
    let Some(list) = top(call, "stop_sequences") else { return Ok(Vec::new()) };
    let mut stops = Vec::new();
    for stop in list.items()? {
        let text = stop.text()?;
        if text.trim().is_empty() {
            return wrong("stop_sequences: each stop sequence must contain non-whitespace");
        }
        stops.push(text.to_owned());
    }
    Ok(stops)
}

fn metadata(call: &Call) -> Checked {
    let Some(metadata) = top(call, "metadata") else { return Ok(()) };
    metadata.closed(&["user_id"])?;
    let Some(user) = metadata.given("user_id") else { return Ok(()) };
    let id = user.text()?;
    if id.chars().count() > 256 {
        return Err(user.wrong("String should have at most 256 characters"));
    }
    if id.split_whitespace().any(is_email) {
        return Err(user.wrong("user_id appears to contain an email address"));
    }
    if is_phone(id) {
        return Err(user.wrong("user_id appears to contain a phone number"));
    }
    Ok(())
}

fn is_email(word: &str) -> bool {
    word.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && host.split_once('.').is_some_and(|(name, top)| !name.is_empty() && !top.is_empty())
    })
}

/// Whether the whole text is a phone number: 7 to 15 digits, with a plus or separators, or at least 10 digits without.
fn is_phone(text: &str) -> bool {
    let text = text.trim();
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let dressed = text.chars().any(|c| !c.is_ascii_digit());
    text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '(' | ')' | '.' | ' '))
        && (if dressed { 7..=15 } else { 10..=15 }).contains(&digits)
}

fn output(call: &Call, asked: &mut Asked) -> Checked {
    let format = match (top(call, "output_config"), top(call, "output_format")) {
        (Some(config), _) => {
            config.closed(&["effort", "format"])?;
            if let Some(effort) = config.given("effort") {
                effort.one_of(&["low", "medium", "high", "xhigh", "max"])?;
                if !limits::has_effort(&call.model) {
                    return wrong("This model does not support the effort parameter.");
                }
            }
            config.given("format").map(|format| self::format(&format, &call.model)).transpose()?
        }
        (None, Some(format)) => Some(self::format(&format, &call.model)?),
        (None, None) => None,
    };
    asked.schema = format;
    Ok(())
}

/// The schema of a structured answer.
fn format(format: &Node, model: &str) -> Checked<Value> {
    format.closed(&["type", "schema"])?;
    format.need("type")?.one_of(&["json_schema"])?;
    let schema = format.need("schema")?;
    schema.object()?;
    if !limits::is_recent(model) {
        return wrong(&format!("'{model}' does not support output format."));
    }
    strict::check(&schema)?;
    Ok(schema.value.clone())
}
