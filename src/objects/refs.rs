//! References: the ids in a request's query and in its JSON body.
//!
//! A body is read as a provider's most tolerant reader might read it: keys are compared as in `openai::fold`, escapes are
//! decoded, and a body with two members that a reader could take for the same reference is refused.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    openai::fold::{fold_char, folds_to},
    types::Api,
};

/// One id that a request refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The id.
    pub id: String,
    /// True if an id that belongs to nobody is refused, too. If false, the request itself contains everything that the id names,
    /// so that the reply reveals nothing.
    pub strict: bool,
    /// The field, for the error's `param`.
    pub param: &'static str,
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// An object has members that a reader could take for the same field.
    Twice(&'static str),
    /// The field asks for everything in the account.
    Wide(&'static str),
    /// The field names a place whose owner the gateway cannot know.
    Beyond(String),
    /// The field has a value that is not served, and why.
    Unfit(&'static str, &'static str),
    /// The body cannot be read; the text is the parser's.
    Unreadable(String),
}

/// How the value of a field refers to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A string is an id, as is each string of a list, and the member `id` of an object.
    Any,
    /// Only the member `id` of an object is an id.
    Object,
    /// A string with this prefix is an id, as is the member `id` of an object.
    Prefixed(&'static str),
    /// A model's name, which is an id if it names a fine-tune.
    Model,
    /// A list of items, each with its own `id`.
    Items,
}

/// The names of the fields that refer to objects, at any depth of a body.
const FIELDS: &[(&str, Form)] = &[
    ("assistant_id", Form::Any),
    ("audio", Form::Object),
    ("batch_id", Form::Any),
    ("character_id", Form::Any),
    ("character_ids", Form::Any),
    ("characters", Form::Any),
    ("consent", Form::Any),
    ("consent_id", Form::Any),
    ("container", Form::Any),
    ("container_id", Form::Any),
    ("conversation", Form::Any),
    ("conversation_id", Form::Any),
    ("error_file_id", Form::Any),
    ("eval_id", Form::Any),
    ("file_id", Form::Any),
    ("file_ids", Form::Any),
    ("fine_tuned_model", Form::Model),
    ("input", Form::Items),
    ("input_file_id", Form::Any),
    ("items", Form::Items),
    ("message_id", Form::Any),
    ("model", Form::Model),
    ("output_file_id", Form::Any),
    ("part_ids", Form::Any),
    ("previous_response_id", Form::Any),
    ("prompt", Form::Object),
    ("response_id", Form::Any),
    ("run_id", Form::Any),
    ("skill_id", Form::Prefixed("skill_")),
    ("source", Form::Object),
    ("thread", Form::Any),
    ("thread_id", Form::Any),
    ("training_file", Form::Any),
    ("tunnel_id", Form::Any),
    ("upload_id", Form::Any),
    ("validation_file", Form::Any),
    ("vector_store_id", Form::Any),
    ("vector_store_ids", Form::Any),
    ("video", Form::Any),
    ("video_id", Form::Any),
    ("voice", Form::Prefixed("voice_")),
];

/// The parameters of a query that refer to objects.
const PARAMETERS: &[(&str, Form)] = &[
    ("after", Form::Any),
    ("after_id", Form::Any),
    ("assistant_id", Form::Any),
    ("batch_id", Form::Any),
    ("before", Form::Any),
    ("before_id", Form::Any),
    ("call_id", Form::Any),
    ("container_id", Form::Any),
    ("conversation_id", Form::Any),
    ("file_id", Form::Any),
    ("model", Form::Model),
    ("response_id", Form::Any),
    ("run_id", Form::Any),
    ("scope_id", Form::Any),
    ("thread_id", Form::Any),
    ("vector_store_id", Form::Any),
];

/// Fields with free content of a client or a model, in which no provider looks for references.
const FREE: &[&str] = &[
    "arguments",
    "attributes",
    "headers",
    "input_schema",
    "item",
    "item_schema",
    "json_schema",
    "logit_bias",
    "metadata",
    "parameters",
    "sample",
    "schema",
];

/// Values that are no ids, in fields that refer to objects (`conversation`, `container`).
const WORDS: &[&str] = &["", "auto", "none"];

/// Types of objects in these fields that ask for everything in the account: an eval over every stored completion or response.
const WIDE: &[(&str, &[&str])] = &[
    ("source", &["logs", "responses", "stored_completions"]),
    ("data_source", &["logs", "stored_completions"]),
    ("data_source_config", &["logs", "stored_completions"]),
];

/// Kinds of `data_source` that may stand for everything in the account unless their `source` names a file.
const SOURCED: &[&str] = &["completions", "responses"];

/// Items whose content a provider looks up by the item's id, unless the item has this member.
const LOOKED_UP: &[(&str, &str)] = &[("image_generation_call", "result"), ("reasoning", "encrypted_content")];

/// Whether a model's name is that of a fine-tune: `ft:gpt-4o:org::id`, formerly `davinci:ft-org-…`.
/// White space, invisible characters and the width of letters are ignored, because a provider may ignore them.
pub fn is_fine_tune(model: &str) -> bool {
    if model.bytes().all(|byte| byte.is_ascii_graphic()) {
        return is_tuned(model);
    }
    let narrow = |char: char| match char {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(char) - 0xfee0),
        char => char.is_ascii_graphic().then_some(char),
    };
    is_tuned(&model.chars().filter_map(narrow).collect::<String>())
}

fn is_tuned(model: &str) -> bool {
    let begins = |text: &str, with: &str| text.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    begins(model, "ft:") || model.split(':').skip(1).any(|part| begins(part, "ft-"))
}

/// The fields of [`FIELDS`] that refer to an object by a string and whose names do not end in `id` or `ids`.
const OTHER_NAMES: &[&str] = &[
    "characters",
    "consent",
    "container",
    "conversation",
    "thread",
    "training_file",
    "validation_file",
    "video",
    "voice",
];

/// The length in bytes of the longest field name, written in the longest characters that fold to its letters.
const LONGEST_NAME: usize = 64;

/// A quick check for bodies that seldom refer to anything (chat completions): false if no string in the body could be the name of
/// a field that refers to objects, and no escape could hide such a name.
pub fn may_refer(body: &[u8]) -> bool {
    if memchr::memchr_iter(b'\\', body).any(|at| hides(&body[at + 1..])) {
        return true;
    }
    let mut start = body.len();
    memchr::memchr_iter(b'"', body).any(|end| {
        let word = body.get(start..end).unwrap_or_default();
        start = end + 1;
        (2..=LONGEST_NAME).contains(&word.len())
            && (may_be_name(word) || !word.is_ascii())
            && std::str::from_utf8(word).is_ok_and(could_refer)
    })
}

/// Whether the first and the last letter of an ASCII word are those of a name for [`could_refer`]: a look that spares most words
/// the folding.
fn may_be_name(word: &[u8]) -> bool {
    let is_letter = |byte: &&u8| !matches!(byte, b'_' | b'-' | b' ');
    let first = word.iter().find(is_letter).map(u8::to_ascii_lowercase);
    let mut back = word.iter().rev().filter(is_letter).map(u8::to_ascii_lowercase);
    match (first, back.next()) {
        (Some(b'c' | b't' | b'v'), Some(b'd' | b'e' | b'n' | b'o' | b'r' | b's' | b't')) => true,
        (_, Some(b's')) => back.next() == Some(b'd') && back.next() == Some(b'i'),
        (_, Some(b'd')) => back.next() == Some(b'i'),
        _ => false,
    }
}

fn could_refer(word: &str) -> bool {
    let mut back = word.chars().rev().filter_map(fold_char);
    let last = back.next();
    let last = if last == Some('s') { back.next() } else { last };
    last == Some('d') && back.next() == Some('i') || OTHER_NAMES.iter().any(|name| folds_to(word, name))
}

/// Whether an escape stands for a character that a key may fold to.
fn hides(escape: &[u8]) -> bool {
    let [b'u', digits @ ..] = escape else { return false };
    let code = digits.get(..4).and_then(|digits| u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
    code.and_then(|code| char::from_u32(code.into()))
        .is_some_and(|char| fold_char(char).is_none_or(|letter| letter.is_ascii_alphabetic()))
}

/// The most references of one body. Each is kept until it is looked up; a long conversation has a few thousand items.
const MOST_REFERENCES: usize = 20_000;

/// The most parts in the name of a form's field: serde_json reads no deeper nesting.
const MOST_STEPS: usize = 128;

/// The references in a JSON body.
///
/// # Errors
/// The body cannot be read, could be read in two ways, or asks for everything in the account.
pub fn scan(body: &[u8], api: Api) -> Result<Vec<Reference>, Refused> {
    let mut scan = Scan { api, found: Vec::new(), refused: None, sources: 0 };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let outcome = Value { scan: &mut scan, place: Place::Plain }.deserialize(&mut reader).and_then(|()| reader.end());
    match (scan.refused, outcome) {
        (Some(refused), _) => Err(refused),
        (None, Err(error)) => Err(Refused::Unreadable(error.to_string())),
        (None, Ok(())) => Ok(scan.found),
    }
}

/// The references in a field of a multipart body: the name may have brackets (`video[id]`), the value may be JSON.
///
/// # Errors
/// As for [`scan`].
pub fn scan_field(name: &str, value: &str) -> Result<Vec<Reference>, Refused> {
    let parsed = match value.trim_start().as_bytes().first() {
        Some(b'{' | b'[' | b'"') => value.to_owned(),
        _ => crate::openai::escape_json_string(value),
    };
    let steps: Vec<&str> = name.split(['[', ']', '.']).filter(|step| !step.is_empty()).collect();
    if steps.len() > MOST_STEPS {
        return Err(Refused::Unreadable("a name has too many parts".into()));
    }
    let wrap = |inner: String, step: &&str| match is_index(step) {
        true => format!("[{inner}]"),
        false => format!("{{{}:{inner}}}", crate::openai::escape_json_string(step)),
    };
    match scan(steps.iter().rev().fold(parsed, wrap).as_bytes(), Api::OpenAi) {
        // The text only begins like JSON.
        Err(Refused::Unreadable(_)) => {
            let text = crate::openai::escape_json_string(value);
            scan(steps.iter().rev().fold(text, wrap).as_bytes(), Api::OpenAi)
        }
        outcome => outcome,
    }
}

/// Whether a step is an index in a list: as in `file_ids[0]`, and for some readers in `{"file_ids":{"0":…}}`.
fn is_index(step: &str) -> bool {
    !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a parameter of a query is the cursor of a list.
pub fn is_cursor(param: &str) -> bool {
    ["after", "after_id", "before", "before_id"].contains(&param)
}

/// The references in a query string.
pub fn query(query: &str) -> Vec<Reference> {
    let pairs = query.split(['&', ';']).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut found = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (decode(name, true), decode(value, true));
        let name = name.split('[').next().unwrap_or_default();
        let Some((param, form)) = PARAMETERS.iter().find(|(known, _)| folds_to(name, known)) else { continue };
        if form.takes(&value) {
            found.push(Reference { id: value.into_owned(), strict: true, param });
        }
    }
    found
}

/// Decodes `%XX`, and `+` as a space if `plus` is set. Text that is no escape stays; bytes that are not UTF-8 become characters
/// that no id has.
pub fn decode(text: &str, plus: bool) -> Cow<'_, str> {
    match plus && text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()),
        false => percent_decode_str(text).decode_utf8_lossy(),
    }
}

impl Form {
    /// Whether a string in a field of this form is an id.
    fn takes(self, text: &str) -> bool {
        match self {
            Self::Any => !WORDS.contains(&text),
            Self::Prefixed(prefix) => text.starts_with(prefix),
            Self::Model => is_fine_tune(text),
            Self::Object | Self::Items => false,
        }
    }

    /// Whether the member `id` of an object in a field of this form is an id.
    fn takes_object(self) -> bool {
        !matches!(self, Self::Items)
    }
}

struct Scan {
    api: Api,
    found: Vec<Reference>,
    refused: Option<Refused>,
    /// How many objects in a `source` have named their type.
    sources: usize,
}

/// The place of a value.
#[derive(Clone, Copy)]
enum Place {
    /// In no field that refers to objects.
    Plain,
    /// In a field that refers to objects.
    Field(&'static str, Form),
    /// In a list of items.
    Item(&'static str),
    /// In an object in a field that refers to objects, under a name without a meaning here. Some readers treat the values of
    /// an object as a list; but most of these values are no ids, so only an id that belongs to another owner is refused.
    Within(&'static str, Form),
}

impl Place {
    /// The place of a member with an unknown name.
    fn under(self, key: &str) -> Self {
        match self {
            Self::Field(name, Form::Items) if is_index(key) => Self::Item(name),
            Self::Field(..) if is_index(key) => self,
            Self::Field(name, form @ (Form::Any | Form::Prefixed(_) | Form::Model)) => Self::Within(name, form),
            Self::Within(..) => self,
            _ => Self::Plain,
        }
    }
}

struct Value<'s> {
    scan: &'s mut Scan,
    place: Place,
}

/// The properties of an object that decide how its `id` is meant.
#[derive(Default)]
struct Object {
    id: Option<String>,
    kind: Option<String>,
    /// The known fields seen so far, to notice a repetition.
    seen: Vec<&'static str>,
    /// The object has the member that makes a look-up unnecessary.
    whole: bool,
    /// The object has a `source` that names its type.
    sourced: bool,
    /// The range, in the references found so far, of those in the object's `input`.
    input: std::ops::Range<usize>,
}

fn known(key: &str) -> Option<(&'static str, Form)> {
    let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if plain {
        return FIELDS.binary_search_by_key(&key, |(name, _)| name).ok().map(|at| FIELDS[at]);
    }
    FIELDS.iter().find(|(name, _)| folds_to(key, name)).copied()
}

/// Other fields whose repetition could hide a reference.
const DECIDING: &[&str] = &["id", "type", "result", "encrypted_content", "data_source_config", "data_source"];

impl Scan {
    fn add(&mut self, id: &str, strict: bool, param: &'static str) {
        if self.found.len() == MOST_REFERENCES {
            self.refused.get_or_insert_with(|| Refused::Unreadable("it refers to too much".into()));
            return;
        }
        self.found.push(Reference { id: id.to_owned(), strict, param });
    }

    /// Decides about the `id` of an object at the object's end.
    fn judge(&mut self, object: Object, place: Place) {
        let kind = object.kind.as_deref();
        let Some(id) = object.id.as_deref().filter(|id| !id.is_empty()) else { return };
        match place {
            Place::Field(param, form) if form.takes_object() => self.add(id, true, param),
            Place::Within(param, _) => self.add(id, false, param),
            Place::Item(param) => {
                let looked_up = LOOKED_UP.iter().any(|(name, _)| Some(*name) == kind) && !object.whole;
                let bare = kind.is_none_or(|kind| kind == "item_reference");
                self.add(id, looked_up || bare, param);
            }
            _ => {}
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (scan, place) = (self.scan, self.place);
        let mut object = Object::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if FREE.contains(&&*key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let deciding = DECIDING.iter().find(|name| folds_to(&key, name)).copied();
            let field = known(&key);
            if let Some(name) = deciding.or(field.map(|(name, _)| name)) {
                if object.seen.contains(&name) {
                    scan.refused.get_or_insert(Refused::Twice(name));
                    return Err(A::Error::custom("a field is given twice"));
                }
                object.seen.push(name);
            }
            match (deciding, field) {
                (Some("id"), _) => object.id = map.next_value::<Text>()?.0,
                (Some("type"), _) => {
                    object.kind = map.next_value::<Text>()?.0;
                    let field = if let Place::Field(name, _) = place { name } else { "" };
                    let wide = WIDE.iter().find(|(name, _)| *name == field);
                    if let Some((name, kinds)) = wide
                        && object.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
                    {
                        scan.refused.get_or_insert(Refused::Wide(name));
                        return Err(A::Error::custom("a field asks for everything"));
                    }
                }
                (Some(name @ ("data_source_config" | "data_source")), _) => {
                    let place = Place::Field(name, Form::Items);
                    map.next_value_seed(Value { scan: &mut *scan, place })?;
                }
                (_, Some(("source", form))) => {
                    let before = scan.sources;
                    map.next_value_seed(Value { scan: &mut *scan, place: Place::Field("source", form) })?;
                    object.sourced = scan.sources > before;
                }
                (Some(name @ ("result" | "encrypted_content")), _) => {
                    let text = map.next_value::<Text>()?.0;
                    object.whole |= text.is_some_and(|text| !text.is_empty())
                        && LOOKED_UP.iter().any(|(_, member)| *member == name);
                }
                (_, Some(("input", _))) if scan.api == Api::Anthropic => {
                    let before = scan.found.len();
                    let place = Place::Field("input", Form::Items);
                    map.next_value_seed(Value { scan: &mut *scan, place })?;
                    object.input = before..scan.found.len();
                }
                (_, Some((name, form))) => {
                    map.next_value_seed(Value { scan: &mut *scan, place: Place::Field(name, form) })?;
                }
                _ => map.next_value_seed(Value { scan: &mut *scan, place: place.under(&key) })?,
            }
        }
        match place {
            Place::Field("source", _) if object.kind.is_some() => scan.sources += 1,
            Place::Field("data_source", _)
                if !object.sourced && object.kind.as_deref().is_some_and(|kind| SOURCED.contains(&kind)) =>
            {
                scan.refused.get_or_insert(Refused::Wide("data_source"));
                return Err(A::Error::custom("a field asks for everything"));
            }
            _ => {}
        }
        // A model's input for a tool refers to nothing, wherever `type` stands in the object.
        if object.kind.as_deref().is_some_and(|kind| kind.ends_with("tool_use")) {
            scan.found.drain(object.input.clone());
        }
        scan.judge(object, place);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = match self.place {
            Place::Field(name, Form::Items) => Place::Item(name),
            // A list within a list is no list of items.
            Place::Item(_) => Place::Plain,
            place => place,
        };
        while list.next_element_seed(Value { scan: &mut *self.scan, place })?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match self.place {
            Place::Field(name, form) if form.takes(text) => self.scan.add(text, true, name),
            Place::Within(name, form) if form.takes(text) => self.scan.add(text, false, name),
            _ => {}
        }
        Ok(())
    }

    wire::skip_scalars!();
}

/// A string, or `None` for any other value.
pub(super) struct Text(pub(super) Option<String>);

impl<'de> serde::Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests;
