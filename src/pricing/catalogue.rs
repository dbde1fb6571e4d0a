//! The catalogue: prices by provider and model.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Price, load};
use crate::{config::Fault, types::NanoUsd};

/// The price list compiled into the binary.
const BUILTIN: &str = include_str!("../../conf/prices.yaml");

/// Prices by provider and model. Cheap to clone: the prices themselves are shared.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    providers: BTreeMap<Box<str>, BTreeMap<Box<str>, Arc<Price>>>,
    /// By provider and tool: the price of a call, for models without their own price for it.
    calls: BTreeMap<Box<str>, BTreeMap<Box<str>, NanoUsd>>,
}

impl Catalogue {
    /// The list compiled into the binary, `conf/prices.yaml`.
    pub fn builtin() -> Self {
        match Self::parse(BUILTIN) {
            Ok(catalogue) => catalogue,
            Err(faults) => unreachable!("a test reads the compiled-in price list: {faults:?}"),
        }
    }

    /// Parses a price list in the format that the head of `conf/prices.yaml` describes.
    ///
    /// # Errors
    /// All faults at once; for text that is not YAML, only the first.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        Self::default().overlay(text)
    }

    /// Lays a price list over this one: an entry replaces the whole entry of the same name. An alias may point to an
    /// entry of either list; it takes the entry's price at this moment, and a later overlay of the entry does not change it.
    ///
    /// # Errors
    /// As for [`Catalogue::parse`].
    pub fn overlay(&self, text: &str) -> Result<Self, Vec<Fault>> {
        let mut merged = self.clone();
        load::read_into(&mut merged, text)?;
        Ok(merged)
    }

    /// The price of `model` at `provider`; `None` if it is unknown, which does not mean free.
    ///
    /// Only a name that the list has as an entry or as an alias is priced. A dated name is not taken for its family:
    /// `gpt-4o-2024-05-13` costs twice what `gpt-4o` does. And a vendor's model at another provider is priced only if the
    /// list names it there.
    pub fn price(&self, provider: &str, model: &str) -> Option<&Arc<Price>> {
        self.providers.get(provider)?.get(model)
    }

    /// When a model was released, in seconds since 1970: the date at the end of its name (`-2024-11-20`, `-20251001`), or else
    /// the first date among the dated names that the list has for it. `None` if there is no such date.
    pub fn released(&self, provider: &str, model: &str) -> Option<u64> {
        date_behind(model, None).or_else(|| {
            let names = self.providers.get(provider)?.range::<str, _>((Bound::Excluded(model), Bound::Unbounded));
            let family = names.map(|(name, _)| &**name).take_while(|name| name.starts_with(model));
            family.filter_map(|name| date_behind(name, Some(model))).min()
        })
    }

    /// The price of one call of a tool that `provider` runs, for a model with this price; `None` if it is unknown.
    pub fn call(&self, provider: &str, price: &Price, tool: &str) -> Option<NanoUsd> {
        price.call(tool).or_else(|| self.calls.get(provider)?.get(tool).copied())
    }

    /// The number of names with a price, aliases included.
    pub fn len(&self) -> usize {
        self.providers.values().map(BTreeMap::len).sum()
    }

    /// Whether no model has a price.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Provider, model and price of every name, aliases included, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Arc<Price>)> {
        self.providers
            .iter()
            .flat_map(|(provider, models)| models.iter().map(|(model, price)| (&**provider, &**model, price)))
    }

    pub(super) fn insert_call(&mut self, provider: &str, tool: Box<str>, price: NanoUsd) {
        self.calls.entry(provider.into()).or_default().insert(tool, price);
    }

    pub(super) fn insert(&mut self, provider: &str, model: &str, price: Arc<Price>) {
        self.providers.entry(provider.into()).or_default().insert(model.into(), price);
    }
}

/// The date at the end of a name, as the beginning of that day in UTC, in seconds since 1970. If `family` is given, the name must
/// consist of it, a dash and the date.
fn date_behind(name: &str, family: Option<&str>) -> Option<u64> {
    let is_date = |text: &str| {
        text.bytes().enumerate().all(|(at, byte)| match (text.len(), at) {
            (10, 4 | 7) => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    };
    let (before, date) = [10, 8].into_iter().find_map(|length| {
        let (before, date) = name.split_at_checked(name.len().checked_sub(length)?)?;
        Some((before.strip_suffix('-')?, date)).filter(|(_, date)| is_date(date))
    })?;
    if before.is_empty() || family.is_some_and(|family| family != before) {
        return None;
    }
    let digits: String = date.chars().filter(char::is_ascii_digit).collect();
    let (year, month, day) = (digits[..4].parse().ok()?, digits[4..6].parse().ok()?, digits[6..].parse().ok()?);
    let day = jiff::civil::Date::new(year, month, day).ok().filter(|_| year >= 2015)?;
    u64::try_from(day.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{PicoUsd, ServiceTier};

    fn small() -> Catalogue {
        Catalogue::parse(
            "models:\n  openai/gpt-4o: {input: 2.50, output: 10}\n  openai/o3: {input: 2, output: 8}\n  \
             groq/openai/gpt-oss: {input: 0.15, output: 0.6}\n  anthropic/claude-h: {input: 1, output: 5}\n  \
             anthropic/claude-h-20251001: {input: 3, output: 5}\naliases: {openrouter/openai/gpt-4o: openai/gpt-4o}\n",
        )
        .unwrap()
    }

    #[test]
    fn exact_names_come_first() {
        let catalogue = small();
        let input = |provider, model| catalogue.price(provider, model).map(|p| p.rates(0, ServiceTier::Standard).input);
        assert_eq!(input("anthropic", "claude-h-20251001"), Some(PicoUsd(3_000_000)));
        assert_eq!(input("groq", "openai/gpt-oss"), Some(PicoUsd(150_000)));
        assert_eq!(input("openrouter", "openai/gpt-4o"), Some(PicoUsd(2_500_000)), "an alias says so");
    }

    #[test]
    fn a_date_of_release_is_read_from_names() {
        let released = |provider, model| Catalogue::builtin().released(provider, model);
        let (may, november, october) = (1_715_558_400, 1_732_060_800, 1_759_276_800);
        assert_eq!(released("openai", "gpt-4o-2024-11-20"), Some(november));
        assert_eq!(released("openai", "gpt-4o"), Some(may), "its first snapshot is 2024-05-13");
        assert_eq!(released("anthropic", "claude-haiku-4-5"), Some(october));
        assert_eq!(released("nobody", "m-20251001"), Some(october), "the name itself says it");
        for model in [
            "gpt-4",
            "gpt-4o-",
            "text-embedding-3-small",
            "gpt-4o-2024-13-20",
            "-20251001",
            "m-00000101",
            "é-2025é001",
            "",
        ] {
            assert_eq!(released("openai", model), None, "{model}");
        }
    }

    #[test]
    fn a_dated_name_has_a_price_only_where_the_list_names_it() {
        let catalogue = small();
        for model in ["gpt-4o-2024-11-20", "gpt-4o-20241120", "gpt-4o-latest", "gpt-4o-2024-05-13"] {
            assert_eq!(catalogue.price("openai", model), None, "{model}");
        }
        let named = catalogue.overlay("aliases: {openai/gpt-4o-2024-11-20: openai/gpt-4o}").unwrap();
        assert_eq!(named.price("openai", "gpt-4o-2024-11-20"), named.price("openai", "gpt-4o"));
        assert_eq!(named.price("openai", "gpt-4o-2024-05-13"), None);
    }

    #[test]
    fn a_call_has_the_models_price_before_its_providers() {
        let list = "models:\n  a/m: {input: 1, output: 1, calls: {web_search: 0.01}}\n  a/n: {input: 1, output: 1}\n\
                    calls: {a: {web_search: 0.025, mcp: 0}}\n";
        let catalogue = Catalogue::parse(list).unwrap();
        let call = |catalogue: &Catalogue, model, tool| catalogue.call("a", catalogue.price("a", model).unwrap(), tool);
        assert_eq!(call(&catalogue, "m", "web_search"), Some(NanoUsd(10_000_000)));
        assert_eq!(call(&catalogue, "n", "web_search"), Some(NanoUsd(25_000_000)));
        assert_eq!(call(&catalogue, "m", "mcp"), Some(NanoUsd::ZERO), "free is a price");
        assert_eq!(call(&catalogue, "m", "file_search"), None);
        let over = catalogue.overlay("calls: {a: {file_search: 0.5}}").unwrap();
        assert_eq!(call(&over, "n", "file_search"), Some(NanoUsd(500_000_000)));
        assert_eq!(call(&over, "n", "web_search"), Some(NanoUsd(25_000_000)), "other tools keep theirs");
    }

    #[test]
    fn nothing_is_guessed() {
        let catalogue = small();
        let strangers = ["gpt-4o-mini", "gpt-4o-mini-foo", "gpt-4", "gpt-4o-", "gpt-4o-1106", "gpt-4o-2024-13-20"];
        let odd = ["gpt-4o-2024-00-10", "gpt-4o-20241199", "gpt-4o20241120", "gpt-4o-2024-11-20-preview", "GPT-4o", ""];
        let shapes = ["-latest", "-20241120", "20241120", "gpt-4o-\u{e9}\u{e9}\u{e9}\u{e9}", "openai/gpt-4o"];
        for model in strangers.into_iter().chain(odd).chain(shapes) {
            assert_eq!(catalogue.price("openai", model), None, "{model}");
        }
        assert_eq!(catalogue.price("openrouter", "openai/o3"), None, "no alias says so");
        assert_eq!(catalogue.price("azure", "gpt-4o"), None);
    }

    #[test]
    fn an_overlay_replaces_whole_entries() {
        let merged = small()
            .overlay(
                "models: {openai/gpt-4o: {input: 9, output: 9}, local/llama: {input: 0, output: 0}}\n\
                 aliases: {local/o3: openai/o3}",
            )
            .unwrap();
        assert_eq!(merged.len(), small().len() + 2);
        let input = |provider, model| merged.price(provider, model).map(|p| p.rates(0, ServiceTier::Standard).input);
        assert_eq!(input("openai", "gpt-4o"), Some(PicoUsd(9_000_000)));
        assert_eq!(input("local", "llama"), Some(PicoUsd::ZERO), "free is a price");
        assert_eq!(input("local", "o3"), Some(PicoUsd(2_000_000)));
    }

    #[test]
    fn lists_every_name_once() {
        let catalogue = small();
        let names: Vec<_> = catalogue.iter().map(|(provider, model, _)| format!("{provider}/{model}")).collect();
        assert_eq!(names.len(), catalogue.len());
        assert!(names.is_sorted());
        assert!(!catalogue.is_empty());
        assert!(Catalogue::default().is_empty());
    }
}
