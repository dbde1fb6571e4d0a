//! The cache policy: which requests may be answered from the cache, and what a client's headers ask for.

mod directives;

use std::borrow::Cow;

use crate::openai::{
    Endpoint, Peek,
    members::{elements, walk},
};
use crate::types::matches;

pub use directives::Directives;

/// The parts of a request that decide whether it may be cached.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The endpoint that is asked.
    pub endpoint: &'a Endpoint,
    /// The fields that were read from the body.
    pub peek: &'a Peek,
    /// The body that `peek` was parsed from.
    pub body: &'a [u8],
    /// What the client's headers say about the cache.
    pub directives: &'a Directives,
    /// Names of tools that act on the world, so that their calls must be generated anew each time. A name that ends in `*` stands
    /// for all names with that beginning.
    pub side_effect_tools: &'a [String],
    /// The body was found to be one that may be cached, by the same configuration: `true` also for one choice only.
    pub judged: Option<bool>,
}

/// Whether a request may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The reply may come from the cache, and be kept in it.
    Cache,
    /// The request goes past the cache. The word gives the reason, in logs and metrics; it is one of a fixed set.
    Bypass(&'static str),
}

/// Decides by the first of these reasons that holds:
///
/// | word | reason |
/// |---|---|
/// | `endpoint` | not one whose replies are kept |
/// | `asked` | the client says `skip` or `no-store` |
/// | `store` | the provider is to keep the reply for later, under an id of its own |
/// | `not_deterministic` | neither `temperature: 0` nor a `seed`; `force` lifts it |
/// | `several_choices` | `n` or `best_of` above 1 without a `seed`: the client wants them to differ; `force` lifts it |
/// | `audio` | speech is asked for |
/// | `background` | the reply comes later |
/// | `conversation` | the provider adds to a conversation |
/// | `stored_prompt` | the prompt is one that the provider keeps, and may change |
/// | `hosted_tool` | the provider may run a tool or search, which acts or reads the live world |
/// | `side_effect_tool` | a tool is listed as one with side effects |
/// | `invalid` | the body is not what `peek` was parsed from |
///
/// Embeddings and moderations pass after the first two: they are functions of their input.
pub fn decide(asked: &Asked<'_>) -> Decision {
    let Asked { peek, directives, .. } = *asked;
    let generates = match asked.endpoint {
        Endpoint::Embeddings | Endpoint::Moderations => false,
        Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => true,
        Endpoint::CountTokens | Endpoint::Models | Endpoint::Model(_) | Endpoint::InvalidateCache | Endpoint::Other => {
            return Decision::Bypass("endpoint");
        }
    };
    if directives.skip || directives.no_store {
        return Decision::Bypass("asked");
    }
    if !generates {
        return Decision::Cache;
    }
    if peek.store == Some(true) {
        return Decision::Bypass("store");
    }
    if !(directives.force || peek.has_seed || peek.temperature == Some(0.0)) {
        return Decision::Bypass("not_deterministic");
    }
    let one_choice = is_one_choice(peek, directives);
    if one_choice && peek.n > Some(1) {
        return Decision::Bypass("several_choices");
    }
    // What holds for one choice holds without that condition, too.
    if asked.judged.is_some_and(|judged| judged || !one_choice) {
        return Decision::Cache;
    }
    body(asked, one_choice).map_or(Decision::Cache, Decision::Bypass)
}

/// Whether a request is deterministic only as long as it asks for one choice: without a `seed` several choices are to differ.
pub fn is_one_choice(peek: &Peek, directives: &Directives) -> bool {
    !(directives.force || peek.has_seed)
}

/// A reason that the body gives in members that `peek` does not have.
fn body(asked: &Asked<'_>, one_choice: bool) -> Option<&'static str> {
    let mut reason = None;
    let read = walk(std::str::from_utf8(asked.body).unwrap_or_default(), |member| {
        if reason.is_none() && member.value != "null" {
            reason = match member.key().as_ref() {
                // Some servers also take a number in quotes, so a value that is no number counts as several.
                "best_of" if one_choice && member.value.parse::<f64>().is_ok_and(|best_of| best_of <= 1.0) => None,
                "best_of" if one_choice => Some("several_choices"),
                "modalities" if !has_audio(member.value) => None,
                "modalities" | "audio" => Some("audio"),
                "background" if member.value != "false" => Some("background"),
                // Anthropic's container keeps files between requests.
                "conversation" | "container" => Some("conversation"),
                // A stored prompt is kept by the provider, and may be changed there.
                "prompt" if member.value.starts_with('{') => Some("stored_prompt"),
                // OpenAI; Anthropic; xAI; OpenRouter; Azure; Qwen.
                "mcp_servers" if member.value != "[]" => Some("hosted_tool"),
                "web_search_options" | "search_parameters" | "plugins" | "data_sources" => Some("hosted_tool"),
                "enable_search" if member.value != "false" => Some("hosted_tool"),
                "tools" | "functions" => tools(member.value, asked.side_effect_tools),
                _ => None,
            };
        }
    });
    read.map_or(Some("invalid"), |()| reason)
}

fn has_audio(modalities: &str) -> bool {
    // A list that cannot be read may contain anything.
    let mut found = false;
    let is_audio = |one: &str| serde_json::from_str::<Cow<'_, str>>(one).map_or(true, |one| one == "audio");
    let read = elements(modalities, |one| found |= is_audio(one));
    found || read.is_err()
}

/// A reason in the list of tools. Also reads the older `functions`, which have no type and whose name is one level up.
fn tools(list: &str, side_effect_tools: &[String]) -> Option<&'static str> {
    let reason = |tool: &str| {
        let (mut hosted, mut acts) = (false, false);
        let read = walk(tool, |member| match member.key().as_ref() {
            "type" => hosted |= !is_run_by_client(member.value),
            "name" => acts |= is_listed(member.value, side_effect_tools),
            "function" | "custom" if !side_effect_tools.is_empty() => {
                // A value that is not an object has no name.
                let _ = walk(member.value, |member| {
                    acts |= member.key() == "name" && is_listed(member.value, side_effect_tools);
                });
            }
            _ => (),
        });
        match (hosted || read.is_err(), acts) {
            (true, _) => Some("hosted_tool"),
            (false, true) => Some("side_effect_tool"),
            (false, false) => None,
        }
    };
    let mut first = None;
    match elements(list, |tool| first = first.or_else(|| reason(tool))) {
        Ok(()) => first,
        Err(_) => Some("hosted_tool"),
    }
}

/// Whether a tool's `type` says that the client runs it. An unknown type may be anything.
fn is_run_by_client(kind: &str) -> bool {
    let kind = serde_json::from_str::<Option<String>>(kind);
    kind.is_ok_and(|kind| matches!(kind.as_deref(), None | Some("function" | "custom")))
}

fn is_listed(name: &str, side_effect_tools: &[String]) -> bool {
    if side_effect_tools.is_empty() || name == "null" {
        return false;
    }
    // A name that cannot be read may be any name.
    serde_json::from_str::<String>(name)
        .map_or(true, |name| side_effect_tools.iter().any(|listed| matches(listed, &name)))
}

#[cfg(test)]
mod tests;
