//! Client-facing models and the deployments that serve them.

use std::collections::{BTreeMap, HashMap};

use super::{Path, Resolver};
use crate::config::{
    raw::{self, Target},
    resolved::{Deployment, Route},
};

impl Resolver<'_> {
    pub(super) fn routes(&mut self, file: &raw::File) -> Vec<Route> {
        let (raw, providers) = (&file.routes, &file.providers);
        let root = Path::of(&["routes"]);
        let mut taken: HashMap<String, Path> = HashMap::new();
        let mut routes = Vec::new();
        for (index, entry) in raw.iter().enumerate() {
            let path = root.index(index);
            if let Err(message) = check_pattern(&entry.model) {
                self.fault(&path.key("model"), message);
            }
            self.take(&mut taken, &entry.model, path.key("model"));
            for (at, alias) in entry.aliases.iter().enumerate() {
                let path = path.key("aliases").index(at);
                match check_pattern(alias) {
                    Err(message) => self.fault(&path, message),
                    Ok(()) if alias.ends_with('*') => self.fault(&path, "an alias is a name, not a pattern"),
                    Ok(()) => {}
                }
                self.take(&mut taken, alias, path);
            }
            let mut deployments = Vec::new();
            for (at, target) in entry.to.iter().enumerate() {
                let path = path.key("to").index(at);
                if let Some(deployment) = self.deployment(target, &entry.model, providers, &path) {
                    if deployments.contains(&deployment) {
                        self.fault(&path, "this target is in the list already");
                    }
                    deployments.push(deployment);
                }
            }
            let cache = self.route_cache(&entry.cache, &file.cache, &path);
            routes.push(Route {
                model: entry.model.clone(),
                aliases: entry.aliases.clone(),
                deployments,
                cache,
                strict: entry.strict,
                default_max_tokens: entry.default_max_tokens.map(|tokens| u64::from(tokens.get())),
                prompt_caching: entry.prompt_caching,
            });
        }
        routes
    }

    /// Notes a client-facing name, and reports it if it is taken.
    fn take(&mut self, taken: &mut HashMap<String, Path>, name: &str, path: Path) {
        match taken.get(name) {
            Some(other) => {
                let other = self.located(other, String::new());
                let line = other.line.map(|line| format!(", on line {line}")).unwrap_or_default();
                self.fault(&path, format!("`{name}` is named by {}{line} already", other.path));
            }
            None => {
                taken.insert(name.to_owned(), path);
            }
        }
    }

    fn deployment(
        &mut self,
        target: &Target,
        route: &str,
        providers: &BTreeMap<String, raw::Provider>,
        path: &Path,
    ) -> Option<Deployment> {
        let (provider, model, provider_path) = match target {
            // Only the first slash separates: model names such as `meta-llama/Llama-3` contain further ones.
            Target::Name(text) => match text.split_once('/') {
                Some((provider, model)) => (provider, Some(model), path.clone()),
                None => (text.as_str(), None, path.clone()),
            },
            Target::Parts(parts) => (parts.provider.as_str(), parts.model.as_deref(), path.key("provider")),
        };
        if model.is_some_and(|model| model.trim() != model || model.is_empty() || model.contains('*')) {
            self.fault(path, "what follows the provider is not the name of a model; leave it out to keep the client's");
            return None;
        }
        if !self.known_provider(provider, providers, &provider_path) {
            return None;
        }
        // An alias must not reach the provider: for a route with an exact name, "the client's model" is that name.
        let model = model.or((!route.ends_with('*')).then_some(route)).map(str::to_owned);
        Some(Deployment { provider: provider.into(), model })
    }
}

/// Checks a client-facing model: a name, or a pattern with one `*` at its end.
pub fn check_pattern(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the model's name is empty".into());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a model's name holds no white space".into());
    }
    match text.find('*') {
        Some(at) if at + 1 < text.len() => Err(format!("`*` is allowed at the end only, as in `{}*`", &text[..at])),
        _ => Ok(()),
    }
}
