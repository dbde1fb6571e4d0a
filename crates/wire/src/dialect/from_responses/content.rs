//! Translates the content of messages and tool outputs.

use serde_json::{Value, json};

use super::read::{self, CACHE_MARKS, Object, Refuse, cache_marks, given, others};
use crate::dialect::at::At;
use crate::dialect::{Dropped, Refusal, note_dropped};

/// Who speaks, which decides which parts are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    User,
    /// The system or a developer. Text only.
    System,
    /// The assistant. Text and refusals.
    Assistant,
    Tool,
}

/// The path of a content part, for naming what is dropped from it.
const PLACE: &str = "input[].content[]";

/// The content as parts of a chat message.
pub(super) fn parts(
    value: &Value,
    speaker: Speaker,
    at: At<'_>,
    dropped: &mut Vec<Dropped>,
) -> Result<Vec<Value>, Refusal> {
    match value {
        Value::String(text) => Ok(vec![text_part(text)]),
        Value::Array(all) => {
            all.iter().enumerate().map(|(index, part)| self::part(part, speaker, at.item(index), dropped)).collect()
        }
        _ => Err(at.must_be("a string or an array of content parts")),
    }
}

/// A message's content from its parts: a string where there is only one plain text, because every provider reads that.
pub(super) fn collapse(mut parts: Vec<Value>) -> Value {
    match parts.as_mut_slice() {
        [] => "".into(),
        [part] if is_plain(part) => match part.get_mut("text") {
            Some(text) => text.take(),
            None => parts.into(),
        },
        _ => parts.into(),
    }
}

/// Whether a part has only its type and one other member, so no cache mark.
pub(super) fn is_plain(part: &Value) -> bool {
    part.as_object().is_some_and(|part| part.len() == 2)
}

/// A part of plain text.
pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn part(value: &Value, speaker: Speaker, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    let part = read::object(value, at)?;
    let kind = read::text(part, "type", at)?;
    let speaks = matches!(speaker, Speaker::User | Speaker::Tool);
    let made = match kind {
        // `text` is Chat's own word, which some clients mix in.
        "input_text" | "output_text" | "text" => text(part, at, dropped)?,
        "refusal" if speaker == Speaker::Assistant => {
            others(part, &["type", "refusal"], PLACE, dropped);
            json!({"type": "refusal", "refusal": read::text(part, "refusal", at)?})
        }
        "input_image" if speaks => image(part, at, dropped)?,
        "input_file" if speaks => file(part, at, dropped)?,
        "input_audio" if speaks => audio(part, at, dropped)?,
        _ => {
            return Err(at.member("type").refuse(format_args!(
                "a part of type `{kind}` cannot stand here for this model; {}.",
                match speaker {
                    Speaker::User => "use `input_text`, `input_image`, `input_file` or `input_audio`",
                    Speaker::Tool => "use `input_text`, `input_image` or `input_file`",
                    Speaker::Assistant => "use `output_text` or `refusal`",
                    Speaker::System => "use `input_text`, and a user message for anything else",
                }
            )));
        }
    };
    let mut made = made;
    if let Value::Object(made) = &mut made {
        cache_marks(part, made);
    }
    Ok(made)
}

fn text(part: &Object, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    // A client that sends back earlier output repeats these members; an empty list asks for nothing.
    for name in ["annotations", "logprobs"] {
        if given(part, name).is_some_and(|value| value.as_array().is_none_or(|all| !all.is_empty())) {
            note_dropped(dropped, format!("{PLACE}.{name}"));
        }
    }
    known(part, &["type", "text", "annotations", "logprobs"], dropped);
    Ok(text_part(read::text(part, "text", at)?))
}

fn image(part: &Object, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    no_file_id(part, at)?;
    known(part, &["type", "image_url", "file_id", "detail"], dropped);
    let mut image = json!({"url": read::text(part, "image_url", at)?});
    match read::optional(part, "detail", at)? {
        // The highest detail that Chat has is `high`.
        Some("original") => {
            note_dropped(dropped, format!("{PLACE}.detail"));
            image["detail"] = "high".into();
        }
        Some(detail) => image["detail"] = detail.into(),
        None => {}
    }
    Ok(json!({"type": "image_url", "image_url": image}))
}

fn file(part: &Object, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    no_file_id(part, at)?;
    if given(part, "file_url").is_some() {
        return Err(at.member("file_url").refuse(
            "this model's provider does not fetch files; send the content as `file_data`, a data URL, with `filename`.",
        ));
    }
    known(part, &["type", "file_data", "filename", "file_id", "file_url", "detail"], dropped);
    if given(part, "detail").is_some_and(|detail| detail != "auto") {
        note_dropped(dropped, format!("{PLACE}.detail"));
    }
    let mut file = Object::new();
    if let Some(name) = read::optional(part, "filename", at)? {
        file.insert("filename".into(), name.into());
    }
    file.insert("file_data".into(), read::text(part, "file_data", at)?.into());
    Ok(json!({"type": "file", "file": file}))
}

fn audio(part: &Object, at: At<'_>, dropped: &mut Vec<Dropped>) -> Result<Value, Refusal> {
    known(part, &["type", "input_audio"], dropped);
    let place = at.member("input_audio");
    let audio = read::object(part.get("input_audio").unwrap_or(&Value::Null), place)?;
    let (data, format) = (read::text(audio, "data", place)?, read::text(audio, "format", place)?);
    Ok(json!({"type": "input_audio", "input_audio": {"data": data, "format": format}}))
}

fn no_file_id(part: &Object, at: At<'_>) -> Result<(), Refusal> {
    match given(part, "file_id") {
        None => Ok(()),
        Some(_) => Err(at.member("file_id").refuse(
            "this model's provider cannot read files that were uploaded elsewhere; send the content itself, as a data URL.",
        )),
    }
}

fn known(part: &Object, names: &[&str], dropped: &mut Vec<Dropped>) {
    others(part, &[names, CACHE_MARKS].concat(), PLACE, dropped);
}
