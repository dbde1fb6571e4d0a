//! Which headers of a client's request go to a provider.
//!
//! A header goes to a provider if a [`Rule`] or the provider's `forward_headers` names it; all other headers are left out, so
//! they cannot change an answer. A header that is forwarded and can change the answer is part of the cache's key. Credentials,
//! `host`, `accept-encoding` and the headers that the configuration adds are written by `phase::attempt`.

use http::HeaderName;

use crate::{
    config::{Provider, Vendor},
    types::Api,
};

/// Whether a forwarded header is part of the cache's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It can change the answer: requests that differ in it do not share one.
    Keyed,
    /// It cannot change the answer, or goes only with requests that are never answered from the cache.
    Neutral,
}

/// Which requests a header is forwarded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// All.
    Any,
    /// Those whose path is only forwarded. Where the gateway reads the body it writes the header itself.
    OnlyForwarded,
    /// Those that open a WebSocket.
    WebSocket,
    /// Those to a provider that is not asked in Anthropic's dialect.
    OpenAi,
    /// Those to a provider that is asked in Anthropic's dialect.
    Anthropic,
    /// Those to a provider with this preset.
    Vendor(Vendor),
    /// Those with a key of the client's own to a provider that is not asked in Anthropic's dialect: the header names the
    /// account that the key opens.
    OwnAccount,
}

/// One header, or the headers that begin alike.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The name in lower case; `*` at its end stands for any rest.
    pub name: &'static str,
    /// Which requests it is forwarded with.
    pub to: To,
    /// Whether it is part of the cache's key.
    pub effect: Effect,
    /// Who sends it, and what a provider does with it.
    pub why: &'static str,
}

const fn keyed(name: &'static str, to: To, why: &'static str) -> Rule {
    Rule { name, to, effect: Effect::Keyed, why }
}

const fn neutral(name: &'static str, to: To, why: &'static str) -> Rule {
    Rule { name, to, effect: Effect::Neutral, why }
}

/// Headers by their whole name, in alphabetical order.
const NAMES: &[Rule] = &[
    neutral("accept", To::OnlyForwarded, "The form of a file's content."),
    neutral(
        "anthropic-dangerous-direct-browser-access",
        To::Anthropic,
        "Anthropic's SDK in a browser, and Claude Code; it switches CORS headers on, which stay here.",
    ),
    keyed("chatgpt-account-id", To::OwnAccount, "Codex with a ChatGPT login."),
    neutral("connection", To::WebSocket, "RFC 6455."),
    neutral("content-encoding", To::OnlyForwarded, "How an upload is compressed."),
    neutral("content-length", To::Any, "Framing of the body."),
    neutral("content-type", To::OnlyForwarded, "The form of an upload, and the boundary between its parts."),
    neutral("conversation_id", To::OpenAi, "Codex; finds the prompt cache again."),
    neutral("http-referer", To::Vendor(Vendor::OpenRouter), "Names the application in OpenRouter's statistics."),
    keyed(
        "idempotency-key",
        To::Any,
        "OpenAI-style SDKs; a provider may repeat the answer that it gave under the same key.",
    ),
    neutral("if-match", To::OnlyForwarded, "Conditional requests for a file's content."),
    neutral("if-modified-since", To::OnlyForwarded, "As `if-match`."),
    neutral("if-none-match", To::OnlyForwarded, "As `if-match`."),
    neutral("if-range", To::OnlyForwarded, "As `if-match`."),
    neutral("if-unmodified-since", To::OnlyForwarded, "As `if-match`."),
    keyed("openai-organization", To::OwnAccount, "OpenAI's SDKs; a mapped key has an organisation of its own."),
    keyed("openai-project", To::OwnAccount, "OpenAI's SDKs; a mapped key has a project of its own."),
    keyed("originator", To::OpenAi, "Codex; OpenAI opens models to it by this name."),
    neutral("range", To::OnlyForwarded, "A part of a file's content."),
    neutral("sec-websocket-extensions", To::WebSocket, "RFC 6455."),
    neutral("sec-websocket-key", To::WebSocket, "RFC 6455."),
    neutral("sec-websocket-protocol", To::WebSocket, "RFC 6455; without the keys that OpenAI lets browsers put there."),
    neutral("sec-websocket-version", To::WebSocket, "RFC 6455."),
    neutral("session-id", To::OpenAi, "Codex; finds the prompt cache again."),
    neutral("session_id", To::OpenAi, "Codex; finds the prompt cache again."),
    neutral("thread-id", To::OpenAi, "Codex; finds the prompt cache again."),
    neutral("traceparent", To::Any, "W3C Trace Context; self-hosted models join the trace."),
    neutral("tracestate", To::Any, "W3C Trace Context."),
    neutral("transfer-encoding", To::Any, "Framing of the body."),
    neutral("upgrade", To::WebSocket, "RFC 6455."),
    neutral("user-agent", To::Any, "All SDKs; for the provider's support and statistics."),
    keyed("version", To::OpenAi, "Codex; OpenAI opens models to newer versions only."),
    keyed("x-anthropic-additional-protection", To::Anthropic, "Claude Code; switches checks of the answer on."),
    neutral("x-app", To::Anthropic, "Claude Code; for Anthropic's statistics."),
    neutral("x-client-request-id", To::Any, "A name for the request in OpenAI's logs, for its support."),
    neutral("x-grok-conv-id", To::Vendor(Vendor::Xai), "Finds xAI's prompt cache again."),
    neutral("x-ms-client-request-id", To::Vendor(Vendor::Azure), "A name for the request in Azure's logs."),
    keyed("x-openai-subagent", To::OpenAi, "Codex; says what part of it asks."),
    neutral("x-openrouter-categories", To::Vendor(Vendor::OpenRouter), "As `http-referer`."),
    neutral("x-openrouter-title", To::Vendor(Vendor::OpenRouter), "As `http-referer`."),
    neutral("x-title", To::Vendor(Vendor::OpenRouter), "As `http-referer`."),
];

/// Headers by the beginning of their name.
const FAMILIES: &[Rule] = &[
    keyed("anthropic-*", To::Anthropic, "The version of the API and its betas, known or not; see `ACCOUNTS`."),
    keyed("openai-*", To::OpenAi, "OpenAI's betas, known or not; see `ACCOUNTS`."),
    neutral("x-claude-code-*", To::Anthropic, "Claude Code; the session and the agent, for Anthropic's statistics."),
    keyed("x-codex-*", To::OpenAi, "Codex; features, and where a turn was served; see `ACCOUNTS`."),
    neutral("x-stainless-*", To::Any, "All official SDKs; their version and platform, for the provider's statistics."),
];

/// Words in a header's name that name an account or a part of one. A header of a family with such a word goes only with a key of
/// the client's own, like the headers of [`To::OwnAccount`].
const ACCOUNTS: &[&str] = &["account", "organisation", "organization", "project", "tenant", "user", "workspace"];

fn names_account(name: &str) -> bool {
    ACCOUNTS.iter().any(|word| name.contains(word)) || name.split(['-', '_']).any(|word| word == "org")
}

/// The rule for a header, if it has one. `name` is in lower case.
pub fn rule(name: &str) -> Option<&'static Rule> {
    if let Ok(at) = NAMES.binary_search_by(|rule| rule.name.cmp(name)) {
        return Some(&NAMES[at]);
    }
    FAMILIES.iter().find(|rule| name.starts_with(&rule.name[..rule.name.len() - 1]))
}

/// A request on its way to a provider.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Provider that gets the request.
    pub provider: &'a Provider,
    /// The request has a key of the client's own.
    pub own_credential: bool,
    /// The request's path is only forwarded.
    pub only_forwarded: bool,
    /// The request opens a WebSocket.
    pub websocket: bool,
}

impl Way<'_> {
    /// Whether a header of the client goes along.
    pub fn takes(&self, name: &HeaderName) -> bool {
        let anthropic = self.provider.api() == Api::Anthropic;
        let ruled = rule(name.as_str()).is_some_and(|rule| match rule.to {
            _ if rule.name.ends_with('*') && !self.own_credential && names_account(name.as_str()) => false,
            To::Any => true,
            To::OnlyForwarded => self.only_forwarded,
            To::WebSocket => self.websocket,
            To::OpenAi => !anthropic,
            To::Anthropic => anthropic,
            To::Vendor(vendor) => self.provider.vendor == vendor,
            To::OwnAccount => self.own_credential && !anthropic,
        });
        ruled || self.provider.forward_headers.contains(name)
    }
}

/// Whether a header is part of the cache's key for a request that any of these providers may get.
pub fn is_keyed<'a>(name: &HeaderName, mut providers: impl Iterator<Item = &'a Provider>) -> bool {
    rule(name.as_str()).is_some_and(|rule| rule.effect == Effect::Keyed)
        || providers.any(|provider| provider.forward_headers.contains(name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Source};

    fn provider(yaml: &str) -> Arc<Provider> {
        let source = Source { env: Arc::new(|_: &str| None), ..Source::new(None) };
        let text = format!("providers: {{mine: {yaml}}}");
        Config::load_text(&text, &source).unwrap().config.providers["mine"].clone()
    }

    fn takes(way: &Way<'_>, name: &'static str) -> bool {
        way.takes(&HeaderName::from_static(name))
    }

    #[test]
    fn the_table_is_sorted_and_says_why() {
        assert!(NAMES.is_sorted_by(|a, b| a.name < b.name));
        for rule in NAMES.iter().chain(FAMILIES) {
            assert!(!rule.why.is_empty() && rule.name == rule.name.to_ascii_lowercase(), "{}", rule.name);
        }
        assert!(NAMES.iter().all(|rule| !rule.name.ends_with('*')));
        assert!(FAMILIES.iter().all(|rule| rule.name.ends_with("-*")));
    }

    #[test]
    fn what_goes_only_with_unread_bodies_or_frames_them_needs_no_place_in_the_key() {
        for rule in NAMES.iter().chain(FAMILIES).filter(|rule| matches!(rule.to, To::OnlyForwarded | To::WebSocket)) {
            assert_eq!(rule.effect, Effect::Neutral, "{}", rule.name);
        }
    }

    #[test]
    fn no_credential_and_nothing_that_disguises_a_request_has_a_rule() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "host",
            "expect",
            "te",
            "origin",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-real-ip",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-url",
            "x-rewrite-url",
            "accept-language",
            "accept-encoding",
            "cache-control",
            "x-request-id",
            "x-simulate",
            "x-chittycan-cache",
            "http2-settings",
        ] {
            assert!(rule(name).is_none(), "{name}");
        }
    }

    #[test]
    fn each_provider_gets_what_means_something_to_it() {
        let openai = provider("{preset: openai}");
        let claude = provider("{preset: anthropic}");
        let router = provider("{preset: openrouter, forward_headers: [X-Custom]}");
        let way = |provider| Way { provider, own_credential: false, only_forwarded: false, websocket: false };
        for (name, at_openai, at_claude, at_router) in [
            ("user-agent", true, true, true),
            ("openai-beta", true, false, true),
            ("anthropic-beta", false, true, false),
            ("openai-organization", false, false, false),
            ("http-referer", false, false, true),
            ("x-custom", false, false, true),
            ("content-type", false, false, false),
            ("sec-websocket-key", false, false, false),
        ] {
            let got = [&openai, &claude, &router].map(|provider| takes(&way(provider), name));
            assert_eq!(got, [at_openai, at_claude, at_router], "{name}");
        }
        for name in [
            "anthropic-workspace-id",
            "anthropic-organization-id",
            "openai-project-id",
            "openai-organization",
            "openai-org",
            "openai-ephemeral-user-id",
            "x-codex-account",
            "x-codex-chatgpt-account-id",
        ] {
            let vendor = if name.starts_with("anthropic") { &claude } else { &openai };
            assert!(!takes(&way(vendor), name), "{name}");
            assert!(takes(&Way { own_credential: true, ..way(vendor) }, name), "{name}");
        }
        let own = Way { own_credential: true, ..way(&openai) };
        assert!(takes(&own, "openai-organization") && takes(&own, "chatgpt-account-id"));
        let upload = Way { only_forwarded: true, ..way(&openai) };
        assert!(takes(&upload, "content-type") && takes(&upload, "range") && !takes(&upload, "upgrade"));
        assert!(takes(&Way { websocket: true, ..upload }, "upgrade"));
    }

    #[test]
    fn what_an_operator_lets_through_is_part_of_the_key() {
        let plain = provider("{preset: openai}");
        let custom = provider("{preset: openai, forward_headers: [X-Custom]}");
        let name = HeaderName::from_static("x-custom");
        assert!(!is_keyed(&name, [&*plain].into_iter()));
        assert!(is_keyed(&name, [&*plain, &*custom].into_iter()), "also where it is only the second that gets it");
        assert!(is_keyed(&HeaderName::from_static("anthropic-beta"), [&*plain].into_iter()));
        assert!(!is_keyed(&HeaderName::from_static("x-stainless-lang"), [&*plain].into_iter()));
    }
}
