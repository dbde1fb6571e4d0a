//! Types that accept any JSON value, so that a member of an unexpected type counts as absent and the rest is still read. Texts
//! without escapes are borrowed from the input.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// A string; empty for anything else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

/// A whole number that is not negative, even if written as a float; `None` for anything else.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count(pub(crate) Option<u64>);

/// `T` from an object; its default from anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lenient<T>(pub(crate) T);

/// `T` from an object; `None` for anything else.
pub(crate) struct Maybe<T>(pub(crate) Option<T>);

/// The objects in an array; empty for anything else.
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// Conversion from a JSON value of any type; the default for types without a conversion.
pub(crate) trait FromAny<'de>: Default {
    /// Converts a number; `exact` is its value where it is a whole number that is not negative.
    fn from_number(_number: f64, _exact: Option<u64>) -> Self {
        Self::default()
    }

    fn from_text(_text: Cow<'de, str>) -> Self {
        Self::default()
    }

    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }

    fn from_seq<A: SeqAccess<'de>>(mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

/// Reads a value of any type.
///
/// # Errors
/// The input is not JSON.
pub(crate) fn any<'de, T: FromAny<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(AnyOf(PhantomData))
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

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::from_number(number as f64, Some(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::from_number(number as f64, u64::try_from(number).ok()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        Ok(T::from_number(number, None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        T::from_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de: 'a, 'a> FromAny<'de> for Text<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self(text)
    }
}

impl FromAny<'_> for Count {
    fn from_number(number: f64, exact: Option<u64>) -> Self {
        let whole = number.fract() == 0.0 && (0.0..9e15).contains(&number);
        // The range makes the cast exact.
        Self(exact.or(whole.then_some(number as u64)))
    }
}

impl<'de, T: Deserialize<'de> + Default> FromAny<'de> for Lenient<T> {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Self)
    }
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> FromAny<'de> for Maybe<T> {
    fn from_map<A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|value| Self(Some(value)))
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> FromAny<'de> for List<T> {
    fn from_seq<A: SeqAccess<'de>>(mut seq: A) -> Result<Self, A::Error> {
        // Most lists of choices and calls have one element, which may be large.
        let mut all = Vec::with_capacity(1);
        while let Some(each) = seq.next_element::<Maybe<T>>()? {
            all.extend(each.0);
        }
        Ok(Self(all))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        any(deserializer)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        any(deserializer)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        any(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        any(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        any(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct All<'a> {
        #[serde(borrow)]
        text: Text<'a>,
        count: Count,
        one: Maybe<One>,
        list: List<One>,
        lenient: Lenient<One>,
    }

    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct One {
        count: Count,
    }

    #[test]
    fn a_member_of_an_odd_type_counts_as_absent() {
        for odd in ["null", "true", "-1", "1.5", "[[]]", "{\"a\":[1]}", "\"x\"", "2"] {
            let json = format!(r#"{{"text":{odd},"count":{odd},"one":{odd},"list":{odd},"lenient":{odd}}}"#);
            let all: All<'_> = serde_json::from_str(&json).expect(odd);
            assert_eq!(&*all.text, if odd == "\"x\"" { "x" } else { "" });
            assert_eq!(all.count.0, (odd == "2").then_some(2));
            assert_eq!((all.one.0.is_some(), all.list.0.len()), (odd.starts_with('{'), 0), "{odd}");
            assert_eq!(all.lenient.0.count.0, None);
        }
        let json = r#"{"count":3.0,"one":{"count":1},"list":[1,{"count":2},null],"lenient":{"count":4}}"#;
        let all: All<'_> = serde_json::from_str(json).expect("JSON");
        let counts = [all.count.0, all.one.0.and_then(|one| one.count.0), all.list.0[0].count.0, all.lenient.0.count.0];
        assert_eq!((counts, all.list.0.len()), ([Some(3), Some(1), Some(2), Some(4)], 1));
        assert!(serde_json::from_str::<All<'_>>(r#"{"text":"#).is_err());
    }

    #[test]
    fn a_text_without_escapes_is_borrowed() {
        let texts: [Text<'_>; 2] = serde_json::from_str(r#"["a","\n"]"#).expect("JSON");
        assert!(matches!(texts, [Text(Cow::Borrowed("a")), Text(Cow::Owned(_))]));
    }
}
