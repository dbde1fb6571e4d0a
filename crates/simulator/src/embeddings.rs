//! `POST /v1/embeddings`: unit vectors that depend on the model and the input only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer;
use super::call::{Call, Reply};
use super::errors::ApiError;

/// Most inputs of one call, as at OpenAI.
const INPUTS: usize = 2048;

/// Answers with one vector per input, as JSON numbers or as base64 of little-endian f32, which the SDKs ask for.
pub(super) fn embed(call: &Call) -> Result<Reply, ApiError> {
    let input = call.get("input").ok_or_else(|| ApiError::missing("input"))?;
    let inputs = inputs(input)?;
    let full = full_dimensions(&call.model);
    let dimensions = call.integer("dimensions", 1..=full)?.map_or(full as usize, |d| d as usize);
    let packed = match call.get("encoding_format").map(|format| format.as_str()) {
        None | Some(Some("float")) => false,
        Some(Some("base64")) => true,
        Some(_) => {
            let message = "Invalid value for 'encoding_format'. Supported values are: 'float' and 'base64'.".to_owned();
            return Err(ApiError::invalid("encoding_format", "invalid_value", message));
        }
    };
    let prompt: u64 = inputs.iter().map(|input| input.tokens).sum();
    let data = inputs.iter().enumerate().map(|(index, input)| {
        let vector = vector(&call.model, &input.bytes, dimensions);
        let embedding = if packed { Embedding::Packed(pack(&vector)) } else { Embedding::Floats(vector) };
        Datum { object: "embedding", index, embedding }
    });
    let usage = (!call.faults.no_usage).then(|| json!({"prompt_tokens": prompt, "total_tokens": prompt}));
    let list = List { object: "list", data: data.collect(), model: &call.model, usage };
    // A list of finite floats and strings always serializes.
    serde_json::to_string(&list).map(Reply::Json).map_err(|_| ApiError::mid_stream())
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Datum>,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct Datum {
    object: &'static str,
    index: usize,
    embedding: Embedding,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Embedding {
    Floats(Vec<f32>),
    Packed(String),
}

struct Input {
    bytes: Vec<u8>,
    tokens: u64,
}

/// The inputs: a string, a list of strings, a list of token ids, or a list of such lists.
fn inputs(input: &Value) -> Result<Vec<Input>, ApiError> {
    let empty = || {
        ApiError::invalid(
            "input",
            "invalid_value",
            "Invalid 'input': input cannot be an empty string or array.".to_owned(),
        )
    };
    let one = |value: &Value| match value {
        Value::String(text) if text.is_empty() => Err(empty()),
        Value::String(text) => Ok(Input { bytes: text.as_bytes().to_vec(), tokens: answer::tokens(text.len()) }),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_u64) => {
            Ok(Input { bytes: value.to_string().into_bytes(), tokens: ids.len() as u64 })
        }
        other => Err(ApiError::wrong_type("input", "a string, an array of strings or of tokens", other)),
    };
    match input {
        Value::Array(list) if list.is_empty() => Err(empty()),
        Value::Array(list) if list.len() > INPUTS => {
            let message = format!("Invalid 'input': maximum of {INPUTS} items, but got {}.", list.len());
            Err(ApiError::invalid("input", "array_above_max_length", message))
        }
        Value::Array(list) if list.iter().all(Value::is_number) => Ok(vec![one(input)?]),
        Value::Array(list) => list.iter().map(one).collect(),
        _ => Ok(vec![one(input)?]),
    }
}

fn full_dimensions(model: &str) -> i64 {
    if model.contains("3-large") { 3072 } else { 1536 }
}

/// A vector of unit length. With fewer dimensions it is the start of the longer vector, scaled to unit length, as at OpenAI.
pub(super) fn vector(model: &str, input: &[u8], dimensions: usize) -> Vec<f32> {
    let mut state = answer::hash(input) ^ answer::hash(model.as_bytes()).rotate_left(32);
    // Turns 53 random bits into a number in [-1, 1).
    let raw: Vec<f64> =
        (0..dimensions).map(|_| (answer::next(&mut state) >> 11) as f64 / (1u64 << 52) as f64 - 1.0).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.iter().map(|x| (x / length) as f32).collect()
}

fn pack(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_unit_stable_and_distinct() {
        let a = vector("text-embedding-3-small", b"hello world", 1536);
        assert_eq!(a, vector("text-embedding-3-small", b"hello world", 1536));
        assert_ne!(a, vector("text-embedding-3-large", b"hello world", 1536));
        assert_ne!(a, vector("text-embedding-3-small", b"hello worlds", 1536));
        let length: f32 = a.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
        let short = vector("text-embedding-3-small", b"hello world", 8);
        assert!((short[1] / short[0] - a[1] / a[0]).abs() < 1e-4);
    }

    #[test]
    fn packed_vectors_unpack() {
        let vector = vector("m", b"x", 5);
        let bytes = STANDARD.decode(pack(&vector)).unwrap();
        let back: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(back, vector);
    }

    #[test]
    fn forms_of_input() {
        let count = |value: Value| inputs(&value).map(|list| list.len()).map_err(|e| e.status);
        assert_eq!(count(json!("a")), Ok(1));
        assert_eq!(count(json!(["a", "b"])), Ok(2));
        assert_eq!(count(json!([1, 2, 3])), Ok(1));
        assert_eq!(count(json!([[1, 2], [3]])), Ok(2));
        for bad in [json!(""), json!([]), json!([""]), json!({}), json!([1.5]), json!(vec!["x"; 2049])] {
            assert_eq!(count(bad), Err(400));
        }
    }
}
