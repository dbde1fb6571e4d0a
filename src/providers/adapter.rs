//! Adapter: decides how one vendor API is asked and how its answers are read.
//!
//! | implementation | its API |
//! |---|---|
//! | [`OpenAi`] | OpenAI's and every API that is compatible with it |
//! | [`Anthropic`] | Anthropic's Messages API |
//! | [`Ollama`] | Ollama's own `/api/chat`; for everything else it has OpenAI's paths |
//!
//! [`of`] gives a provider's adapter; nothing else tells the APIs apart. Other facts about a vendor (the names of its parameters,
//! its keys) are data: [`crate::config::Preset`].

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{exchange::write, quirks};
use crate::{
    config::{Dialect, Provider},
    dialect::{Dropped, Model, Refusal, Replies, Step, to_anthropic, to_ollama},
    openai::{ChatUsage, Endpoint, ErrorBody, MessageUsage, Peek, map_status, read_error, splice},
    types::{Api, Usage},
};

/// One vendor API.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// Whether a provider takes a request to this endpoint as its client wrote it; otherwise the request is translated.
    fn takes(&self, endpoint: &Endpoint, provider: &Provider) -> bool;

    /// The path of a call, without scheme and host.
    fn path(&self, provider: &Provider, call: &Call<'_>) -> String;

    /// Translates a Chat request into the API's own form; `size` is the length of the client's body in bytes.
    ///
    /// # Errors
    /// The request uses something that the API does not have and that its client relies on.
    fn request(&self, provider: &Provider, model: &Model<'_>, chat: Value, size: usize) -> Result<Outgoing, Refusal>;

    /// Adds the headers that every call needs, unless the client has set them. If the request was `translated`, headers of the
    /// client's are replaced, as the client did not write this request.
    fn headers(&self, headers: &mut HeaderMap, translated: bool);

    /// How a streamed reply is cut into events.
    fn framing(&self) -> Framing;

    /// A reader of the token counts in a stream's own events, before they are translated; [`Counter::Translated`] if only the
    /// translated events show them.
    fn counter(&self) -> Counter;

    /// An error reply, as the status and error that a client of OpenAI's API gets.
    fn read_error(&self, status: u16, content_type: Option<&str>, body: &[u8]) -> (u16, ErrorBody);

    /// Properties of the API that other modules decide by.
    fn facts(&self) -> &'static Facts;
}

/// Properties of an API that other modules decide by.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The API whose clients can read this API's errors unchanged.
    pub errors: Option<Api>,
    /// The API has an endpoint that counts the tokens of a prompt.
    pub counts_tokens: bool,
    /// The API may write prompts to its cache, and charge for that, although the request does not ask for it.
    pub caches_unasked: bool,
    /// A search tool in a Chat request becomes one that the provider runs.
    pub runs_searches: bool,
    /// A request can name the context length to run with.
    pub takes_context: bool,
    /// A beta allows prompts that are longer than the catalogue says, at another price.
    pub has_long_context: bool,
    /// The limit of an answer has only one name in the API, and it binds.
    pub limit_binds: bool,
    /// OpenAI's documentation states how many tokens the API's requests have.
    pub documented_tokens: bool,
}

/// One call of a provider's API.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// A chat request that was put into the API's own form.
    Chat {
        /// The provider's name for the model.
        model: &'a str,
        /// The reply is to be a stream.
        stream: bool,
    },
    /// A path behind `/v1`, as the client wrote it.
    Own(&'a str),
}

/// A request in the API's own form.
pub struct Outgoing {
    /// Its body.
    pub body: Bytes,
    /// The parameters that were dropped: see [`Step::dropped`].
    pub dropped: Vec<Dropped>,
    /// Translates the replies to Chat's form; `None` if they have it already.
    pub replies: Option<Box<dyn Replies>>,
    /// The request marks a part of the prompt for the prompt cache, where writing costs more than reading.
    pub marks_cache: bool,
}

/// How a streamed reply is cut into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// One JSON object a line.
    Lines,
}

impl Framing {
    /// Whether a reply of this content type has this framing.
    pub fn is_of(self, content_type: &str) -> bool {
        content_type.starts_with(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }
}

/// Reads the token counts in a provider's own events: the client's dialect may have no way to say that nothing was counted.
#[derive(Debug)]
pub enum Counter {
    /// Reads Chat's chunks.
    Chat(ChatUsage),
    /// Reads Anthropic's events.
    Messages(MessageUsage),
    /// Only the translated events show a count.
    Translated,
}

impl Counter {
    /// Whether the counts are read before the translation.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Translated)
    }

    /// Reads one event's payload.
    pub fn read(&mut self, data: &[u8]) {
        match self {
            Self::Chat(usage) => usage.read(data),
            Self::Messages(usage) => usage.read(data),
            Self::Translated => {}
        }
    }

    /// The whole count; `Some(None)` while there is none, `None` for [`Self::Translated`]. Of `several` answers, one may be
    /// finished before the others.
    pub fn whole(&self, several: bool) -> Option<Option<Usage>> {
        match self {
            Self::Chat(usage) => Some(usage.whole(several)),
            Self::Messages(usage) => Some(usage.whole()),
            Self::Translated => None,
        }
    }

    /// The count so far, if the API reports it before the end.
    pub fn so_far(&self) -> Option<Usage> {
        match self {
            Self::Chat(usage) => usage.so_far(),
            Self::Messages(usage) => usage.so_far(),
            Self::Translated => None,
        }
    }

    /// Number of searches that the provider reports.
    pub fn searches(&self) -> u64 {
        match self {
            Self::Messages(usage) => usage.searches(),
            Self::Chat(_) | Self::Translated => 0,
        }
    }
}

/// The adapter of a provider.
pub fn of(provider: &Provider) -> &'static dyn Adapter {
    match provider.dialect {
        Dialect::OpenAi => &OpenAi,
        Dialect::Anthropic => &Anthropic,
        Dialect::Ollama => &Ollama,
    }
}

/// OpenAI's API and every API that is compatible with it.
#[derive(Debug)]
pub struct OpenAi;

impl Adapter for OpenAi {
    fn takes(&self, endpoint: &Endpoint, provider: &Provider) -> bool {
        match endpoint {
            Endpoint::Messages | Endpoint::CountTokens => false,
            Endpoint::Responses => provider.responses_api,
            _ => true,
        }
    }

    fn path(&self, provider: &Provider, call: &Call<'_>) -> String {
        behind_prefix(provider, call, "/chat/completions")
    }

    fn request(
        &self,
        provider: &Provider,
        model: &Model<'_>,
        mut chat: Value,
        size: usize,
    ) -> Result<Outgoing, Refusal> {
        let messages = chat.get_mut("messages").and_then(Value::as_array_mut);
        for message in messages.into_iter().flatten().filter_map(Value::as_object_mut) {
            // Only Anthropic's API has a place for thinking blocks.
            message.shift_remove("thinking_blocks");
        }
        if let Some(object) = chat.as_object_mut()
            && !quirks::takes_max_completion_tokens(provider, model.name)
            && let Some(limit) = object.remove("max_completion_tokens")
        {
            object.entry("max_tokens").or_insert(limit);
        }
        let body = write(&chat, size);
        drop(chat);
        let peek = Peek::parse(&body).map_err(|error| Refusal::new(error.param.unwrap_or_default(), error.message))?;
        let edits = quirks::edits(&Endpoint::ChatCompletions, provider, model.name, &body, &peek);
        Ok(Outgoing { body: splice(&body, &peek, &edits), dropped: Vec::new(), replies: None, marks_cache: false })
    }

    fn headers(&self, headers: &mut HeaderMap, translated: bool) {
        if translated {
            headers.remove(ANTHROPIC_VERSION);
        }
    }

    fn framing(&self) -> Framing {
        Framing::Events
    }

    fn counter(&self) -> Counter {
        Counter::Chat(ChatUsage::default())
    }

    fn read_error(&self, status: u16, content_type: Option<&str>, body: &[u8]) -> (u16, ErrorBody) {
        (map_status(status), read_error(map_status(status), content_type, body))
    }

    fn facts(&self) -> &'static Facts {
        const { &Facts { errors: Some(Api::OpenAi), documented_tokens: true, ..PLAIN } }
    }
}

/// Anthropic's Messages API.
#[derive(Debug)]
pub struct Anthropic;

/// The header that names the version of Anthropic's API.
pub const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The version of Anthropic's API that the translation knows; also used for clients that name none.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

impl Adapter for Anthropic {
    fn takes(&self, endpoint: &Endpoint, provider: &Provider) -> bool {
        match endpoint {
            Endpoint::ChatCompletions => false,
            // Anthropic has no such endpoints; the translation says so in its refusal.
            Endpoint::Completions | Endpoint::Embeddings | Endpoint::Moderations => false,
            Endpoint::Responses => provider.responses_api,
            _ => true,
        }
    }

    fn path(&self, provider: &Provider, call: &Call<'_>) -> String {
        behind_prefix(provider, call, "/messages")
    }

    fn request(&self, _: &Provider, model: &Model<'_>, chat: Value, size: usize) -> Result<Outgoing, Refusal> {
        let Step { body, dropped, replies } = to_anthropic::request(&chat, model)?;
        drop(chat);
        let marks_cache = to_anthropic::has_marks(&body);
        Ok(Outgoing { body: write(&body, size), dropped, replies: Some(replies), marks_cache })
    }

    fn headers(&self, headers: &mut HeaderMap, translated: bool) {
        if translated {
            headers.insert(ANTHROPIC_VERSION, VERSION);
        } else {
            headers.entry(ANTHROPIC_VERSION).or_insert(VERSION);
        }
    }

    fn framing(&self) -> Framing {
        Framing::Events
    }

    fn counter(&self) -> Counter {
        Counter::Messages(MessageUsage::default())
    }

    fn read_error(&self, status: u16, _: Option<&str>, body: &[u8]) -> (u16, ErrorBody) {
        to_anthropic::read_error(status, body)
    }

    fn facts(&self) -> &'static Facts {
        const {
            &Facts {
                errors: Some(Api::Anthropic),
                counts_tokens: true,
                caches_unasked: false,
                runs_searches: true,
                has_long_context: true,
                limit_binds: true,
                ..PLAIN
            }
        }
    }
}

/// Ollama's own API.
#[derive(Debug)]
pub struct Ollama;

impl Adapter for Ollama {
    fn takes(&self, endpoint: &Endpoint, provider: &Provider) -> bool {
        *endpoint != Endpoint::ChatCompletions && OpenAi.takes(endpoint, provider)
    }

    fn path(&self, provider: &Provider, call: &Call<'_>) -> String {
        match call {
            Call::Chat { .. } => format!("{}/api/chat", provider.base.root()),
            Call::Own(_) => behind_prefix(provider, call, ""),
        }
    }

    fn request(&self, _: &Provider, model: &Model<'_>, chat: Value, size: usize) -> Result<Outgoing, Refusal> {
        let Step { body, dropped, replies } = to_ollama::request(&chat, model)?;
        drop(chat);
        Ok(Outgoing { body: write(&body, size), dropped, replies: Some(replies), marks_cache: false })
    }

    fn headers(&self, headers: &mut HeaderMap, translated: bool) {
        OpenAi.headers(headers, translated);
    }

    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn counter(&self) -> Counter {
        Counter::Translated
    }

    fn read_error(&self, status: u16, _: Option<&str>, body: &[u8]) -> (u16, ErrorBody) {
        to_ollama::read_error(status, body)
    }

    fn facts(&self) -> &'static Facts {
        const { &Facts { takes_context: true, limit_binds: true, ..PLAIN } }
    }
}

const PLAIN: Facts = Facts {
    errors: None,
    counts_tokens: false,
    caches_unasked: true,
    runs_searches: false,
    takes_context: false,
    has_long_context: false,
    limit_binds: false,
    documented_tokens: false,
};

/// The prefix of the provider's base URL, followed by the client's own path, or by `chat` for a translated request.
fn behind_prefix(provider: &Provider, call: &Call<'_>, chat: &str) -> String {
    let path = match call {
        Call::Chat { .. } => chat,
        Call::Own(path) => path,
    };
    format!("{}{path}", provider.base.prefix)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Source};

    /// The provider that this entry of `providers` makes.
    fn provider(entry: &str) -> Arc<Provider> {
        let source = Source { file: None, env: Arc::new(|_| None), simulate: false };
        let text = format!("providers: {{x: {{base_url: \"http://x/some/v1\", {entry}}}}}");
        Config::load_text(&text, &source).unwrap().config.providers["x"].clone()
    }

    #[test]
    fn each_api_has_its_own_path_for_a_chat_and_the_clients_for_the_rest() {
        let chat = Call::Chat { model: "m", stream: true };
        for (entry, path, own) in [
            ("dialect: openai", "/some/v1/chat/completions", "/some/v1/files"),
            ("dialect: anthropic", "/some/v1/messages", "/some/v1/files"),
            ("dialect: ollama", "/some/api/chat", "/some/v1/files"),
        ] {
            let provider = provider(entry);
            let adapter = of(&provider);
            assert_eq!(adapter.path(&provider, &chat), path, "{entry}");
            assert_eq!(adapter.path(&provider, &Call::Own("/files")), own, "{entry}");
        }
    }

    #[test]
    fn what_an_api_does_not_take_is_translated_for_it() {
        use Endpoint::{
            ChatCompletions, Completions, CountTokens, Embeddings, Messages, Models, Moderations, Other, Responses,
        };
        let all =
            [ChatCompletions, Completions, CountTokens, Embeddings, Messages, Models, Moderations, Other, Responses];
        for (entry, refused) in [
            ("preset: openai", &[CountTokens, Messages][..]),
            ("dialect: openai", &[CountTokens, Messages, Responses]),
            ("dialect: anthropic", &[ChatCompletions, Completions, Embeddings, Moderations, Responses]),
            ("dialect: ollama", &[ChatCompletions, CountTokens, Messages, Responses]),
        ] {
            let provider = provider(entry);
            for endpoint in &all {
                assert_eq!(
                    of(&provider).takes(endpoint, &provider),
                    !refused.contains(endpoint),
                    "{entry} {endpoint:?}"
                );
            }
        }
    }

    #[test]
    fn a_translated_request_names_the_version_that_its_translation_knows() {
        let named = || HeaderMap::from_iter([(ANTHROPIC_VERSION, HeaderValue::from_static("2099-01-01"))]);
        let sent = |adapter: &dyn Adapter, mut headers: HeaderMap, translated| {
            adapter.headers(&mut headers, translated);
            headers.get(ANTHROPIC_VERSION).map(|version| version.to_str().unwrap().to_owned())
        };
        assert_eq!(sent(&Anthropic, named(), true).as_deref(), Some("2023-06-01"));
        assert_eq!(sent(&Anthropic, named(), false).as_deref(), Some("2099-01-01"));
        assert_eq!(sent(&Anthropic, HeaderMap::new(), false).as_deref(), Some("2023-06-01"));
        for adapter in [&OpenAi as &dyn Adapter, &Ollama] {
            assert_eq!(sent(adapter, named(), true), None, "{adapter:?}");
            assert_eq!(sent(adapter, named(), false).as_deref(), Some("2099-01-01"), "{adapter:?}");
        }
    }

    #[test]
    fn a_reply_is_a_stream_by_its_own_framing() {
        assert!(
            Framing::Events.is_of("text/event-stream; charset=utf-8") && !Framing::Events.is_of("application/json")
        );
        assert!(Framing::Lines.is_of("application/x-ndjson") && !Framing::Lines.is_of("application/json"));
    }
}
