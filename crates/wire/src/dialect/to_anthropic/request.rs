//! Translates a Chat request into one of Anthropic's Messages.

use serde_json::{Map, Value, json};

use super::super::{Dropped, Model, Refusal, Step, apply_rules, note_dropped};
use super::TABLE;
use super::cache;
use super::content::{cache_control, text_block};
use super::conversation::{Conversation, compact};
use super::format::Format;
use super::models::{Abilities, Thinking};
use super::must_be;
use super::reply::Answers;
use super::thinking::{Circumstances, Reasoning};
use super::tools::Tools;

/// The limit of output tokens when neither the client nor the price list nor the model's name gives one.
const DEFAULT_MAX_TOKENS: u64 = 4096;

/// Translates a complete request; `chat["stream"]` tells whether it is a streamed one.
///
/// # Errors
/// The first parameter or content that Anthropic does not support.
pub fn request(chat: &Value, model: &Model<'_>) -> Result<Step, Refusal> {
    let Some(chat) = chat.as_object() else {
        return Err(Refusal::new("", "The body must be a JSON object."));
    };
    let dropped = &mut Vec::new();
    apply_rules(TABLE, chat, dropped)?;
    let abilities = &Abilities::of(model.name);

    let mut tools = Tools::read(chat, abilities, dropped)?;
    let mut talk = Conversation::read(chat.get("messages"), abilities.thinking != Thinking::Never, dropped)?;
    tools.define_called(&talk.called);
    let format = Format::read(chat, abilities, &mut tools, dropped)?;
    let unforced = if abilities.forced_tools { None } else { tools.unforce(dropped) };
    let lines = [format.line, unforced].into_iter().flatten();
    talk.system.extend(lines.filter_map(|line| text_block(&line)));

    let max_tokens = max_tokens(chat, model, abilities, dropped)?;
    let around =
        Circumstances { max_tokens, forced_tool: tools.forces(), open_without_thinking: talk.open_without_thinking };
    let reasoning = Reasoning::decide(chat, abilities, &around, dropped)?;
    if !reasoning.on {
        talk.unthink_last(dropped);
    }

    let mut body = Map::new();
    let mut set = |key: &str, value: Option<Value>| drop(value.and_then(|value| body.insert(key.to_owned(), value)));
    set("model", Some(model.name.into()));
    set("max_tokens", Some(max_tokens.into()));
    set("system", (!talk.system.is_empty()).then(|| compact(talk.system)));
    set("messages", Some(talk.messages.into()));
    let choice = tools.choice();
    set("tools", (!tools.defined.is_empty()).then(|| tools.defined.into()));
    set("tool_choice", choice);
    set("thinking", reasoning.thinking);
    set("output_config", output_config(format.native, reasoning.effort));
    sampling(chat, abilities, reasoning.on, dropped, &mut set)?;
    set("stop_sequences", stop(chat.get("stop"), dropped)?);
    set("metadata", user(chat, dropped)?);
    set("service_tier", service_tier(chat.get("service_tier"), dropped)?);
    set("cache_control", cache_control(chat.get("cache_control"), dropped));
    set("stream", Some(is_streamed(chat)?.into()));
    let mut body = Value::Object(body);
    cache::limit(&mut body, dropped);
    cache::place(&mut body, chat, model.prompt_caching, dropped)?;
    sort(dropped, chat);

    let answers = Answers::new(model.name, format.tool, tools.functions);
    Ok(Step { body, dropped: std::mem::take(dropped), replies: Box::new(answers) })
}

/// Sorts the dropped parameters into the order of the client's body.
fn sort(dropped: &mut [Dropped], chat: &Map<String, Value>) {
    dropped.sort_by_cached_key(|path| {
        let param = path.split(['.', '[', ' ']).next().unwrap_or(path);
        chat.keys().position(|key| key == param).unwrap_or(usize::MAX)
    });
}

fn output_config(format: Option<Value>, effort: Option<&str>) -> Option<Value> {
    let mut config = Map::new();
    config.extend(format.map(|format| ("format".to_owned(), format)));
    config.extend(effort.map(|effort| ("effort".to_owned(), effort.into())));
    (!config.is_empty()).then_some(Value::Object(config))
}

fn is_streamed(chat: &Map<String, Value>) -> Result<bool, Refusal> {
    match chat.get("stream") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(streamed)) => Ok(*streamed),
        Some(_) => Err(must_be("stream", "true or false")),
    }
}

/// The client's limit, or the longest answer within the operator's bound.
fn max_tokens(
    chat: &Map<String, Value>,
    model: &Model<'_>,
    abilities: &Abilities,
    dropped: &mut Vec<Dropped>,
) -> Result<u64, Refusal> {
    let stated = |param: &'static str| match chat.get(param) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match whole(value).filter(|count| *count > 0) {
            Some(count) => Ok(Some(count)),
            None => Err(must_be(param, "a number of tokens of at least 1")),
        },
    };
    let (new, old) = (stated("max_completion_tokens")?, stated("max_tokens")?);
    if new.is_some() && old.is_some() && new != old {
        note_dropped(dropped, "max_tokens");
    }
    Ok(new.or(old).unwrap_or_else(|| {
        let longest = model.max_output_tokens.or(abilities.max_output_tokens).unwrap_or(DEFAULT_MAX_TOKENS);
        longest.min(model.default_max_tokens.unwrap_or(u64::MAX)).max(1)
    }))
}

/// A whole number, even if written as `100.0`.
fn whole(value: &Value) -> Option<u64> {
    let is_whole = |number: &f64| number.fract() == 0.0 && (0.0..9e15).contains(number);
    // The range makes the cast exact.
    value.as_u64().or_else(|| value.as_f64().filter(is_whole).map(|number| number as u64))
}

/// `temperature`, `top_p` and `top_k`, as far as the model accepts them. Where it does not, a default value is left out without
/// being named as dropped.
fn sampling(
    chat: &Map<String, Value>,
    abilities: &Abilities,
    thinks: bool,
    dropped: &mut Vec<Dropped>,
    set: &mut impl FnMut(&str, Option<Value>),
) -> Result<(), Refusal> {
    let number = |param: &'static str| match chat.get(param) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| must_be(param, "a number")),
    };
    let (mut temperature, mut top_p, mut top_k) = (number("temperature")?, number("top_p")?, number("top_k")?);
    if temperature.is_some_and(|temperature| temperature > 1.0) {
        note_dropped(dropped, "temperature (above 1)");
        temperature = Some(1.0);
    }
    let mut without = |value: &mut Option<f64>, param: &'static str, default: Option<f64>| {
        if value.take() != default && chat.get(param).is_some_and(|value| !value.is_null()) {
            note_dropped(dropped, param);
        }
    };
    if !abilities.sampling || thinks {
        without(&mut temperature, "temperature", Some(1.0));
        without(&mut top_k, "top_k", None);
        if !abilities.sampling || top_p.is_some_and(|top_p| top_p < 0.95) {
            without(&mut top_p, "top_p", Some(1.0));
        }
    }
    if !abilities.both_samplings && temperature.is_some() && top_p.is_some() {
        // Of the two, the one with the default value is left out.
        if temperature == Some(1.0) && top_p != Some(1.0) {
            temperature = None;
        } else {
            without(&mut top_p, "top_p", Some(1.0));
        }
    }
    let given = |param: &str, value: Option<f64>| value.and_then(|_| chat.get(param).cloned());
    let clamped = temperature.filter(|_| chat["temperature"].as_f64() > Some(1.0)).map(|_| json!(1));
    set("temperature", clamped.or_else(|| given("temperature", temperature)));
    set("top_p", given("top_p", top_p));
    set("top_k", given("top_k", top_k));
    Ok(())
}

/// `stop_sequences` without blank sequences, which Anthropic refuses.
fn stop(stop: Option<&Value>, dropped: &mut Vec<Dropped>) -> Result<Option<Value>, Refusal> {
    let wrong = || must_be("stop", "a text or a list of texts");
    let given: Vec<&str> = match stop {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(all)) => all.iter().map(|text| text.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    let kept: Vec<&str> = given.iter().copied().filter(|text| !text.trim().is_empty()).collect();
    if kept.len() < given.len() {
        note_dropped(dropped, "stop (blank)");
    }
    Ok((!kept.is_empty()).then(|| kept.into()))
}

/// `metadata.user_id`: who the client acts for.
fn user(chat: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<Option<Value>, Refusal> {
    let text = |param: &'static str| match chat.get(param) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => Ok(Some(id.as_str()).filter(|id| !id.is_empty())),
        Some(_) => Err(must_be(param, "a text")),
    };
    let (id, old) = (text("safety_identifier")?, text("user")?);
    if id.is_some() && old.is_some() && id != old {
        note_dropped(dropped, "user");
    }
    Ok(id.or(old).map(|id| {
        if is_plain(id) {
            json!({"user_id": id})
        } else {
            json!({"user_id": &blake3::hash(id.as_bytes()).to_hex()[..32]})
        }
    }))
}

/// Whether an id cannot be a name, an e-mail address or a phone number, which Anthropic forbids here.
fn is_plain(id: &str) -> bool {
    let word = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let digits = id.bytes().filter(u8::is_ascii_digit).count();
    word && id.len() <= 256 && (digits < 7 || id.bytes().any(|byte| byte.is_ascii_alphabetic()))
}

fn service_tier(tier: Option<&Value>, dropped: &mut Vec<Dropped>) -> Result<Option<Value>, Refusal> {
    let word = match tier {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(word)) => word.as_str(),
        Some(_) => return Err(must_be("service_tier", "a text")),
    };
    Ok(match word {
        // Anthropic's `auto` uses the priority tier as far as the account has capacity.
        "auto" | "priority" => Some("auto".into()),
        "default" => Some("standard_only".into()),
        _ => {
            note_dropped(dropped, "service_tier");
            None
        }
    })
}
