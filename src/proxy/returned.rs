//! Which headers of a provider's reply do not reach the client.
//!
//! The rules below name them. With a key of the gateway's, headers whose name has a word for an account in it are removed too.
//! All others go to the client: SDKs and people read many (`x-request-id`, `retry-after`, `openai-processing-ms`), and vendors
//! add to them.

/// When a header of a provider's reply does not reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// The header never reaches the client: it describes the provider's host or the connection to it, or would have effect on the
    /// gateway's own origin in a browser.
    Always,
    /// Removed with a key of the gateway's: the header describes the gateway's account or leads to it. A client with a key of its
    /// own gets it.
    Mapped,
    /// Removed for the holder of a token with a key of the gateway's: all tenants together use up the account's limits, so the
    /// header would tell each tenant what the others do.
    Shared,
}

/// One header, or the headers that begin alike.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The name in lower case; `*` at its end stands for any rest.
    pub name: &'static str,
    /// When the header is removed.
    pub stays: Stays,
    /// Who sends the header, and what it tells.
    pub why: &'static str,
}

const fn always(name: &'static str, why: &'static str) -> Rule {
    Rule { name, stays: Stays::Always, why }
}

const fn mapped(name: &'static str, why: &'static str) -> Rule {
    Rule { name, stays: Stays::Mapped, why }
}

const fn shared(name: &'static str, why: &'static str) -> Rule {
    Rule { name, stays: Stays::Shared, why }
}

/// Headers by their whole name, in alphabetical order.
const NAMES: &[Rule] = &[
    always("alt-svc", "Another address of the provider's host."),
    mapped("anthropic-organization-id", "Anthropic; the account."),
    mapped("apim-request-id", "Azure; the gateway in front of the account's resource."),
    mapped("azure-asyncoperation", "Azure; a URL on the account's resource."),
    always("cf-cache-status", "Cloudflare, in front of the provider."),
    always("cf-ray", "Cloudflare; the connection to it."),
    always("clear-site-data", "Clears what a browser keeps of the gateway's origin."),
    mapped("content-location", "A URL at the provider."),
    always("content-security-policy", "A rule for pages of the provider's host."),
    always("content-security-policy-report-only", "As `content-security-policy`."),
    always("expect-ct", "The certificate of the provider's host."),
    always("keep-alive", "The connection to the provider (hop-by-hop): how long it stays open there."),
    mapped("link", "URLs at the provider."),
    mapped("location", "A URL at the provider, perhaps one that is signed with the account's key."),
    always("nel", "Where browsers report the provider's network errors to."),
    mapped("openai-organization", "OpenAI; the account."),
    mapped("openai-project", "OpenAI; the account."),
    mapped("operation-location", "Azure; a URL on the account's resource."),
    always("permissions-policy", "A rule for pages of the provider's host."),
    always("proxy-authenticate", "A proxy on the way to the provider."),
    always("proxy-connection", "The connection to the provider."),
    shared("ratelimit", "The draft of the IETF; what is left of the account's limits."),
    shared("ratelimit-policy", "As `ratelimit`."),
    always("refresh", "Leads a browser elsewhere."),
    always("report-to", "Where browsers report the provider's errors to."),
    always("reporting-endpoints", "As `report-to`."),
    always("server", "The provider's software."),
    always("server-timing", "The provider's host."),
    always("service-worker-allowed", "A right on the gateway's origin."),
    always("set-cookie", "A cookie of the account's or of the connection."),
    always("set-cookie2", "As `set-cookie`."),
    always("strict-transport-security", "A rule for the provider's host."),
    always("timing-allow-origin", "A rule for the provider's host."),
    always("via", "Proxies on the way to the provider."),
    mapped("www-authenticate", "How the provider wants to be shown a key, perhaps with the account's name."),
    always("x-azure-ref", "Azure's edge; the connection to it."),
    always("x-cache", "A proxy's cache on the way to the provider."),
    always("x-envoy-decorator-operation", "A proxy in front of the provider."),
    always("x-envoy-upstream-service-time", "A proxy in front of the provider."),
    always("x-openai-proxy-wasm", "A proxy in front of OpenAI."),
    always("x-powered-by", "The provider's software."),
    always("x-served-by", "The provider's host."),
    always("x-timer", "A proxy in front of the provider."),
];

/// Headers by the beginning of their name.
const FAMILIES: &[Rule] = &[
    always("access-control-*", "CORS is the gateway's to grant (`http.cors`)."),
    shared("anthropic-priority-*", "Anthropic; what is left of the account's priority tier."),
    shared("anthropic-ratelimit-*", "Anthropic; what is left of the account's limits."),
    mapped("azureml-*", "Azure; the account's deployment and session."),
    mapped("chatgpt-*", "OpenAI; the account."),
    always("cross-origin-*", "Rules for pages of the provider's host."),
    shared("ratelimit-*", "Mistral, GitHub and others; what is left of the account's limits."),
    shared("ratelimitbysize-*", "Mistral; what is left of the account's limits."),
    always("x-amz-cf-*", "CloudFront; the connection to it."),
    mapped("x-amz-*", "AWS; the account's request and keys."),
    mapped("x-amzn-*", "AWS; the account's request."),
    mapped("x-codex-*", "OpenAI; how much of a plan is used."),
    mapped("x-goog-*", "Google; the account's project."),
    mapped("x-groq-*", "Groq; the account's region and its limits."),
    mapped("x-ms-*", "Azure; the account's region, deployment and filters."),
    shared("x-ratelimit-*", "OpenAI and many others; what is left of the account's limits."),
    shared("x-ratelimitbysize-*", "Mistral; what is left of the account's limits."),
    mapped("x-trial-*", "Cohere; what is left of a trial account."),
];

/// Words between hyphens in a header's name that refer to an account, whoever sends the header; [`Stays::Mapped`].
const ACCOUNTS: &[&str] =
    &["account", "billing", "org", "organisation", "organization", "project", "tenant", "workspace"];

fn names_account(name: &str) -> bool {
    let mut words = name.as_bytes().split(|byte| matches!(byte, b'-' | b'_'));
    words.any(|word| match word {
        // Each header of each reply comes here: most words begin with another letter.
        [b'a' | b'b' | b'o' | b'p' | b't' | b'w', ..] => {
            let singular = word.strip_suffix(b"s").unwrap_or(word);
            ACCOUNTS.iter().any(|account| account.as_bytes() == singular)
        }
        _ => false,
    })
}

/// The rule for a header, if it has one. `name` is in lower case.
pub fn rule(name: &str) -> Option<&'static Rule> {
    let bytes = name.as_bytes();
    // A look at length and letters spares most headers the comparisons; each header of each reply comes here.
    if STARTS.get(bytes.len()).is_some_and(|starts| starts & start(bytes) != 0)
        && let Ok(at) = NAMES.binary_search_by(|rule| rule.name.cmp(name))
    {
        return Some(&NAMES[at]);
    }
    let alike =
        |rule: &&Rule| rule.name.as_bytes().first() == bytes.first() && rule.name.as_bytes().get(2) == bytes.get(2);
    FAMILIES.iter().filter(alike).find(|rule| name.starts_with(&rule.name[..rule.name.len() - 1]))
}

/// By the length of a name: the first letters that names of [`NAMES`] of this length have, as bits.
const STARTS: [u32; 64] = {
    let mut starts = [0; 64];
    let mut at = 0;
    while at < NAMES.len() {
        let name = NAMES[at].name.as_bytes();
        starts[name.len()] |= start(name);
        at += 1;
    }
    starts
};

/// The first letter of a name as a bit; none for another character.
const fn start(name: &[u8]) -> u32 {
    match name {
        [letter @ b'a'..=b'z', ..] => 1 << (*letter - b'a'),
        _ => 0,
    }
}

/// Whose account a reply refers to, and who gets the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The client's own account.
    Own,
    /// The gateway's account; the client has no token. Nobody else is served with the account, unless the operator has said so
    /// (`auth.anonymous`).
    Mapped,
    /// The gateway's account; the client holds a token.
    Shared,
}

/// Whether a header of a provider's reply does not reach the client.
pub fn stays_here(name: &str, account: Account) -> bool {
    match rule(name).map(|rule| rule.stays) {
        Some(Stays::Always) => true,
        Some(Stays::Mapped) => account != Account::Own,
        Some(Stays::Shared) => account == Account::Shared,
        None => account != Account::Own && names_account(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_says_why() {
        assert!(NAMES.is_sorted_by(|a, b| a.name < b.name));
        for rule in NAMES.iter().chain(FAMILIES) {
            assert!(!rule.why.is_empty() && rule.name == rule.name.to_ascii_lowercase(), "{}", rule.name);
        }
        assert!(NAMES.iter().all(|rule| !rule.name.ends_with('*')));
        assert!(FAMILIES.iter().all(|rule| rule.name.ends_with("-*")));
        for rule in NAMES {
            assert_eq!(self::rule(rule.name).map(|found| found.name), Some(rule.name));
        }
        for family in FAMILIES {
            let stem = &family.name[..family.name.len() - 1];
            for rest in [String::new(), "region".into(), "x".repeat(100)] {
                let found = self::rule(&format!("{stem}{rest}")).map(|found| found.stays);
                assert_eq!(found, Some(family.stays), "{stem}{rest}");
            }
        }
        // The quick look of `names_account` knows the first letter of each.
        for account in ACCOUNTS {
            assert!(names_account(account) && names_account(&format!("x_{account}s")), "{account}");
        }
    }

    #[test]
    fn an_account_is_told_to_its_owner_alone() {
        for (name, own, mapped, shared) in [
            ("set-cookie", true, true, true),
            ("access-control-allow-origin", true, true, true),
            ("x-amz-cf-id", true, true, true),
            ("openai-organization", false, true, true),
            ("location", false, true, true),
            ("x-ms-region", false, true, true),
            ("x-ratelimit-remaining-tokens", false, false, true),
            ("anthropic-ratelimit-tokens-remaining", false, false, true),
            ("ratelimit-remaining", false, false, true),
            ("ratelimitbysize-remaining", false, false, true),
            ("x-ratelimitbysize-remaining-minute", false, false, true),
            ("x-trial-remaining", false, true, true),
            ("www-authenticate", false, true, true),
            ("x-organization-id", false, true, true),
            ("together-account-tier", false, true, true),
            ("anthropic-workspace-id", false, true, true),
            ("x-projects-left", false, true, true),
            ("x-accountable", false, false, false),
            ("x-request-id", false, false, false),
            ("openai-processing-ms", false, false, false),
            ("retry-after", false, false, false),
            ("content-type", false, false, false),
            ("x-should-retry", false, false, false),
        ] {
            let got = [Account::Own, Account::Mapped, Account::Shared].map(|account| stays_here(name, account));
            assert_eq!(got, [own, mapped, shared], "{name}");
        }
    }
}
