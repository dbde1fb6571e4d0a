//! `POST /v1/moderations`: an input that contains "kill" or "attack" is flagged as violence, any other is not.

use serde_json::{Map, Value, json};

use super::answer;
use super::call::{Call, Reply};
use super::errors::ApiError;

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Answers with one result per input: a string, a list of strings, or one list of content parts.
pub(super) fn moderate(call: &Call) -> Result<Reply, ApiError> {
    let input = call.get("input").ok_or_else(|| ApiError::missing("input"))?;
    let wrong = |value| ApiError::wrong_type("input", "a string or an array", value);
    let text = |part: &Value| part.get("text").and_then(Value::as_str).unwrap_or("").to_owned();
    let inputs: Vec<String> = match input {
        Value::String(one) => vec![one.clone()],
        Value::Array(parts) if !parts.is_empty() && parts.iter().all(Value::is_object) => {
            vec![parts.iter().map(text).collect::<Vec<_>>().join("\n")]
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().map(|s| s.as_str().map(str::to_owned).ok_or_else(|| wrong(s))).collect::<Result<_, _>>()?
        }
        other => return Err(wrong(other)),
    };
    let results: Vec<Value> = inputs.iter().map(|input| judge(input)).collect();
    Ok(json!({"id": answer::id("modr-", call.digest), "model": call.model, "results": results}).into())
}

fn judge(input: &str) -> Value {
    let lower = input.to_lowercase();
    let violent = lower.contains("kill") || lower.contains("attack");
    let each = |value: fn(bool) -> Value| -> Map<String, Value> {
        CATEGORIES.iter().map(|name| ((*name).to_owned(), value(violent && *name == "violence"))).collect()
    };
    json!({
        "flagged": violent,
        "categories": each(Value::Bool),
        "category_scores": each(|hit| if hit { json!(0.97) } else { json!(0.0001) }),
        "category_applied_input_types": each(|_| json!(["text"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_violence_is_flagged() {
        assert_eq!(judge("I will kill the process")["categories"]["violence"], true);
        let calm = judge("I love you");
        assert_eq!((&calm["flagged"], calm["categories"].as_object().unwrap().len()), (&json!(false), 13));
    }
}
