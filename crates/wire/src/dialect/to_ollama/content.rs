//! The content of a message: text, images and files.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::request::{drop_unknown, given, wrong};
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Members of a part that are read.
const KNOWN: &[&str] = &["type", "text", "refusal", "image_url", "file"];
/// Subtypes of media types, other than `text/…`, of files that are text.
const TEXTS: &[&str] =
    &["json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-javascript", "typescript", "x-sh", "sql"];

/// The content of one message to Ollama: images first, then text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) text: String,
    /// The images in base64.
    pub(super) images: Vec<String>,
}

enum Part {
    Text(String),
    Image(String),
}

impl Content {
    /// The content of message `i` in one piece. `None` when there is none.
    pub(super) fn read(
        message: &Map<String, Value>,
        i: usize,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(parts) = parts(message, i, dropped)? else { return Ok(None) };
        Ok(Some(Self::of(parts)))
    }

    /// The content of message `i`, split into as many messages as are needed to keep its order. Ollama puts a message's images
    /// before its text, which would separate pictures from the words about them where both alternate.
    pub(super) fn split(
        message: &Map<String, Value>,
        i: usize,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Vec<Self>, Refusal> {
        let Some(parts) = parts(message, i, dropped)? else {
            return Err(wrong(format!("messages[{i}].content"), "a string or a list of content parts"));
        };
        let is_image = |part: &Part| matches!(part, Part::Image(_));
        if parts.chunk_by(|a, b| is_image(a) == is_image(b)).nth(2).is_none() {
            return Ok(vec![Self::of(parts)]);
        }
        let mut all = vec![Self::default()];
        for part in parts {
            match all.last_mut() {
                Some(last) if last.text.is_empty() || !is_image(&part) => last.add(part),
                _ => all.push(Self::of(vec![part])),
            }
        }
        Ok(all)
    }

    fn of(parts: Vec<Part>) -> Self {
        let mut all = Self::default();
        parts.into_iter().for_each(|part| all.add(part));
        all
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Image(image) => self.images.push(image),
            Part::Text(text) if self.text.is_empty() => self.text = text,
            Part::Text(text) => {
                self.text.push('\n');
                self.text.push_str(&text);
            }
        }
    }
}

fn parts(message: &Map<String, Value>, i: usize, dropped: &mut Vec<Dropped>) -> Result<Option<Vec<Part>>, Refusal> {
    match given(message, "content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(vec![Part::Text(text.clone())])),
        Some(Value::Array(all)) => {
            let all = all.iter().enumerate().map(|(j, part)| {
                Part::read(part, dropped).map_err(|mut refusal| {
                    refusal.param.insert_str(0, &format!("messages[{i}].content[{j}]"));
                    refusal
                })
            });
            all.collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(wrong(format!("messages[{i}].content"), "a string or a list of content parts")),
    }
}

impl Part {
    /// Reads one part; paths in refusals are relative to the part.
    fn read(part: &Value, dropped: &mut Vec<Dropped>) -> Result<Self, Refusal> {
        let Some(part) = part.as_object() else { return Err(Refusal::new("", "A content part must be an object.")) };
        drop_unknown(part, KNOWN, "messages[].content[].", dropped);
        match part.get("type").and_then(Value::as_str) {
            Some(kind @ ("text" | "refusal")) => match part.get(kind) {
                Some(Value::String(text)) => Ok(Self::Text(text.clone())),
                _ => {
                    Err(Refusal::new(format!(".{kind}"), format!("A part of type {kind} needs its text as a string.")))
                }
            },
            Some("image_url") => image(part, dropped),
            Some("file") => file(part),
            Some("input_audio") => Err(Refusal::new(
                "",
                "Ollama's /api/chat takes no audio: send its transcript as text, or use a model of another provider.",
            )),
            Some(kind) => Err(Refusal::new(
                ".type",
                format!("Ollama takes no content part of type '{kind}': use text, image_url or a file of text."),
            )),
            None => Err(Refusal::new(".type", "A content part needs a type, such as text or image_url.")),
        }
    }
}

fn image(part: &Map<String, Value>, dropped: &mut Vec<Dropped>) -> Result<Part, Refusal> {
    let image = part.get("image_url");
    let url = match image {
        Some(Value::Object(image)) => {
            if given(image, "detail").is_some_and(|detail| detail != "auto") {
                note_dropped(dropped, "messages[].content[].image_url.detail");
            }
            image.get("url").and_then(Value::as_str)
        }
        other => other.and_then(Value::as_str),
    };
    let Some(url) = url else { return Err(Refusal::new(".image_url.url", "An image needs its url as a string.")) };
    match DataUrl::read(url) {
        Some(data) => Ok(Part::Image(data.base64.to_owned())),
        None => Err(Refusal::new(
            ".image_url.url",
            "Ollama does not fetch images: send the image itself as a data URL in base64 (data:image/png;base64,…).",
        )),
    }
}

/// Translates a file: a text file becomes text under its name, an image file becomes an image.
fn file(part: &Map<String, Value>) -> Result<Part, Refusal> {
    let file = part.get("file").and_then(Value::as_object);
    let Some(data) = file.and_then(|file| given(file, "file_data")) else {
        return Err(Refusal::new(
            ".file",
            "Ollama keeps no files to refer to: send the text itself as file_data, a data URL in base64, or as a text part.",
        ));
    };
    let Some(data) = data.as_str().and_then(DataUrl::read) else {
        return Err(Refusal::new(
            ".file.file_data",
            "file_data must be a data URL in base64 (data:text/plain;base64,…).",
        ));
    };
    if data.is_image() {
        return Ok(Part::Image(data.base64.to_owned()));
    }
    if !data.is_text() {
        let message = format!(
            "Ollama reads no files of type '{}': send the document's text, or its pages as images.",
            data.media_type
        );
        return Err(Refusal::new(".file.file_data", message));
    }
    let Some(text) = STANDARD.decode(data.base64).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Err(Refusal::new(".file.file_data", "A file of text must be UTF-8 in base64."));
    };
    let name = file.and_then(|file| file.get("filename")).and_then(Value::as_str).filter(|name| !name.is_empty());
    Ok(Part::Text(match name {
        Some(name) => format!("{name}:\n{text}"),
        None => text,
    }))
}

/// `data:<media type>[;parameter…];base64,<data>`.
struct DataUrl<'a> {
    media_type: &'a str,
    base64: &'a str,
}

impl<'a> DataUrl<'a> {
    fn read(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_at_checked(5)?;
        let (head, base64) = rest.split_once(',').filter(|_| scheme.eq_ignore_ascii_case("data:"))?;
        let (head, _) = head.rsplit_once(';').filter(|(_, last)| last.eq_ignore_ascii_case("base64"))?;
        let media_type = head.split(';').next().unwrap_or_default();
        (!base64.is_empty()).then_some(Self { media_type, base64 })
    }

    fn is_image(&self) -> bool {
        self.kind().is_some_and(|(kind, _)| kind.eq_ignore_ascii_case("image"))
    }

    fn is_text(&self) -> bool {
        let Some((kind, name)) = self.kind() else { return false };
        let name = name.to_ascii_lowercase();
        kind.eq_ignore_ascii_case("text")
            || kind.eq_ignore_ascii_case("application")
                && (TEXTS.contains(&name.as_str()) || name.ends_with("+json") || name.ends_with("+xml"))
    }

    fn kind(&self) -> Option<(&'a str, &'a str)> {
        self.media_type.split_once('/')
    }
}
