//! Ollama's errors: `{"error":"text"}`, with a status or as a line of a stream.

use serde_json::{Value, json, value::RawValue};

use crate::openai::{self, ErrorBody};

/// The status for an error within a stream, where Ollama sends none.
const IN_STREAM: u16 = 500;
/// How many levels of errors nested in the text of an error are read.
const DEPTH: u8 = 3;

/// An error text of Ollama, and its meaning for a client of Chat.
struct Known {
    /// Words in lower case that are all in the text.
    words: &'static [&'static str],
    status: u16,
    param: &'static str,
    code: Option<&'static str>,
}

impl Known {
    const fn new(words: &'static [&'static str], status: u16, param: &'static str, code: Option<&'static str>) -> Self {
        Self { words, status, param, code }
    }
}

const TOO_LONG: Option<&str> = Some("context_length_exceeded");

/// The known errors; Ollama sends some of them with 500.
const KNOWN: &[Known] = &[
    // Ollama 0.34 and later, from llama-server.
    Known::new(&["exceeds the available context size"], 400, "messages", TOO_LONG),
    Known::new(&["input length exceeds", "context"], 400, "messages", TOO_LONG),
    // Ollama's cloud.
    Known::new(&["exceeded max context length"], 400, "messages", TOO_LONG),
    Known::new(&["prompt is too long"], 400, "messages", TOO_LONG),
    Known::new(&["does not support tools"], 400, "tools", Some("unsupported_parameter")),
    Known::new(&["does not support thinking"], 400, "reasoning_effort", Some("unsupported_parameter")),
    Known::new(&["think value"], 400, "reasoning_effort", Some("unsupported_value")),
    Known::new(&["does not support multimodal"], 400, "messages", None),
    Known::new(&["image input is not supported"], 400, "messages", None),
    Known::new(&["missing data required for image input"], 400, "messages", None),
    Known::new(&["only supports one image"], 400, "messages", None),
    Known::new(&["illegal base64"], 400, "messages", None),
    Known::new(&["does not support chat"], 400, "model", None),
    Known::new(&["model '", "not found"], 404, "model", Some("model_not_found")),
    Known::new(&["model \"", "not found"], 404, "model", Some("model_not_found")),
];

/// The status and the error for an OpenAI client, from an error reply of Ollama.
///
/// A prompt that does not fit is 400 `context_length_exceeded`, an unknown model 404 `model_not_found`, a model that lacks
/// what the request needs 400 with `param`. Other errors are classified by their status, like those of
/// other providers.
pub fn read_error(status: u16, body: &[u8]) -> (u16, ErrorBody) {
    let told = serde_json::from_slice::<Value>(body).ok().and_then(|body| text(body.get("error")?, DEPTH));
    match told {
        Some(told) => explain(status, &told),
        None => (status, openai::read_error(status, None, body)),
    }
}

/// The error that a line of a stream reports.
pub(super) fn failure(error: &RawValue) -> ErrorBody {
    let told = serde_json::from_str(error.get()).ok().and_then(|error| text(&error, DEPTH));
    explain(IN_STREAM, told.as_deref().unwrap_or("Ollama ended the answer with an error.")).1
}

/// The text of an error. Ollama passes llama-server's errors on as text: `{"error":"{\"error\":{\"message\":…}}"}`.
fn text(error: &Value, depth: u8) -> Option<String> {
    match error {
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => {
            let within = serde_json::from_str::<Value>(text).ok().filter(|_| depth > 0);
            let within = within.and_then(|within| self::text(within.get("error")?, depth - 1));
            Some(within.unwrap_or_else(|| text.clone()))
        }
        Value::Object(error) => error.get("message")?.as_str().filter(|text| !text.is_empty()).map(str::to_owned),
        _ => None,
    }
}

fn explain(status: u16, told: &str) -> (u16, ErrorBody) {
    let lower = told.to_lowercase();
    let known = KNOWN.iter().find(|known| known.words.iter().all(|words| lower.contains(words)));
    let status = known.map_or(status, |known| known.status);
    let mut error = openai::read_error(status, None, json!({ "error": told }).to_string().as_bytes());
    if let Some(known) = known {
        error.param = Some(known.param.to_owned());
        error.code = known.code.map(str::to_owned);
    }
    (status, error)
}
