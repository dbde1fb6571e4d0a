//! The headers by which a client controls the cache.

use http::HeaderMap;
use http::header::CACHE_CONTROL;

const OWN: &str = "x-chittycan-cache";

/// `Cache-Control` and `X-ChittyCan-Cache` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `no-cache`: ask the provider, and keep its reply.
    pub no_cache: bool,
    /// `no-store`: neither take from the cache nor put into it.
    pub no_store: bool,
    /// `max-age`: the oldest reply that the client accepts, in seconds. A value that cannot be read is 0, as HTTP treats a stale
    /// reply.
    pub max_age: Option<u64>,
    /// `only-if-cached`: do not ask the provider.
    pub only_if_cached: bool,
    /// `X-ChittyCan-Cache: skip`
    pub skip: bool,
    /// `X-ChittyCan-Cache: force`: cache requests that are not deterministic too.
    pub force: bool,
}

impl Directives {
    /// Reads both headers. The error is a sentence for the client, which is at fault.
    pub fn read(headers: &HeaderMap) -> Result<Directives, String> {
        let mut all = Directives::default();
        for line in headers.get_all(CACHE_CONTROL) {
            directives(&String::from_utf8_lossy(line.as_bytes()), |name, value| all.take(name, value));
        }
        for line in headers.get_all(OWN) {
            match line.as_bytes().trim_ascii() {
                word if word.eq_ignore_ascii_case(b"skip") => all.skip = true,
                word if word.eq_ignore_ascii_case(b"force") => all.force = true,
                _ => return Err("The header 'X-ChittyCan-Cache' must be 'skip' or 'force'.".into()),
            }
        }
        if all.skip && all.force {
            return Err("The header 'X-ChittyCan-Cache' says both 'skip' and 'force'; send one of them.".into());
        }
        Ok(all)
    }

    fn take(&mut self, name: &str, value: Option<&str>) {
        if name.eq_ignore_ascii_case("no-cache") {
            self.no_cache = true;
        } else if name.eq_ignore_ascii_case("no-store") {
            self.no_store = true;
        } else if name.eq_ignore_ascii_case("only-if-cached") {
            self.only_if_cached = true;
        } else if name.eq_ignore_ascii_case("max-age") {
            let age = seconds(value.unwrap_or_default());
            // Of several values the strictest counts.
            self.max_age = Some(self.max_age.map_or(age, |other| other.min(age)));
        }
    }
}

/// A number of seconds, with or without quotes; one that is too large becomes the largest number, and a value that is no number
/// 0.
fn seconds(text: &str) -> u64 {
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).trim();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    digits.parse().unwrap_or(u64::MAX)
}

/// Calls `each` with the name and value of every directive in a line. Commas and equals signs inside quotes are text.
fn directives(line: &str, mut each: impl FnMut(&str, Option<&str>)) {
    let (mut quoted, mut escaped) = (false, false);
    for directive in line.split(|c| {
        let ends = c == ',' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        ends
    }) {
        match directive.split_once('=') {
            Some((name, value)) => each(name.trim(), Some(value.trim())),
            None => each(directive.trim(), None),
        }
    }
}
