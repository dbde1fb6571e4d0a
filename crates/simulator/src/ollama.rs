//! Ollama's native API: `/api/chat`, `/api/generate`, `/api/embed`, `/api/show`, `/api/ps`, `/api/tags`, `/api/version`.
//!
//! Replies are streamed by default, as lines of JSON. Every model can think, see and call tools, and has a context of [`CONTEXT`]
//! tokens unless `options.num_ctx` says otherwise; a model stays loaded with the context that the last request asked for. A
//! prompt that is longer than the context is cut silently, or refused where `truncate` is false.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::answer::{self, Heard};
use super::call::{Call, Reply, World, now};
use super::embeddings;
use super::errors::ApiError;
use super::fault::Event;
use super::messages::rfc3339;
use super::schema;
use super::tools::{self, Tool};

/// Context length of every model in tokens, which is also the default that it runs with.
const CONTEXT: u64 = 131_072;

/// Length of the vectors of `/api/embed`.
const DIMENSIONS: usize = 768;

/// `POST /api/chat`. Without messages it loads the model.
pub(super) fn chat(world: &World, call: &Call) -> Result<Reply, ApiError> {
    let messages = list(call, "messages")?;
    let mut heard = Heard::default();
    for message in messages {
        hear(&mut heard, message)?;
    }
    if let Some(tools) = call.get("tools") {
        heard.bytes += tools.to_string().len();
    }
    let offered = Tool::list(call.get("tools"));
    let called = tools::called(&offered, None, true, &heard);
    answered(world, call, Shape::Chat, &heard, &called, messages.is_empty())
}

/// `POST /api/generate`. Without a prompt it loads the model.
pub(super) fn generate(world: &World, call: &Call) -> Result<Reply, ApiError> {
    let mut heard = Heard::default();
    let prompt = text(call, "prompt")?.unwrap_or("");
    let mut message = json!({"role": "user", "content": prompt});
    if let Some(images) = call.get("images") {
        message["images"] = images.clone();
    }
    if let Some(system) = text(call, "system")? {
        heard.text(system);
    }
    hear(&mut heard, &message)?;
    answered(world, call, Shape::Generate, &heard, &[], prompt.is_empty())
}

/// `POST /api/embed`: a vector per input. An empty input loads the model.
pub(super) fn embed(world: &World, call: &Call) -> Result<Reply, ApiError> {
    let inputs: Vec<&str> = match call.get("input") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => return Err(ApiError::worded(400, "invalid input type")),
    };
    let inputs: Vec<&str> = inputs.into_iter().filter(|input| !input.is_empty()).collect();
    let lengths: Vec<u64> = inputs.iter().map(|input| answer::tokens(input.len())).collect();
    let counted = fit(world, call, lengths.iter().copied().max().unwrap_or(0))?;
    let vectors: Vec<Vec<f32>> =
        inputs.iter().map(|input| embeddings::vector(&call.model, input.as_bytes(), DIMENSIONS)).collect();
    let mut body = json!({"model": call.model, "embeddings": vectors, "total_duration": 1_000_000, "load_duration": 0});
    if !call.faults.no_usage {
        body["prompt_eval_count"] = json!(lengths.iter().map(|length| (*length).min(counted)).sum::<u64>());
    }
    Ok(body.into())
}

/// `POST /api/show`.
pub(super) fn show(_: &World, call: &Call) -> Result<Reply, ApiError> {
    Ok(json!({
        "modelfile": format!("FROM {}\n", call.model), "parameters": "", "template": "{{ .Prompt }}",
        "details": details(),
        "model_info": {
            "general.architecture": "llama", "general.parameter_count": 3_000_000_000_u64,
            "llama.context_length": CONTEXT, "llama.embedding_length": DIMENSIONS
        },
        "capabilities": ["completion", "tools", "thinking", "vision"],
        "modified_at": "2024-01-01T00:00:00Z"
    })
    .into())
}

/// `GET /api/ps`: the models that requests have loaded.
pub(super) fn ps(world: &World) -> Value {
    let expires = rfc3339(now() + 300);
    let running = world.loaded().into_iter().map(|(name, context)| {
        let mut model = listed(&name);
        model["expires_at"] = json!(expires);
        model["size_vram"] = json!(0);
        model["context_length"] = json!(context);
        model
    });
    json!({"models": running.collect::<Vec<_>>()})
}

/// `GET /api/tags`: the models that exist by name.
pub(super) fn tags(world: &World) -> Value {
    let named = world.config.models.iter().filter(|name| !name.ends_with('*'));
    let models = named.map(|name| {
        let mut model = listed(name);
        model["modified_at"] = json!("2024-01-01T00:00:00Z");
        model
    });
    json!({"models": models.collect::<Vec<_>>()})
}

/// `GET /api/version`.
pub(super) fn version() -> Value {
    json!({"version": "0.13.5"})
}

/// The form of the answer, which differs between the two endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Chat,
    Generate,
}

impl Shape {
    /// One line with a part of the answer.
    fn line(self, base: &Value, text: &str, thinking: Option<&str>, calls: &[Value]) -> Value {
        let mut line = base.clone();
        match self {
            Shape::Chat => {
                let mut message = json!({"role": "assistant", "content": text});
                if let Some(thinking) = thinking {
                    message["thinking"] = json!(thinking);
                }
                if !calls.is_empty() {
                    message["tool_calls"] = json!(calls);
                }
                line["message"] = message;
            }
            Shape::Generate => {
                line["response"] = json!(text);
                if let Some(thinking) = thinking {
                    line["thinking"] = json!(thinking);
                }
            }
        }
        line["done"] = json!(false);
        line
    }
}

fn answered(
    world: &World,
    call: &Call,
    shape: Shape,
    heard: &Heard,
    called: &[&Tool],
    only_load: bool,
) -> Result<Reply, ApiError> {
    let options = Options::read(call)?;
    let thinks = thinks(call)?;
    let format = format(call)?;
    let base = json!({"model": call.model, "created_at": rfc3339(now())});
    let counted = fit(world, call, if only_load { 0 } else { heard.tokens() })?;
    if only_load {
        let mut line = shape.line(&base, "", None, &[]);
        (line["done"], line["done_reason"]) = (json!(true), json!("load"));
        return Ok(if call.stream { Reply::Events(vec![Event::line(&line, true)]) } else { line.into() });
    }

    let thought =
        thinks.then(|| format!("The user says \"{}\". I will answer.", answer::excerpt(&heard.last_user, 48)));
    let (thought, spent, cut) = answer::limit(thought.as_deref().unwrap_or(""), &[], options.max, answer::PIECE);
    let left = options.max.map(|max| max.saturating_sub(spent));
    let said = match (call.faults.big, format, called.is_empty()) {
        (_, _, false) => String::new(),
        (Some(kib), ..) => answer::filler(kib),
        (None, Some(Format::Json), _) => json!({"answer": answer::say(heard, 0)}).to_string(),
        (None, Some(Format::Schema(schema)), _) => schema::example(schema, "").to_string(),
        (None, None, _) => answer::say(heard, 0),
    };
    let (said, spoken, cut_text) = answer::limit(&said, &options.stops, left, call.piece());
    let calls: Vec<Value> = called.iter().enumerate().map(|(index, tool)| call_of(call, index, tool)).collect();
    let calling: u64 = calls.iter().map(|call| answer::tokens(call["function"].to_string().len())).sum();

    let thinking = thinks.then_some(thought.as_str());
    let end = |mut line: Value| {
        line["done"] = json!(true);
        line["done_reason"] = json!(if cut || cut_text { "length" } else { "stop" });
        (line["total_duration"], line["load_duration"]) = (json!(2_000_000), json!(100_000));
        if !call.faults.no_usage {
            (line["prompt_eval_count"], line["prompt_eval_duration"]) = (json!(counted), json!(900_000));
            (line["eval_count"], line["eval_duration"]) = (json!(spent + spoken + calling), json!(1_000_000));
        }
        line
    };
    if !call.stream {
        return Ok(end(shape.line(&base, &said, thinking, &calls)).into());
    }
    let line = |text: &str, thinking: Option<&str>, calls: &[Value]| {
        Event::line(&shape.line(&base, text, thinking, calls), false)
    };
    let mut lines: Vec<Event> = Vec::new();
    lines.extend(answer::pieces(&thought, answer::PIECE).into_iter().map(|piece| line("", Some(piece), &[])));
    lines.extend(answer::pieces(&said, call.piece()).into_iter().map(|piece| line(piece, None, &[])));
    // Ollama sends each call complete, in a separate line.
    lines.extend(calls.chunks(1).map(|one| line("", None, one)));
    lines.push(Event::line(&end(shape.line(&base, "", None, &[])), true));
    Ok(Reply::Events(lines))
}

fn call_of(call: &Call, index: usize, tool: &Tool) -> Value {
    // Arguments are JSON that was made here; a tool without a schema has none.
    let arguments: Value = serde_json::from_str(&tool.arguments()).unwrap_or_else(|_| json!({}));
    let id = answer::id("call_", call.digest.wrapping_add(index as u64 + 1));
    json!({"id": id, "function": {"index": index, "name": tool.name, "arguments": arguments}})
}

/// Loads the model and fits a prompt into its context; returns the tokens that remain of the prompt.
fn fit(world: &World, call: &Call, prompt: u64) -> Result<u64, ApiError> {
    let asked = match call.get("options").and_then(|options| options.get("num_ctx")).filter(|n| !n.is_null()) {
        None => None,
        Some(n) => Some(n.as_u64().filter(|n| *n > 0).ok_or_else(|| unfit("num_ctx", "integer"))?),
    };
    let truncates = match call.get("truncate") {
        None => true,
        Some(flag) => flag.as_bool().ok_or_else(|| unfit("truncate", "bool"))?,
    };
    let context = world.load(&call.model, asked.map(|asked| asked.min(CONTEXT)), CONTEXT);
    if prompt > context && !truncates {
        return Err(ApiError::worded(400, "the input length exceeds the context length"));
    }
    Ok(prompt.min(context))
}

/// The options that change an answer.
struct Options {
    max: Option<u64>,
    stops: Vec<String>,
}

impl Options {
    fn read(call: &Call) -> Result<Self, ApiError> {
        let none = Map::new();
        let options = match call.get("options") {
            None => &none,
            Some(options) => options.as_object().ok_or_else(|| unfit("options", "map[string]interface {}"))?,
        };
        let given = |name: &str| options.get(name).filter(|value| !value.is_null());
        for name in ["temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty"] {
            if given(name).is_some_and(|value| !value.is_number()) {
                return Err(ApiError::worded(400, &format!("option \"{name}\" must be of type float32")));
            }
        }
        let max = match given("num_predict") {
            None => None,
            // A negative number means no limit.
            Some(n) => n.as_i64().map(|n| u64::try_from(n).ok()).ok_or_else(|| unfit("num_predict", "integer"))?,
        };
        let stops = match given("stop") {
            None => Vec::new(),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(_) => return Err(ApiError::worded(400, "option \"stop\" must be of type array")),
        };
        Ok(Self { max, stops })
    }
}

enum Format<'a> {
    Json,
    Schema(&'a Value),
}

fn format(call: &Call) -> Result<Option<Format<'_>>, ApiError> {
    match call.get("format") {
        None => Ok(None),
        Some(Value::String(word)) if word.is_empty() => Ok(None),
        Some(Value::String(word)) if word == "json" => Ok(Some(Format::Json)),
        Some(schema) if schema.is_object() => Ok(Some(Format::Schema(schema))),
        Some(other) => {
            let message = format!("invalid format: {other}; expected \"json\" or a valid JSON Schema object");
            Err(ApiError::worded(400, &message))
        }
    }
}

fn thinks(call: &Call) -> Result<bool, ApiError> {
    match call.get("think") {
        None => Ok(false),
        Some(Value::Bool(think)) => Ok(*think),
        Some(Value::String(level)) if matches!(level.as_str(), "low" | "medium" | "high") => Ok(true),
        Some(other) => {
            let message =
                format!("invalid think value: {other} (must be \"high\", \"medium\", \"low\", true, or false)");
            Err(ApiError::worded(400, &message))
        }
    }
}

/// Reads one message with its images.
fn hear(heard: &mut Heard, message: &Value) -> Result<(), ApiError> {
    let role = message.get("role").and_then(Value::as_str).unwrap_or("");
    if !matches!(role, "system" | "user" | "assistant" | "tool") {
        let message =
            format!("invalid role: \"{role}\", must be one of [\"system\", \"user\", \"assistant\", \"tool\"]");
        return Err(ApiError::worded(400, &message));
    }
    if message.get("content").is_some_and(|content| !content.is_string() && !content.is_null()) {
        return Err(unfit("messages.content", "string"));
    }
    for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        // Unlike OpenAI's, arguments are an object.
        if !call.pointer("/function/arguments").is_some_and(Value::is_object) {
            return Err(unfit("messages.tool_calls.function.arguments", "api.ToolCallFunctionArguments"));
        }
    }
    for image in message.get("images").and_then(Value::as_array).into_iter().flatten() {
        if image.as_str().is_none_or(|data| STANDARD.decode(data).is_err()) {
            return Err(ApiError::worded(400, "illegal base64 data at input byte 0"));
        }
        heard.images += 1;
    }
    heard.message(message);
    Ok(())
}

fn list<'a>(call: &'a Call, field: &str) -> Result<&'a [Value], ApiError> {
    match call.get(field) {
        None => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(unfit(field, "[]api.Message")),
    }
}

fn text<'a>(call: &'a Call, field: &str) -> Result<Option<&'a str>, ApiError> {
    call.get(field).map(|value| value.as_str().ok_or_else(|| unfit(field, "string"))).transpose()
}

fn unfit(field: &str, kind: &str) -> ApiError {
    ApiError::worded(400, &format!("json: cannot unmarshal value into Go struct field .{field} of type {kind}"))
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
        "parameter_size": "3B", "quantization_level": "Q4_K_M"
    })
}

fn listed(name: &str) -> Value {
    let full = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
    let digest = format!("{:016x}", answer::hash(full.as_bytes())).repeat(4);
    json!({"name": full, "model": full, "size": 2_000_000_000_u64, "digest": digest, "details": details()})
}

#[cfg(test)]
mod tests;
