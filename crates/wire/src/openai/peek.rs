//! Reads the few fields of a request body that the gateway acts on, in one pass, and remembers their byte offsets.

use std::fmt;

use serde::Deserialize;

use super::fold::{KNOWN, OF_THINKING, Standing, fold};
use super::members::{Member, WalkError, walk};
use crate::types::ServiceTier;

/// The top-level request fields the gateway acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Field {
    Model,
    Stream,
    StreamOptions,
    Temperature,
    Seed,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    ServiceTier,
    Store,
    Tools,
    ToolChoice,
    PreviousResponseId,
    User,
}

impl Field {
    /// Every field, in the order of the enum.
    pub const ALL: [Field; 15] = [
        Field::Model,
        Field::Stream,
        Field::StreamOptions,
        Field::Temperature,
        Field::Seed,
        Field::MaxTokens,
        Field::MaxCompletionTokens,
        Field::MaxOutputTokens,
        Field::N,
        Field::ServiceTier,
        Field::Store,
        Field::Tools,
        Field::ToolChoice,
        Field::PreviousResponseId,
        Field::User,
    ];

    /// The field's JSON key.
    pub fn name(self) -> &'static str {
        match self {
            Field::Model => "model",
            Field::Stream => "stream",
            Field::StreamOptions => "stream_options",
            Field::Temperature => "temperature",
            Field::Seed => "seed",
            Field::MaxTokens => "max_tokens",
            Field::MaxCompletionTokens => "max_completion_tokens",
            Field::MaxOutputTokens => "max_output_tokens",
            Field::N => "n",
            Field::ServiceTier => "service_tier",
            Field::Store => "store",
            Field::Tools => "tools",
            Field::ToolChoice => "tool_choice",
            Field::PreviousResponseId => "previous_response_id",
            Field::User => "user",
        }
    }

    fn of(key: &str) -> Option<Self> {
        // A match on the text compiles to a comparison by length first, cheaper than a table.
        Some(match key {
            "model" => Field::Model,
            "stream" => Field::Stream,
            "stream_options" => Field::StreamOptions,
            "temperature" => Field::Temperature,
            "seed" => Field::Seed,
            "max_tokens" => Field::MaxTokens,
            "max_completion_tokens" => Field::MaxCompletionTokens,
            "max_output_tokens" => Field::MaxOutputTokens,
            "n" => Field::N,
            "service_tier" => Field::ServiceTier,
            "store" => Field::Store,
            "tools" => Field::Tools,
            "tool_choice" => Field::ToolChoice,
            "previous_response_id" => Field::PreviousResponseId,
            "user" => Field::User,
            _ => return None,
        })
    }
}

/// Most bytes of a JSON string that is read, because the string is kept for as long as the request is open.
const LONGEST_STRING: usize = 8 << 10;

/// The byte offsets of a member in the body. A `value_end` of 0 means that the member is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub key_at: u32,
    pub key_end: u32,
    pub value_at: u32,
    pub value_end: u32,
}

impl Place {
    /// `None` beyond 4 GiB, which [`Peek::parse`] has refused before.
    pub(crate) fn of(member: &Member<'_>) -> Option<Self> {
        Some(Self {
            key_at: u32::try_from(member.key_at).ok()?,
            key_end: u32::try_from(member.key_end()).ok()?,
            value_at: u32::try_from(member.value_at).ok()?,
            value_end: u32::try_from(member.value_end()).ok()?,
        })
    }
}

/// The fields that the gateway read from a request body. Owned and small; the body itself stays unchanged.
///
/// `null` counts as absent, except for `model`, where it is an error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peek {
    /// `model`. The caller decides whether it is required.
    pub model: Option<String>,
    /// `stream`
    pub stream: bool,
    /// `stream_options.include_usage`
    pub include_usage: bool,
    /// `stream_options.include_obfuscation`
    pub include_obfuscation: Option<bool>,
    /// `temperature`
    pub temperature: Option<f64>,
    /// Whether `seed` is there.
    pub has_seed: bool,
    /// `max_tokens`
    pub max_tokens: Option<u64>,
    /// `max_completion_tokens`
    pub max_completion_tokens: Option<u64>,
    /// `max_output_tokens` (Responses)
    pub max_output_tokens: Option<u64>,
    /// `n`
    pub n: Option<u64>,
    /// `service_tier`
    pub service_tier: Option<ServiceTier>,
    /// `store`
    pub store: Option<bool>,
    /// Whether `tools` is there and not empty.
    pub has_tools: bool,
    /// Whether `tool_choice` is `"required"`.
    pub requires_tool: bool,
    /// Whether `previous_response_id` is there (Responses).
    pub has_previous_response_id: bool,
    /// `user`, up to 8 KiB.
    pub user: Option<String>,
    places: [Place; Field::ALL.len()],
    /// Number of members of the top-level object.
    pub(crate) members: u32,
    /// Which of the [`KNOWN`] names are there, as a bit set by index.
    known: u64,
}

/// Why a body was refused. Always the caller's fault: HTTP 400, `invalid_request_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeekError {
    /// One sentence for the caller; it never repeats the body.
    pub message: String,
    /// The field at fault, for the error's `param`.
    pub param: Option<&'static str>,
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for PeekError {}

impl Peek {
    /// Validates all of `body` as one JSON object and reads the fields that the gateway acts on.
    ///
    /// A second occurrence of such a field, or of another name that bounds depend on, is an error, because two parsers could
    /// then see two different requests; so is another spelling that some parser takes for such a name. Other keys may repeat.
    /// Escaped keys count like plain ones.
    pub fn parse(body: &[u8]) -> Result<Self, PeekError> {
        let text = text_of(body)?;
        let mut peek = Peek::default();
        let mut fault = None;
        walk(text, |member| {
            peek.members += 1;
            if fault.is_none() {
                fault = peek.read(&member).err();
            }
        })
        .map_err(|error| match error {
            WalkError::Syntax(error) => whole(format!("The request body is not valid JSON: {error}.")),
            WalkError::Trailing(error) => whole(format!(
                "The request body has unexpected text after the JSON object, at line {} column {}.",
                error.line(),
                error.column()
            )),
        })?;
        fault.map_or(Ok(peek), Err)
    }

    /// Whether the body has the field, `null` included.
    pub fn has(&self, field: Field) -> bool {
        self.place(field).is_some()
    }

    /// Whether the body has a member that may concern thinking: without one, [`super::ThinkingWish`] is `Unsaid`.
    pub fn speaks_of_thinking(&self) -> bool {
        self.known & OF_THINKING != 0
    }

    pub(crate) fn place(&self, field: Field) -> Option<Place> {
        let place = self.places[field as usize];
        (place.value_end != 0).then_some(place)
    }

    fn read(&mut self, member: &Member<'_>) -> Result<(), PeekError> {
        let key = member.key();
        let Some(field) = Field::of(&key) else { return self.read_other(&key) };
        let (name, value) = (field.name(), member.value);
        let place = &mut self.places[field as usize];
        if place.value_end != 0 {
            return Err(at(name, format!("The field '{name}' is given more than once.")));
        }
        *place = Place::of(member).ok_or_else(too_large)?;
        match field {
            Field::Model if value.len() > LONGEST_STRING => return Err(wrong(name, "the name of a model")),
            Field::Model => self.model = Some(string(name, value)?.ok_or_else(|| wrong(name, "a string"))?),
            Field::Stream => self.stream = boolean(name, value)?.unwrap_or(false),
            Field::StreamOptions => self.read_stream_options(value)?,
            Field::Temperature => self.temperature = typed(name, value, "a number or null")?,
            Field::Seed => self.has_seed = value != "null",
            Field::MaxTokens => self.max_tokens = count(name, value)?,
            Field::MaxCompletionTokens => self.max_completion_tokens = count(name, value)?,
            Field::MaxOutputTokens => self.max_output_tokens = count(name, value)?,
            Field::N => self.n = count(name, value)?,
            Field::ServiceTier => self.service_tier = string(name, value)?.map(|word| ServiceTier::from_word(&word)),
            Field::Store => self.store = boolean(name, value)?,
            Field::Tools => self.has_tools = value.starts_with('[') && !value[1..].trim_start().starts_with(']'),
            Field::ToolChoice => self.requires_tool = value == "\"required\"",
            Field::PreviousResponseId => self.has_previous_response_id = value != "null",
            // A longer value is not used: it only has to be a string.
            Field::User if value.len() > LONGEST_STRING && value.starts_with('"') => {}
            Field::User => self.user = string(name, value)?,
        }
        Ok(())
    }

    /// Checks a key that is not a [`Field`]: an error if some reader would take it for a name that the gateway acts on.
    fn read_other(&mut self, key: &str) -> Result<(), PeekError> {
        match Standing::of(key) {
            Standing::Other => Ok(()),
            Standing::Known(index) => {
                let bit = 1_u64 << index;
                if self.known & bit != 0 {
                    let name = KNOWN[usize::from(index)];
                    return Err(at(name, format!("The field '{name}' is given more than once.")));
                }
                self.known |= bit;
                Ok(())
            }
            Standing::Twin(name) => Err(twisted(name)),
        }
    }

    fn read_stream_options(&mut self, value: &str) -> Result<(), PeekError> {
        const USAGE: &str = "stream_options.include_usage";
        const OBFUSCATION: &str = "stream_options.include_obfuscation";
        if value == "null" {
            return Ok(());
        }
        if !value.starts_with('{') {
            return Err(wrong("stream_options", "an object or null"));
        }
        let (mut usage, mut obfuscation, mut fault) = (None, None, None);
        // The text is valid JSON already, so the walk itself cannot fail.
        let _ = walk(value, |member| {
            let (name, slot) = match member.key().as_ref() {
                "include_usage" => (USAGE, &mut usage),
                "include_obfuscation" => (OBFUSCATION, &mut obfuscation),
                key => {
                    if fold(key).as_deref() == Some("includeusage") {
                        fault.get_or_insert(twisted(USAGE));
                    }
                    return;
                }
            };
            let read = match slot {
                Some(_) => Err(at(name, format!("The field '{name}' is given more than once."))),
                None => boolean(name, member.value).map(|flag| *slot = Some(flag)),
            };
            if let Err(error) = read {
                fault.get_or_insert(error);
            }
        });
        self.include_usage = usage.flatten().unwrap_or(false);
        self.include_obfuscation = obfuscation.flatten();
        fault.map_or(Ok(()), Err)
    }
}

/// The body as text, or a specific error for each way in which it cannot be the start of a JSON object.
fn text_of(body: &[u8]) -> Result<&str, PeekError> {
    if u32::try_from(body.len()).is_err() {
        return Err(too_large());
    }
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(whole("The request body starts with a byte order mark; send plain UTF-8 JSON.".into()));
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| whole(format!("The request body is not valid UTF-8 at byte {}.", error.valid_up_to())))?;
    match text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
        None => Err(whole("The request body is empty; a JSON object is expected.".into())),
        Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            Err(whole("The request body must be a JSON object.".into()))
        }
        Some(_) => Ok(text),
    }
}

fn whole(message: String) -> PeekError {
    PeekError { message, param: None }
}

fn at(param: &'static str, message: String) -> PeekError {
    PeekError { message, param: Some(param) }
}

/// The error for a name in another spelling: some servers ignore case or separators and would see a different request.
fn twisted(name: &'static str) -> PeekError {
    at(name, format!("Write the field '{name}' exactly like this; some servers accept other spellings of it."))
}

fn wrong(param: &'static str, expected: &str) -> PeekError {
    at(param, format!("The field '{param}' must be {expected}."))
}

fn too_large() -> PeekError {
    whole("The request body is larger than 4 GiB.".into())
}

fn typed<'a, T: Deserialize<'a>>(param: &'static str, value: &'a str, expected: &str) -> Result<Option<T>, PeekError> {
    serde_json::from_str(value).map_err(|_| wrong(param, expected))
}

fn string(param: &'static str, value: &str) -> Result<Option<String>, PeekError> {
    typed(param, value, "a string")
}

fn boolean(param: &'static str, value: &str) -> Result<Option<bool>, PeekError> {
    match value {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        "null" => Ok(None),
        _ => Err(wrong(param, "true or false")),
    }
}

/// A count that is not negative. `100.0` counts as 100: JSON has one number type and some clients print floats.
fn count(param: &'static str, value: &str) -> Result<Option<u64>, PeekError> {
    const EXPECTED: &str = "a whole number that is not negative";
    if let Ok(number) = value.parse::<u64>() {
        return Ok(Some(number));
    }
    match typed::<f64>(param, value, EXPECTED)? {
        None => Ok(None),
        // Up to 2^53 a float names one whole number exactly.
        Some(number) if number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number) => {
            Ok(Some(number as u64))
        }
        Some(_) => Err(wrong(param, EXPECTED)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn error(body: &str) -> PeekError {
        Peek::parse(body.as_bytes()).expect_err(body)
    }

    #[test]
    fn reads_every_field() {
        let body = br#" {"model":"gpt\u002d4","messages":[{"role":"user","content":"{\"model\":1}"}],"stream":true,
            "stream_options":{"include_usage":true,"include_obfuscation":false},"temperature":0,"seed":7,
            "max_tokens":10,"max_completion_tokens":2e1,"max_output_tokens":30.0,"n":2,"service_tier":"flex",
            "store":false,"tools":[ {}],"tool_choice":"required","previous_response_id":"r","user":"u"} "#;
        let peek = Peek::parse(body).unwrap();
        assert_eq!(peek.model.as_deref(), Some("gpt-4"));
        assert!(
            peek.stream
                && peek.include_usage
                && peek.has_seed
                && peek.has_tools
                && peek.requires_tool
                && peek.has_previous_response_id
        );
        assert_eq!(peek.include_obfuscation, Some(false));
        assert_eq!(peek.temperature, Some(0.0));
        assert_eq!((peek.max_tokens, peek.max_completion_tokens), (Some(10), Some(20)));
        assert_eq!((peek.max_output_tokens, peek.n), (Some(30), Some(2)));
        assert_eq!(peek.service_tier, Some(ServiceTier::Flex));
        assert_eq!((peek.store, peek.user.as_deref()), (Some(false), Some("u")));
        for field in Field::ALL {
            assert_eq!(Field::of(field.name()), Some(field));
            let place = peek.place(field).unwrap();
            assert_eq!(
                body[place.key_at as usize..place.key_end as usize],
                *format!("\"{}\"", field.name()).as_bytes()
            );
        }
        assert!(std::mem::size_of::<Peek>() <= 448, "{}", std::mem::size_of::<Peek>());
    }

    #[test]
    fn null_is_absent_but_not_for_the_model() {
        let peek = Peek::parse(
            br#"{"stream":null,"stream_options":null,"temperature":null,"seed":null,"max_tokens":null,"n":null,
                "service_tier":null,"store":null,"tools":null,"previous_response_id":null,"user":null}"#,
        )
        .unwrap();
        let places = peek.places;
        assert_eq!(peek, Peek { places, members: 11, ..Peek::default() });
        assert!(peek.has(Field::Seed) && !peek.has(Field::Model));
        assert_eq!(error(r#"{"model":null}"#).param, Some("model"));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (body, param) in [
            (r#"{"model":1}"#, "model"),
            (r#"{"model":"\ud800"}"#, "model"),
            (r#"{"stream":"true"}"#, "stream"),
            (r#"{"stream_options":true}"#, "stream_options"),
            (r#"{"stream_options":{"include_usage":1}}"#, "stream_options.include_usage"),
            (r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#, "stream_options.include_usage"),
            (r#"{"temperature":"0"}"#, "temperature"),
            (r#"{"max_tokens":-1}"#, "max_tokens"),
            (r#"{"max_tokens":1.5}"#, "max_tokens"),
            (r#"{"max_completion_tokens":1e300}"#, "max_completion_tokens"),
            (r#"{"max_output_tokens":"9"}"#, "max_output_tokens"),
            (r#"{"n":[]}"#, "n"),
            (r#"{"service_tier":1}"#, "service_tier"),
            (r#"{"store":0}"#, "store"),
            (r#"{"user":{}}"#, "user"),
        ] {
            assert_eq!(error(body).param, Some(param), "{body}");
        }
    }

    #[test]
    fn a_repeated_field_is_refused_also_when_escaped() {
        let twice = error(r#"{"model":"a","mod\u0065l":"b"}"#);
        assert_eq!((twice.param, twice.message.contains("more than once")), (Some("model"), true));
        assert_eq!(error(r#"{"seed":null,"seed":1}"#).param, Some("seed"));
        let peek = Peek::parse(br#"{"x":1,"x":2,"mod\u0065l":"b"}"#).unwrap();
        assert_eq!(peek.model.as_deref(), Some("b"));
    }

    #[test]
    fn every_broken_body_has_its_own_words() {
        let bodies: [&[u8]; 7] =
            [b" \n", b"[1]", b"{\"a\":1} 2", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}", b"{\"a\":", b"\"text\""];
        let said: Vec<_> = bodies.iter().map(|body| Peek::parse(body).unwrap_err().message).collect();
        for (message, word) in said.iter().zip([
            "empty",
            "must be a JSON",
            "after the JSON",
            "UTF-8 at byte 6",
            "byte order",
            "EOF",
            "must be",
        ]) {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
        // A syntax fault behind a field fault is reported first: the body as a whole must be JSON.
        assert_eq!(error(r#"{"model":1"#).param, None);
    }

    #[test]
    fn deep_nesting_does_not_use_the_stack() {
        for depth in [1_000, 1_000_000] {
            let body = format!("{{\"x\":{}{},\"model\":\"m\"}}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(Peek::parse(body.as_bytes()).unwrap().model.as_deref(), Some("m"));
            let body = format!("{{\"x\":{}", "{\"a\":".repeat(depth));
            assert!(Peek::parse(body.as_bytes()).is_err());
            let body = format!(
                "{{\"tools\":{}{},\"stream_options\":{{\"y\":{}{}}}}}",
                "[".repeat(depth),
                "]".repeat(depth),
                "[".repeat(depth),
                "]".repeat(depth)
            );
            assert!(Peek::parse(body.as_bytes()).unwrap().has_tools);
            let body = format!("{{\"temperature\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(error(&body).param, Some("temperature"));
        }
    }
}
