//! Describes in one line who can spend whose money: for `can check`, the start and every reload.

use super::resolved::{Config, Credentials, Provider};

impl Provider {
    /// Whether a client's own key is passed through to this provider.
    pub fn takes_own_keys(&self) -> bool {
        self.preset().client_keys.is_some() && self.credentials != Credentials::Mapped
    }
}

impl Config {
    /// Whether a client without a token spends on the gateway's own keys. `tokens` says whether a token was ever created; as long
    /// as the gateway does not know (`None`), such a client is served only if `auth.anonymous` is set.
    pub fn serves_strangers(&self, tokens: Option<bool>) -> bool {
        let auth = &self.auth;
        auth.passthrough && (auth.anonymous.is_some() || !auth.tells_apart && tokens == Some(false))
    }

    /// Who can spend whose money, as text. `holders` is the number of tenants that have tokens; `None` if it is not known.
    pub fn who_can_spend(&self, holders: Option<usize>) -> String {
        let names = |wanted: &dyn Fn(&Provider) -> bool| {
            let names: Vec<&str> =
                self.providers.values().filter(|provider| wanted(provider)).map(|provider| &*provider.name).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let auth = &self.auth;
        let keys = format!("the gateway's keys ({})", names(&|provider| provider.key.is_some()));
        let own = format!("own keys only ({})", names(&Provider::takes_own_keys));
        let holders_are = match holders {
            None => "holders of tokens".to_owned(),
            Some(1) => "tokens of 1 tenant".to_owned(),
            Some(count) => format!("tokens of {count} tenants"),
        };
        match &auth.anonymous {
            _ if !auth.passthrough => format!("{holders_are} on {keys}; callers without a token: nobody"),
            Some(tenant) => format!("{holders_are}, and anybody as tenant '{tenant}', on {keys}"),
            None if self.serves_strangers(Some(holders.is_some_and(|count| count > 0))) => {
                format!("anybody as tenant '{}' on {keys}, until the first token is made", auth.default_tenant)
            }
            None => format!("{holders_are} on {keys}; callers without a token: {own}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::config::{Config, Source};

    fn config(text: &str, env: &'static [(&'static str, &'static str)]) -> Config {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("can.yaml");
        // A file has at least one key.
        std::fs::write(&file, if text.is_empty() { "mode: normal\n" } else { text }).expect("written");
        let look = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::load(&Source { file: Some(file), env: Arc::new(look), simulate: false }).expect(text).config
    }

    #[test]
    fn strangers_are_served_only_where_nobody_is_told_apart_or_where_the_operator_says_so() {
        let budget: &[(&str, &str)] = &[("CHITTY_TENANT_ID", "acme"), ("CHITTY_BUDGET_MONTHLY_USD", "5")];
        for (text, env, without_tokens, with_tokens) in [
            ("", &[][..], true, false),
            ("", budget, true, false),
            ("tenants: {default: {budgets: [{usd: 1}]}}", &[], true, false),
            ("tenants: {acme: {}}", budget, true, false),
            ("tenants: {team: {}}", &[], false, false),
            ("tenants: {\"*\": {}}", &[], false, false),
            ("tenants: {team: {}}", budget, false, false),
            ("tenants: {team: {}}\nauth: {anonymous: team}", &[], true, true),
            ("auth: {anonymous: default}", &[], true, true),
            ("auth: {passthrough: false}", &[], false, false),
        ] {
            let config = config(text, env);
            let served = [Some(false), Some(true), None].map(|tokens| config.serves_strangers(tokens));
            assert_eq!(served, [without_tokens, with_tokens, with_tokens], "{text}");
        }
    }

    #[test]
    fn one_line_says_who_can_spend() {
        let keys: &[(&str, &str)] = &[("OPENAI_API_KEY", "sk-1"), ("GROQ_API_KEY", "gsk_1")];
        for (text, holders, line) in [
            (
                "",
                Some(0),
                "anybody as tenant 'default' on the gateway's keys (groq, openai), until the first token is made",
            ),
            (
                "",
                Some(1),
                "tokens of 1 tenant on the gateway's keys (groq, openai); callers without a token: own keys only (anthropic, openai)",
            ),
            (
                "tenants: {team: {}}",
                None,
                "holders of tokens on the gateway's keys (groq, openai); callers without a token: own keys only (anthropic, openai)",
            ),
            (
                "auth: {anonymous: default}",
                Some(3),
                "tokens of 3 tenants, and anybody as tenant 'default', on the gateway's keys (groq, openai)",
            ),
            (
                "auth: {passthrough: false}",
                Some(2),
                "tokens of 2 tenants on the gateway's keys (groq, openai); callers without a token: nobody",
            ),
        ] {
            assert_eq!(config(text, keys).who_can_spend(holders), line);
        }
    }

    #[test]
    fn a_tenant_for_strangers_has_to_be_there_and_strangers_have_to_be_served() {
        let fault = |text: &str| {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("can.yaml");
            std::fs::write(&file, text).expect("written");
            let faults = Config::load(&Source { file: Some(file), env: Arc::new(|_| None), simulate: false }).err();
            faults.into_iter().flatten().map(|fault| fault.path).collect::<Vec<_>>()
        };
        assert_eq!(fault("auth: {anonymous: nobody}"), ["auth.anonymous"]);
        assert_eq!(fault("auth: {anonymous: default, passthrough: false}"), ["auth.anonymous"]);
        assert_eq!(fault("auth: {anonymous: anyone}\ntenants: {\"*\": {}}"), [""; 0]);
    }
}
