//! Routing: which deployments serve a client-facing model, first to last.

mod authorizer;
mod candidates;
mod deployment;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

pub use authorizer::{Authorizer, ConstantHeader, NoCredential, PATIENCE};
pub use candidates::{AttemptOutcome, AttemptRecord, Candidates, FirstToLast, Policy, Reason};
pub use deployment::{Deployment, Deployments};

use http::{HeaderName, HeaderValue, header};

use crate::types::PromptCaching;
use crate::{
    config::{AuthStyle, CacheRules, Config, Provider, Route},
    types::Api,
};

/// One deployment that a request can be sent to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The vendor account.
    pub provider: Arc<Provider>,
    /// Facts learnt about the model at the provider.
    pub deployment: Arc<Deployment>,
    /// The parts that every request to the provider carries.
    pub wire: Arc<Wire>,
    /// The provider's own name for the model.
    pub model: Arc<str>,
    /// The configuration names the model. Otherwise the name is the client's.
    pub named: bool,
}

/// Authorizers that replace a constant key, by the name of the provider.
pub type Authorizers = BTreeMap<String, Arc<dyn Authorizer>>;

/// The parts that every request to a provider carries, made once when the configuration is loaded.
#[derive(Clone)]
pub struct Wire {
    /// Value of the header `host`.
    pub host: HeaderValue,
    /// The gateway's own credential; `None` if it has none.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// The provider's name, for `X-ChittyCan-Provider`.
    pub name: HeaderValue,
    /// A hash of what the configuration sends to the provider besides a request and its key: address, query, headers. An answer
    /// made under another fingerprint is not served again.
    pub fingerprint: [u8; 32],
}

impl Wire {
    /// `None` if a name or a key holds bytes that no header may; loading a configuration rules that out.
    fn new(provider: &Provider, authorizers: &Authorizers) -> Option<Self> {
        let authorizer: Option<Arc<dyn Authorizer>> = match (authorizers.get(&*provider.name), &provider.key) {
            (Some(authorizer), _) => Some(authorizer.clone()),
            (None, Some(key)) => {
                let (name, value) = credential(provider.auth, key.expose())?;
                Some(Arc::new(ConstantHeader(name, value)))
            }
            (None, None) => None,
        };
        Some(Self {
            host: HeaderValue::try_from(provider.base.authority()).ok()?,
            authorizer,
            name: HeaderValue::from_bytes(provider.name.as_bytes()).ok()?,
            fingerprint: fingerprint(provider),
        })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("host", &self.host).field("name", &self.name).finish_non_exhaustive()
    }
}

fn fingerprint(provider: &Provider) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // Every part begins with its length, so that no two parts can trade bytes.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    part(provider.base.to_string().as_bytes());
    part(provider.query.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &provider.headers {
        part(name.as_str().as_bytes());
        part(value.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The beginning of a token from Anthropic's login (Claude Code with a subscription).
const LOGIN_TOKEN: &str = "sk-ant-oat";

/// The header that presents a key; `None` for a key that no header can hold.
pub fn credential(auth: AuthStyle, key: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match auth {
        AuthStyle::Bearer => (header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))),
        AuthStyle::ApiKeyHeader => (HeaderName::from_static("api-key"), HeaderValue::try_from(key)),
        AuthStyle::XApiKey if key.starts_with(LOGIN_TOKEN) => return credential(AuthStyle::Bearer, key),
        AuthStyle::XApiKey => (HeaderName::from_static("x-api-key"), HeaderValue::try_from(key)),
    };
    let mut value = value.ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// The targets of a request, in order, and the label and rules of its route.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Tried first to last; never empty.
    pub targets: Arc<[Target]>,
    /// The configured name (`gpt-4o`, `claude-*`, `groq/*`, `default`): a closed set, fit for a metric label.
    pub label: Arc<str>,
    /// The cache rules for its answers.
    pub cache: Arc<CacheRules>,
    /// A translation must not drop anything.
    pub strict: bool,
    /// The limit of an answer, in tokens, for a client that states none.
    pub default_max_tokens: Option<u64>,
    /// When a translation for Anthropic adds breakpoints for the prompt cache.
    pub prompt_caching: PromptCaching,
}

/// A model the gateway offers by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// Client-facing name.
    pub id: String,
    /// Name of the provider that is tried first.
    pub owned_by: String,
    /// The route that the model belongs to: its own name, or the one it is an alias of.
    pub route: Arc<str>,
}

/// The routes of a configuration, ready for look-up.
pub struct RouteTable {
    exact: HashMap<String, Plan>,
    wildcards: Vec<(String, Wildcard)>,
    accounts: BTreeMap<Arc<str>, Account>,
    deployments: Arc<Deployments>,
    default: Account,
    /// The cache rules for models that no route names.
    cache: Arc<CacheRules>,
    listed: Vec<ListedModel>,
}

struct Wildcard {
    label: Arc<str>,
    cache: Arc<CacheRules>,
    strict: bool,
    default_max_tokens: Option<u64>,
    prompt_caching: PromptCaching,
    deployments: Vec<(Account, Option<Arc<str>>)>,
}

#[derive(Clone)]
struct Account {
    provider: Arc<Provider>,
    wire: Arc<Wire>,
}

impl RouteTable {
    /// Builds the table. The configuration is resolved, so every provider a route names exists; a deployment of an
    /// unknown provider is left out. `None` without a usable default provider.
    pub fn new(config: &Config, deployments: &Arc<Deployments>, authorizers: &Authorizers) -> Option<Self> {
        let accounts: BTreeMap<_, _> = config
            .providers
            .iter()
            .filter_map(|(name, provider)| {
                Some((
                    name.clone(),
                    Account { provider: provider.clone(), wire: Arc::new(Wire::new(provider, authorizers)?) },
                ))
            })
            .collect();
        let default = accounts.get(&config.default_provider)?.clone();
        let cache = config.cache.rules.clone();
        let mut table = Self {
            exact: HashMap::new(),
            wildcards: Vec::new(),
            accounts,
            deployments: deployments.clone(),
            default,
            cache,
            listed: Vec::new(),
        };
        for route in &config.routes {
            table.add(route);
        }
        // The most specific pattern is tried first.
        table.wildcards.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        table.listed.sort_by(|a, b| a.id.cmp(&b.id));
        Some(table)
    }

    fn add(&mut self, route: &Route) {
        let deployments: Vec<_> = route
            .deployments
            .iter()
            .filter_map(|d| Some((self.accounts.get(&d.provider)?.clone(), d.model.as_deref().map(Arc::from))))
            .collect();
        let Some((first, _)) = deployments.first() else { return };
        let owned_by = first.provider.name.to_string();
        for name in std::iter::once(&route.model).chain(&route.aliases) {
            let (label, cache): (Arc<str>, _) = (route.model.as_str().into(), route.cache.clone());
            let Route { strict, default_max_tokens, prompt_caching, .. } = *route;
            if let Some(prefix) = name.strip_suffix('*') {
                let deployments = deployments.clone();
                let wildcard = Wildcard { label, cache, strict, default_max_tokens, prompt_caching, deployments };
                self.wildcards.push((prefix.to_owned(), wildcard));
                continue;
            }
            let targets = self.targets(&deployments, &route.model, true);
            self.listed.push(ListedModel { id: name.clone(), owned_by: owned_by.clone(), route: label.clone() });
            let plan = Plan { targets, label, cache, strict, default_max_tokens, prompt_caching };
            self.exact.insert(name.clone(), plan);
        }
    }

    /// The plan for a client-facing model: an exact name or alias, then `provider/model`, then the longest pattern,
    /// then the default provider.
    pub fn plan(&self, model: &str) -> Plan {
        self.configured_plan(model).unwrap_or_else(|| self.default_plan(model))
    }

    /// The plan for a model that the configuration names: a route, `provider/model` or a pattern, but not the default provider.
    pub fn configured_plan(&self, model: &str) -> Option<Plan> {
        if let Some(plan) = self.exact.get(model) {
            return Some(plan.clone());
        }
        if let Some((provider, name)) = model.split_once('/')
            && !name.is_empty()
            && let Some(account) = self.accounts.get(provider)
        {
            let label = format!("{}/*", account.provider.name).into();
            let targets = self.targets(&[(account.clone(), None)], name, false);
            return Some(self.unrouted(targets, label));
        }
        let (_, wildcard) = self.wildcards.iter().find(|(prefix, _)| model.starts_with(prefix.as_str()))?;
        Some(Plan {
            targets: self.targets(&wildcard.deployments, model, false),
            label: wildcard.label.clone(),
            cache: wildcard.cache.clone(),
            strict: wildcard.strict,
            default_max_tokens: wildcard.default_max_tokens,
            prompt_caching: wildcard.prompt_caching,
        })
    }

    /// The default provider with the client's own model name (empty for paths that have none).
    pub fn default_plan(&self, model: &str) -> Plan {
        self.account_plan(&self.default, model)
    }

    /// The plan for paths that only Anthropic's API has: the provider named `anthropic`, or else the first one that speaks its
    /// dialect.
    pub fn anthropic_plan(&self) -> Option<Plan> {
        let speaks = |account: &&Account| account.provider.api() == Api::Anthropic;
        let named = self.accounts.get("anthropic").filter(speaks);
        let account = named.or_else(|| self.accounts.values().find(speaks))?;
        Some(self.account_plan(account, ""))
    }

    /// The plan for a response whose model is named by a stored prompt: the default provider if it has the Responses API, or else
    /// the first provider with that API and a key. The target's model is empty.
    pub fn responses_plan(&self) -> Option<Plan> {
        let serves = |account: &&Account| account.provider.responses_api;
        let has_key = |account: &&Account| account.provider.key.is_some();
        let default = Some(&self.default).filter(serves);
        let account = default.or_else(|| self.accounts.values().filter(serves).find(has_key))?;
        // The map of models is not used: there is no name to map.
        let provider = account.provider.clone();
        let deployment = self.deployments.of(&provider.name, "");
        let (wire, model) = (account.wire.clone(), deployment.model.clone());
        let targets = [Target { provider, deployment, wire, model, named: false }];
        Some(Plan { targets: targets.into(), ..self.account_plan(account, "") })
    }

    /// The plan for a provider with the name of one of its own models.
    pub fn provider_plan(&self, provider: &str, model: &str) -> Option<Plan> {
        self.accounts.get(provider).map(|account| self.account_plan(account, model))
    }

    fn account_plan(&self, account: &Account, model: &str) -> Plan {
        let targets = self.targets(&[(account.clone(), None)], model, false);
        self.unrouted(targets, "default".into())
    }

    /// A plan that comes from no route, with the defaults.
    fn unrouted(&self, targets: Arc<[Target]>, label: Arc<str>) -> Plan {
        Plan {
            targets,
            label,
            cache: self.cache.clone(),
            strict: false,
            default_max_tokens: None,
            prompt_caching: PromptCaching::default(),
        }
    }

    /// `named`: the requested name is written in the configuration, not by a client.
    fn targets(&self, deployments: &[(Account, Option<Arc<str>>)], requested: &str, named: bool) -> Arc<[Target]> {
        let target = |(account, model): &(Account, Option<Arc<str>>)| {
            let Account { provider, wire } = account;
            let mapped = provider.mapped_model(requested);
            let deployment = self.deployments.of(&provider.name, model.as_deref().unwrap_or(mapped));
            Target {
                named: named || model.is_some() || provider.model_map.values().any(|name| **name == *mapped),
                provider: provider.clone(),
                model: deployment.model.clone(),
                deployment,
                wire: wire.clone(),
            }
        };
        deployments.iter().map(target).collect()
    }

    /// Models offered by name, in alphabetical order. Patterns cannot be listed.
    pub fn models(&self) -> &[ListedModel] {
        &self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn table(yaml: &str) -> RouteTable {
        let source = Source { env: Arc::new(|_: &str| None), ..Source::new(None) };
        RouteTable::new(&Config::load_text(yaml, &source).unwrap().config, &Arc::default(), &Authorizers::new())
            .unwrap()
    }

    fn goes_to(table: &RouteTable, model: &str) -> Vec<String> {
        table.plan(model).targets.iter().map(|t| format!("{}/{}", t.provider.name, t.model)).collect()
    }

    #[test]
    fn the_playbooks_models_are_routed_without_a_file() {
        let table = table("");
        for (model, target) in [
            ("gpt-4o", "openai/gpt-4o"),
            ("text-embedding-3-small", "openai/text-embedding-3-small"),
            ("claude-sonnet-4", "anthropic/claude-sonnet-4-6"),
            ("claude-haiku-5-5", "anthropic/claude-haiku-5-5"),
            ("llama-3-70b", "groq/openai/gpt-oss-120b"),
            ("never-heard-of", "openai/never-heard-of"),
        ] {
            assert_eq!(goes_to(&table, model), [target]);
        }
        assert!(table.configured_plan("never-heard-of").is_none());
    }

    #[test]
    fn a_name_wins_over_a_provider_prefix_and_a_longer_pattern_over_a_shorter_one() {
        let table = table(
            "routes:\n\
             - {model: groq/special, to: [openai/gpt-4o]}\n\
             - {model: \"my-*\", to: [groq]}\n\
             - {model: \"my-big-*\", to: [together, openai/gpt-4o]}\n",
        );
        assert_eq!(goes_to(&table, "groq/special"), ["openai/gpt-4o"]);
        assert_eq!(goes_to(&table, "groq/other/x"), ["groq/other/x"]);
        assert_eq!(goes_to(&table, "my-model"), ["groq/my-model"]);
        assert_eq!(goes_to(&table, "my-big-model"), ["together/my-big-model", "openai/gpt-4o"]);
        assert_eq!(&*table.plan("my-big-model").label, "my-big-*");
        assert_eq!(&*table.plan("groq/other").label, "groq/*");
        assert_eq!(&*table.plan("groq/").label, "default", "no model behind the slash");
    }

    #[test]
    fn a_model_is_named_where_the_configuration_and_not_the_client_writes_it() {
        let table = table(
            "routes:\n\
             - {model: ours, aliases: [mine], to: [\"openai/ft:gpt-4o:org::3\"]}\n\
             - {model: \"ours-*\", to: [\"openai/ft:gpt-4o:org::3\"]}\n\
             - {model: \"ft:gpt-4o:org::4\", to: [openai]}\n\
             - {model: \"ft:*\", to: [openai]}\n\
             - {model: \"*\", to: [openai]}\n",
        );
        for (model, named) in [
            ("ours", true),
            ("ours-too", true),
            ("mine", true),
            ("ft:gpt-4o:org::4", true),
            ("ft:gpt-4o:org::5", false),
            ("openai/ft:gpt-4o:org::5", false),
            ("anything", false),
        ] {
            assert_eq!(table.plan(model).targets[0].named, named, "{model}");
        }
        assert!(!table.default_plan("x").targets[0].named);
    }

    #[test]
    fn an_alias_is_listed_and_asks_for_the_routes_own_model() {
        let table = table("routes: [{model: fast, aliases: [quick], to: [groq]}]");
        assert_eq!(goes_to(&table, "quick"), ["groq/fast"]);
        let ids: Vec<_> = table.models().iter().map(|m| (m.id.as_str(), m.owned_by.as_str())).collect();
        assert!(ids.contains(&("quick", "groq")) && ids.contains(&("fast", "groq")), "{ids:?}");
        assert!(ids.is_sorted() && !ids.iter().any(|(id, _)| id.contains('*')));
    }

    #[test]
    fn a_response_without_a_model_goes_to_who_has_the_api() {
        let goes_to = |yaml: &str| {
            let plan = table(yaml).responses_plan()?;
            Some((plan.targets[0].provider.name.to_string(), plan.targets[0].model.to_string()))
        };
        let to = |name: &str| Some((name.to_owned(), String::new()));
        assert_eq!(goes_to(""), to("openai"));
        assert_eq!(goes_to("default_provider: xai"), to("xai"));
        assert_eq!(goes_to("default_provider: groq"), None, "nobody else has a key");
        assert_eq!(goes_to("default_provider: groq\nproviders: {xai: {api_key: k}}"), to("xai"));
    }

    #[test]
    fn a_fingerprint_tells_what_is_sent_apart() {
        let of = |entry: &str| {
            let table = table(&format!("providers: {{groq: {entry}}}"));
            table.plan("groq/m").targets[0].wire.fingerprint
        };
        let base = of("{api_key: sk-1, headers: {a: x}, query: q=1}");
        assert_eq!(
            base,
            of("{api_key: sk-2, headers: {a: x}, query: q=1, http2: true}"),
            "a renewed key is the same account"
        );
        for other in [
            "{headers: {a: y}, query: q=1}",
            "{headers: {b: x}, query: q=1}",
            "{headers: {a: x, b: y}, query: q=1}",
            "{headers: {a: x}, query: q=2}",
            "{headers: {a: x}}",
            "{headers: {a: x}, query: q=1, base_url: \"https://elsewhere.example/v1\"}",
        ] {
            assert_ne!(base, of(other), "{other}");
        }
    }

    #[test]
    fn a_gateways_key_never_prints() {
        let table = table("providers: {openai: {api_key: sk-hidden}}");
        let plan = table.plan("gpt-4o");
        assert_eq!(plan.targets[0].wire.authorizer.as_ref().unwrap().header().unwrap().1, "Bearer sk-hidden");
        assert!(!format!("{plan:?}").contains("sk-hidden"));
    }
}
