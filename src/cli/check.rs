//! `can check FILE`: reports all faults of a configuration file at once.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    config::{Config, Fault, Loaded, Source},
    pricing::Catalogue,
    server::tls,
};

/// Arguments of `can check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file.
    file: PathBuf,
    /// Check the file alone: no environment variable is read, and the secrets that the file refers to (`env:NAME`, `file:PATH`)
    /// need not exist. For a machine without the secrets, such as one that tests changes.
    #[arg(long)]
    no_env: bool,
    /// Print one JSON object instead of text: `ok`, `faults`, `warnings`.
    #[arg(long)]
    json: bool,
}

/// Checks the file, and the price list, certificates and keys that it names, together with the environment. The exit status is 1
/// if there is a fault; warnings do not count.
pub fn run(args: CheckArgs) -> ExitCode {
    let verdict = FileVerdict::of(&args.file, args.no_env);
    let text = if args.json { verdict.as_json() } else { verdict.as_text() };
    // A reader that has closed the pipe (`can check x | head`) must not change the verdict.
    let _ = io::stdout().write_all(text.as_bytes());
    if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The result of checking a file.
struct FileVerdict {
    file: PathBuf,
    faults: Vec<(PathBuf, Fault)>,
    warnings: Vec<(PathBuf, Fault)>,
    /// A summary of the configuration, if there is no fault.
    summary: String,
}

impl FileVerdict {
    fn of(file: &Path, no_env: bool) -> Self {
        let here = |faults: Vec<Fault>| -> Vec<(PathBuf, Fault)> {
            faults.into_iter().map(|fault| (file.to_owned(), fault)).collect()
        };
        let source = Source::new(Some(file.to_owned()));
        let source = if no_env { Source { env: Arc::new(|_| None), simulate: true, ..source } } else { source };
        let Loaded { config, warnings, .. } = match Config::load(&source) {
            Ok(loaded) => loaded,
            Err(faults) => {
                return Self { file: file.into(), faults: here(faults), warnings: Vec::new(), summary: String::new() };
            }
        };
        // The key of a certificate is also a secret.
        let certificates = if no_env { tls::Findings::default() } else { tls::check(&config) };
        let mut faults = here(certificates.faults);
        faults.extend(price_faults(config.prices_file.as_deref()));
        let mut warnings = here(warnings);
        warnings.extend(here(certificates.warnings));
        let summary = match no_env {
            // Who can spend depends on the keys in the environment.
            true => format!("{}; the environment and the secrets were not looked at", summary(&config, None)),
            false => {
                let shown = file.display();
                let with_key = Some(with_key(&config));
                let (spenders, memory) = (config.who_can_spend(None), config.server.memory_line());
                format!(
                    "{}\n{shown}: who can spend: {spenders}\n{shown}: memory budget: {memory}",
                    summary(&config, with_key)
                )
            }
        };
        Self { file: file.into(), faults, warnings, summary }
    }

    fn as_json(&self) -> String {
        let list = |faults: &[(PathBuf, Fault)]| -> Vec<Value> {
            let entry = |(file, fault): &(PathBuf, Fault)| json!({"file": file, "line": fault.line, "path": fault.path, "message": fault.message});
            faults.iter().map(entry).collect()
        };
        let (faults, warnings) = (list(&self.faults), list(&self.warnings));
        format!("{:#}\n", json!({"ok": faults.is_empty(), "faults": faults, "warnings": warnings}))
    }

    fn as_text(&self) -> String {
        let lines = |kind: &str, faults: &[(PathBuf, Fault)]| -> String {
            faults.iter().map(|(file, fault)| format!("{kind}{}\n", fault.in_file(file))).collect()
        };
        let end = match self.faults.len() {
            0 => format!("ok: {}", self.summary),
            n => count(n, "fault"),
        };
        format!("{}{}{}: {end}\n", lines("warning: ", &self.warnings), lines("", &self.faults), self.file.display())
    }
}

/// The faults of the price list that the configuration names.
fn price_faults(file: Option<&Path>) -> Vec<(PathBuf, Fault)> {
    let Some(file) = file else { return Vec::new() };
    let faults = match fs::read_to_string(file) {
        Err(error) => vec![Fault { line: None, path: String::new(), message: format!("cannot be read: {error}") }],
        Ok(text) => Catalogue::builtin().overlay(&text).err().unwrap_or_default(),
    };
    faults.into_iter().map(|fault| (file.to_owned(), fault)).collect()
}

fn with_key(config: &Config) -> usize {
    config.providers.values().filter(|provider| provider.key.is_some()).count()
}

fn summary(config: &Config, with_key: Option<usize>) -> String {
    format!(
        "{}{}, {}, default provider {}{}",
        count(config.providers.len(), "provider"),
        with_key.map_or_else(String::new, |keys| format!(", {keys} of them with a key")),
        count(config.routes.len(), "route"),
        config.default_provider,
        if config.dev { ", dev mode" } else { "" },
    )
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (tempfile::TempDir, FileVerdict) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("can.yaml");
        fs::write(&file, text).expect("written");
        fs::write(dir.path().join("prices.yaml"), "models: 5\n").expect("written");
        let verdict = FileVerdict::of(&file, false);
        (dir, verdict)
    }

    #[test]
    fn says_where_every_fault_is() {
        let (_dir, verdict) = check("mode: normal\nhtp: 1\nretry:\n  attempts: x\n");
        let name = verdict.file.display();
        let expected = format!(
            "{name}:2: htp: unknown key; did you mean `http`?\n\
             {name}:4: retry.attempts: expected a whole number, found text\n{name}: 2 faults\n"
        );
        assert_eq!(verdict.as_text(), expected);
    }

    #[test]
    fn sums_up_what_is_right() {
        let (_dir, verdict) =
            check("providers: {lab: {base_url: http://lab/v1, api_key: k}}\nroutes: [{model: \"*\", to: [lab]}]\n");
        let text = verdict.as_text();
        assert!(text.contains(": ok: 15 providers, ") && text.contains(", 1 route, default provider openai"), "{text}");
    }

    #[test]
    fn needs_no_secret_where_it_is_told_so() {
        let text = "providers:\n  openai: {api_key: env:CAN_TEST_NO_SUCH_KEY}\n  groq: {api_key: file:no/such/key, \
                    headers: {x-team: env:CAN_TEST_NO_SUCH_HEADER}}\n";
        let (_dir, verdict) = check(text);
        assert_eq!(verdict.faults.len(), 3, "{}", verdict.as_text());
        let without = FileVerdict::of(&verdict.file, true);
        let said = without.as_text();
        assert!(without.faults.is_empty() && without.warnings.is_empty(), "{said}");
        assert!(said.contains("secrets were not looked at") && !said.contains("with a key"), "{said}");
        // Everything else is checked as before.
        let (_dir, wrong) = check("providers: {openai: {api_key: env:CAN_TEST_NO_SUCH_KEY, htp2: true}}\n");
        let found = FileVerdict::of(&wrong.file, true).as_text();
        assert!(found.contains("unknown key") && found.ends_with("1 fault\n"), "{found}");
    }

    #[test]
    fn looks_into_the_price_list() {
        let (dir, verdict) = check("prices: {file: prices.yaml}\n");
        let text = verdict.as_text();
        assert!(text.starts_with(&format!("{}:1: ", dir.path().join("prices.yaml").display())), "{text}");
    }

    #[test]
    fn speaks_json() {
        let (_dir, verdict) = check("htp: 1\n");
        let value: Value = serde_json::from_str(&verdict.as_json()).expect("JSON");
        assert_eq!(value["ok"], false);
        assert_eq!((&value["faults"][0]["line"], &value["faults"][0]["path"]), (&json!(1), &json!("htp")));
        assert_eq!(value["faults"][0]["file"], json!(verdict.file));
    }
}
