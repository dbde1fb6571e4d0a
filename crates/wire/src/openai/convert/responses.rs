//! Turns a reply of the Responses API into its named events, and takes the reply out of the last of these.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::parts::{Object, elements, is_text, member, one_line};
use crate::sse::{RawEvent, write_data};

/// The reply in the `response.completed` event, as its raw text.
pub(super) fn to_json(events: &[RawEvent]) -> Option<Bytes> {
    for event in events {
        let fields = event.fields();
        let Some(data) = &fields.data else { continue };
        let name = match fields.event {
            Some(name) => String::from_utf8_lossy(name),
            None => type_of(data).into(),
        };
        match name.as_ref() {
            "response.completed" => {
                let event = Object::read(std::str::from_utf8(data).ok()?)?;
                let response = event.get("response")?;
                return completed(&Object::read(response)?).then(|| Bytes::copy_from_slice(response.as_bytes()));
            }
            "response.incomplete" | "response.failed" | "response.cancelled" | "error" => return None,
            _ => (),
        }
    }
    None
}

/// The events of a reply. The last one holds the reply's raw text, without line breaks between its members.
pub(super) fn to_events(json: &str) -> Option<Bytes> {
    let line = one_line(json);
    let response = Object::read(&line)?;
    let output = elements(response.get("output")?)?;
    if !completed(&response) {
        return None;
    }
    let begun = response.with(&[
        ("status", "\"in_progress\""),
        ("completed_at", "null"),
        ("output", "[]"),
        ("output_text", "\"\""),
        ("usage", "null"),
    ]);
    let mut events = Events { out: BytesMut::with_capacity(4 * line.len() + 4096), next: 0 };
    events.event("response.created", &[("response", &begun)]);
    events.event("response.in_progress", &[("response", &begun)]);
    for (index, item) in output.into_iter().enumerate() {
        events.item(&index.to_string(), item)?;
    }
    // On one line, as in all events: some clients read a stream line by line.
    events.event("response.completed", &[("response", &line)]);
    Some(events.out.freeze())
}

/// Whether a reply says that it is complete.
fn completed(response: &Object<'_>) -> bool {
    response.get("status") == Some("\"completed\"") && response.get("error").is_none_or(|error| error == "null")
}

fn type_of(data: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Head {
        r#type: String,
    }
    serde_json::from_slice::<Head>(data).map(|head| head.r#type).unwrap_or_default()
}

struct Events {
    out: BytesMut,
    /// The number of the next event.
    next: u64,
}

/// The members of an event that say where in the reply it belongs.
type Place<'a> = [(&'a str, &'a str)];

impl Events {
    fn event(&mut self, name: &str, members: &Place<'_>) {
        let mut data = format!("{{\"type\":\"{name}\",\"sequence_number\":{}", self.next);
        members.iter().for_each(|(name, value)| member(&mut data, name, value));
        data.push('}');
        self.next += 1;
        for part in ["event: ", name, "\n"] {
            self.out.extend_from_slice(part.as_bytes());
        }
        write_data(&mut self.out, data.as_bytes());
    }

    /// Writes an event with further members behind the members of its place.
    fn at(&mut self, name: &str, place: &Place<'_>, members: &Place<'_>) {
        self.event(name, &[place, members].concat());
    }

    fn item(&mut self, index: &str, text: &str) -> Option<()> {
        let item = Object::read(text)?;
        let place = [("item_id", item.get("id").unwrap_or("\"\"")), ("output_index", index)];
        let added = [("output_index", index)];
        let status = ("status", "\"in_progress\"");
        let mut begin = |edits: &[(&str, &str)]| {
            self.at("response.output_item.added", &added, &[("item", &item.with(edits))]);
        };
        match item.get("type")? {
            "\"message\"" => {
                begin(&[status, ("content", "[]")]);
                self.parts(&place, item.get("content"))?;
            }
            "\"reasoning\"" => {
                begin(&[status, ("summary", "[]"), ("content", "[]")]);
                self.summary(&place, item.get("summary"))?;
                self.parts(&place, item.get("content"))?;
            }
            "\"function_call\"" => {
                begin(&[status, ("arguments", "\"\"")]);
                let name = item.get("name").map(|name| ("name", name));
                self.text("response.function_call_arguments", &place, name, ("arguments", item.get("arguments")?));
            }
            "\"custom_tool_call\"" => {
                begin(&[status, ("input", "\"\"")]);
                self.text("response.custom_tool_call_input", &place, None, ("input", item.get("input")?));
            }
            _ => begin(&[]),
        }
        self.at("response.output_item.done", &added, &[("item", text)]);
        Some(())
    }

    /// Writes a text as one delta and its end; `prefix` begins the names of both events. Only a function has a `name`.
    fn text(&mut self, prefix: &str, place: &Place<'_>, name: Option<(&str, &str)>, text: (&str, &str)) {
        if is_text(text.1) {
            self.at(&format!("{prefix}.delta"), place, &[("delta", text.1)]);
        }
        self.at(&format!("{prefix}.done"), place, &[name.as_slice(), &[text]].concat());
    }

    fn summary(&mut self, place: &Place<'_>, summary: Option<&str>) -> Option<()> {
        for (index, text) in list(summary)?.into_iter().enumerate() {
            let part = Object::read(text)?;
            let index = index.to_string();
            let place = [place, &[("summary_index", index.as_str())]].concat();
            let added = part.with(&[("text", "\"\"")]);
            self.at("response.reasoning_summary_part.added", &place, &[("part", &added)]);
            self.text("response.reasoning_summary_text", &place, None, ("text", part.get("text")?));
            self.at("response.reasoning_summary_part.done", &place, &[("part", text)]);
        }
        Some(())
    }

    fn parts(&mut self, place: &Place<'_>, content: Option<&str>) -> Option<()> {
        for (index, text) in list(content)?.into_iter().enumerate() {
            let part = Object::read(text)?;
            let index = index.to_string();
            let place = [place, &[("content_index", index.as_str())]].concat();
            let empty = [("text", "\"\""), ("refusal", "\"\""), ("annotations", "[]"), ("logprobs", "[]")];
            self.at("response.content_part.added", &place, &[("part", &part.with(&empty))]);
            match part.get("type")? {
                "\"output_text\"" => {
                    let logprobs = [("logprobs", part.get("logprobs").filter(|all| *all != "null").unwrap_or("[]"))];
                    self.annotated(&place, &part, &logprobs)?;
                }
                "\"refusal\"" => self.text("response.refusal", &place, None, ("refusal", part.get("refusal")?)),
                "\"reasoning_text\"" => self.text("response.reasoning_text", &place, None, ("text", part.get("text")?)),
                _ => (),
            }
            self.at("response.content_part.done", &place, &[("part", text)]);
        }
        Some(())
    }

    /// Writes the text of a message and its annotations.
    fn annotated(&mut self, place: &Place<'_>, part: &Object<'_>, logprobs: &Place<'_>) -> Option<()> {
        let text = part.get("text")?;
        if is_text(text) {
            self.at("response.output_text.delta", place, &[&[("delta", text)], logprobs].concat());
        }
        for (index, annotation) in list(part.get("annotations"))?.into_iter().enumerate() {
            let members = [("annotation_index", index.to_string()), ("annotation", annotation.to_owned())];
            let members = members.each_ref().map(|(name, value)| (*name, value.as_str()));
            self.at("response.output_text.annotation.added", place, &members);
        }
        self.at("response.output_text.done", place, &[&[("text", text)], logprobs].concat());
        Some(())
    }
}

/// The elements of an array that may be absent or null.
fn list(value: Option<&str>) -> Option<Vec<&str>> {
    value.filter(|value| *value != "null").map_or_else(|| Some(Vec::new()), elements)
}
