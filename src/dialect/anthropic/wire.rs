//! Anthropic's JSON, borrowed from the bytes it came in. A member of an odd type counts as absent: one must not lose the rest.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A text; empty when it is absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub(super) fn get(&self) -> &str {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count(pub(super) Option<u64>);

/// `T` from an object; its default from anything else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lenient<T>(pub(super) T);

/// One block of an answer.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Block<'a> {
    #[serde(borrow)]
    pub(super) r#type: Text<'a>,
    #[serde(borrow)]
    pub(super) text: Text<'a>,
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) thinking: Text<'a>,
    #[serde(borrow)]
    pub(super) signature: Text<'a>,
    #[serde(borrow)]
    pub(super) data: Text<'a>,
    #[serde(borrow)]
    pub(super) citations: Option<&'a RawValue>,
}

/// Where a text comes from.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Citation<'a> {
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    pub(super) url: Text<'a>,
    #[serde(borrow)]
    pub(super) title: Text<'a>,
}

impl<'a> Citation<'a> {
    /// A citation of a page on the web; `None` for any other.
    pub(super) fn of_page(raw: &'a RawValue) -> Option<Self> {
        let citation: Self = read(raw)?;
        (citation.r#type.get() == "web_search_result_location" && !citation.url.is_empty()).then_some(citation)
    }
}

/// A JSON value as a type that takes what it knows.
pub(super) fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The input of a tool as OpenAI's `arguments`: the same text without white space, so that no number changes.
pub(super) fn arguments(input: Option<&RawValue>) -> String {
    let text = input.map_or("", RawValue::get);
    if !text.starts_with('{') {
        return "{}".into();
    }
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            quoted = c == '"';
        }
        out.push(c);
    }
    out
}

/// OpenAI's id for an answer.
pub(super) fn completion_id(id: &str) -> String {
    if id.is_empty() { format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()) } else { format!("chatcmpl-{id}") }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyOf(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyOf(PhantomData))
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyOf(PhantomData))
    }
}

/// What becomes of a value of any type.
trait FromAny<'de>: Default {
    fn from_text(_text: Cow<'de, str>) -> Self {
        Self::default()
    }

    fn from_count(_count: u64) -> Self {
        Self::default()
    }

    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

impl<'de: 'a, 'a> FromAny<'de> for Text<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self(text)
    }
}

impl FromAny<'_> for Count {
    fn from_count(count: u64) -> Self {
        Self(Some(count))
    }
}

impl<'de, T: Deserialize<'de> + Default> FromAny<'de> for Lenient<T> {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Self)
    }
}

struct AnyOf<T>(PhantomData<T>);

impl<'de, T: FromAny<'de>> Visitor<'de> for AnyOf<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<T, E> {
        Ok(T::from_text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<T, E> {
        Ok(T::from_text(Cow::Owned(text)))
    }

    fn visit_u64<E>(self, count: u64) -> Result<T, E> {
        Ok(T::from_count(count))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        let whole = number.fract() == 0.0 && (0.0..9e15).contains(&number);
        // The range makes the cast exact.
        Ok(if whole { T::from_count(number as u64) } else { T::default() })
    }

    fn visit_i64<E>(self, _number: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E>(self, _value: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }
}
