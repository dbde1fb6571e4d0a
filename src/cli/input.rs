//! The input of commands: the configuration, the database, and times.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{config::file_or_env, output::note};
use crate::{
    config::{Config, HumanDuration, Source},
    store::{Session, Store, StoreError, sqlite},
    types::TenantId,
};

/// The configuration that a command works with.
pub struct Settings {
    /// The configuration, without faults. The keys of providers are not read, because no command needs them.
    pub config: Config,
    /// The file of the configuration, if there is one.
    pub file: Option<PathBuf>,
}

impl Settings {
    /// Loads the given file, or else the file of `CAN_CONFIG`, or else the defaults; always with the environment.
    ///
    /// # Errors
    /// All faults, one per line.
    pub fn load(file: Option<PathBuf>) -> Result<Self, String> {
        let file = file_or_env(file);
        let source = Source { simulate: true, ..Source::new(file.clone()) };
        match Config::load(&source) {
            Ok(loaded) => Ok(Self { config: loaded.config, file }),
            Err(faults) => {
                let name = file.unwrap_or_else(|| PathBuf::from("configuration"));
                Err(faults.iter().map(|fault| fault.in_file(&name)).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// The database file.
    pub fn database(&self) -> &Path {
        &self.config.database.path
    }

    /// Opens the database for reading only.
    ///
    /// # Errors
    /// There is no database, or the file is no database of the gateway.
    pub fn open_to_read(&self) -> Result<Box<dyn Session>, String> {
        self.must_exist()?;
        self.store().connect_to_read().map_err(|error| self.cannot_open(&error))
    }

    /// Opens an existing database.
    ///
    /// # Errors
    /// There is no database, or it cannot be written.
    pub fn open(&self) -> Result<Box<dyn Session>, String> {
        self.must_exist()?;
        self.open_or_make()
    }

    /// Opens the database, and creates it if it does not exist.
    ///
    /// # Errors
    /// The database cannot be created or written.
    pub fn open_or_make(&self) -> Result<Box<dyn Session>, String> {
        let (session, _) = self.store().connect().map_err(|error| self.cannot_open(&error))?;
        Ok(session)
    }

    fn store(&self) -> Arc<dyn Store> {
        sqlite::at(self.database())
    }

    fn must_exist(&self) -> Result<(), String> {
        match self.database().try_exists() {
            Ok(false) => Err(format!(
                "there is no database at {}: start the gateway once, or say where it is with CAN_DATABASE or --config",
                self.database().display()
            )),
            _ => Ok(()),
        }
    }

    fn cannot_open(&self, error: &StoreError) -> String {
        format!("the database {} cannot be opened: {error}", self.database().display())
    }

    /// Whether a tenant is `ancestor` or below it: its spend counts in the budgets of `ancestor` then.
    pub fn is_below(&self, tenant: &TenantId, ancestor: &TenantId) -> bool {
        let parent = |tenant: &TenantId| self.config.tenant(tenant).and_then(|tenant| tenant.parent.clone());
        // The configuration has refused longer lines of ancestors, and circles.
        std::iter::successors(Some(tenant.clone()), parent).take(16).any(|id| id == *ancestor)
    }

    /// Notes on standard error that the configuration does not have a tenant. This is no error: an earlier one may have had it.
    pub fn note_unknown(&self, tenant: &TenantId) {
        if self.config.tenant(tenant).is_none() {
            note(&format!("the configuration has no tenant `{tenant}`"));
        }
    }
}

/// Parses the name of a tenant.
///
/// # Errors
/// The text cannot be a tenant's name.
pub fn tenant(text: &str) -> Result<TenantId, String> {
    match TenantId::is_valid(text) {
        true => Ok(text.into()),
        false => Err(format!("write letters, digits, `-`, `_`, `.`, `:` and `@`, at most {}", TenantId::MAX_BYTES)),
    }
}

/// Parses a span of time.
///
/// # Errors
/// What is wrong with the text.
pub fn span(text: &str) -> Result<Duration, String> {
    HumanDuration::parse(text).map(|span| span.0)
}

/// A span of time, or a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// A span before or after now, with its text.
    Span(Duration, String),
    /// A moment in milliseconds since 1970.
    Moment(u64),
}

impl When {
    /// Parses `30d`, `2026-12-31` (its beginning, UTC) or `2026-12-31T18:00:00Z`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bare = text.split_once(|c: char| !c.is_ascii_digit());
        if bare.is_none_or(|(_, rest)| rest.chars().all(|c| c.is_ascii_alphabetic())) {
            return span(text).map(|span| Self::Span(span, text.to_owned()));
        }
        let whole = if text.len() == "2026-12-31".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let at = whole.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
        at.map(Self::Moment).ok_or_else(|| {
            format!("`{text}` is no time: write a span such as `30d`, a date such as `2026-12-31`, or `2026-12-31T18:00:00Z`")
        })
    }

    /// The moment in milliseconds since 1970; a span counts forward from `now`.
    pub fn after(&self, now: u64) -> u64 {
        match self {
            Self::Span(span, _) => now.saturating_add(millis(*span)),
            Self::Moment(at) => *at,
        }
    }

    /// The moment in milliseconds since 1970; a span counts back from `now`.
    pub fn before(&self, now: u64) -> u64 {
        match self {
            Self::Span(span, _) => now.saturating_sub(millis(*span)),
            Self::Moment(at) => *at,
        }
    }
}

/// A duration in whole milliseconds.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_span_a_date_or_a_moment() {
        let day = 86_400_000;
        let read = |text: &str| When::parse(text).unwrap();
        assert_eq!((read("30d").after(day), read("30d").before(31 * day)), (31 * day, day));
        assert_eq!(read("1970-01-02"), When::Moment(day));
        assert_eq!(read("1970-01-02T01:00:00+01:00"), When::Moment(day));
        assert_eq!(read(" 1970-01-02T00:00:00.5Z ").before(0), day + 500);
        for (text, hint) in [
            ("30", "not a duration"),
            ("soon", "not a duration"),
            ("400d", "366d"),
            ("", "not a duration"),
            ("2026-13-01", "is no time"),
            ("2026-12-31T18:00", "is no time"),
            ("1969-12-31", "is no time"),
            ("-1d", "is no time"),
            ("2026/12/31", "is no time"),
        ] {
            let error = When::parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
