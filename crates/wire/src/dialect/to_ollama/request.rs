//! Translates the request.

use serde_json::{Map, Value, json};

use super::{TABLE, messages::messages, reply::Chat, tools::tools};
use crate::dialect::{Dropped, Model, Refusal, Step, apply_rules, note_dropped};

/// Most alternatives per token, at OpenAI as well as at Ollama.
const MAX_TOP_LOGPROBS: u64 = 20;
/// Parameters that become options of the same name and are numbers, and whether only whole ones count.
const NUMBERS: &[(&str, bool)] = &[
    ("temperature", false),
    ("top_p", false),
    ("top_k", true),
    ("min_p", false),
    ("repeat_penalty", false),
    ("frequency_penalty", false),
    ("presence_penalty", false),
    ("seed", true),
];

/// Translates a Chat Completions request into one for Ollama's `/api/chat`.
///
/// Ollama is told neither to cut the prompt (`truncate`) nor to push it out of the context while answering (`shift`):
/// since 0.12.6 it then answers 400, or ends with `length`. Older versions ignore both.
///
/// # Errors
/// A parameter that the client relies on and Ollama does not support, or a value of the wrong type, with its path.
pub fn request(chat: &Value, model: &Model<'_>) -> Result<Step, Refusal> {
    let Some(chat) = chat.as_object() else {
        return Err(Refusal::new("body", "The body must be a JSON object."));
    };
    let mut dropped = Vec::new();
    apply_rules(TABLE, chat, &mut dropped)?;
    let mut body = Map::new();
    body.insert("model".into(), model.name.into());
    body.insert("messages".into(), messages(chat, &mut dropped)?.into());
    if let Some(tools) = tools(chat, &mut dropped)? {
        body.insert("tools".into(), tools.into());
    }
    if let Some(format) = format(chat, &mut dropped)? {
        body.insert("format".into(), format);
    }
    let options = options(chat, model)?;
    if !options.is_empty() {
        body.insert("options".into(), options.into());
    }
    body.insert("stream".into(), flag(chat, "stream")?.into());
    if let Some(think) = think(chat, model.name, &mut dropped)? {
        body.insert("think".into(), think);
    }
    match given(chat, "keep_alive") {
        None => {}
        Some(life @ (Value::Number(_) | Value::String(_))) => _ = body.insert("keep_alive".into(), life.clone()),
        Some(_) => return Err(wrong("keep_alive", "a number of seconds or a duration such as \"5m\"")),
    }
    logprobs(chat, &mut body, &mut dropped)?;
    body.insert("truncate".into(), false.into());
    body.insert("shift".into(), false.into());
    Ok(Step { body: body.into(), dropped, replies: Box::new(Chat::new(model.name)) })
}

/// A member that is there and not null.
pub(super) fn given<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// The refusal of a value of the wrong type.
pub(super) fn wrong(param: impl Into<String>, expected: &str) -> Refusal {
    let param = param.into();
    let message = format!("{param} must be {expected}.");
    Refusal::new(param, message)
}

/// Notes the members of an object that are not in `known` as dropped, except null and empty lists, which ask for nothing.
pub(super) fn drop_unknown(object: &Map<String, Value>, known: &[&str], prefix: &str, dropped: &mut Vec<Dropped>) {
    for (name, value) in object {
        if known.contains(&name.as_str()) || value.is_null() || value.as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        note_dropped(dropped, format!("{prefix}{name}"));
    }
}

fn flag(chat: &Map<String, Value>, name: &str) -> Result<bool, Refusal> {
    match given(chat, name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(wrong(name, "true or false")),
    }
}

fn options(chat: &Map<String, Value>, model: &Model<'_>) -> Result<Map<String, Value>, Refusal> {
    let mut options = Map::new();
    if let Some(context) = model.context {
        options.insert("num_ctx".into(), context.into());
    }
    let limit = ["max_completion_tokens", "max_tokens"].into_iter().find_map(|name| Some((name, given(chat, name)?)));
    if let Some((name, limit)) = limit {
        // Ollama takes 0 and -1 as no limit.
        let Some(limit) = whole(limit).filter(|limit| *limit >= 1.0) else {
            return Err(wrong(name, "a whole number of at least 1"));
        };
        options.insert("num_predict".into(), (limit as u64).into());
    }
    for (name, only_whole) in NUMBERS {
        match given(chat, name) {
            None => {}
            Some(value) if *only_whole && whole(value).is_none() => return Err(wrong(*name, "a whole number")),
            Some(value @ Value::Number(_)) => _ = options.insert((*name).into(), value.clone()),
            Some(_) => return Err(wrong(*name, "a number")),
        }
    }
    let stop = match given(chat, "stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.as_str().into()],
        Some(Value::Array(all)) => {
            if let Some(at) = all.iter().position(|stop| !stop.is_string()) {
                return Err(wrong(format!("stop[{at}]"), "a string"));
            }
            all.clone()
        }
        Some(_) => return Err(wrong("stop", "a string or a list of strings")),
    };
    if !stop.is_empty() {
        options.insert("stop".into(), stop.into());
    }
    Ok(options)
}

/// A number without a fraction, in whatever form it was written.
fn whole(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.fract() == 0.0)
}

/// Ollama's `format`: `"json"` or a schema, which it enforces while sampling.
fn format(chat: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<Option<Value>, Refusal> {
    let Some(format) = given(chat, "response_format") else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some("json".into())),
        Some("json_schema") => {
            let Some(wish) = format.get("json_schema").and_then(Value::as_object) else {
                return Err(wrong("response_format.json_schema", "an object with a schema"));
            };
            drop_unknown(wish, &["name", "schema", "strict"], "response_format.json_schema.", dropped);
            match given(wish, "schema") {
                None => Ok(Some("json".into())),
                Some(schema @ Value::Object(_)) => Ok(Some(schema.clone())),
                Some(_) => Err(wrong("response_format.json_schema.schema", "a JSON Schema, as an object")),
            }
        }
        Some(other) => Err(Refusal::new(
            "response_format.type",
            format!("Ollama cannot answer in the format '{other}': use text, json_object or json_schema."),
        )),
        None => Err(wrong("response_format", "an object whose type is text, json_object or json_schema")),
    }
}

/// Ollama's `think`. gpt-oss takes levels and cannot stop thinking; other models take true and false, and for
/// them many versions refuse levels. Without `think` the model's default applies.
fn think(chat: &Map<String, Value>, model: &str, dropped: &mut Vec<Dropped>) -> Result<Option<Value>, Refusal> {
    let effort = match given(chat, "reasoning_effort") {
        None => return Ok(None),
        Some(Value::String(effort)) => effort.as_str(),
        Some(_) => return Err(wrong("reasoning_effort", "a string such as \"low\", \"medium\", \"high\" or \"none\"")),
    };
    let (think, exact) = if has_levels(model) {
        let level = match effort {
            "none" | "minimal" | "low" => "low",
            "high" | "xhigh" | "max" => "high",
            _ => "medium",
        };
        (json!(level), level == effort)
    } else {
        (json!(effort != "none"), matches!(effort, "none" | "medium"))
    };
    if !exact {
        note_dropped(dropped, "reasoning_effort");
    }
    Ok(Some(think))
}

/// Whether the name, such as `gpt-oss:20b` or `hf.co/unsloth/gpt-oss-20b-GGUF`, is of a model that takes levels of thinking.
fn has_levels(model: &str) -> bool {
    let last = model.rsplit('/').next().unwrap_or(model).as_bytes();
    last.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"gpt-oss"))
}

fn logprobs(
    chat: &Map<String, Value>,
    body: &mut Map<String, Value>,
    dropped: &mut Vec<Dropped>,
) -> Result<(), Refusal> {
    let wanted = flag(chat, "logprobs")?;
    if wanted {
        body.insert("logprobs".into(), true.into());
    }
    let Some(top) = given(chat, "top_logprobs") else { return Ok(()) };
    match top.as_u64().filter(|top| *top <= MAX_TOP_LOGPROBS) {
        None => return Err(wrong("top_logprobs", "a whole number from 0 to 20")),
        Some(top) if wanted => _ = body.insert("top_logprobs".into(), top.into()),
        Some(0) => {}
        Some(_) => note_dropped(dropped, "top_logprobs"),
    }
    Ok(())
}
