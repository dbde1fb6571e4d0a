//! The small values a configuration file is written in: durations, sizes, money and secrets.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::types::{MoneyError, NanoUsd};

/// The longest duration that the file may contain; a longer one is taken for a typing error.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);
/// The largest size that the file may contain: 1 TiB.
const MAX_SIZE: u64 = 1 << 40;

/// A duration as people write it: `200ms`, `30s`, `10m`, `1h`. A number without a unit is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// What the text must look like.
    pub const PATTERN: &'static str = r"^[0-9]+(us|ms|s|m|h|d)$";

    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// Parses text such as `30s`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_number(text);
        let wrong =
            || format!("`{text}` is not a duration: write a whole number and one of us, ms, s, m, h, d, such as `30s`");
        let micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(wrong()),
        };
        if digits.is_empty() {
            return Err(wrong());
        }
        let span = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(micros)).map(Duration::from_micros);
        span.filter(|span| *span <= MAX_DURATION)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is longer than the longest duration, 366d"))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        // The largest unit that divides the duration: 90s stays 90s.
        for (unit, size) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
            let small = unit == "m" && micros < 120_000_000; // 60s reads better than 1m beside 30s
            if micros >= size && micros.is_multiple_of(size) && !small {
                return write!(f, "{}{unit}", micros / size);
            }
        }
        match micros {
            0 => f.write_str("0ms"),
            _ => write!(f, "{micros}us"),
        }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number and a unit: `200ms`, `30s`, `10m`, `1h`.",
            "type": "string", "pattern": Self::PATTERN, "x-can": "duration",
        })
    }
}

/// A number of bytes as people write it: `64MiB`, `8MB`, or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanSize(pub u64);

impl HumanSize {
    /// What the text must look like, if it is not a plain number.
    pub const PATTERN: &'static str = r"^[0-9]+(B|kB|KB|MB|GB|KiB|MiB|GiB)?$";

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Parses text such as `64MiB` or `1024`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_number(text);
        let wrong = || {
            format!(
                "`{text}` is not a size: write a whole number and one of B, KB, MB, GB, KiB, MiB, GiB, such as `64MiB`"
            )
        };
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        if digits.is_empty() {
            return Err(wrong());
        }
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        bytes
            .filter(|bytes| *bytes <= MAX_SIZE)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is larger than the largest size, 1024GiB"))
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Serialize for HumanSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bytes(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Bytes(bytes) => Self::parse(&bytes.to_string()),
            Either::Text(text) => Self::parse(&text),
        }
        .map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, with a unit or without: `64MiB`, `8MB`, `1048576`.",
            "type": ["string", "integer"], "minimum": 0, "pattern": Self::PATTERN, "x-can": "size",
        })
    }
}

/// US dollars as people write them: `100`, `0.50`. The amount is exact: it is kept as billionths, not as a binary fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanUsd(pub NanoUsd);

impl HumanUsd {
    /// What the text must look like, if it is not a plain number.
    pub const PATTERN: &'static str = r"^[0-9]+(\.[0-9]{1,9})?$";

    /// `n` hundredths of a dollar.
    pub const fn cents(n: u64) -> Self {
        Self(NanoUsd(n * 10_000_000))
    }

    /// Parses text such as `0.50`; the error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .map(Self)
            .map_err(|error: MoneyError| format!("`{text}` {error}: write US dollars, such as `100` or `0.50`"))
    }
}

impl fmt::Display for HumanUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for HumanUsd {
    /// Writes a whole amount as a number and any other as text, so that no reader turns it into a binary fraction.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.0.is_multiple_of(1_000_000_000) {
            true => serializer.serialize_u64(self.0.0 / 1_000_000_000),
            false => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for HumanUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            // The shortest text of a float is the text it was read from, up to 15 digits.
            Number(serde_json::Number),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Self::parse(&number.to_string()),
            Either::Text(text) => Self::parse(&text),
        }
        .map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanUsd {
    fn schema_name() -> Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "US dollars, exact to nine decimal places: `100`, `0.50`.",
            "type": ["number", "string"], "minimum": 0, "pattern": Self::PATTERN, "x-can": "usd",
        })
    }
}

/// A secret as the file writes it: `env:NAME`, `file:PATH`, or the secret itself.
///
/// It serialises and prints as the reference; the secret itself becomes `[redacted]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

/// Where a secret comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SecretSource<'a> {
    /// An environment variable.
    Env(&'a str),
    /// A file's content, surrounding white space dropped.
    File(&'a str),
    /// The text itself.
    Literal(&'a str),
}

/// Stands for a literal secret in printed output. The loader refuses this text, so that printed output is never mistaken for
/// a working file.
pub const REDACTED: &str = "[redacted]";

impl SecretText {
    /// A reference to an environment variable.
    pub fn env(name: &str) -> Self {
        Self(format!("env:{name}"))
    }

    /// Where the secret comes from.
    pub fn source(&self) -> SecretSource<'_> {
        match self.0.split_once(':') {
            Some(("env", name)) => SecretSource::Env(name),
            Some(("file", path)) => SecretSource::File(path),
            _ => SecretSource::Literal(&self.0),
        }
    }

    /// The text that may be shown.
    pub fn shown(&self) -> &str {
        match self.source() {
            // Text after `env:` that is no variable name is probably a secret, typed there by mistake.
            SecretSource::Env(name) if is_variable_name(name) => &self.0,
            SecretSource::File(_) => &self.0,
            _ => REDACTED,
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`env:NAME` (an environment variable), `file:PATH` (a file's content), or the text itself.",
            "type": "string", "x-can": "secret",
        })
    }
}

/// True for text that can name an environment variable.
pub fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, micros, printed) in [
            ("0ms", 0, "0ms"),
            ("0s", 0, "0ms"),
            ("250us", 250, "250us"),
            ("1500ms", 1_500_000, "1500ms"),
            ("30s", 30_000_000, "30s"),
            ("60s", 60_000_000, "60s"),
            ("10m", 600_000_000, "10m"),
            ("90m", 5_400_000_000, "90m"),
            ("2d", 172_800_000_000, "48h"),
        ] {
            let parsed = HumanDuration::parse(text).unwrap();
            assert_eq!(parsed.0.as_micros(), micros, "{text}");
            assert_eq!(parsed.to_string(), printed);
        }
        for text in ["", "30", "s", "30 s", "-1s", "1.5s", "1w", "99999999999999999999s", "400d"] {
            assert!(HumanDuration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("1500", 1500, "1500B"),
            ("8MB", 8_000_000, "8000000B"),
            ("64MiB", 64 << 20, "64MiB"),
            ("2048KiB", 2 << 20, "2MiB"),
        ] {
            let parsed = HumanSize::parse(text).unwrap();
            assert_eq!(parsed.0, bytes, "{text}");
            assert_eq!(parsed.to_string(), printed);
        }
        for text in ["", "MiB", "64 MiB", "1.5GB", "64mib", "-1", "99999999GiB"] {
            assert!(HumanSize::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_values_read_back_the_same(micros in 0..=31_622_400_000_000u64, bytes in 0..=MAX_SIZE) {
            let span = HumanDuration(Duration::from_micros(micros));
            prop_assert_eq!(HumanDuration::parse(&span.to_string()), Ok(span));
            prop_assert_eq!(HumanSize::parse(&HumanSize(bytes).to_string()), Ok(HumanSize(bytes)));
        }
    }

    #[test]
    fn money_is_exact() {
        for (text, nano, printed) in
            [("100", 100_000_000_000, "100"), ("0.5", 500_000_000, "0.5"), ("0.000000001", 1, "0.000000001")]
        {
            let from_text: HumanUsd = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            let from_number: HumanUsd = serde_json::from_str(text).unwrap();
            assert_eq!((from_text.0, from_number.0), (NanoUsd(nano), NanoUsd(nano)));
            assert_eq!(from_text.to_string(), printed);
            let back: HumanUsd = serde_json::from_value(serde_json::to_value(from_text).unwrap()).unwrap();
            assert_eq!(back, from_text);
        }
        for bad in ["-1", "1e-12", "free", ""] {
            assert!(HumanUsd::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_show_their_reference_only() {
        let shown = |text: &str| SecretText(text.into()).shown().to_owned();
        assert_eq!(shown("env:OPENAI_API_KEY"), "env:OPENAI_API_KEY");
        assert_eq!(shown("file:/run/secrets/x"), "file:/run/secrets/x");
        assert_eq!(shown("sk-live-1"), REDACTED);
        assert_eq!(shown("env:sk-live-1"), REDACTED);
        assert_eq!(format!("{:?}", SecretText("sk-live-1".into())), REDACTED);
    }
}
