//! `POST /v1/completions`, the legacy text completion. Unlike OpenAI there is no default limit of 16 tokens.

use serde_json::{Value, json};

use super::answer::{self, Count, Heard};
use super::call::{Call, Reply, now};
use super::errors::ApiError;
use super::fault::Event;

/// Answers a legacy completion with `n` choices per prompt.
pub(super) fn complete(call: &Call) -> Result<Reply, ApiError> {
    call.sampling()?;
    let include_usage = call.include_usage()?;
    let max = call.integer("max_tokens", 0..=i64::MAX)?;
    let n = call.integer("n", 1..=128)?.unwrap_or(1);
    let stops = call.stops()?;
    let echo = call.get("echo").and_then(Value::as_bool).unwrap_or(false);

    let mut all = Heard::default();
    let mut choices: Vec<(String, &str)> = Vec::new();
    let mut spoken = 0;
    for prompt in prompts(call)? {
        all.text(&prompt);
        let heard = Heard { last_user: prompt.clone(), ..Heard::default() };
        for variant in 0..n {
            let said = call.faults.big.map_or_else(|| answer::say(&heard, variant), answer::filler);
            let (text, tokens, cut) = answer::limit(&said, &stops, max, call.piece());
            spoken += tokens;
            let text = if echo { format!("{prompt}{text}") } else { text };
            choices.push((text, if cut { "length" } else { "stop" }));
        }
    }
    let count = Count::new(&call.model, all.tokens(), call.faults.cached.unwrap_or(0), spoken, None);

    let base = json!({
        "id": answer::id("cmpl-", call.digest), "object": "text_completion", "created": now(), "model": call.model,
        "system_fingerprint": "fp_simulated"
    });
    let with = |list: Value, usage: Option<Value>| {
        let mut body = base.clone();
        body["choices"] = list;
        if let Some(usage) = usage {
            body["usage"] = usage;
        }
        body
    };
    let choice = |i: usize, text: &str, finish: Option<&str>| json!({"text": text, "index": i, "logprobs": null, "finish_reason": finish});
    if !call.stream {
        let list = choices.iter().enumerate().map(|(i, (text, finish))| choice(i, text, Some(finish))).collect();
        return Ok(with(list, (!call.faults.no_usage).then(|| count.chat())).into());
    }
    let mut events = Vec::new();
    let mut send = |one: Value| events.push(Event::data(&with(json!([one]), include_usage.then_some(Value::Null))));
    for (i, (text, finish)) in choices.iter().enumerate() {
        answer::pieces(text, call.piece()).into_iter().for_each(|piece| send(choice(i, piece, None)));
        send(choice(i, "", Some(finish)));
    }
    if include_usage {
        events.push(Event::data(&with(json!([]), Some(count.chat()))));
    }
    events.push(Event::done());
    Ok(Reply::Events(events))
}

/// The prompts: a string, a list of strings, a list of token ids or a list of such lists.
fn prompts(call: &Call) -> Result<Vec<String>, ApiError> {
    let prompt = call.get("prompt").ok_or_else(|| ApiError::missing("prompt"))?;
    let wrong = || ApiError::wrong_type("prompt", "a string or an array", prompt);
    match prompt {
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(list) if list.iter().all(Value::is_number) && !list.is_empty() => Ok(vec![prompt.to_string()]),
        Value::Array(list) if (1..=2048).contains(&list.len()) => list
            .iter()
            .map(|one| match one {
                Value::String(text) => Ok(text.clone()),
                Value::Array(_) => Ok(one.to_string()),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}
