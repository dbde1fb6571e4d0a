//! Times, money and closed lists of words in JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use crate::{config::Period, identity::Scope, types::NanoUsd};

/// A moment (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-12-31T23:00:00Z")]
pub struct Time(
    /// The moment in milliseconds since 1970.
    pub u64,
);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A moment beyond the calendar is shown as the calendar's last moment.
        let at = i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        serializer.collect_str(&at.unwrap_or(Timestamp::MAX))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |_| de::Error::custom("not a time such as `2026-12-31T23:00:00Z` (RFC 3339)");
        let at: Timestamp = text.parse().map_err(wrong)?;
        // A moment before 1970 becomes 0, which is in the past as well.
        Ok(Self(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

/// An exact amount of US dollars, as a decimal number in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]{1,9})?$", example = "12.5")]
pub struct Usd(
    /// The amount.
    pub NanoUsd,
);

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Defines the schema of a text that is one of a list of words; the words come from the types that define them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $schema:literal, $words:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some($words)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                $schema.into()
            }
        }
    };
}

words! {
    /// A permission of a token.
    ScopeWord, "Scope", Scope::ALL.map(Scope::label)
}

words! {
    /// The state of a token: [`crate::identity::Token::state`].
    StateWord, "State", ["active", "expired", "revoked"]
}

words! {
    /// How often a budget begins anew.
    PeriodWord, "Period", [Period::Daily, Period::Weekly, Period::Monthly, Period::Total].map(Period::label)
}

words! {
    /// The state of the gateway.
    StatusWord, "Status", ["ok", "degraded"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_money_are_text() {
        fn json(value: impl Serialize) -> String {
            serde_json::to_string(&value).unwrap()
        }
        assert_eq!(json(Time(0)), r#""1970-01-01T00:00:00Z""#);
        assert_eq!(json(Time(1_700_000_000_123)), r#""2023-11-14T22:13:20.123Z""#);
        assert_eq!(json(Time(u64::MAX)), json(Timestamp::MAX.to_string()));
        assert_eq!(json(Usd(NanoUsd(2_000_000))), r#""0.002""#);
        assert_eq!(json(Usd(NanoUsd(5_000_000_000))), r#""5""#);
    }

    #[test]
    fn a_time_needs_its_zone() {
        let read = |text: &str| serde_json::from_value::<Time>(text.into()).map(|time| time.0);
        assert_eq!(read("1970-01-01T01:00:00+01:00").unwrap(), 0);
        assert_eq!(read("1969-01-01T00:00:00Z").unwrap(), 0);
        for bad in ["", "tomorrow", "2026-01-01", "2026-01-01T00:00:00", "1767225600", "2026-13-01T00:00:00Z"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
