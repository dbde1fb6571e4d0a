//! Reads the usage that a provider reports, from a complete JSON reply or from the payload of one stream event.

mod plain;

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess};

use super::lenient::{self, FromAny, Lenient};
use super::locate::{Depths, Hit, hits, value_end};
use crate::types::{ServiceTier, Usage};

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
static SERVICE_TIER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"service_tier\""));

/// The reply's own `usage`, in OpenAI's convention, wherever providers put it: at the top level, under `x_groq` (Groq's
/// streams), or under `response` (events of a Responses stream). A key of that name elsewhere does not count.
///
/// `None` when `usage` is absent or null, or has no known count.
pub fn find_usage(json: &[u8]) -> Option<Usage> {
    let (mut nested, mut depths) = (false, Depths::of(json));
    for hit in hits(json, &USAGE).filter(|hit| json[hit.value_at] == b'{') {
        match depths.at(hit.key_at) {
            Some(1) => {
                let object = &json[hit.value_at..];
                let by_serde = || Wire::deserialize(&mut serde_json::Deserializer::from_slice(object)).ok();
                if let Some(usage) = plain::read(object).or_else(by_serde).and_then(Wire::usage) {
                    return Some(usage);
                }
            }
            Some(2) => nested = true,
            _ => (),
        }
    }
    if !nested {
        return None;
    }
    let envelope: Envelope = serde_json::from_slice(json).ok()?;
    let under = |inner: Lenient<Inner>| inner.0.usage.0.usage();
    envelope.usage.0.usage().or_else(|| under(envelope.x_groq)).or_else(|| under(envelope.response))
}

/// The tier in which the provider says it served the request: top-level `service_tier`, `response.service_tier`, or
/// Anthropic's `usage.service_tier`.
pub fn find_service_tier(json: &[u8]) -> Option<ServiceTier> {
    let (mut nested, mut several, mut depths) = (None, false, Depths::of(json));
    for hit in hits(json, &SERVICE_TIER).filter(|hit| json[hit.value_at] == b'"') {
        match depths.at(hit.key_at) {
            Some(1) => return tier(&json[hit.value_at..value_end(json, hit.value_at)?]),
            Some(2) => several |= nested.replace(hit).is_some(),
            _ => (),
        }
    }
    let nested = nested?;
    if !several && let Some(tier) = tier_in_usage(json, nested) {
        return Some(tier);
    }
    tier_by_serde(json)
}

fn tier_by_serde(json: &[u8]) -> Option<ServiceTier> {
    let envelope: TierEnvelope = serde_json::from_slice(json).ok()?;
    let inner = envelope.response.0.service_tier.or(envelope.usage.0.service_tier);
    envelope.service_tier.or(inner).as_deref().map(ServiceTier::from_word)
}

/// The tier at `hit` if that is a member of the one top-level `usage`: Anthropic's place for it.
fn tier_in_usage(json: &[u8], hit: Hit) -> Option<ServiceTier> {
    let mut depths = Depths::of(json);
    let mut usages = hits(json, &USAGE).filter(|usage| depths.at(usage.key_at) == Some(1));
    let (Some(usage), None) = (usages.next(), usages.next()) else { return None };
    let end = value_end(json, usage.value_at).filter(|_| json[usage.value_at] == b'{')?;
    let word = &json[hit.value_at..value_end(json, hit.value_at)?];
    let is_inside = (usage.value_at..end).contains(&hit.key_at) && !word.contains(&b'\\');
    if is_inside { tier(word) } else { None }
}

fn tier(quoted: &[u8]) -> Option<ServiceTier> {
    let word = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(word).ok().map(ServiceTier::from_word)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope {
    usage: Lenient<Wire>,
    x_groq: Lenient<Inner>,
    response: Lenient<Inner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Inner {
    usage: Lenient<Wire>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TierEnvelope {
    service_tier: Option<String>,
    response: Lenient<TierInner>,
    usage: Lenient<TierInner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TierInner {
    service_tier: Option<String>,
}

/// A usage object, or a portion of it.
pub(crate) type Portion = Wire;

/// Every known form of a usage object. Names other than OpenAI's: `input_*` and `output_*` are the Responses API's,
/// `prompt_cache_hit_tokens` is DeepSeek's, a bare `cached_tokens` is Moonshot's. `cache_read_input_tokens`,
/// `cache_creation_input_tokens` and `cache_creation` are Anthropic's, whose `input_tokens` do not contain them;
/// `cache_write_1h_tokens` is written by the gateway's own translation of Anthropic's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Wire {
    prompt_tokens: Count,
    input_tokens: Count,
    completion_tokens: Count,
    output_tokens: Count,
    total_tokens: Count,
    prompt_cache_hit_tokens: Count,
    cached_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_creation: Lenient<Creation>,
    server_tool_use: Lenient<ServerToolUse>,
    /// Anthropic's passes over the model, where a request took several; the other counts are of the last pass only.
    iterations: Passes,
    /// Where Anthropic reports the tier.
    service_tier: Tier,
    prompt_tokens_details: Lenient<Details>,
    input_tokens_details: Lenient<Details>,
    completion_tokens_details: Lenient<Details>,
    output_tokens_details: Lenient<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Count,
    cache_write_tokens: Count,
    cache_write_1h_tokens: Count,
    audio_tokens: Count,
    image_tokens: Count,
    reasoning_tokens: Count,
    /// Anthropic's word for reasoning tokens.
    thinking_tokens: Count,
}

/// Cache writes by their time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Creation {
    ephemeral_1h_input_tokens: Count,
}

/// The sums of Anthropic's counts of all passes over the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passes {
    input: u64,
    output: u64,
    read: u64,
    written: u64,
    for_an_hour: u64,
}

/// The counts of one pass over the model.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Pass {
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    cache_creation: Lenient<Creation>,
}

impl Passes {
    fn add(&mut self, pass: &Pass) {
        for (sum, count) in [
            (&mut self.input, pass.input_tokens),
            (&mut self.output, pass.output_tokens),
            (&mut self.read, pass.cache_read_input_tokens),
            (&mut self.written, pass.cache_creation_input_tokens),
            (&mut self.for_an_hour, pass.cache_creation.0.ephemeral_1h_input_tokens),
        ] {
            *sum = sum.saturating_add(count.get());
        }
    }
}

impl<'de> Deserialize<'de> for Passes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::any(deserializer)
    }
}

impl<'de> FromAny<'de> for Passes {
    fn from_seq<A: SeqAccess<'de>>(mut seq: A) -> Result<Self, A::Error> {
        let mut passes = Self::default();
        while let Some(pass) = seq.next_element::<Lenient<Pass>>()? {
            passes.add(&pass.0);
        }
        Ok(passes)
    }
}

/// Calls of tools that Anthropic ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct ServerToolUse {
    web_search_requests: Count,
}

impl Details {
    fn or(self, other: Details) -> Details {
        Details {
            cached_tokens: self.cached_tokens.or(other.cached_tokens),
            cache_write_tokens: self.cache_write_tokens.or(other.cache_write_tokens),
            cache_write_1h_tokens: self.cache_write_1h_tokens.or(other.cache_write_1h_tokens),
            audio_tokens: self.audio_tokens.or(other.audio_tokens),
            image_tokens: self.image_tokens.or(other.image_tokens),
            reasoning_tokens: self.reasoning_tokens.or(other.reasoning_tokens),
            thinking_tokens: self.thinking_tokens.or(other.thinking_tokens),
        }
    }
}

impl Wire {
    /// Anthropic's counts from here, and those that are absent here from `before`. The counts are cumulative.
    pub(crate) fn or(self, before: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.or(before.input_tokens),
            output_tokens: self.output_tokens.or(before.output_tokens),
            cache_read_input_tokens: self.cache_read_input_tokens.or(before.cache_read_input_tokens),
            cache_creation_input_tokens: self.cache_creation_input_tokens.or(before.cache_creation_input_tokens),
            cache_creation: Lenient(Creation {
                ephemeral_1h_input_tokens: self
                    .cache_creation
                    .0
                    .ephemeral_1h_input_tokens
                    .or(before.cache_creation.0.ephemeral_1h_input_tokens),
            }),
            server_tool_use: Lenient(ServerToolUse {
                web_search_requests: self
                    .server_tool_use
                    .0
                    .web_search_requests
                    .or(before.server_tool_use.0.web_search_requests),
            }),
            iterations: if self.iterations == Passes::default() { before.iterations } else { self.iterations },
            service_tier: Tier(self.service_tier.0.or(before.service_tier.0)),
            output_tokens_details: Lenient(self.output_tokens_details.0.or(before.output_tokens_details.0)),
            ..Self::default()
        }
    }

    /// Whether the object counts output tokens.
    pub(crate) fn counts_output(&self) -> bool {
        self.output_tokens.0.is_some()
    }

    /// Searches that Anthropic made.
    pub(crate) fn searches(self) -> u64 {
        self.server_tool_use.0.web_search_requests.get()
    }

    /// The service tier that the object contains.
    pub(crate) fn service_tier(self) -> Option<ServiceTier> {
        self.service_tier.0
    }

    /// The counts of all passes, where these are reported and are larger than the counts of the last pass.
    fn of_all_passes(mut self) -> Self {
        let all = self.iterations;
        let creation = &mut self.cache_creation.0.ephemeral_1h_input_tokens;
        for (count, sum) in [
            (&mut self.input_tokens, all.input),
            (&mut self.output_tokens, all.output),
            (&mut self.cache_read_input_tokens, all.read),
            (&mut self.cache_creation_input_tokens, all.written),
            (creation, all.for_an_hour),
        ] {
            if sum > count.get() {
                *count = Count(Some(sum));
            }
        }
        self
    }

    pub(crate) fn usage(self) -> Option<Usage> {
        self.of_all_passes().read()
    }

    fn read(self) -> Option<Usage> {
        let prompt = self.prompt_tokens.or(self.input_tokens).0;
        let completion = self.completion_tokens.or(self.output_tokens).0;
        let total = self.total_tokens.0;
        let (read, written) = (self.cache_read_input_tokens, self.cache_creation_input_tokens);
        let outside = match self.prompt_tokens.0 {
            // OpenAI's `prompt_tokens` includes cached tokens, even where a provider repeats these under Anthropic's names.
            Some(_) => 0,
            None => read.get().saturating_add(written.get()),
        };
        let (prompt_tokens, mut completion_tokens) = match (prompt, completion) {
            (None, None) => (total?, 0),
            (prompt, completion) => (prompt.unwrap_or(0).saturating_add(outside), completion.unwrap_or(0)),
        };
        let input = self.prompt_tokens_details.0.or(self.input_tokens_details.0);
        let output = self.completion_tokens_details.0.or(self.output_tokens_details.0);
        let mut reasoning_tokens = output.reasoning_tokens.or(output.thinking_tokens).get();
        // xAI and Gemini leave thinking out of the completion but count it in the total. It is billed as output.
        if let (Some(completion), Some(total)) = (completion, total) {
            let rest = total.saturating_sub(prompt_tokens).saturating_sub(completion);
            completion_tokens = completion.saturating_add(rest);
            reasoning_tokens = reasoning_tokens.max(rest);
        }
        let cached = input.cached_tokens.or(self.prompt_cache_hit_tokens).or(self.cached_tokens).or(read).get();
        // The detail counts are parts of their totals; a provider that says more must not make a price negative.
        let cached_tokens = if cached == u64::MAX { 0 } else { cached.min(prompt_tokens) };
        let for_an_hour = self.cache_creation.0.ephemeral_1h_input_tokens;
        let cache_write_1h_tokens =
            input.cache_write_1h_tokens.or(for_an_hour).get().min(prompt_tokens - cached_tokens);
        let written = written.0.map(|all| all.saturating_sub(for_an_hour.get()));
        let cache_write_tokens = input.cache_write_tokens.or(Count(written)).get();
        Some(Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens: cache_write_tokens.min(prompt_tokens - cached_tokens - cache_write_1h_tokens),
            cache_write_1h_tokens,
            reasoning_tokens: reasoning_tokens.min(completion_tokens),
            audio_prompt_tokens: input.audio_tokens.get().min(prompt_tokens),
            audio_completion_tokens: output.audio_tokens.get().min(completion_tokens),
            image_prompt_tokens: input.image_tokens.get().min(prompt_tokens),
        })
    }
}

/// A token count: an integer, or a float that is one. Anything else, null included, counts as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(Option<u64>);

/// A known service tier; `None` for anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tier(Option<ServiceTier>);

impl<'de> Deserialize<'de> for Tier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::any(deserializer)
    }
}

impl<'de> FromAny<'de> for Tier {
    fn from_text(text: Cow<'de, str>) -> Self {
        Self(Some(ServiceTier::from_word(&text)))
    }
}

impl Count {
    fn or(self, other: Count) -> Count {
        Count(self.0.or(other.0))
    }

    fn get(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::any(deserializer)
    }
}

impl FromAny<'_> for Count {
    fn from_number(number: f64, exact: Option<u64>) -> Self {
        // `as` saturates. A negative count is treated like one that is too large, so that it never lowers the price.
        Count(exact.or(Some(if number < 0.0 { u64::MAX } else { number as u64 })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(json: &str) -> Usage {
        find_usage(json.as_bytes()).expect(json)
    }

    #[test]
    fn what_a_compaction_took_is_among_the_counts() {
        let found = usage(
            r#"{"usage":{"input_tokens":23000,"output_tokens":1000,"iterations":[
            {"type":"compaction","input_tokens":180000,"output_tokens":3500,"cache_creation_input_tokens":7},
            {"type":"message","input_tokens":23000,"output_tokens":1000},null,7]}}"#,
        );
        assert_eq!((found.prompt_tokens, found.completion_tokens, found.cache_write_tokens), (203_007, 4_500, 7));
        // Never less than what stands at the top.
        for iterations in ["[]", "null", "{}", r#"[{"input_tokens":1}]"#] {
            let found =
                usage(&format!(r#"{{"usage":{{"input_tokens":5,"output_tokens":2,"iterations":{iterations}}}}}"#));
            assert_eq!((found.prompt_tokens, found.completion_tokens), (5, 2), "{iterations}");
        }
    }

    #[test]
    fn openai_chat() {
        let found = usage(
            r#"{"id":"x","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":100,
            "completion_tokens":50,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":64,"cache_write_tokens":20,
            "audio_tokens":3,"image_tokens":4},"completion_tokens_details":{"reasoning_tokens":10,"audio_tokens":2,
            "accepted_prediction_tokens":0}},"service_tier":"default"}"#,
        );
        let expected = Usage {
            prompt_tokens: 100,
            completion_tokens: 50,
            cached_tokens: 64,
            cache_write_tokens: 20,
            cache_write_1h_tokens: 0,
            reasoning_tokens: 10,
            audio_prompt_tokens: 3,
            audio_completion_tokens: 2,
            image_prompt_tokens: 4,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn other_shapes() {
        let two = |prompt_tokens, completion_tokens| Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        // Responses API, whole and in an event.
        let body = r#"{"tools":[{"parameters":{"usage":{"input_tokens":1}}}],"usage":{"input_tokens":7,"output_tokens":8,
            "input_tokens_details":{"cached_tokens":2},"output_tokens_details":{"reasoning_tokens":3},"total_tokens":15}}"#;
        let expected = Usage { cached_tokens: 2, reasoning_tokens: 3, ..two(7, 8) };
        assert_eq!(usage(body), expected);
        assert_eq!(usage(&format!(r#"{{"type":"response.completed","response":{body}}}"#)), expected);
        // Groq, with and without the top-level object.
        assert_eq!(
            usage(
                r#"{"choices":[],"usage":null,"x_groq":{"id":"r","usage":{"prompt_tokens":4,"completion_tokens":5}}}"#
            ),
            two(4, 5)
        );
        assert_eq!(
            usage(r#"{"x_groq":{"usage":{"prompt_tokens":1}},"usage":{"prompt_tokens":4,"completion_tokens":5}}"#),
            two(4, 5)
        );
        // DeepSeek and Moonshot.
        assert_eq!(
            usage(
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":1}}"#
            ),
            Usage { cached_tokens: 8, ..two(9, 1) }
        );
        assert_eq!(usage(r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"cached_tokens":5}}"#).cached_tokens, 5);
        // Embeddings; floats; nulls and odd members.
        assert_eq!(usage(r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#), two(8, 0));
        assert_eq!(usage(r#"{"usage":{"total_tokens":8}}"#), two(8, 0));
        assert_eq!(
            usage(r#"{"usage" : {"prompt_tokens":8.0,"completion_tokens":2.0,"prompt_tokens_details":null}}"#),
            two(8, 2)
        );
        assert_eq!(
            usage(
                r#"{"usage":{"prompt_tokens":8,"completion_tokens":null,"prompt_tokens_details":[1],"cost":{"a":[]},"completion_tokens_details":{"reasoning_tokens":{}}}}"#
            ),
            two(8, 0)
        );
    }

    #[test]
    fn anthropic_counts_its_cache_outside_the_prompt() {
        let whole = r#"{"type":"message","usage":{"input_tokens":10,"cache_creation_input_tokens":300,"cache_read_input_tokens":2000,
            "cache_creation":{"ephemeral_5m_input_tokens":100,"ephemeral_1h_input_tokens":200},"output_tokens":50,
            "output_tokens_details":{"thinking_tokens":30},"service_tier":"standard"}}"#;
        let expected = Usage {
            prompt_tokens: 2310,
            completion_tokens: 50,
            cached_tokens: 2000,
            cache_write_tokens: 100,
            cache_write_1h_tokens: 200,
            reasoning_tokens: 30,
            ..Usage::default()
        };
        assert_eq!(usage(whole), expected);
        // These counts after their translation into Chat.
        let chat = r#"{"usage":{"prompt_tokens":2310,"completion_tokens":50,"total_tokens":2360,"prompt_tokens_details":
            {"cached_tokens":2000,"cache_write_tokens":100,"cache_write_1h_tokens":200},"completion_tokens_details":{"reasoning_tokens":30}}}"#;
        assert_eq!(usage(chat), expected);
        // A proxy that says it both ways.
        let both = r#"{"usage":{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":90},"cache_read_input_tokens":90}}"#;
        assert_eq!((usage(both).prompt_tokens, usage(both).cached_tokens), (100, 90));
        let plain = r#"{"usage":{"input_tokens":7,"cache_read_input_tokens":0,"cache_creation_input_tokens":null,"output_tokens":1}}"#;
        assert_eq!((usage(plain).prompt_tokens, usage(plain).cached_tokens), (7, 0));
    }

    #[test]
    fn thinking_outside_the_completion_is_added_once() {
        let xai = usage(
            r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}}}"#,
        );
        assert_eq!((xai.completion_tokens, xai.reasoning_tokens, xai.total_tokens()), (105, 100, 115));
        let gemini = usage(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115}}"#);
        assert_eq!((gemini.completion_tokens, gemini.reasoning_tokens), (105, 100));
        let openai = usage(
            r#"{"usage":{"prompt_tokens":10,"completion_tokens":105,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}}}"#,
        );
        assert_eq!((openai.completion_tokens, openai.reasoning_tokens), (105, 100));
    }

    #[test]
    fn parts_never_exceed_their_totals() {
        let found = usage(
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":9,"cache_write_tokens":9},"completion_tokens_details":{"reasoning_tokens":7}}}"#,
        );
        assert_eq!((found.cached_tokens, found.cache_write_tokens, found.reasoning_tokens), (5, 0, 1));
        assert_eq!(usage(r#"{"usage":{"prompt_tokens":1e300,"completion_tokens":-4}}"#).completion_tokens, u64::MAX);
        let below =
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}}"#;
        assert_eq!(usage(below).cached_tokens, 0, "nothing is cheaper for a count that is none");
    }

    #[test]
    fn decoys_do_not_count() {
        for decoy in [
            r#"{"choices":[{"usage":{"prompt_tokens":1,"completion_tokens":1}}]}"#,
            r#"{"a":{"usage":{"prompt_tokens":1}}}"#,
            r#"{"content":"\"usage\":{\"prompt_tokens\":1}"}"#,
            r#"{"content":"usage","b":"usage"}"#,
            r#"{"usage":null}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":[1]}"#,
            r#"{"usage":{"prompt_tokens":"#,
            r#"[{"usage":{"prompt_tokens":1}}]"#,
            "usage",
            "",
        ] {
            assert_eq!(find_usage(decoy.as_bytes()), None, "{decoy}");
        }
        let many = format!(
            r#"{{"a":[{}],"usage":{{"prompt_tokens":3}}}}"#,
            [r#"{"usage":{"prompt_tokens":1}}"#; 50].join(",")
        );
        assert_eq!(usage(&many).prompt_tokens, 3);
        let many = format!(r#"{{"a":[{}]}}"#, [r#"{"usage":{"prompt_tokens":1}}"#; 50].join(","));
        assert_eq!(find_usage(many.as_bytes()), None);
    }

    #[test]
    fn the_tier_is_the_replys_own() {
        let tier = |json: &str| find_service_tier(json.as_bytes());
        assert_eq!(tier(r#"{"service_tier":"flex","usage":{}}"#), Some(ServiceTier::Flex));
        assert_eq!(tier(r#"{"a":{"service_tier":"flex"},"service_tier" : "default"}"#), Some(ServiceTier::Standard));
        assert_eq!(
            tier(r#"{"type":"response.completed","response":{"service_tier":"priority"}}"#),
            Some(ServiceTier::Priority)
        );
        for none in [
            r#"{"service_tier":null}"#,
            r#"{"a":{"service_tier":"flex"}}"#,
            r#"{"a":"\"service_tier\":\"flex\""}"#,
            "{}",
        ] {
            assert_eq!(tier(none), None, "{none}");
        }
        // Within an object: what is found at a glance is what a parser finds.
        for json in [
            r#"{"type":"message","usage":{"input_tokens":1,"service_tier":"priority"}}"#,
            r#"{"content":[{"service_tier":"flex"}],"usage" : { "service_tier" : "standard" },"x":1}"#,
            r#"{"usage":{"service_tier":"st\u0061ndard"}}"#,
            r#"{"usage":{"service_tier":null},"response":{"service_tier":"flex"}}"#,
            r#"{"response":{"service_tier":"flex"},"usage":{"service_tier":"priority"}}"#,
            r#"{"usage":{"service_tier":"flex"},"usage":{"input_tokens":1}}"#,
            r#"{"usage":{"input_tokens":1},"metadata":{"service_tier":"flex"}}"#,
            r#"{"text":"{\"usage\":{","metadata":{"service_tier":"flex"}}"#,
            r#"{"usage":{"a":{"service_tier":"flex"}}}"#,
        ] {
            assert_eq!(tier(json), tier_by_serde(json.as_bytes()), "{json}");
        }
        assert_eq!(tier(r#"{"usage":{"service_tier":"priority"}}"#), Some(ServiceTier::Priority));
    }
}
