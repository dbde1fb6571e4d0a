//! Turns content parts of Chat messages into Anthropic's blocks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::at::At;
use super::super::{Dropped, Refusal, note_dropped};
use super::must_be;

/// Who speaks, which decides which parts are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Texts only.
    System,
    /// Texts, images and files.
    User,
    /// Texts, refusals and thinking.
    Assistant,
    /// A tool's result: the same parts as the user's.
    Tool,
}

/// The blocks of a message's `content`: a text or a list of parts. Blank texts are left out, because
/// Anthropic refuses them.
///
/// # Errors
/// A part that is not supported for this speaker.
pub(super) fn blocks(
    content: &Value,
    at: &At<'_>,
    place: Place,
    dropped: &mut Vec<Dropped>,
) -> Result<Vec<Value>, Refusal> {
    match content {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text_block(text).into_iter().collect()),
        Value::Array(parts) => {
            let mut all = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                let at = at.item(index);
                let Some(part) = part.as_object() else {
                    return Err(must_be(at, "an object with a `type`"));
                };
                let Some(mut block) = block(part, &at, place, dropped)? else { continue };
                if let Some(mark) = breakpoint(part, dropped) {
                    block["cache_control"] = mark;
                }
                all.push(block);
            }
            Ok(all)
        }
        _ => Err(must_be(at, "a text or a list of parts")),
    }
}

/// A text block, unless it is blank.
pub(super) fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

/// The breakpoint of the prompt cache that the client put on a part, a message or a tool, in Anthropic's form or in OpenAI's.
pub(super) fn breakpoint(on: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Option<Value> {
    let openais =
        || on.get("prompt_cache_breakpoint").filter(|mark| mark.is_object()).map(|_| json!({"type": "ephemeral"}));
    cache_control(on.get("cache_control"), dropped).or_else(openais)
}

/// The client's own breakpoint of the prompt cache, with its time to live.
pub(super) fn cache_control(mark: Option<&Value>, dropped: &mut Vec<Dropped>) -> Option<Value> {
    match mark? {
        Value::Null => None,
        Value::Object(mark) if mark.get("type").is_some_and(Value::is_string) => {
            let known = mark.iter().filter(|(key, value)| matches!(key.as_str(), "type" | "ttl") && !value.is_null());
            Some(Value::Object(known.map(|(key, value)| (key.clone(), value.clone())).collect()))
        }
        _ => {
            note_dropped(dropped, "cache_control");
            None
        }
    }
}

/// A thinking block as Anthropic sent it; `None` for a block that Anthropic would not accept back.
pub(super) fn thinking_block(block: &Value) -> Option<Value> {
    let text = |key: &str| block.get(key).and_then(Value::as_str);
    match text("type")? {
        "thinking" => {
            let signature = text("signature").filter(|signature| !signature.is_empty())?;
            Some(json!({"type": "thinking", "thinking": text("thinking").unwrap_or(""), "signature": signature}))
        }
        "redacted_thinking" => Some(json!({"type": "redacted_thinking", "data": text("data")?})),
        _ => None,
    }
}

fn block(
    part: &Map<String, Value>,
    at: &At<'_>,
    place: Place,
    dropped: &mut Vec<Dropped>,
) -> Result<Option<Value>, Refusal> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("");
    let text = |key: &str| match part.get(key) {
        Some(Value::String(text)) => Ok(text_block(text)),
        _ => Err(must_be(format!("{at}.{key}"), "a text")),
    };
    match (kind, place) {
        ("text", _) => text("text"),
        ("refusal", Place::Assistant) => text("refusal"),
        ("thinking" | "redacted_thinking", Place::Assistant) => {
            let block = thinking_block(&Value::Object(part.clone()));
            if block.is_none() {
                note_dropped(dropped, "messages[].content[] (thinking without signature)");
            }
            Ok(block)
        }
        ("image_url", Place::User | Place::Tool) => image(part, at, dropped).map(Some),
        ("file", Place::User | Place::Tool) => file(part, at).map(Some),
        ("input_audio", _) => Err(Refusal::new(
            at,
            "This model does not take audio: send a transcript as text, or ask a model that listens.",
        )),
        _ => Err(Refusal::new(
            format!("{at}.type"),
            format!(
                "A part of type {kind:?} is not supported here: `text` works everywhere, `image_url` and `file` in messages of users and tools."
            ),
        )),
    }
}

fn image(part: &Map<String, Value>, at: &At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let image = part.get("image_url").unwrap_or(&Value::Null);
    // Some clients send the URL itself instead of an object.
    let Some(url) = image.as_str().or_else(|| image.get("url")?.as_str()) else {
        return Err(must_be(format!("{at}.image_url.url"), "an http(s) URL or a data URL"));
    };
    if !matches!(image.get("detail").and_then(Value::as_str), None | Some("auto")) {
        note_dropped(dropped, "messages[].content[].image_url.detail");
    }
    let scheme = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    if scheme.starts_with("data:") {
        return match DataUrl::parse(url) {
            Some(data) => data.block(None),
            None => None,
        }
        .ok_or_else(|| {
            must_be(
                format!("{at}.image_url.url"),
                "an http(s) URL, or a data URL that holds a JPEG, PNG, GIF or WebP image or a PDF",
            )
        });
    }
    if !scheme.starts_with("http://") && !scheme.starts_with("https://") {
        return Err(must_be(format!("{at}.image_url.url"), "an http(s) URL or a data URL"));
    }
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let kind = if path.to_ascii_lowercase().ends_with(".pdf") { "document" } else { "image" };
    Ok(json!({"type": kind, "source": {"type": "url", "url": url}}))
}

fn file(part: &Map<String, Value>, at: &At<'_>) -> Result<Value, Refusal> {
    let file = part.get("file").unwrap_or(&Value::Null);
    let text = |key: &str| file.get(key).and_then(Value::as_str);
    let Some(data) = text("file_data") else {
        let message = if text("file_id").is_some() {
            "Ids of uploaded files mean nothing to this model's provider: send the file itself as `file_data`, a data URL."
        } else {
            "Without an id a file needs `file_data`, a data URL."
        };
        let key = if text("file_id").is_some() { "file_id" } else { "file_data" };
        return Err(Refusal::new(format!("{at}.file.{key}"), message));
    };
    let name = text("filename").filter(|name| !name.is_empty());
    // Some clients send the bare base64 of a PDF.
    let bare = DataUrl { media_type: "application/pdf".into(), base64: true, data };
    let url = DataUrl::parse(data).or_else(|| data.starts_with("JVBERi").then_some(bare));
    url.and_then(|url| url.block(name)).ok_or_else(|| {
        must_be(
            format!("{at}.file.file_data"),
            "a data URL that holds a PDF, a text, or a JPEG, PNG, GIF or WebP image",
        )
    })
}

struct DataUrl<'a> {
    /// The media type in lower case.
    media_type: String,
    base64: bool,
    data: &'a str,
}

impl<'a> DataUrl<'a> {
    /// Parses a data URL (RFC 2397) with any number of parameters.
    fn parse(url: &'a str) -> Option<Self> {
        let rest = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).and_then(|_| url.get(5..))?;
        let (head, data) = rest.split_once(',')?;
        let mut words = head.split(';').map(str::trim);
        let media_type = words.next().unwrap_or("").to_ascii_lowercase();
        let base64 = words.any(|word| word.eq_ignore_ascii_case("base64"));
        Some(Self { media_type, base64, data })
    }

    /// The data as a block; `None` for a media type that Anthropic does not accept, or data that cannot be decoded.
    fn block(&self, title: Option<&str>) -> Option<Value> {
        let media_type = if self.media_type == "image/jpg" { "image/jpeg" } else { &self.media_type };
        if matches!(media_type, "image/jpeg" | "image/png" | "image/gif" | "image/webp") {
            let source = json!({"type": "base64", "media_type": media_type, "data": self.encoded()?});
            return Some(json!({"type": "image", "source": source}));
        }
        let source = if media_type == "application/pdf" {
            json!({"type": "base64", "media_type": media_type, "data": self.encoded()?})
        } else if media_type.starts_with("text/") || media_type == "application/json" {
            let text = String::from_utf8(self.decoded()?).ok().filter(|text| !text.trim().is_empty())?;
            json!({"type": "text", "media_type": "text/plain", "data": text})
        } else {
            return None;
        };
        let mut block = json!({"type": "document", "source": source});
        if let Some(title) = title {
            block["title"] = title.into();
        }
        Some(block)
    }

    /// The data in base64, without the line ends that some encoders put in.
    fn encoded(&self) -> Option<String> {
        if !self.base64 {
            return Some(STANDARD.encode(self.decoded()?));
        }
        let text: String = self.data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        (!text.is_empty()).then_some(text)
    }

    fn decoded(&self) -> Option<Vec<u8>> {
        if self.base64 { STANDARD.decode(self.encoded()?).ok() } else { percent_decode(self.data) }
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || u8::try_from(char::from(bytes.next()?).to_digit(16)?).ok();
            out.push(digit()? << 4 | digit()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}
