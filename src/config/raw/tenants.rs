//! Tenants, their limits and budgets, and how clients are recognised.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{
    resolved::{ClientLeft, Overrun, Period, ProviderObjects},
    values::{HumanDuration, HumanUsd, SecretText},
};

/// How clients are recognised.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Serve clients that present no `chitty_…` token: on their own keys, which are passed through to a provider that takes
    /// them, and on the gateway's keys under the conditions of `anonymous`. `false` refuses such clients with 401.
    pub passthrough: bool,
    /// The tenant as which clients without a token are served on the gateway's own keys, within the tenant's limits and budgets.
    /// Without it these clients are served as the default tenant, but only as long as no tenant is named besides the default
    /// one, and no token that may ask models was ever created. From then on a client without a token needs its own key for a
    /// provider, and counts as the default tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"default")]
    pub anonymous: Option<String>,
    /// The tenant of clients without a token, and of tokens created without a tenant. `CHITTY_TENANT_ID` overrides it.
    pub default_tenant: String,
}

impl Default for Auth {
    fn default() -> Self {
        Self { passthrough: true, anonymous: None, default_tenant: "default".into() }
    }
}

/// A team or an organisation.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// The tenant that this tenant belongs to. The parent's limits and budgets apply to all its children together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"default")]
    pub parent: Option<String>,
    /// The models that the tenant may ask for: names, or patterns with one `*` at their end. Without it: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["gpt-4o-mini", "claude-*"])]
    pub models: Vec<String>,
    /// Extra headers on every request of the tenant to a provider; they override the provider's `headers`. A value may also be
    /// `env:NAME` or `file:PATH`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = json!({"OpenAI-Project": "proj_123"}))]
    pub headers: BTreeMap<String, SecretText>,
    /// The longest answer, in tokens, for a client of the tenant or of its children that states no limit. If the route has such a
    /// limit, too, the smaller one applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4_294_967_295_u32), example = &4096)]
    pub default_max_tokens: Option<NonZeroU32>,
    /// Limits on rates and on concurrent requests.
    pub limits: Limits,
    /// Limits on the total spend. Several budgets apply at the same time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = Budget::example())]
    pub budgets: Vec<Budget>,
    /// Allow paths whose cost the gateway cannot tell (images, audio, batches, fine-tuning, realtime) although there is a
    /// budget. Without a budget they are always allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub unmetered_paths: Option<bool>,
    /// Which objects that providers keep for the gateway's own key (files, batches, stored responses, conversations, vector
    /// stores, fine-tunes and the like) the tenant may list, read, change, delete and refer to: `own`, the objects that the
    /// tenant or a tenant below it has created through this gateway; or `all` objects of the account, and also paths that the
    /// gateway does not know. Without it: `own`, but `all` while `tenants` names nobody besides the default tenant, since there
    /// is nobody to keep apart then. Objects reached with a client's own key are not affected. The gateway does not inspect what
    /// is sent within a realtime session: such a session may name a stored prompt or a voice of the account by its id, over a
    /// WebSocket, over WebRTC, or with a key from `/v1/realtime/client_secrets` or `/v1/realtime/sessions`, which reaches the
    /// provider without the gateway until it expires. A tenant with a budget or a list of models has no realtime sessions, unless
    /// `unmetered_paths` allows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = ProviderObjects::Own)]
    pub provider_objects: Option<ProviderObjects>,
    /// Allow the paths that manage the provider's account with the gateway's own key: `/v1/organization`, `/v1/projects`, the
    /// permissions of fine-tuned checkpoints. They are refused to all other tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &true)]
    pub provider_admin: Option<bool>,
}

/// Limits on rates and on concurrent requests. A key that is absent sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &50)]
    pub requests_per_second: Option<u64>,
    /// The most requests per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &1000)]
    pub requests_per_minute: Option<u64>,
    /// The most LLM tokens per minute: a request counts with an estimate when it comes, and with the actual number when it has
    /// ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &200_000)]
    pub tokens_per_minute: Option<u64>,
    /// The most US dollars per minute: a request counts with its worst-case cost when it comes, and with the actual cost when it
    /// has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = HumanUsd::cents(150))]
    pub usd_per_minute: Option<HumanUsd>,
    /// The most requests that are open at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &20)]
    pub concurrent_requests: Option<u64>,
}

impl Limits {
    /// The keys of limits that are 0 and let nothing through, which is a mistake.
    pub fn zeros(&self) -> impl Iterator<Item = &'static str> {
        let counts = [
            ("requests_per_second", self.requests_per_second),
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("usd_per_minute", self.usd_per_minute.map(|usd| usd.0.0)),
            ("concurrent_requests", self.concurrent_requests),
        ];
        counts.into_iter().filter(|(_, limit)| *limit == Some(0)).map(|(key, _)| key)
    }
}

/// An amount of money for a span of time.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The amount in US dollars, with up to nine decimal places.
    pub usd: HumanUsd,
    /// How often the budget begins anew.
    #[serde(default)]
    pub period: Period,
    /// The time zone in which days, weeks (from Monday) and months begin, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub timezone: String,
    /// A hard budget is never exceeded: a request that could exceed it is refused. A soft one (`false`) only alerts.
    #[serde(default = "yes")]
    pub hard: bool,
    /// Percentages of the budget at which to alert, once each per period.
    #[serde(default = "thresholds")]
    #[schemars(inner(range(min = 1, max = 1000)))]
    pub alert_at: Vec<u32>,
}

fn utc() -> String {
    "UTC".into()
}

fn yes() -> bool {
    true
}

fn thresholds() -> Vec<u32> {
    vec![50, 80, 100]
}

impl Budget {
    /// A hard monthly budget.
    pub fn monthly(usd: HumanUsd) -> Self {
        Self { usd, period: Period::Monthly, timezone: utc(), hard: true, alert_at: thresholds() }
    }

    fn example() -> Value {
        json!([{"usd": 100, "period": "monthly", "timezone": "UTC", "hard": true, "alert_at": [50, 80, 100]}])
    }
}

/// Settings of all budgets.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// The status of a refusal: 402, or 429 for clients that do not understand 402.
    #[schemars(range(min = 402, max = 429))]
    pub exceeded_status: u16,
    /// What happens to a stream that outgrows its reservation while its budget is used up: `stop` ends the stream with an error
    /// event, `finish` lets it run on over the budget.
    pub overrun: Overrun,
    /// What happens when a client leaves before its answer is complete: `cancel` ends the provider's work, and books what the
    /// client has seen and the most that can have been generated unseen; `drain` lets the provider finish, and books what the
    /// provider counts.
    pub client_left: ClientLeft,
    /// How long a request waits for money that a budget has, but holds for requests under way; waiting requests are served in the
    /// order of their arrival. After this time the request is refused with 429 and `retry-after`. `0s` refuses at once.
    pub wait: HumanDuration,
    /// The most calls of tools that the provider runs (web search, file search, code interpreter, MCP) for one request whose
    /// spend is bounded and which states no limit itself: the gateway asks the provider for this limit (`max_tool_calls`,
    /// Anthropic's `max_uses`), and holds the money for this many calls. Each call sends the prompt to the model once more, so a
    /// small number keeps the held amount small.
    #[schemars(range(min = 1, max = 128))]
    pub max_tool_calls: u64,
    /// A webhook that is called when a budget reaches one of its percentages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = Webhook::example())]
    pub webhook: Option<Webhook>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            exceeded_status: 402,
            overrun: Overrun::Stop,
            client_left: ClientLeft::Cancel,
            wait: HumanDuration::secs(2),
            max_tool_calls: 8,
            webhook: None,
        }
    }
}

/// The receiver of alerts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// An http or https URL that takes a POST of JSON.
    pub url: String,
    /// The secret that signs each call, as in Standard Webhooks (`webhook-signature: v1,…`, HMAC-SHA256). Without it: unsigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretText>,
}

impl Webhook {
    fn example() -> Value {
        json!({"url": "https://hooks.example.com/can", "secret": "env:CAN_WEBHOOK_SECRET"})
    }
}

/// The entry that the commented default file shows.
pub(super) fn example() -> Value {
    json!({"research": {"limits": {}}})
}
