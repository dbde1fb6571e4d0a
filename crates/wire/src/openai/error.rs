//! OpenAI's error body, and the conversion of other providers' errors into it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

/// Most characters of a body that is not an error object that are repeated to the client.
const MAX_TEXT: usize = 500;

/// `{"error":{"message","type","param","code"}}`, always with all four keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// One sentence for the reader.
    pub message: String,
    /// The class of error, such as `invalid_request_error`.
    pub r#type: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// A word for programs, such as `model_not_found`.
    pub code: Option<String>,
}

impl ErrorBody {
    /// An error without `param`.
    pub fn new(message: impl Into<String>, r#type: &str, code: Option<&str>) -> Self {
        Self { message: message.into(), r#type: r#type.to_owned(), param: None, code: code.map(str::to_owned) }
    }

    /// The JSON text. It starts with `{"error":`, which go-openai needs to see an error in a stream.
    pub fn to_bytes(&self) -> Bytes {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: &'a ErrorBody,
        }
        to_json(&Envelope { error: self })
    }

    /// Like [`Self::to_bytes`], with one more member behind the four.
    pub fn to_bytes_with(&self, name: &str, value: &Value) -> Bytes {
        let mut object = Map::new();
        object.insert("message".into(), self.message.as_str().into());
        object.insert("type".into(), self.r#type.as_str().into());
        object.insert("param".into(), self.param.as_deref().into());
        object.insert("code".into(), self.code.as_deref().into());
        object.insert(name.to_owned(), value.clone());
        to_json(&Value::Object(Map::from_iter([("error".to_owned(), Value::Object(object))])))
    }

    /// Reads an error in any known shape. `None` when nothing in `value` tells of an error.
    ///
    /// A number under `code` that is an HTTP status takes precedence over `status` when missing keys are filled in.
    pub(crate) fn read(status: u16, value: &Value) -> Option<Self> {
        match value {
            // Gemini sends an array with one element.
            Value::Array(all) => all.iter().find_map(|value| Self::read(status, value)),
            Value::Object(outer) => match outer.get("error") {
                Some(Value::Object(inner)) if !inner.is_empty() => Some(Self::from_object(status, inner)),
                Some(Value::Array(all)) if !all.is_empty() => Some(
                    Self::read(status, &all[0]).unwrap_or_else(|| Self::with_message(status, text(&all[0]), outer)),
                ),
                // xAI, Ollama: `error` is the message itself; type and code are its siblings.
                Some(Value::String(message)) if !message.is_empty() => {
                    Some(Self::with_message(status, message.clone(), outer))
                }
                Some(Value::Bool(true)) => Some(Self::from_object(status, outer)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The error from the object that holds `message`, `type`, `param` and `code` itself.
    pub(crate) fn from_object(status: u16, object: &Map<String, Value>) -> Self {
        let message = ["message", "detail", "msg", "error_description", "title"]
            .iter()
            .filter_map(|key| object.get(*key))
            .map(text)
            .find(|message| !message.is_empty());
        Self::with_message(status, message.unwrap_or_else(|| cut(&Value::Object(object.clone()).to_string())), object)
    }

    fn with_message(status: u16, message: String, object: &Map<String, Value>) -> Self {
        let number = ["code", "status", "statusCode"].iter().find_map(|key| object.get(*key)?.as_u64());
        let status =
            number.and_then(|number| u16::try_from(number).ok()).filter(|n| (400..600).contains(n)).unwrap_or(status);
        let (default_type, default_code) = defaults(status, &message);
        let word = |key: &str| match object.get(key) {
            Some(Value::String(word)) if !word.is_empty() => Some(word.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let kind = object.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty());
        let code = if object.contains_key("code") { word("code") } else { default_code.map(str::to_owned) };
        Self { message, r#type: kind.unwrap_or(default_type).to_owned(), param: word("param"), code }
    }
}

/// Gives an error reply OpenAI's shape.
///
/// `None` when the body has that shape already (an `error` object with all four keys, of the right types): such a body passes
/// byte for byte. The caller maps the HTTP status, see [`map_status`]. Further members of the provider's error object are kept
/// behind the four keys; text that is not JSON is cut to 500 characters.
pub fn normalise(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Bytes> {
    let value = serde_json::from_slice::<Value>(body);
    let (error, extras) = match &value {
        Ok(value) => {
            let inner = inner_object(value);
            if value.is_object() && inner.is_some_and(is_good) {
                return None;
            }
            (of_value(status, content_type, value, body), inner)
        }
        Err(_) => (from_text(status, content_type, body), None),
    };
    let Some(extras) = extras else { return Some(error.to_bytes()) };
    let mut object = Map::new();
    object.insert("message".into(), error.message.into());
    object.insert("type".into(), error.r#type.into());
    object.insert("param".into(), error.param.into());
    object.insert("code".into(), error.code.into());
    for (key, value) in extras {
        if !object.contains_key(key) {
            object.insert(key.clone(), value.clone());
        }
    }
    Some(to_json(&Value::Object(Map::from_iter([("error".to_owned(), Value::Object(object))]))))
}

/// An error reply of any shape as OpenAI's error object.
pub fn read_error(status: u16, content_type: Option<&str>, body: &[u8]) -> ErrorBody {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => of_value(status, content_type, &value, body),
        Err(_) => from_text(status, content_type, body),
    }
}

/// The error in a reply's body, whatever the reply's status is; `None` for a body that reports no error.
pub fn find_error(status: u16, body: &[u8]) -> Option<ErrorBody> {
    ErrorBody::read(status, &serde_json::from_slice(body).ok()?)
}

fn of_value(status: u16, content_type: Option<&str>, value: &Value, body: &[u8]) -> ErrorBody {
    ErrorBody::read(status, value).unwrap_or_else(|| match value {
        Value::Object(outer) if !outer.is_empty() => ErrorBody::from_object(status, outer),
        _ => from_text(status, content_type, body),
    })
}

/// The HTTP status that a client gets for a provider's status: 529 (Anthropic's "overloaded"), which clients do not know,
/// becomes 503; all others stay.
pub fn map_status(status: u16) -> u16 {
    if status == 529 { 503 } else { status }
}

/// The default type and code of an error that does not state them.
fn defaults(status: u16, message: &str) -> (&'static str, Option<&'static str>) {
    match status {
        400 | 422 if is_context_length(message) => ("invalid_request_error", Some("context_length_exceeded")),
        401 => ("invalid_request_error", Some("invalid_api_key")),
        402 => ("insufficient_quota", Some("insufficient_quota")),
        403 => ("invalid_request_error", Some("permission_denied")),
        404 => ("invalid_request_error", Some("model_not_found")),
        408 | 504 => ("server_error", Some("timeout")),
        413 => ("invalid_request_error", Some("request_too_large")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        503 | 529 => ("server_error", Some("overloaded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    }
}

fn is_context_length(message: &str) -> bool {
    ["prompt is too long", "maximum context length", "context_length"].iter().any(|words| message.contains(words))
}

/// The object under `error`, also where an array holds it.
fn inner_object(value: &Value) -> Option<&Map<String, Value>> {
    match value {
        Value::Array(all) => all.iter().find_map(inner_object),
        Value::Object(outer) => outer.get("error")?.as_object(),
        _ => None,
    }
}

fn is_good(error: &Map<String, Value>) -> bool {
    let text_or_null = |key: &str| error.get(key).is_some_and(|value| value.is_string() || value.is_null());
    error.get("message").is_some_and(Value::is_string)
        && error.get("type").is_some_and(Value::is_string)
        && text_or_null("param")
        && text_or_null("code")
}

/// The message in a value: a text, or the list of findings that FastAPI and Mistral send.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "),
        Value::Object(object) => {
            if let Some(detail) = object.get("detail") {
                return text(detail);
            }
            let said = object.get("msg").or_else(|| object.get("message")).map(text).unwrap_or_default();
            let place = object.get("loc").and_then(Value::as_array).map(|loc| {
                let words = loc.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
                words.collect::<Vec<_>>().join(".")
            });
            match place {
                Some(place) if !place.is_empty() => format!("{place}: {said}"),
                _ if said.is_empty() => cut(&value.to_string()),
                _ => said,
            }
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The error for a body that is not an error object: HTML of a proxy, plain text, nothing.
fn from_text(status: u16, content_type: Option<&str>, body: &[u8]) -> ErrorBody {
    // Enough bytes for the text even if most of them are white space.
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT * 16)]);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let kind = content_type.map_or("", |kind| kind.split(';').next().unwrap_or_default().trim());
    let message = match (words.is_empty(), kind) {
        (true, _) => format!("The provider answered {status} with an empty body."),
        (false, "") => format!("The provider answered {status}: {}", cut(&words)),
        (false, kind) => format!("The provider answered {status} ({}): {}", cut(kind), cut(&words)),
    };
    let (r#type, code) = defaults(status, &words);
    ErrorBody::new(message, r#type, code)
}

/// The first characters of `text`, at most [`MAX_TEXT`].
fn cut(text: &str) -> String {
    let text: Cow<'_, str> = match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => Cow::Borrowed(&text[..end]),
        None => Cow::Borrowed(text),
    };
    text.into_owned()
}

fn to_json(value: &impl Serialize) -> Bytes {
    // Texts, options and JSON values always serialise.
    serde_json::to_vec(value).map_or_else(|_| Bytes::from_static(b"{}"), Bytes::from)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wrapped(status: u16, body: &str) -> Value {
        serde_json::from_slice(&normalise(status, Some("application/json"), body.as_bytes()).expect(body)).unwrap()
    }

    fn four(message: &str, kind: &str, code: Value) -> Value {
        serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
    }

    #[test]
    fn the_four_keys_in_order() {
        let mut error = ErrorBody::new("a\n\"b\"", "server_error", None);
        assert_eq!(
            &error.to_bytes()[..],
            br#"{"error":{"message":"a\n\"b\"","type":"server_error","param":null,"code":null}}"#
        );
        error.param = Some("n".into());
        error.code = Some("c".into());
        assert_eq!(
            &error.to_bytes()[..],
            br#"{"error":{"message":"a\n\"b\"","type":"server_error","param":"n","code":"c"}}"#
        );
    }

    #[test]
    fn a_good_error_passes() {
        for good in [
            r#"{"error":{"message":"m","type":"t","param":null,"code":null}}"#,
            r#"{"error":{"message":"m","type":"t","param":"p","code":"c","innererror":{}}}"#,
        ] {
            assert_eq!(normalise(400, None, good.as_bytes()), None, "{good}");
        }
        // Anthropic's has two of the four keys.
        assert_eq!(
            wrapped(529, r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#)["error"]["message"],
            "m"
        );
    }

    #[test]
    fn providers_shapes() {
        // Gemini
        assert_eq!(
            wrapped(400, r#"[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]"#),
            serde_json::json!({"error": {"message": "bad", "type": "invalid_request_error", "param": null, "code": "400", "status": "INVALID_ARGUMENT"}})
        );
        // xAI, Ollama
        assert_eq!(
            wrapped(400, r#"{"code":"bad_arg","error":"text"}"#),
            four("text", "invalid_request_error", "bad_arg".into())
        );
        assert_eq!(
            wrapped(404, r#"{"error":"no such model"}"#),
            four("no such model", "invalid_request_error", "model_not_found".into())
        );
        // vLLM
        assert_eq!(
            wrapped(400, r#"{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}"#),
            four("m", "BadRequestError", "400".into())
        );
        // Azure's API manager
        assert_eq!(
            wrapped(401, r#"{"statusCode":401,"message":"Access denied"}"#),
            four("Access denied", "invalid_request_error", "invalid_api_key".into())
        );
        // Mistral and FastAPI
        let detail =
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","x",0],"msg":"Extra inputs"},{"msg":"Two"}]}"#;
        let said = four("body.x.0: Extra inputs; Two", "invalid_request_error", Value::Null);
        assert_eq!(wrapped(422, detail), said);
        assert_eq!(wrapped(422, &format!(r#"{{"object":"error","message":{detail},"code":null}}"#)), said);
        assert_eq!(wrapped(422, r#"{"detail":"no"}"#), four("no", "invalid_request_error", Value::Null));
        // OpenRouter: a numeric code, extra members kept
        assert_eq!(
            wrapped(429, r#"{"error":{"message":"m","code":429,"metadata":{"raw":1}}}"#),
            serde_json::json!({"error": {"message": "m", "type": "rate_limit_error", "param": null, "code": "429", "metadata": {"raw": 1}}})
        );
        assert_eq!(
            wrapped(400, r#"{"error":{"message":"prompt is too long: 9 > 8","type":null}}"#),
            four("prompt is too long: 9 > 8", "invalid_request_error", "context_length_exceeded".into())
        );
    }

    #[test]
    fn missing_keys_follow_the_status() {
        for (status, kind, code) in [
            (400, "invalid_request_error", None),
            (402, "insufficient_quota", Some("insufficient_quota")),
            (403, "invalid_request_error", Some("permission_denied")),
            (413, "invalid_request_error", Some("request_too_large")),
            (429, "rate_limit_error", Some("rate_limit_exceeded")),
            (500, "server_error", None),
            (502, "server_error", None),
            (503, "server_error", Some("overloaded")),
            (504, "server_error", Some("timeout")),
            (529, "server_error", Some("overloaded")),
        ] {
            assert_eq!(wrapped(status, r#"{"message":"m"}"#), four("m", kind, code.into()), "{status}");
        }
        assert_eq!((map_status(529), map_status(503), map_status(200)), (503, 503, 200));
    }

    #[test]
    fn what_is_no_error_object_is_quoted_and_cut() {
        let html = format!("<html>\n<p>{}</p>", "é".repeat(2_000));
        let value: Value =
            serde_json::from_slice(&normalise(502, Some("text/html; charset=utf-8"), html.as_bytes()).unwrap())
                .unwrap();
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("The provider answered 502 (text/html): <html> <p>éé"), "{message}");
        assert!(message.chars().count() <= 550);
        assert_eq!(value["error"]["type"], "server_error");
        for empty in ["", " \n"] {
            assert_eq!(wrapped(503, empty)["error"]["message"], "The provider answered 503 with an empty body.");
        }
        for odd in [
            "{}",
            "[]",
            "null",
            "1",
            "\"text\"",
            "{\"error\":null}",
            "{\"error\":{}}",
            "\u{0}",
            "{\"error\":[]}",
            "{\"error\":[1]}",
        ] {
            let error = &wrapped(500, odd)["error"];
            assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{odd}: {error}");
            assert_eq!(error.as_object().unwrap().len(), 4, "{odd}");
        }
        assert!(normalise(500, None, b"\xff\xfe").is_some());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(normalise(500, None, deep.as_bytes()).is_some());
    }
}
