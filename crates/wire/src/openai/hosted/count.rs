//! Counts the calls of tools that a reply reports, from the complete reply or event by event.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;

use super::{Hosted, Kind, Limit};

/// Most containers that are remembered. No request makes as many; the limit keeps a broken reply from filling the memory.
const MAX_CONTAINERS: usize = 1_024;

/// Counts the calls of hosted tools that one reply reports.
#[derive(Clone, Debug)]
pub struct CallCounter {
    hosted: Arc<Hosted>,
    /// The number of calls of each of [`Hosted::tools`].
    pub(super) counts: Vec<u64>,
    containers: Vec<Box<str>>,
    /// Calls of any kind that a stream says have begun, and in `over` those that it says have ended.
    begun: u64,
    over: u64,
    /// Something could not be read: there may have been more calls.
    pub(super) lost: bool,
}

impl CallCounter {
    /// A counter for one reply, before any call.
    pub fn new(hosted: Arc<Hosted>) -> Self {
        let counts = hosted.tools.iter().map(|_| u64::from(hosted.limit == Limit::Once)).collect();
        Self { hosted, counts, containers: Vec::new(), begun: 0, over: 0, lost: false }
    }

    /// This counter with the number of searches set to `searches`: a translated stream reports searches only before its
    /// translation.
    #[must_use]
    pub fn searched(mut self, searches: u64) -> Self {
        self.lost = false;
        for (tool, count) in self.hosted.tools.iter().zip(&mut self.counts) {
            if tool.kind == Kind::Search {
                *count = searches;
            }
        }
        self
    }

    /// Calls that have begun so far in an unfinished stream: after each of them the model may have read its prompt once
    /// more. `None` where the stream does not report every call.
    pub fn begun(&self) -> Option<u64> {
        let tells = matches!(self.hosted.limit, Limit::Total(_) | Limit::PerTool);
        (tells && !self.lost).then_some(self.begun.max(self.over))
    }

    /// Counts the calls of a complete JSON reply.
    pub fn reply(&mut self, json: &[u8]) {
        match self.hosted.limit {
            Limit::Total(_) => match serde_json::from_slice::<Response<'_>>(json).ok().and_then(|reply| reply.output) {
                Some(output) => self.items(&output),
                None => self.lost = true,
            },
            Limit::PerTool => self.message(json),
            Limit::Once | Limit::Nothing => {}
        }
    }

    /// Counts the calls in the payload of one event of a stream.
    pub fn event(&mut self, json: &[u8]) {
        match self.hosted.limit {
            // The end of a Chat stream.
            _ if json.starts_with(b"[DONE]") => {}
            Limit::Total(_) => self.response_event(json),
            // The usual event is a delta.
            Limit::PerTool if !json.starts_with(br#"{"type":"content_block_delta""#) => self.message(json),
            Limit::PerTool | Limit::Once | Limit::Nothing => {}
        }
    }

    fn response_event(&mut self, json: &[u8]) {
        // Only events with a whole item contain this text, and the last event, which lists all items once more.
        if memmem::find(json, b"_call\"").is_none() {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(json) else { return self.lost = true };
        match (event.r#type.as_ref(), event.item, event.response.and_then(|response| response.output)) {
            ("response.output_item.added", Some(item), _) => self.begun += u64::from(item.is_run_by_provider()),
            ("response.output_item.done", Some(item), _) => {
                self.over += u64::from(item.is_run_by_provider());
                self.item(&item);
            }
            (_, _, Some(output)) => {
                let mut all = Self::new(self.hosted.clone());
                all.items(&output);
                let both = self.counts.iter().zip(&all.counts);
                self.counts = both.map(|(one, other)| *one.max(other)).collect();
            }
            _ => {}
        }
    }

    fn items(&mut self, items: &[Item<'_>]) {
        for item in items {
            self.item(item);
        }
    }

    fn item(&mut self, item: &Item<'_>) {
        let kind = item.r#type.as_deref().unwrap_or_default();
        let at = |wanted: &dyn Fn(&Kind) -> bool| self.hosted.tools.iter().position(|tool| wanted(&tool.kind));
        let place = match kind {
            "web_search_call" => {
                let free = matches!(
                    item.action.as_ref().and_then(|action| action.r#type.as_deref()),
                    Some("open_page" | "find_in_page")
                );
                at(&|kind| *kind == Kind::Search).filter(|_| !free)
            }
            "code_interpreter_call" | "shell_call" => {
                let elsewhere = || item.environment.as_ref().and_then(|place| place.container_id.as_deref());
                let id = item.container_id.as_deref().or_else(elsewhere);
                let known = id.is_some_and(|id| self.containers.iter().any(|known| **known == *id));
                if let Some(id) = id.filter(|_| !known && self.containers.len() < MAX_CONTAINERS) {
                    self.containers.push(id.into());
                }
                at(&|kind| *kind == Kind::Container).filter(|_| !known)
            }
            kind => at(&|known| matches!(known, Kind::Item(name) if **name == *kind)),
        };
        if let Some(place) = place {
            self.counts[place] = self.counts[place].saturating_add(1);
        }
    }

    /// Reads Anthropic's cumulative counts from a message or from an event of its stream.
    fn message(&mut self, json: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Message>(json) else { return self.lost = true };
        let block = message.content_block.as_ref().and_then(|block| block.r#type.as_deref());
        self.begun += u64::from(matches!(block, Some("server_tool_use" | "mcp_tool_use")));
        let inner = message.message.as_deref();
        for part in [Some(&message), inner, message.delta.as_deref()].into_iter().flatten() {
            let used = part.usage.as_ref().and_then(|usage| usage.server_tool_use.as_ref());
            for (tool, count) in self.hosted.tools.iter().zip(&mut self.counts) {
                let now = match tool.kind {
                    Kind::Search => used.map_or(0, |used| used.web_search_requests.unwrap_or(0)),
                    Kind::Fetch => used.map_or(0, |used| used.web_fetch_requests.unwrap_or(0)),
                    Kind::CodeExecution => u64::from(part.container.is_some()),
                    _ => 0,
                };
                *count = now.max(*count);
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    output: Option<Vec<Item<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    item: Option<Item<'a>>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    action: Option<Action<'a>>,
    #[serde(borrow)]
    container_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    environment: Option<Environment<'a>>,
}

impl Item<'_> {
    /// True for a call that the provider runs or may run.
    fn is_run_by_provider(&self) -> bool {
        let kind = self.r#type.as_deref().unwrap_or_default();
        let by_client = matches!(
            kind,
            "function_call" | "custom_tool_call" | "computer_call" | "local_shell_call" | "apply_patch_call"
        );
        kind.ends_with("_call") && !by_client
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Action<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Environment<'a> {
    #[serde(borrow)]
    container_id: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    usage: Option<MessageUsage>,
    container: Option<serde::de::IgnoredAny>,
    message: Option<Box<Message>>,
    delta: Option<Box<Message>>,
    content_block: Option<Block>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Block {
    r#type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessageUsage {
    server_tool_use: Option<ServerToolUse>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerToolUse {
    web_search_requests: Option<u64>,
    web_fetch_requests: Option<u64>,
}
