//! The output of a response so far: items that are opened, extended and closed, each step with its event.
//!
//! Reasoning and messages come one after another. Calls stay open at the same time until the answer ends, because some
//! providers interleave the pieces of parallel calls.

use std::mem;
use std::sync::Arc;

use bytes::BytesMut;
use serde_json::Value;
use serde_json::value::RawValue;

use super::item::{Body, Item, Part, Status, raw};
use super::names::Names;
use super::reply::Door;
use super::thinking;
use super::write::Numbered;
use crate::dialect::chat::CallPiece;

pub(super) struct Draft {
    door: Arc<Door>,
    /// The common end of the ids of all items.
    suffix: String,
    /// The writer of all events of this answer.
    pub events: Numbered,
    /// The items in order; `None` for an item that is open.
    output: Vec<Option<Box<RawValue>>>,
    open: Open,
    calls: Vec<Call>,
    /// Reasoning in plain text has come.
    thought: bool,
}

/// The open item, apart from calls.
enum Open {
    Nothing,
    Reasoning(Reasoning),
    Message(Message),
}

struct Reasoning {
    index: usize,
    id: String,
    text: String,
    blocks: Vec<Value>,
}

struct Message {
    index: usize,
    id: String,
    parts: Vec<Box<RawValue>>,
    kind: Kind,
    text: String,
    annotations: Vec<Value>,
    logprobs: Vec<Value>,
}

/// The kind of a message's last part, which is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Refusal,
}

#[derive(Default)]
struct Call {
    number: Option<u64>,
    provider_id: String,
    name: String,
    arguments: String,
    /// The call's index in the output and its item id, once its name is known.
    shown: Option<(usize, String)>,
}

impl Draft {
    /// An empty output.
    pub(super) fn new(door: Arc<Door>, suffix: String) -> Self {
        let (events, output, calls) = (Numbered::default(), Vec::new(), Vec::new());
        Self { door, suffix, events, output, open: Open::Nothing, calls, thought: false }
    }

    /// All closed items.
    pub(super) fn output(&self) -> Vec<&RawValue> {
        self.output.iter().flatten().map(|item| &**item).collect()
    }

    /// Adds reasoning in plain text.
    pub(super) fn think(&mut self, text: &str, out: &mut BytesMut) {
        self.thought = true;
        self.open_reasoning(out);
        let Open::Reasoning(reasoning) = &mut self.open else { return };
        if reasoning.text.is_empty() {
            let part = raw(&Part::SummaryText { text: "" });
            let body = Body { part: Some(&part), ..reasoning.body() };
            self.events.event("response.reasoning_summary_part.added", &body, out);
        }
        reasoning.text.push_str(text);
        let body = Body { delta: Some(text), ..reasoning.body() };
        self.events.event("response.reasoning_summary_text.delta", &body, out);
    }

    /// Adds signed thinking. By convention its text has come before, as reasoning; otherwise it is taken from the blocks.
    pub(super) fn sign(&mut self, mut blocks: Vec<Value>, out: &mut BytesMut) {
        blocks.retain(thinking::is_whole);
        let unseen: String = match self.thought {
            true => String::new(),
            false => blocks.iter().filter_map(|block| block.get("thinking")?.as_str()).collect(),
        };
        if !unseen.is_empty() {
            self.think(&unseen, out);
        }
        // A stored response must give the thinking back to the model unchanged.
        if (self.door.include.encrypted_content || self.door.kept) && !blocks.is_empty() {
            self.open_reasoning(out);
            if let Open::Reasoning(reasoning) = &mut self.open {
                reasoning.blocks.append(&mut blocks);
            }
        }
    }

    /// Adds text of the answer.
    pub(super) fn say(&mut self, text: &str, mut logprobs: Vec<Value>, out: &mut BytesMut) {
        self.open_part(Kind::Text, out);
        let Open::Message(message) = &mut self.open else { return };
        message.text.push_str(text);
        let body = Body { delta: Some(text), logprobs: Some(&logprobs), ..message.body() };
        self.events.event("response.output_text.delta", &body, out);
        message.logprobs.append(&mut logprobs);
    }

    /// Adds text of a refusal.
    pub(super) fn refuse(&mut self, text: &str, out: &mut BytesMut) {
        self.open_part(Kind::Refusal, out);
        let Open::Message(message) = &mut self.open else { return };
        message.text.push_str(text);
        let body = Body { delta: Some(text), ..message.body() };
        self.events.event("response.refusal.delta", &body, out);
    }

    /// Adds an annotation of the text, in Chat's form or in that of the Responses API.
    pub(super) fn annotate(&mut self, annotation: Value, out: &mut BytesMut) {
        let Some(annotation) = flat(annotation) else { return };
        self.open_part(Kind::Text, out);
        let Open::Message(message) = &mut self.open else { return };
        let index = message.annotations.len();
        let body = Body { annotation_index: Some(index), annotation: Some(&annotation), ..message.body() };
        self.events.event("response.output_text.annotation.added", &body, out);
        message.annotations.push(annotation);
    }

    /// Adds a piece of a call.
    pub(super) fn call(&mut self, piece: &CallPiece<'_>, out: &mut BytesMut) {
        let at = match self.find(piece) {
            Some(at) => at,
            // A piece of a call that never began.
            None if piece.id.is_empty() && name(piece).is_none() => return,
            None => {
                self.calls.push(Call { number: piece.index, ..Call::default() });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        if call.provider_id.is_empty() {
            piece.id.clone_into(&mut call.provider_id);
        }
        let arguments = piece.arguments;
        call.arguments.push_str(arguments);
        match (&call.shown, name(piece)) {
            (Some((index, id)), _) if !arguments.is_empty() && !self.door.names.is_custom(&call.name) => {
                let body = Body { item_id: Some(id), output_index: *index, delta: Some(arguments), ..Body::default() };
                self.events.event("response.function_call_arguments.delta", &body, out);
            }
            (None, Some(name)) => {
                name.clone_into(&mut call.name);
                self.show(at, out);
            }
            _ => {}
        }
    }

    /// Closes all open items. With `incomplete` the last item gets the status `incomplete`.
    pub(super) fn close(&mut self, incomplete: bool, out: &mut BytesMut) {
        let last = self.output.len().saturating_sub(1);
        let status = |index: usize| if incomplete && index == last { Status::Incomplete } else { Status::Completed };
        // Calls that were shown before the open message or reasoning are closed before it.
        let open_at = match &self.open {
            Open::Nothing => usize::MAX,
            Open::Reasoning(reasoning) => reasoning.index,
            Open::Message(message) => message.index,
        };
        let calls = mem::take(&mut self.calls);
        let (before, behind): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.shown.as_ref().is_none_or(|(index, _)| *index < open_at));
        before.into_iter().for_each(|call| self.close_call(call, status, out));
        self.close_open(status(open_at), out);
        behind.into_iter().for_each(|call| self.close_call(call, status, out));
    }

    /// Adds an open item to the output; returns its index.
    fn reserve(&mut self) -> usize {
        self.output.push(None);
        self.output.len() - 1
    }

    fn open_reasoning(&mut self, out: &mut BytesMut) {
        if matches!(self.open, Open::Reasoning(_)) {
            return;
        }
        self.close_open(Status::Completed, out);
        let index = self.reserve();
        let id = format!("rs_{}_{index}", self.suffix);
        added(&Item::Reasoning { id: &id, summary: &[], encrypted_content: None }, index, &mut self.events, out);
        self.open = Open::Reasoning(Reasoning { index, id, text: String::new(), blocks: Vec::new() });
    }

    fn open_part(&mut self, kind: Kind, out: &mut BytesMut) {
        match &mut self.open {
            Open::Message(message) if message.kind == kind => return,
            Open::Message(message) => {
                message.close_part(&mut self.events, out);
                message.kind = kind;
            }
            _ => {
                self.close_open(Status::Completed, out);
                let index = self.reserve();
                let id = format!("msg_{}_{index}", self.suffix);
                let item = Item::Message { id: &id, status: Status::InProgress, role: "assistant", content: &[] };
                added(&item, index, &mut self.events, out);
                self.open = Open::Message(Message::new(index, id, kind));
            }
        }
        if let Open::Message(message) = &self.open {
            let part = message.part();
            self.events.event("response.content_part.added", &Body { part: Some(&part), ..message.body() }, out);
        }
    }

    /// Closes the open reasoning or message.
    fn close_open(&mut self, status: Status, out: &mut BytesMut) {
        match mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Reasoning(reasoning) => {
                let summary = [Part::SummaryText { text: &reasoning.text }];
                let summary = if reasoning.text.is_empty() { &[][..] } else { &summary[..] };
                if let [text] = summary {
                    let (part, body) = (raw(text), reasoning.body());
                    let done = Body { text: Some(&reasoning.text), ..reasoning.body() };
                    self.events.event("response.reasoning_summary_text.done", &done, out);
                    let done = Body { part: Some(&part), ..body };
                    self.events.event("response.reasoning_summary_part.done", &done, out);
                }
                let encrypted_content = thinking::seal(&reasoning.blocks);
                self.done(reasoning.index, &Item::Reasoning { id: &reasoning.id, summary, encrypted_content }, out);
            }
            Open::Message(mut message) => {
                message.close_part(&mut self.events, out);
                let (id, content) = (&*message.id, &message.parts);
                self.done(message.index, &Item::Message { id, status, role: "assistant", content }, out);
            }
        }
    }

    fn done(&mut self, index: usize, item: &Item<'_>, out: &mut BytesMut) {
        let item = raw(item);
        let body = Body { output_index: index, item: Some(&item), ..Body::default() };
        self.events.event("response.output_item.done", &body, out);
        self.output[index] = Some(item);
    }

    /// The call that a piece belongs to. Numbers and ids may each be missing, and old servers give all calls one number.
    fn find(&self, piece: &CallPiece<'_>) -> Option<usize> {
        let has_id = |call: &Call, id: &str| call.provider_id == id;
        match (piece.index, Some(piece.id).filter(|id| !id.is_empty())) {
            (Some(number), Some(id)) => self
                .calls
                .iter()
                .rposition(|call| call.number == Some(number) && (call.provider_id.is_empty() || has_id(call, id))),
            (Some(number), None) => self.calls.iter().rposition(|call| call.number == Some(number)),
            (None, Some(id)) => self.calls.iter().rposition(|call| has_id(call, id)),
            (None, None) if name(piece).is_some() => None,
            (None, None) => self.calls.len().checked_sub(1),
        }
    }

    /// Announces a call whose name has become known.
    fn show(&mut self, at: usize, out: &mut BytesMut) {
        self.close_open(Status::Completed, out);
        let index = self.reserve();
        let call = &mut self.calls[at];
        let custom = self.door.names.is_custom(&call.name);
        let id = format!("{}_{}_{index}", if custom { "ctc" } else { "fc" }, self.suffix);
        if call.provider_id.is_empty() {
            call.provider_id = format!("call_{}_{index}", self.suffix);
        }
        added(&call.item(&id, Status::InProgress, "", &self.door.names), index, &mut self.events, out);
        if !custom && !call.arguments.is_empty() {
            let delta = Some(&*call.arguments);
            let body = Body { item_id: Some(&id), output_index: index, delta, ..Body::default() };
            self.events.event("response.function_call_arguments.delta", &body, out);
        }
        call.shown = Some((index, id));
    }

    fn close_call(&mut self, mut call: Call, status: impl Fn(usize) -> Status, out: &mut BytesMut) {
        // A call that never got a name cannot be run.
        let Some((index, id)) = call.shown.take() else { return };
        let status = status(index);
        let body = || Body { item_id: Some(&id), output_index: index, ..Body::default() };
        let door = self.door.clone();
        if door.names.is_custom(&call.name) {
            let input = input(mem::take(&mut call.arguments));
            if !input.is_empty() {
                let delta = Body { delta: Some(&input), ..body() };
                self.events.event("response.custom_tool_call_input.delta", &delta, out);
            }
            let done = Body { input: Some(&input), ..body() };
            self.events.event("response.custom_tool_call_input.done", &done, out);
            self.done(index, &call.item(&id, status, &input, &door.names), out);
        } else {
            if call.arguments.is_empty() && status == Status::Completed {
                // Clients parse the arguments as JSON.
                call.arguments.push_str("{}");
                let delta = Body { delta: Some("{}"), ..body() };
                self.events.event("response.function_call_arguments.delta", &delta, out);
            }
            let done = Body { name: Some(door.names.tool(&call.name).0), arguments: Some(&call.arguments), ..body() };
            self.events.event("response.function_call_arguments.done", &done, out);
            self.done(index, &call.item(&id, status, &call.arguments, &door.names), out);
        }
    }
}

impl Reasoning {
    fn body(&self) -> Body<'_> {
        let (output_index, summary_index) = (self.index, Some(0));
        Body { item_id: Some(&self.id), output_index, summary_index, ..Body::default() }
    }
}

impl Message {
    fn new(index: usize, id: String, kind: Kind) -> Self {
        let (parts, annotations, logprobs) = (Vec::new(), Vec::new(), Vec::new());
        Self { index, id, parts, kind, text: String::new(), annotations, logprobs }
    }

    fn body(&self) -> Body<'_> {
        let (output_index, content_index) = (self.index, Some(self.parts.len()));
        Body { item_id: Some(&self.id), output_index, content_index, ..Body::default() }
    }

    fn part(&self) -> Box<RawValue> {
        let text = &*self.text;
        raw(&match self.kind {
            Kind::Text => Part::OutputText { text, annotations: &self.annotations, logprobs: &self.logprobs },
            Kind::Refusal => Part::Refusal { refusal: text },
        })
    }

    fn close_part(&mut self, events: &mut Numbered, out: &mut BytesMut) {
        match self.kind {
            Kind::Text => {
                let body = Body { text: Some(&self.text), logprobs: Some(&self.logprobs), ..self.body() };
                events.event("response.output_text.done", &body, out);
            }
            Kind::Refusal => {
                events.event("response.refusal.done", &Body { refusal: Some(&self.text), ..self.body() }, out);
            }
        }
        let part = self.part();
        events.event("response.content_part.done", &Body { part: Some(&part), ..self.body() }, out);
        self.parts.push(part);
        self.text.clear();
        self.annotations.clear();
        self.logprobs.clear();
    }
}

impl Call {
    fn item<'a>(&'a self, id: &'a str, status: Status, text: &'a str, names: &'a Names) -> Item<'a> {
        let (call_id, (name, namespace)) = (&*self.provider_id, names.tool(&self.name));
        match names.is_custom(&self.name) {
            true => Item::CustomToolCall { id, status, call_id, name, namespace, input: text },
            false => Item::FunctionCall { id, status, call_id, name, namespace, arguments: text },
        }
    }
}

fn added(item: &Item<'_>, index: usize, events: &mut Numbered, out: &mut BytesMut) {
    let item = raw(item);
    let body = Body { output_index: index, item: Some(&item), ..Body::default() };
    events.event("response.output_item.added", &body, out);
}

/// The function's name, where a piece has it.
fn name<'a>(piece: &CallPiece<'a>) -> Option<&'a str> {
    piece.name.filter(|name| !name.is_empty())
}

/// The free text in the arguments of a function that stands for a custom tool. Where the model did not follow the function's
/// schema, the arguments themselves are the text.
fn input(arguments: String) -> String {
    match serde_json::from_str::<Value>(&arguments) {
        Ok(Value::Object(mut object)) => match object.remove("input") {
            Some(Value::String(input)) => input,
            _ => arguments,
        },
        Ok(Value::String(input)) => input,
        _ => arguments,
    }
}

/// An annotation in the form of the Responses API: `{"type","url_citation":{…}}` becomes `{"type",…}`.
fn flat(annotation: Value) -> Option<Value> {
    let Value::Object(mut annotation) = annotation else { return None };
    let kind = annotation.get("type")?.as_str()?.to_owned();
    if let Some(Value::Object(mut inner)) = annotation.remove(&kind) {
        annotation.append(&mut inner);
    }
    Some(annotation.into())
}
