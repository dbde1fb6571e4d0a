//! Records the objects that a provider's reply names, and their owner, before the reply leaves, so that its client can use them
//! at once.

use std::sync::Arc;

use bytes::Bytes;

use super::{ask::Body, dispatch::Attempt};
use crate::{
    objects::{Answer, Class, Objects, Owner, RESPONSE, Rule, SIDE_EFFECTS, Written, find, find_audio},
    openai::Endpoint,
    routing::Target,
    sse::Scanner,
};

/// Where the events of a response's stream name the response and its items.
const RESPONSE_EVENT: Answer = &["response.id", "response.output.[].id", "item.id"];
/// Where the events name the files and containers of the response's tools.
const SIDE_EFFECTS_EVENT: Answer = &[
    "response.output.[].container_id",
    "response.output.[].environment.container_id",
    "response.output.[].content.[].annotations.[].container_id",
    "response.output.[].content.[].annotations.[].file_id",
    "response.output.[].outputs.[].file_id",
    "item.container_id",
    "item.environment.container_id",
    "item.content.[].annotations.[].container_id",
    "item.content.[].annotations.[].file_id",
    "item.outputs.[].file_id",
    "annotation.container_id",
    "annotation.file_id",
];
const COMPLETION: Answer = &["id"];
/// The container of Anthropic's code execution, and the files that it leaves.
const MESSAGE: Answer = &["container.id", "content.[].content.content.[].file_id", "content.[].content.file_id"];
/// Where the events of a message's stream name them.
const MESSAGE_EVENT: Answer = &[
    "message.container.id",
    "delta.container.id",
    "content_block.content.content.[].file_id",
    "content_block.content.file_id",
];

/// Gives the objects of one reply their owner.
pub struct Keeper {
    objects: Arc<Objects>,
    provider: Arc<str>,
    owner: Owner,
    /// Where a JSON reply names objects.
    document: Vec<(Answer, Class)>,
    /// Where an event of a stream names objects.
    event: Vec<(Answer, Class)>,
    audio: bool,
    /// The body that the client sent to a path that is only forwarded. At the endpoints that the gateway reads, a client cannot
    /// choose the id of an object that is made.
    written: Written,
    /// Splits the stream of a path that is only forwarded into its events.
    scanner: Option<Scanner>,
}

impl Keeper {
    /// For a path that is only forwarded; `None` if its reply names no objects. An object that is made within another belongs to
    /// the owner of that other object.
    pub fn forwarded(objects: &Arc<Objects>, target: &Target, rule: &Rule, owner: Owner, body: &Bytes) -> Option<Self> {
        let document = vec![(rule.answer, rule.class)];
        (!rule.answer.is_empty()).then(|| Self {
            objects: objects.clone(),
            provider: target.provider.name.clone(),
            owner,
            event: document.clone(),
            document,
            audio: false,
            written: Written::new(body.clone()),
            scanner: None,
        })
    }

    /// For an endpoint that the gateway reads; `None` if the provider keeps nothing, or keeps it with the client's own key.
    pub fn understood(
        objects: &Arc<Objects>,
        attempt: &Attempt,
        endpoint: &Endpoint,
        body: &Body,
        owner: Owner,
    ) -> Option<Self> {
        if attempt.own_credential || attempt.exchange.is_some() {
            return None;
        }
        let peek = &body.peek;
        let (mut document, mut event, mut audio) = (Vec::new(), Vec::new(), false);
        match endpoint {
            Endpoint::Responses => {
                // OpenAI keeps a response unless it is told not to.
                if peek.store != Some(false) {
                    document.push((RESPONSE, Class::Turn));
                    event.push((RESPONSE_EVENT, Class::Turn));
                }
                if peek.has_tools {
                    document.push((SIDE_EFFECTS, Class::Kept));
                    event.push((SIDE_EFFECTS_EVENT, Class::Kept));
                }
            }
            Endpoint::ChatCompletions => {
                audio = memchr::memmem::find(&body.bytes, b"\"audio\"").is_some();
                if peek.store == Some(true) {
                    document.push((COMPLETION, Class::Turn));
                    event.push((COMPLETION, Class::Turn));
                }
            }
            Endpoint::Messages if peek.has_tools => {
                document.push((MESSAGE, Class::Kept));
                event.push((MESSAGE_EVENT, Class::Kept));
            }
            _ => {}
        }
        if document.is_empty() && !audio {
            return None;
        }
        let provider = attempt.target.provider.name.clone();
        let (objects, written) = (objects.clone(), Written::default());
        Some(Self { objects, provider, owner, document, event, audio, written, scanner: None })
    }

    /// Records the objects that a whole JSON reply names.
    pub fn keep(&self, json: &[u8]) {
        self.read(json, &self.document);
    }

    /// Records the objects that the payload of one event names.
    pub fn keep_event(&self, json: &[u8]) {
        self.read(json, &self.event);
    }

    /// Records an object whose id a header names.
    pub fn keep_id(&self, id: &str) {
        let class = self.document.first().map_or(Class::Kept, |(_, class)| *class);
        self.record([id], class);
    }

    /// From now on the body is a stream of events, see [`Self::pass`].
    pub fn follow_events(&mut self) {
        self.scanner = Some(Scanner::new());
    }

    /// Reads a piece of the stream that is passed on.
    pub fn pass(&mut self, bytes: &Bytes) {
        let Some(mut scanner) = self.scanner.take() else { return };
        scanner.push(bytes.clone());
        loop {
            match scanner.next_event() {
                Ok(Some(event)) => drop(event.data().map(|data| self.keep_event(&data))),
                Ok(None) => break,
                // An event that is too large is read no further: objects it names belong to nobody.
                Err(_) => return,
            }
        }
        self.scanner = Some(scanner);
    }

    fn read(&self, json: &[u8], places: &[(Answer, Class)]) {
        for (paths, class) in places {
            self.record(find(json, paths).iter().map(String::as_str), *class);
        }
        if self.audio {
            self.record(find_audio(json).iter().map(String::as_str), Class::Turn);
        }
    }

    /// Records ids that the client has not written itself: a client cannot claim an object by writing its id.
    fn record<'a>(&self, ids: impl IntoIterator<Item = &'a str>, class: Class) {
        let mut made = ids.into_iter().filter(|id| !self.written.may_hold(id)).peekable();
        if made.peek().is_some() {
            self.objects.record(&self.provider, made, &self.owner, class);
        }
    }
}
