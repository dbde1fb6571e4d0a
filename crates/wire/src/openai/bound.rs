//! Upper bounds of what a request can make a provider count, so that a budget can reserve that much before the call.
//!
//! A token of any byte-pair encoding is at least one byte, and a text is never longer than the JSON that spells it. So a
//! prompt has at most as many tokens as the body has bytes, except for images, the provider's own template, and what
//! the provider fetches itself. To find these exceptions, one pass visits every string of the body and looks for known keys.
//! Keys and values with escapes are decoded first, so that no spelling slips through; what looks like a key inside a
//! text does not count, because its quotes are escaped.
//!
//! The rule does not hold for a tokenizer that first expands characters (NFKC writes U+FDFA as eighteen); no chat model's
//! tokenizer does so.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::endpoint::Endpoint;
use super::fold::fold;
use super::locate::{Depths, skip_space, value_end};
use super::members::{elements, walk};
use super::peek::{Field, Peek};

/// Most prompt tokens that one image can cost. The highest known cost is gpt-4o-mini's in high detail: 2833 and 5667 for each
/// of at most 8 tiles, 48 169 in all (OpenAI's guide to images and vision).
pub const IMAGE_TOKENS: u64 = 50_000;

/// Most prompt tokens that a provider's chat template can add to a request without showing them: gpt-oss starts with a system
/// message of about 70, Claude with up to 530 when there are tools (Anthropic's guide to tool use). Counts for chat completions
/// and the Responses API.
pub const TEMPLATE_TOKENS: u64 = 1_024;

/// Prompt tokens of a usual image: one of 1024 × 1024 in gpt-4o's high detail.
pub const IMAGE_ESTIMATE: u64 = 765;

/// Length in bytes of the longest key that may be another spelling of a known key.
const LONGEST_TWIN: usize = 48;

/// Output tokens of a legacy completion when the client sets no `max_tokens` (OpenAI's API reference).
const COMPLETIONS_MAX_TOKENS: u64 = 16;

/// Upper bounds of what a request can make a provider count, and what makes a bound uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// No provider counts more prompt tokens than this, unless [`Self::unbounded_prompt`] is set: the body's bytes,
    /// [`IMAGE_TOKENS`] for each image, and [`TEMPLATE_TOKENS`]. It may exceed the model's longest prompt.
    pub prompt_tokens: u64,
    /// The provider adds what the body does not show: an earlier response, a conversation, a stored prompt or item, a
    /// file, sound or film, what a hosted tool or a search finds. Only the model's longest prompt is a bound then.
    pub unbounded_prompt: bool,
    /// Like [`Self::unbounded_prompt`], but disregarding the tools in `tools`: what these add is known from the calls that the
    /// reply reports.
    pub unbounded_besides_tools: bool,
    /// Images in the prompt, at most.
    pub images: u64,
    /// Answers that are generated: `n`, or `best_of` when that is more, for each prompt of a legacy completion.
    pub choices: u64,
    /// Most output tokens of each answer, as the client limits them; `None` without a limit. The larger of two limits. A
    /// prediction is added, because OpenAI counts its rejected tokens as output. 0 for embeddings and moderations.
    pub max_output_tokens: Option<u64>,
    /// Most tokens of the prediction, which [`Self::max_output_tokens`] includes.
    pub prediction: u64,
    /// Something other than text may be generated: sound, images.
    pub media: bool,
    /// [`Self::max_output_tokens`] is OpenAI's default, which the client did not state; other vendors may have another.
    pub assumed_output: bool,
    /// The answer is made later and fetched with another request (Responses, `background`).
    pub background: bool,
    /// Models other than the requested one may answer (OpenRouter's `models`, Anthropic's `fallbacks`).
    pub fallbacks: bool,
    /// The answer costs more than the model's price says (Anthropic's `speed`, `inference_geo`).
    pub surcharge: bool,
    /// The provider may shorten the conversation, which costs a further reading and writing of it (Anthropic's and OpenAI's
    /// `context_management`).
    pub compacts: bool,
    /// The provider may run tools of its own, or the body looks like it: [`super::Hosted::read`] tells which.
    pub hosted: bool,
    /// Likely prompt tokens, for rate limits: a quarter of the body's bytes without images, and [`IMAGE_ESTIMATE`] for each
    /// image.
    pub estimate_tokens: u64,
}

impl Bound {
    /// The bounds of the request that `peek` was parsed from. For a body that is not valid JSON, which [`Peek::parse`]
    /// refuses, the numbers mean nothing, but the result is safe: the prompt is unbounded.
    pub fn of(endpoint: &Endpoint, body: &[u8], peek: &Peek) -> Bound {
        let bytes = body.len() as u64;
        let scan = Scan::of(endpoint, body, peek);
        let images = scan.image_urls.max(scan.image_url_parts) + scan.image_keys.max(scan.image_parts);
        let n = peek.n.unwrap_or(1).max(1);
        // Many servers read 0 as no limit.
        let limit = |stated: Option<u64>| stated.filter(|limit| *limit > 0);
        let (max_tokens, max_completion_tokens) = (limit(peek.max_tokens), limit(peek.max_completion_tokens));
        // A limit under a name that is not the endpoint's own limits nothing.
        let (template, choices, max_output_tokens) = match endpoint {
            Endpoint::Embeddings | Endpoint::Moderations | Endpoint::CountTokens => (0, 1, Some(0)),
            Endpoint::Completions => {
                let (prompts, best_of) = completions(body);
                (0, n.max(best_of).saturating_mul(prompts), max_tokens.or(Some(COMPLETIONS_MAX_TOKENS)))
            }
            Endpoint::Responses => (TEMPLATE_TOKENS, n, limit(peek.max_output_tokens)),
            // Anthropic's API has one answer and one limit.
            Endpoint::Messages => (TEMPLATE_TOKENS, 1, max_tokens),
            _ => (TEMPLATE_TOKENS, n, max_tokens.max(max_completion_tokens)),
        };
        let prediction = if scan.prediction { bytes } else { 0 };
        Bound {
            prompt_tokens: (bytes + template).saturating_add(images.saturating_mul(IMAGE_TOKENS)),
            unbounded_prompt: scan.unbounded || scan.tools,
            unbounded_besides_tools: scan.unbounded,
            images,
            choices,
            assumed_output: *endpoint == Endpoint::Completions && max_tokens.is_none(),
            background: scan.background,
            fallbacks: scan.fallbacks,
            surcharge: scan.surcharge,
            compacts: scan.compacts,
            hosted: scan.hosted,
            prediction,
            media: scan.media,
            max_output_tokens: max_output_tokens.map(|tokens| tokens.saturating_add(prediction)),
            estimate_tokens: (bytes.saturating_sub(scan.encoded) / 4)
                .saturating_add(images.saturating_mul(IMAGE_ESTIMATE)),
        }
    }
}

/// What one pass over the body's strings found. `tools` is read separately: its schemas may have properties named like known
/// keys, and only inside `tools` does a `type` name a tool.
#[derive(Debug, Default)]
struct Scan {
    unbounded: bool,
    /// `tools` has an entry that the provider may run.
    tools: bool,
    prediction: bool,
    /// Something other than text is asked for.
    media: bool,
    /// An image has a key, a part's type, or both; so of each kind the larger of the two counts is used.
    image_urls: u64,
    image_url_parts: u64,
    image_keys: u64,
    image_parts: u64,
    /// Bytes of encoded files and images.
    encoded: u64,
    /// An object may be an item that names nothing but its id.
    bare_id: bool,
    background: bool,
    fallbacks: bool,
    surcharge: bool,
    compacts: bool,
    /// There may be tools that the provider runs.
    hosted: bool,
}

/// The keys that matter for a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Other,
    Type,
    Id,
    ImageUrl,
    Image,
    Url,
    Data,
    /// Names something that is not in the body, or that is more than the body shows.
    Outside,
    /// Like [`Self::Outside`], but only in the top-level object: vendors' own names for a search.
    Search,
    /// Like [`Self::Outside`], but only in the top-level object of a Responses request.
    Stored,
    /// An earlier answer's sound, when it stands in a message.
    Audio,
    Prediction,
    /// Names the media to be generated, in the top-level object.
    Modalities,
    /// Counts in the top-level object only, as [`Self::Models`] does.
    Background,
    Models,
    /// Makes the answer cost more than its model's price, in the top-level object.
    Surcharge,
    /// May have the conversation shortened, in the top-level object.
    ContextManagement,
    /// Names a tool that the provider runs, in `tools`, or may contain such tools, in the top-level object (Gemini).
    Tool,
}

impl Key {
    fn of(key: &[u8]) -> Self {
        match key {
            b"type" => Self::Type,
            b"id" => Self::Id,
            b"image_url" => Self::ImageUrl,
            b"image" => Self::Image,
            b"url" => Self::Url,
            b"data" => Self::Data,
            b"file_id" | b"file_url" | b"file_data" | b"document_url" => Self::Outside,
            // Gemini's cache.
            b"cached_content" => Self::Outside,
            b"input_audio" | b"audio_url" | b"input_video" | b"video_url" | b"video" | b"image_embeds" => Self::Outside,
            // OpenAI; xAI; OpenRouter; Qwen.
            b"web_search_options" | b"search_parameters" | b"plugins" | b"enable_search" => Self::Search,
            b"prompt" | b"conversation" => Self::Stored,
            b"audio" => Self::Audio,
            b"prediction" => Self::Prediction,
            b"modalities" => Self::Modalities,
            // Anthropic: tools of a server that the provider talks to, files of an earlier request.
            b"mcp_servers" | b"container" => Self::Search,
            b"background" => Self::Background,
            b"models" | b"fallbacks" => Self::Models,
            b"speed" | b"inference_geo" => Self::Surcharge,
            b"context_management" => Self::ContextManagement,
            // Azure's own documents.
            b"data_sources" => Self::Search,
            b"google_search" | b"google_search_retrieval" | b"google_maps" | b"url_context" | b"code_execution" => {
                Self::Tool
            }
            b"enterprise_web_search" => Self::Tool,
            b"extra_body" | b"google" => Self::Tool,
            // Frequent keys that are no other spelling of a known key.
            b"role" | b"content" | b"text" | b"model" | b"messages" | b"input" | b"stream" => Self::Other,
            // Another reader may take such a key for one of the known ones.
            _ if key.len() <= LONGEST_TWIN
                && key.iter().any(|byte| !matches!(byte, b'a'..=b'z' | b'_' | b'0'..=b'9')) =>
            {
                Self::of_folded(key)
            }
            _ => Self::Other,
        }
    }

    /// A key in another spelling, as a reader that ignores case and separators understands it.
    fn of_folded(key: &[u8]) -> Self {
        match std::str::from_utf8(key).ok().and_then(fold).as_deref() {
            Some("type") => Self::Type,
            Some("id") => Self::Id,
            Some("imageurl") => Self::ImageUrl,
            Some("image") => Self::Image,
            Some("url") => Self::Url,
            Some("data") => Self::Data,
            Some("fileid" | "fileurl" | "filedata" | "documenturl" | "cachedcontent") => Self::Outside,
            Some("inputaudio" | "audiourl" | "inputvideo" | "videourl" | "video" | "imageembeds") => Self::Outside,
            Some("audio") => Self::Audio,
            Some("googlesearch" | "googlesearchretrieval" | "googlemaps" | "urlcontext" | "codeexecution") => {
                Self::Tool
            }
            Some("enterprisewebsearch") => Self::Tool,
            // The other keys count in the top-level object only, where the peek refuses such a spelling.
            _ => Self::Other,
        }
    }
}

impl Scan {
    fn of(endpoint: &Endpoint, body: &[u8], peek: &Peek) -> Self {
        let mut scan = Self { unbounded: peek.has_previous_response_id, ..Self::default() };
        let tools = peek.place(Field::Tools).map_or(0..0, |at| at.value_at as usize..at.value_end as usize);
        let responses = *endpoint == Endpoint::Responses;
        let messages = *endpoint == Endpoint::Messages;
        let mut depths = Depths::of(body);
        let mut top_level = |at| depths.at(at) == Some(1);
        let mut key = Key::Other;
        for string in (Strings { body, at: 0 }) {
            let Some(string) = string else {
                scan.unbounded = true;
                break;
            };
            let in_tools = tools.contains(&string.at);
            let next = skip_space(body, string.end);
            if body.get(next) != Some(&b':') {
                let inside = string.inside(body);
                match key {
                    Key::Type if in_tools => {
                        let plain = is_plain_tool(&string.word(body));
                        scan.tools |= !plain;
                        scan.hosted |= !plain;
                    }
                    Key::Type => scan.part(&string.word(body)),
                    Key::Id => scan.bare_id |= body.get(next) == Some(&b'}'),
                    Key::Data | Key::Outside => scan.encoded += inside.len() as u64,
                    Key::Url | Key::ImageUrl | Key::Image if inside.starts_with(b"data:") => {
                        scan.encoded += inside.len() as u64;
                    }
                    _ => (),
                }
                // A translation makes a document of such a URL; the number of its tokens depends on its pages.
                let names_pdf = |text: &[u8]| text.windows(4).any(|end| end.eq_ignore_ascii_case(b".pdf"));
                if matches!(key, Key::Url | Key::ImageUrl)
                    && (inside.starts_with(b"data:application/") || !inside.starts_with(b"data:") && names_pdf(inside))
                {
                    scan.unbounded = true;
                }
                continue;
            }
            key = Key::of(&string.word(body));
            if in_tools && key == Key::Tool {
                scan.unbounded = true;
                scan.hosted = true;
            }
            if in_tools || key == Key::Other {
                continue;
            }
            if body[skip_space(body, next + 1)..].starts_with(b"null") {
                scan.bare_id |= key == Key::Type;
                continue;
            }
            match key {
                Key::ImageUrl => scan.image_urls += 1,
                Key::Image => scan.image_keys += 1,
                Key::Outside => scan.unbounded = true,
                Key::Search => {
                    let there = top_level(string.at);
                    scan.unbounded |= there;
                    scan.hosted |= there;
                }
                Key::Stored => {
                    let there = responses && top_level(string.at);
                    scan.unbounded |= there;
                    scan.hosted |= there;
                }
                Key::Audio if top_level(string.at) => scan.media = true,
                Key::Audio => scan.unbounded = true,
                Key::Modalities => {
                    let value = &body[skip_space(body, next + 1)..];
                    let names_text = serde_json::Deserializer::from_slice(value).into_iter::<Vec<String>>().next();
                    let only_text = matches!(names_text, Some(Ok(all)) if all.iter().all(|word| word == "text"));
                    scan.media |= !only_text && top_level(string.at);
                }
                Key::Prediction => scan.prediction |= top_level(string.at),
                Key::Background => {
                    let on = !body[skip_space(body, next + 1)..].starts_with(b"false");
                    scan.background |= on && responses && top_level(string.at);
                }
                Key::Models => scan.fallbacks |= top_level(string.at),
                Key::ContextManagement => {
                    let value = &body[skip_space(body, next + 1)..];
                    scan.compacts |= (responses || messages) && top_level(string.at) && may_compact(value);
                }
                Key::Surcharge => {
                    let value = &body[skip_space(body, next + 1)..];
                    let usual = value.starts_with(b"\"standard\"") || value.starts_with(b"\"global\"");
                    scan.surcharge |= !usual && messages && top_level(string.at);
                }
                Key::Other | Key::Type | Key::Id | Key::Url | Key::Data => (),
                Key::Tool => scan.hosted |= top_level(string.at),
            }
        }
        scan.unbounded = scan.unbounded || responses && scan.bare_id && has_reference(body);
        scan
    }

    /// The `type` of something outside of `tools`.
    fn part(&mut self, word: &[u8]) {
        match word {
            b"image_url" | b"input_image" => self.image_url_parts += 1,
            b"image" => self.image_parts += 1,
            b"item_reference" => self.unbounded = true,
            // An item that may stand for a stored one, see `has_reference`.
            b"reasoning" | b"compaction" => self.bare_id = true,
            // The API requires the content of these items, and they are in most requests.
            b"function_call" | b"custom_tool_call" => (),
            word if word.ends_with(b"_call") || word.starts_with(b"mcp_") => self.bare_id = true,
            // Anthropic's documents: as many pages as the file, or the file behind the link, has.
            b"document" => self.unbounded = true,
            // Tools that an item of the input brings along.
            b"file_search" | b"code_interpreter" | b"mcp" | b"image_generation" | b"shell" => {
                self.unbounded = true;
                self.hosted = true;
            }
            b"computer" | b"computer_use" | b"computer_use_preview" => self.unbounded = true,
            _ => {
                let searches = word.starts_with(b"web_search") && !word.ends_with(b"_call");
                self.unbounded |= searches;
                self.hosted |= searches;
            }
        }
    }
}

/// Whether a `type` inside `tools` belongs to JSON Schema or to a tool that the client runs. A tool of any other type may be
/// run by the provider, even if the type does not exist yet.
fn is_plain_tool(word: &[u8]) -> bool {
    const SCHEMA: [&str; 7] = ["string", "object", "number", "integer", "boolean", "array", "null"];
    const TOOLS: [&str; 5] = ["function", "custom", "namespace", "grammar", "text"];
    SCHEMA.iter().chain(&TOOLS).any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a `context_management`, which `text` begins with, may ask for more than the removal of content (Anthropic's edits
/// whose type begins with `clear_`).
fn may_compact(text: &[u8]) -> bool {
    let end = value_end(text, 0).unwrap_or(text.len());
    let Ok(text) = std::str::from_utf8(&text[..end]) else { return true };
    let (mut clears, mut any) = (true, false);
    let read = walk(text, |member| {
        let mut some = false;
        any = true;
        let edits = elements(member.value, |edit| {
            some = true;
            let mut typed = false;
            let read = walk(edit, |member| {
                if member.key() == "type" {
                    typed = true;
                    let kind = serde_json::from_str::<String>(member.value);
                    clears &= kind.is_ok_and(|kind| kind.starts_with("clear_"));
                }
            });
            clears &= read.is_ok() && typed;
        });
        clears &= member.key() == "edits" && edits.is_ok() && some;
    });
    !(read.is_ok() && clears && any)
}

/// By an item's type, the members that make an item of a Responses `input` self-contained: the provider has nothing to look
/// up then (OpenAI's API description). An item of another type that has an id stands for a stored item, whatever its other
/// members are.
const OWN: [(&str, &[&str]); 14] = [
    ("message", &["content"]),
    ("reasoning", &["encrypted_content", "content"]),
    ("compaction", &["encrypted_content"]),
    ("function_call", &["arguments"]),
    ("function_call_output", &["output"]),
    ("custom_tool_call", &["input"]),
    ("custom_tool_call_output", &["output"]),
    ("web_search_call", &["action"]),
    ("computer_call", &["action"]),
    ("computer_call_output", &["output"]),
    ("local_shell_call", &["action"]),
    ("shell_call", &["action"]),
    ("apply_patch_call", &["operation"]),
    ("mcp_list_tools", &["tools"]),
];

/// Whether an item of a Responses `input` stands for a stored one: it has an id, and no content of its own that the provider
/// reads in place of what it has stored. An image that the provider generated costs what an image does, whether or not the
/// item contains it.
fn has_reference(body: &[u8]) -> bool {
    let is_reference = |item: &str| {
        let (mut id, mut empty, mut kinds, mut there) = (false, false, Vec::new(), Vec::new());
        let read = walk(item, |member| match member.key() {
            key if key == "id" => id |= member.value != "null",
            key if key == "type" => kinds.extend(serde_json::from_str::<String>(member.value)),
            // An empty message is self-contained; an empty item of another type tells nothing.
            key if key == "content" && member.value == "[]" => empty = true,
            key if !matches!(member.value, "null" | "[]" | "{}" | "\"\"") => there.push(key),
            _ => (),
        });
        let has = |name: &&str| there.iter().any(|key| key == name);
        let is_own = |kind: &String| {
            let named = OWN.iter().any(|(known, names)| known == kind && names.iter().any(&has));
            named || empty && kind == "message"
        };
        let own = match &kinds[..] {
            [] => has(&"role") && (empty || has(&"content")),
            [kind] => is_own(kind),
            // Which of several types counts depends on the reader.
            _ => false,
        };
        read.is_ok() && (id && !own || kinds.iter().any(|kind| kind == "image_generation_call"))
    };
    let mut found = false;
    let read = walk(std::str::from_utf8(body).unwrap_or_default(), |member| {
        if member.key() == "input" {
            // A value that is not a list has no items.
            let _ = elements(member.value, |item| found |= is_reference(item));
        }
    });
    found || read.is_err()
}

/// The number of prompts of a legacy completion, and its `best_of`; both at least 1.
fn completions(body: &[u8]) -> (u64, u64) {
    let (mut prompts, mut best_of) = (1, 1);
    // The peek has validated the text.
    let _ = walk(std::str::from_utf8(body).unwrap_or_default(), |member| match member.key().as_ref() {
        "prompt" => prompts = prompts.max(prompts_in(member.value.as_bytes())),
        "best_of" => best_of = best_of.max(whole_number(member.value)),
        _ => (),
    });
    (prompts, best_of)
}

/// A prompt is a text or an array of token numbers, and an array may hold several of either.
fn prompts_in(value: &[u8]) -> u64 {
    if value.first() != Some(&b'[') {
        return 1;
    }
    let (mut at, mut prompts) = (skip_space(value, 1), 0);
    while let Some(end) = value_end(value, at) {
        prompts += u64::from(matches!(value[at], b'"' | b'[' | b'{'));
        at = skip_space(value, end);
        if value.get(at) != Some(&b',') {
            break;
        }
        at = skip_space(value, at + 1);
    }
    prompts.max(1)
}

/// A number rounded up, also one in quotes, which lenient servers take; 0 for anything else.
fn whole_number(value: &str) -> u64 {
    let text = serde_json::from_str::<String>(value);
    let number = text.as_deref().unwrap_or(value).trim().parse::<f64>();
    // `as` saturates and turns NaN into 0.
    number.map_or(0, |number| number.ceil() as u64)
}

/// A string of the body.
struct Text {
    /// Offset of its opening quote.
    at: usize,
    /// Offset behind its closing quote.
    end: usize,
    escaped: bool,
}

impl Text {
    /// What is between its quotes.
    fn inside<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[self.at + 1..self.end - 1]
    }

    /// The decoded string, when it may be a known word; otherwise what is between its quotes.
    fn word<'a>(&self, body: &'a [u8]) -> Cow<'a, [u8]> {
        // Every letter of a word may be spelled with six bytes.
        const LONGEST: usize = 6 * 32;
        let inside = self.inside(body);
        if self.escaped
            && inside.len() <= LONGEST
            && let Ok(word) = serde_json::from_slice::<String>(&body[self.at..self.end])
        {
            return Cow::Owned(word.into_bytes());
        }
        Cow::Borrowed(inside)
    }
}

/// The strings of a body, keys and values alike, in order.
struct Strings<'a> {
    body: &'a [u8],
    at: usize,
}

impl Iterator for Strings<'_> {
    /// `None` for a string that does not end.
    type Item = Option<Text>;

    fn next(&mut self) -> Option<Option<Text>> {
        let rest = self.body.get(self.at..)?;
        // Mostly a comma or a colon stands between two strings; then a call costs more than a look.
        let near = rest.iter().take(4).position(|byte| *byte == b'"');
        let at = self.at + near.or_else(|| memchr(b'"', rest))?;
        let (mut end, mut escaped) = (at + 1, false);
        loop {
            let Some(step) = self.body.get(end..).and_then(quote_or_escape) else {
                self.at = self.body.len();
                return Some(None);
            };
            end += step;
            if self.body[end] == b'"' {
                break;
            }
            (end, escaped) = (end + 2, true);
        }
        self.at = end + 1;
        Some(Some(Text { at, end: end + 1, escaped }))
    }
}

/// The offset of the first quote or backslash. Most strings of a body are keys and short words, so the first eight bytes are
/// looked at as one number before the search that is fast on long ones.
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let Some((first, rest)) = text.split_first_chunk::<8>() else { return memchr2(b'"', b'\\', text) };
    let word = u64::from_le_bytes(*first);
    // The high bit of each byte that equals `byte` is set; bits above the lowest one that is set may be wrong.
    let equal = |byte: u8| {
        let zero = word ^ (ONES * u64::from(byte));
        zero.wrapping_sub(ONES) & !zero & HIGHS
    };
    match equal(b'"') | equal(b'\\') {
        0 => memchr2(b'"', b'\\', rest).map(|at| at + first.len()),
        found => Some(found.trailing_zeros() as usize / 8),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
