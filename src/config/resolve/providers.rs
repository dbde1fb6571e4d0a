//! Providers: addresses, keys, headers; and the Ollama of dev mode.

use std::{collections::BTreeMap, fs, sync::Arc};

use http::{HeaderName, HeaderValue};

use super::{Path, Resolver, routes::check_pattern};
use crate::{
    config::{
        base_url::BaseUrl,
        presets::Preset,
        raw,
        resolved::{Config, Credentials, Provider, Vendor},
        values::{REDACTED, SecretSource, SecretText, is_variable_name},
    },
    types::Secret,
};

/// Headers that the gateway sets for the connection, so that the file must not.
const OWN_HEADERS: [&str; 6] = ["host", "connection", "content-length", "transfer-encoding", "te", "upgrade"];

/// Client headers that are never forwarded to a provider: credentials, framing, headers that only the gateway writes, and
/// headers that make a server see another method, path or sender than the gateway does.
const NEVER_FORWARDED: [&str; 21] = [
    "accept-encoding",
    "api-key",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "openai-organization",
    "openai-project",
    "proxy-authorization",
    "proxy-connection",
    "trailer",
    "x-api-key",
    "x-goog-api-key",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// Prefixes of client headers that are never forwarded.
const NEVER_FORWARDED_FAMILIES: [&str; 3] = ["sec-websocket-", "x-chittycan-", "x-forwarded-"];

impl Resolver<'_> {
    pub(super) fn providers(&mut self, raw: &BTreeMap<String, raw::Provider>) -> BTreeMap<Arc<str>, Arc<Provider>> {
        let root = Path::of(&["providers"]);
        let mut providers = BTreeMap::new();
        for (name, entry) in raw {
            let path = root.key(name);
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            if name.is_empty() || !name.bytes().all(allowed) {
                self.fault(&path, "a provider's name is made of letters, digits, `-`, `_` and `.`");
            }
            if let Some(provider) = self.provider(name, entry, &path) {
                providers.insert(provider.name.clone(), Arc::new(provider));
            }
        }
        providers
    }

    fn provider(&mut self, name: &str, entry: &raw::Provider, path: &Path) -> Option<Provider> {
        let vendor = entry.preset.unwrap_or(Vendor::Custom);
        let preset = Preset::of(vendor);
        let base = self.base_url(entry, vendor, path);
        let key = entry.api_key.as_ref().and_then(|key| self.secret(key, &path.key("api_key")));
        if let Some(key) = &key
            && HeaderValue::from_str(key.expose()).is_err()
        {
            self.fault(&path.key("api_key"), "the key holds characters that cannot stand in a header");
        }
        let credentials = entry.credentials.unwrap_or(Credentials::Mapped);
        if credentials != Credentials::Mapped && preset.client_keys.is_none() {
            let message = format!(
                "only `mapped` is allowed for the preset `{}`: a client's own key goes to OpenAI or Anthropic and to nobody else",
                preset.name
            );
            self.fault(&path.key("credentials"), message);
        }
        let headers = self.headers(&entry.headers, &path.key("headers"));
        let forward_headers = self.forward_headers(&entry.forward_headers, &path.key("forward_headers"));
        let query = entry.query.as_deref().map(|query| query.trim_start_matches('?').to_owned());
        if let Some(query) = &query
            && !query.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`{|}?".contains(&b))
        {
            self.fault(&path.key("query"), "not a query such as `a=1&b=2`; encode special characters as %XX");
        }
        let timeouts = &entry.timeouts;
        for (key, span) in [("connect", timeouts.connect), ("read", timeouts.read), ("write", timeouts.write)] {
            if span.0.is_zero() {
                self.fault(&path.key("timeouts").key(key), "must be longer than 0");
            }
        }
        let ca_file = entry.ca_file.as_ref();
        let ca_file = ca_file.and_then(|file| self.pem(file, "CERTIFICATE-----", "certificate", &path.key("ca_file")));
        let dialect = entry.dialect.unwrap_or(preset.dialect);
        Some(Provider {
            name: name.into(),
            vendor,
            base: base?,
            dialect,
            responses_api: dialect.may_have_responses() && entry.responses_api.unwrap_or(preset.responses_api),
            default_max_tokens: entry.default_max_tokens.map(|tokens| tokens.get().into()),
            credentials,
            auth: dialect.auth(preset.auth),
            key,
            headers,
            forward_headers,
            query: query.filter(|query| !query.is_empty()),
            stream_usage: entry.stream_usage.unwrap_or(preset.stream_usage),
            list_models: entry.list_models,
            http2: entry.http2,
            connect_timeout: timeouts.connect.0,
            read_timeout: timeouts.read.0,
            write_timeout: timeouts.write.0,
            ca_file,
            model_map: BTreeMap::new(),
        })
    }

    fn base_url(&mut self, entry: &raw::Provider, vendor: Vendor, path: &Path) -> Option<BaseUrl> {
        let Some(url) = &entry.base_url else {
            // With a misspelt preset or URL the entry only seems to have no URL.
            if !self.is_faulty(&path.key("preset")) && !self.is_faulty(&path.key("base_url")) {
                let name = Preset::of(vendor).name;
                self.fault(path, format!("`base_url` is missing: the preset `{name}` has none of its own"));
            }
            return None;
        };
        match BaseUrl::parse(url) {
            Ok(url) if Preset::of(vendor).default_path => Some(url.with_default_prefix()),
            Ok(url) => Some(url),
            Err(message) => {
                self.fault(&path.key("base_url"), message);
                None
            }
        }
    }

    fn forward_headers(&mut self, raw: &[String], path: &Path) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for (index, text) in raw.iter().enumerate() {
            let path = path.index(index);
            let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
                self.fault(&path, "not a header name");
                continue;
            };
            let never = OWN_HEADERS.contains(&name.as_str()) || NEVER_FORWARDED.contains(&name.as_str());
            if never || NEVER_FORWARDED_FAMILIES.iter().any(|family| name.as_str().starts_with(family)) {
                let message = "this header is never forwarded: it is a credential, belongs to the connection, or makes a \
                               server see another request than the gateway";
                self.fault(&path, message);
            }
            if headers.contains(&name) {
                self.fault(&path, "this header is here twice; case does not matter in a header's name");
            }
            headers.push(name);
        }
        headers
    }

    pub(super) fn headers(
        &mut self,
        raw: &BTreeMap<String, SecretText>,
        path: &Path,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, text) in raw {
            let path = path.key(name);
            let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
                self.fault(&path, "not a header name");
                continue;
            };
            if OWN_HEADERS.contains(&header.as_str()) {
                self.fault(&path, "this header belongs to the connection and cannot be set");
            }
            if headers.iter().any(|(other, _)| *other == header) {
                self.fault(&path, "this header is here twice; case does not matter in a header's name");
            }
            let Some(value) = self.secret(text, &path) else { continue };
            match HeaderValue::from_str(value.expose()) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    headers.push((header, value));
                }
                Err(_) => self.fault(&path, "the value holds characters that cannot stand in a header"),
            }
        }
        headers
    }

    /// The secret that a reference leads to. Nothing is read for the simulated provider.
    pub(super) fn secret(&mut self, text: &SecretText, path: &Path) -> Option<Secret> {
        if self.context.simulate {
            return None;
        }
        let found = match text.source() {
            SecretSource::Literal(REDACTED) => {
                self.fault(path, "`[redacted]` is what `can config print` shows instead of a secret; write the secret");
                return None;
            }
            SecretSource::Literal(text) => text.to_owned(),
            SecretSource::Env(name) if !is_variable_name(name) => {
                self.fault(path, "what follows `env:` is not the name of an environment variable");
                return None;
            }
            SecretSource::Env(name) => match (self.context.env)(name) {
                Some(value) => value,
                None => {
                    self.fault(path, format!("the environment variable `{name}` is not set"));
                    return None;
                }
            },
            SecretSource::File(name) => {
                let file = self.file(name, path)?;
                match fs::read_to_string(&file) {
                    Ok(content) => content,
                    Err(error) => {
                        self.fault(path, format!("cannot read `{}`: {error}", file.display()));
                        return None;
                    }
                }
            }
        };
        if found.trim().is_empty() {
            self.fault(path, "the secret is empty");
            return None;
        }
        Some(Secret::new(&found))
    }

    /// The provider that serves every model in dev mode; it is also checked in normal mode.
    pub(super) fn dev_ollama(&mut self, dev: &raw::Dev, config: &Config) -> Option<Provider> {
        let path = Path::of(&["dev", "ollama"]);
        for (pattern, model) in &dev.ollama.models {
            let path = path.key("models").key(pattern);
            if let Err(message) = check_pattern(pattern) {
                self.fault(&path, message);
            }
            if model.trim().is_empty() || model.contains('*') {
                self.fault(&path, "not the name of a model");
            }
        }
        let mut ollama = Provider::clone(config.providers.get("ollama")?);
        ollama.model_map = dev.ollama.models.clone();
        if let Some(url) = &dev.ollama.base_url {
            match BaseUrl::parse(url) {
                Ok(url) => ollama.base = url.with_default_prefix(),
                Err(message) => self.fault(&path.key("base_url"), message),
            }
        }
        Some(ollama)
    }
}
