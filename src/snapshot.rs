//! Snapshot: a configuration in force, and the answers that its parts give together.

mod peers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use pingora_core::utils::tls::WrappedX509;

pub use peers::{Peers, UPSTREAM_IDLE};

use crate::{
    config::{Config, Free},
    dialect::to_anthropic::MAX_SEARCHES,
    guards::Guards,
    openai::{CallPrices, Endpoint, Hosted, Kind},
    pricing::{Catalogue, Price},
    providers::{adapter, exchange},
    routing::{Authorizers, RouteTable, Target},
    telemetry::Observer,
    tenants::TenantTable,
    types::PicoUsd,
};

/// Certificate authorities in the form that Pingora's peers take.
pub type Authorities = [WrappedX509];

/// A configuration in force, with everything that is made from it. A reload builds a new snapshot and swaps it in.
pub struct Snapshot {
    /// The configuration itself.
    pub config: Arc<Config>,
    /// A number that no other snapshot of this process has.
    pub number: u64,
    /// Maps models to deployments.
    pub routes: RouteTable,
    /// Maps models to prices.
    pub catalogue: Arc<Catalogue>,
    /// Tenants with their policies, meters and budgets.
    pub tenants: TenantTable,
    /// The only certificate authorities to trust, for providers that name some.
    pub authorities: BTreeMap<Arc<str>, Arc<Authorities>>,
    /// The peers of providers, for Pingora's pool.
    pub peers: Peers,
    /// Observers that get the record of each finished request, besides the ledger.
    pub observers: Vec<Arc<dyn Observer>>,
    /// The guards that inspect prompts and replies.
    pub guards: Guards,
    /// The gateway's credentials for providers that take no constant key.
    pub authorizers: Authorizers,
}

impl Snapshot {
    /// The number of the next snapshot.
    pub fn next_number() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// The price of a target, by its provider's name or else its vendor's. A model that an Ollama of one's own runs costs
    /// nothing, and OpenAI's moderation is free ("the moderation endpoint is free to use", OpenAI's guide to it).
    pub fn price(&self, endpoint: &Endpoint, target: &Target) -> Option<Arc<Price>> {
        static FREE: LazyLock<Arc<Price>> = LazyLock::new(|| Arc::new(Price::flat(PicoUsd::ZERO, PicoUsd::ZERO)));
        let listed = self.catalogue.price(&target.provider.name, &target.model);
        let listed = listed.or_else(|| self.catalogue.price(target.provider.preset().name, &target.model));
        listed.or_else(|| is_free(endpoint, target).then_some(&FREE)).cloned()
    }

    /// When the model of a target was released, in seconds since 1970; `None` if the catalogue does not say.
    pub fn released(&self, target: &Target) -> Option<u64> {
        let listed = |provider: &str| self.catalogue.released(provider, &target.model);
        listed(&target.provider.name).or_else(|| listed(target.provider.preset().name))
    }

    /// The prices of the tool calls that the target's provider runs for a request; `None` if it runs none. `hosted` are the
    /// provider's tools that the request itself names.
    pub fn call_prices(
        &self,
        endpoint: &Endpoint,
        hosted: Option<&Arc<Hosted>>,
        target: &Target,
        price: &Price,
    ) -> Option<CallPrices> {
        static SEARCH: LazyLock<Arc<Hosted>> = LazyLock::new(|| Arc::new(Hosted::search_model()));
        let provider = &target.provider;
        let searches = || {
            let always = || SEARCH_MODELS.iter().any(|part| target.model.contains(part));
            provider.preset().is_openai && *endpoint == Endpoint::ChatCompletions && always()
        };
        let hosted = match hosted {
            Some(hosted) if exchange::is_translated(endpoint, provider) => {
                // A translation drops the provider's tools, or refuses the request, except for one kind.
                let searches = hosted.tools.iter().any(|tool| tool.kind == Kind::Search);
                let becomes_search =
                    *endpoint == Endpoint::ChatCompletions && adapter::of(provider).facts().runs_searches;
                if !searches || !becomes_search {
                    return None;
                }
                static TRANSLATED: LazyLock<Arc<Hosted>> =
                    LazyLock::new(|| Arc::new(Hosted::translated_search(MAX_SEARCHES)));
                TRANSLATED.clone()
            }
            Some(hosted) => hosted.clone(),
            None if searches() => SEARCH.clone(),
            None => return None,
        };
        let vendor = provider.preset().name;
        let price = |tool: &str| {
            let own = self.catalogue.call(&provider.name, price, tool);
            own.or_else(|| self.catalogue.call(vendor, price, tool))
        };
        Some(CallPrices::new(hosted, self.config.budgets.max_tool_calls, price))
    }
}

/// Parts of the names of OpenAI's models that search the web for every answer.
const SEARCH_MODELS: [&str; 2] = ["-search-preview", "-search-api"];

/// OpenAI's models for moderation, dated and `-latest` names aside.
const MODERATION: [&str; 2] = ["omni-moderation", "text-moderation"];

/// Whether a target costs nothing without being in the catalogue.
fn is_free(endpoint: &Endpoint, target: &Target) -> bool {
    let (provider, model) = (&target.provider, &*target.model);
    match provider.preset().free {
        // Ollama passes models of its cloud on to ollama.com, where they are paid for.
        Free::Local => {
            let host = provider.base.host.to_ascii_lowercase();
            let model = model.to_ascii_lowercase();
            let in_cloud = host == "ollama.com" || host.ends_with(".ollama.com");
            !in_cloud && !model.ends_with("-cloud") && !model.ends_with(":cloud")
        }
        Free::Moderation => {
            let is = |name: &str| model.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            *endpoint == Endpoint::Moderations && MODERATION.iter().any(|name| is(name))
        }
        Free::Nothing => false,
    }
}
