//! Replaces a request's references to stored responses and items by what they refer to.

use std::{borrow::Cow, sync::Arc, time::Instant};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Owner, Response, StoredResponses, Turn, item::Item};
use crate::openai::members::walk;

/// A request after its references were replaced.
#[derive(Default)]
pub struct Opened {
    /// The body with the whole conversation; `None` if the request refers to nothing, so that its body stays as it is.
    pub body: Option<Whole>,
    /// The id of the response that the request continues.
    pub previous_response_id: Option<String>,
    /// Keeps the response later; `None` if it is not to be kept or there is no room.
    pub turn: Option<Turn>,
}

/// A body that is yet to be written. It may be much longer than the kept items, because equal texts are kept only once.
pub struct Whole {
    pieces: Vec<Piece>,
    bytes: usize,
}

enum Piece {
    Text(Box<str>),
    Kept(Arc<Item>),
}

impl Whole {
    /// The length of the body in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes the body.
    pub fn write(self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.bytes);
        for piece in &self.pieces {
            text.extend_from_slice(match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Kept(item) => item.json.as_bytes(),
            });
        }
        text
    }
}

/// A reference to something that is not kept: expired, deleted, another owner's, or never existing.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The id of a response.
    Response(String),
    /// The id of an item, and the index of the reference in the input.
    Item(String, usize),
}

/// Whether a body may refer to anything: a search for two names is much cheaper than parsing the body.
fn may_refer(body: &[u8]) -> bool {
    ["\"previous_response_id\"", "\"item_reference\""]
        .iter()
        .any(|name| memchr::memmem::find(body, name.as_bytes()).is_some())
}

/// The members that decide whether an input item is a reference.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    role: Option<IgnoredAny>,
}

impl Head<'_> {
    /// The id that an item refers to; `None` if it is no reference.
    fn reference(json: &str) -> Option<String> {
        // An item with a member of a wrong type is left to the translation, which reports the fault.
        let head: Head<'_> = serde_json::from_str(json).ok()?;
        let refers = match &head.r#type {
            Some(kind) => kind == "item_reference",
            None => head.role.is_none(),
        };
        head.id.filter(|_| refers).map(Cow::into_owned)
    }
}

/// An item of the request's own input.
enum Own<'a> {
    Given(Cow<'a, str>),
    Kept(Arc<Item>),
}

impl Own<'_> {
    fn piece(&self) -> Piece {
        match self {
            Self::Given(json) => Piece::Text(json.as_ref().into()),
            Self::Kept(item) => Piece::Kept(item.clone()),
        }
    }
}

/// The members of a body that matter here. Of several with one name the last counts, as in the translation.
#[derive(Default)]
struct Request<'a> {
    previous: Option<String>,
    input: Option<&'a str>,
    /// All other members, unchanged.
    others: Vec<(&'a str, &'a str)>,
}

impl<'a> Request<'a> {
    /// Parses a body; `None` if the translation will refuse it anyway.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut request = Self::default();
        let mut odd = false;
        let read = walk(std::str::from_utf8(body).ok()?, |member| match &*member.key() {
            "input" => request.input = Some(member.value),
            "previous_response_id" => match serde_json::from_str(member.value) {
                Ok(id) => request.previous = id,
                Err(_) => odd = true,
            },
            _ => request.others.push((member.raw_key, member.value)),
        });
        (read.is_ok() && !odd).then_some(request)
    }

    /// The input as items; `None` if it has a wrong type.
    fn items(&self) -> Option<Vec<Cow<'a, str>>> {
        match self.input {
            None | Some("null") => Some(Vec::new()),
            Some(text) if text.starts_with('"') => {
                Some(vec![format!(r#"{{"type":"message","role":"user","content":{text}}}"#).into()])
            }
            Some(list) => {
                let items: Vec<&RawValue> = serde_json::from_str(list).ok()?;
                Some(items.into_iter().map(|item| Cow::Borrowed(item.get())).collect())
            }
        }
    }

    /// The body with the earlier conversation and these items as its input, without `previous_response_id`.
    fn with_input(&self, before: Option<&Response>, own: &[Own<'_>]) -> Whole {
        let context = before.map(Response::context).unwrap_or_default();
        let output = before.map(|response| response.output.as_slice()).unwrap_or_default();
        let earlier = context.into_iter().chain(output).map(|item| Piece::Kept(item.clone()));
        let members: String = self.others.iter().flat_map(|(key, value)| [*key, ":", *value, ","]).collect();
        let mut pieces = vec![Piece::Text(format!("{{{members}\"input\":[").into())];
        for (at, item) in earlier.chain(own.iter().map(Own::piece)).enumerate() {
            if at > 0 {
                pieces.push(Piece::Text(",".into()));
            }
            pieces.push(item);
        }
        pieces.push(Piece::Text("]}".into()));
        let length = |piece: &Piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Kept(item) => item.json.len(),
        };
        let bytes = pieces.iter().map(length).sum();
        Whole { pieces, bytes }
    }
}

impl StoredResponses {
    /// Replaces the references of a request by what they refer to. `keeps`: the response is to be kept.
    ///
    /// # Errors
    /// The first reference to something that is not kept, and whether another reference was found.
    pub fn open(
        self: &Arc<Self>,
        owner: &Owner,
        body: &[u8],
        keeps: bool,
        now: Instant,
    ) -> Result<Opened, (Missing, bool)> {
        let refers = may_refer(body);
        if !refers && !keeps {
            return Ok(Opened::default());
        }
        let Some(request) = Request::read(body) else { return Ok(Opened::default()) };
        let Some(items) = request.items() else { return Ok(Opened::default()) };
        let mut missing = None;
        let mut found = false;
        let previous = request.previous.as_ref().and_then(|id| {
            let response = self.response(owner, id, now);
            match &response {
                Some(_) => found = true,
                None => missing = Some(Missing::Response(id.clone())),
            }
            response
        });
        let mut own = Vec::with_capacity(items.len());
        for (at, json) in items.into_iter().enumerate() {
            let Some(id) = Some(&*json).filter(|_| refers).and_then(Head::reference) else {
                own.push(Own::Given(json));
                continue;
            };
            match self.item(owner, &id, now) {
                Some(item) => {
                    found = true;
                    own.push(Own::Kept(item));
                }
                None => drop(missing.get_or_insert(Missing::Item(id, at))),
            }
        }
        if let Some(missing) = missing {
            return Err((missing, found));
        }
        let body = found.then(|| request.with_input(previous.as_deref(), &own));
        let input = || -> Option<Vec<Arc<Item>>> {
            let item = |item: &Own<'_>| match item {
                Own::Given(json) => self.make(&owner.tenant, json),
                Own::Kept(item) => Some(item.clone()),
            };
            own.iter().map(item).collect()
        };
        let turn = keeps.then(input).flatten();
        let turn = turn.map(|input| Turn { store: self.clone(), owner: owner.clone(), previous, input });
        Ok(Opened { body, previous_response_id: request.previous, turn })
    }
}
