//! A provider's base URL.

use std::fmt;

use http::Uri;

/// A parsed base URL such as `https://api.openai.com/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// True for `https`, false for `http`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; the scheme's default if the URL has none.
    pub port: u16,
    /// Path before `/chat/completions`, without a trailing slash: `/v1`.
    pub prefix: String,
}

impl BaseUrl {
    /// Parses `https://host[:port][/path]`. The error says what is wrong and never repeats a credential in the URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "write `https://host/path` or `http://host:port/path`";
        let text = text.trim();
        let rest = text.split_once("://").map(|(_, rest)| rest);
        if rest.is_some_and(|rest| rest.split('/').next().is_some_and(|authority| authority.contains('@'))) {
            return Err("a base URL must not hold a user or password; use `api_key` or `headers`".into());
        }
        if text.contains(['?', '#']) {
            return Err("a base URL must not hold `?` or `#`; put a query into `query`".into());
        }
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL: {form}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("`{text}` does not start with https:// or http://: {form}")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port_text = uri.authority().map_or("", |authority| {
            let after_host = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest);
            after_host.rsplit_once(':').map_or("", |(_, port)| port)
        });
        let port = match (port_text, uri.port_u16()) {
            ("", _) => Some(if tls { 443 } else { 80 }),
            (_, port) => port.filter(|port| *port != 0),
        };
        let Some(port) = port else { return Err(format!("`{text}` has no valid port: {form}")) };
        if host.is_empty() {
            return Err(format!("`{text}` has no host: {form}"));
        }
        Ok(Self { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// The path before Ollama's own API: the prefix without a `/v1` at its end.
    pub fn root(&self) -> &str {
        self.prefix.strip_suffix("/v1").unwrap_or(&self.prefix)
    }

    /// The URL with `/v1` as its path if it has none: Ollama's users give its address alone.
    pub fn with_default_prefix(mut self) -> Self {
        if self.prefix.is_empty() {
            self.prefix = "/v1".into();
        }
        self
    }

    /// The value of the `host` header: with the port only if it is not the scheme's default.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        for (text, host, port, prefix, printed) in [
            ("https://api.openai.com/v1/", "api.openai.com", 443, "/v1", "https://api.openai.com/v1"),
            ("http://Ollama:11434", "ollama", 11434, "", "http://ollama:11434"),
            ("https://[::1]:8443/a/b", "::1", 8443, "/a/b", "https://[::1]:8443/a/b"),
            ("http://[::1]/v1", "::1", 80, "/v1", "http://[::1]/v1"),
        ] {
            let url = BaseUrl::parse(text).unwrap();
            assert_eq!((url.host.as_str(), url.port, url.prefix.as_str()), (host, port, prefix));
            assert_eq!(url.to_string(), printed);
        }
        assert_eq!(BaseUrl::parse("http://o:1").unwrap().with_default_prefix().prefix, "/v1");
        assert_eq!(BaseUrl::parse("http://o:1/x").unwrap().with_default_prefix().prefix, "/x");
    }

    #[test]
    fn refuses_what_is_no_base_url() {
        for text in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://host/",
            "https://",
            "https://host:0",
            "https://host:99999",
            "https://host:x/",
            "https://h/v1?key=1",
            "https://h/v1#x",
            "https:// host/",
        ] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
        let error = BaseUrl::parse("https://user:hunter2@host/v1").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
