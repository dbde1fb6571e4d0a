//! Combines the file with the environment, which overrides it, and with presets and default routes, which fill its gaps.

use std::net::SocketAddr;

use super::{
    base_url::BaseUrl,
    fault::{Fault, did_you_mean},
    presets::{PRESETS, Preset},
    raw::{self, Admin, AdminListener, Mode, Off},
    resolved::{Credentials, Period, Vendor},
    values::{HumanUsd, SecretText},
};
use crate::types::{TenantId, matches};

/// An environment variable the gateway reads.
#[derive(Clone, Copy, Debug)]
pub struct EnvVar {
    /// The name of the variable.
    pub name: &'static str,
    /// What the variable sets, for the reference.
    pub doc: &'static str,
}

/// The variables that the gateway reads, without the presets' variables for keys. An empty variable counts as unset.
pub const ENVIRONMENT: &[EnvVar] = &[
    EnvVar { name: "CAN_CONFIG", doc: "The configuration file, if `--config` names none." },
    EnvVar { name: "CHITTYCAN_MODE", doc: "`normal` or `dev`; replaces `mode`." },
    EnvVar {
        name: "OLLAMA_BASE_URL",
        doc: "Address of Ollama; `/v1` is added where it has no path. Replaces `providers.ollama.base_url` and `dev.ollama.base_url`.",
    },
    EnvVar { name: "CAN_LISTEN", doc: "Address and port; replaces the address of the first entry of `listen`." },
    EnvVar { name: "CHITTY_TENANT_ID", doc: "The tenant of clients without a token; replaces `auth.default_tenant`." },
    EnvVar {
        name: "CHITTY_BUDGET_MONTHLY_USD",
        doc: "A hard monthly budget of that tenant in US dollars; replaces its monthly ones.",
    },
    EnvVar { name: "CAN_DATABASE", doc: "The SQLite file; replaces `database.path`." },
    EnvVar { name: "CAN_ADMIN_LISTEN", doc: "Address and port, or `off`; replaces `admin`." },
    EnvVar { name: "CAN_ADMIN_HOSTS", doc: "Host names separated by commas; replaces `admin.hosts`." },
];

/// Overrides the values of `file` with the environment, and fills in everything that exists without a file. Faults of the
/// environment are reported under the variable's name.
pub fn apply(file: &mut raw::File, env: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<Fault>) {
    let mut fault = |name: &str, message: String| faults.push(Fault { line: None, path: name.into(), message });
    if let Some(mode) = env("CHITTYCAN_MODE") {
        match mode.trim() {
            "dev" => file.mode = Mode::Dev,
            "normal" => file.mode = Mode::Normal,
            mode => {
                let guess = did_you_mean(mode, ["dev", "normal"]);
                fault("CHITTYCAN_MODE", format!("`{mode}` is not one of `normal`, `dev`{guess}"));
            }
        }
    }
    if let Some(address) = env("CAN_LISTEN") {
        match address.trim().parse::<SocketAddr>() {
            Err(_) => fault("CAN_LISTEN", not_an_address(&address)),
            Ok(address) => {
                if file.listen.is_empty() {
                    file.listen.push(raw::Listen::default());
                }
                file.listen[0].address = address.to_string();
            }
        }
    }
    if let Some(address) = env("CAN_ADMIN_LISTEN") {
        match (address.trim(), address.trim().parse::<SocketAddr>()) {
            ("off", _) => file.admin = Admin::Off(Off::Off),
            (_, Ok(address)) => {
                let hosts = match &mut file.admin {
                    Admin::On(listener) => std::mem::take(&mut listener.hosts),
                    Admin::Off(_) => Vec::new(),
                };
                file.admin = Admin::On(AdminListener { address: address.to_string(), hosts });
            }
            _ => fault("CAN_ADMIN_LISTEN", format!("{}, or `off`", not_an_address(&address))),
        }
    }
    if let (Some(hosts), Admin::On(listener)) = (env("CAN_ADMIN_HOSTS"), &mut file.admin) {
        listener.hosts = hosts.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect();
    }
    if let Some(path) = env("CAN_DATABASE") {
        file.database.path = path.trim().to_owned();
    }
    if let Some(tenant) = env("CHITTY_TENANT_ID") {
        match tenant.trim() {
            name if TenantId::is_valid(name) => file.auth.default_tenant = name.to_owned(),
            name => fault("CHITTY_TENANT_ID", format!("`{name}` is not a tenant's name: {TENANT_NAME}")),
        }
    }
    let others = file.tenants.get("*").cloned().unwrap_or_default();
    let default_tenant = file.tenants.entry(file.auth.default_tenant.clone()).or_insert(others);
    if let Some(text) = env("CHITTY_BUDGET_MONTHLY_USD") {
        match HumanUsd::parse(&text) {
            Ok(usd) => {
                default_tenant.budgets.retain(|budget| budget.period != Period::Monthly);
                default_tenant.budgets.push(raw::Budget::monthly(usd));
            }
            Err(message) => fault("CHITTY_BUDGET_MONTHLY_USD", message),
        }
    }
    fill_providers(file, env);
    if let Some(url) = env("OLLAMA_BASE_URL") {
        match BaseUrl::parse(&url) {
            Err(message) => fault("OLLAMA_BASE_URL", message),
            Ok(url) => {
                let url = url.with_default_prefix().to_string();
                if let Some(ollama) = file.providers.get_mut("ollama") {
                    ollama.base_url = Some(url.clone());
                }
                file.dev.ollama.base_url = Some(url);
            }
        }
    }
    fill_routes(file);
}

/// The form of a tenant's name, for messages.
pub const TENANT_NAME: &str = "letters, digits, `-`, `_`, `.`, `:` and `@`, at most 64";

/// The message for text that should be `ADDRESS:PORT`.
pub fn not_an_address(text: &str) -> String {
    format!("`{}` is not an address and port such as `127.0.0.1:8080` or `[::]:8080`", text.trim())
}

fn fill_providers(file: &mut raw::File, env: &dyn Fn(&str) -> Option<String>) {
    for preset in PRESETS.iter().filter(|preset| preset.base_url.is_some()) {
        file.providers.entry(preset.name.to_owned()).or_default();
    }
    for (name, provider) in &mut file.providers {
        let vendor = *provider.preset.get_or_insert(Preset::named(name).map_or(Vendor::Custom, |preset| preset.vendor));
        let preset = Preset::of(vendor);
        if provider.base_url.is_none() {
            provider.base_url = preset.base_url.map(str::to_owned);
        }
        if provider.api_key.is_none() {
            provider.api_key =
                preset.key_vars.iter().find(|name| env(name).is_some()).map(|name| SecretText::env(name));
        }
        let credentials = if preset.client_keys.is_some() { Credentials::Auto } else { Credentials::Mapped };
        provider.credentials.get_or_insert(credentials);
        let dialect = *provider.dialect.get_or_insert(preset.dialect);
        provider.responses_api.get_or_insert(dialect.may_have_responses() && preset.responses_api);
        provider.stream_usage.get_or_insert(preset.stream_usage);
    }
}

/// Appends the default routes, without those whose model a route of the file names or matches.
fn fill_routes(file: &mut raw::File) {
    let own: Vec<&str> =
        file.routes.iter().flat_map(|route| route.aliases.iter().chain([&route.model])).map(String::as_str).collect();
    let missing: Vec<raw::Route> = raw::default_routes()
        .into_iter()
        .filter(|route| !own.iter().any(|pattern| matches(pattern, &route.model)))
        .collect();
    file.routes.extend(missing);
}
