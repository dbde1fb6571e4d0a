//! `can check FILE`: everything that is wrong with a configuration file, at once.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde_json::json;

use crate::config::{Config, Fault, Loaded, Source};

/// Arguments of `can check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file.
    file: PathBuf,
    /// One JSON object instead of text: `ok`, `faults`, `warnings`.
    #[arg(long)]
    json: bool,
}

/// Checks the file together with the environment. Exit status 1 when there is a fault; warnings do not count.
pub fn run(args: CheckArgs) -> ExitCode {
    let result = Config::load(&Source::new(Some(args.file.clone())));
    let text = if args.json { as_json(&result) } else { as_text(&result, &args) };
    // A reader that is gone (`can check x | head`) is no reason to change the verdict.
    let _ = io::stdout().write_all(text.as_bytes());
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn as_json(result: &Result<Loaded, Vec<Fault>>) -> String {
    let (faults, warnings): (&[Fault], &[Fault]) = match result {
        Ok(loaded) => (&[], &loaded.warnings),
        Err(faults) => (faults, &[]),
    };
    format!("{:#}\n", json!({"ok": result.is_ok(), "faults": faults, "warnings": warnings}))
}

fn as_text(result: &Result<Loaded, Vec<Fault>>, args: &CheckArgs) -> String {
    let lines = |faults: &[Fault], kind: &str| -> String {
        faults.iter().map(|fault| format!("{kind}{}\n", fault.in_file(&args.file))).collect()
    };
    match result {
        Err(faults) => lines(faults, "") + &format!("{}: {}\n", args.file.display(), count(faults.len(), "fault")),
        Ok(loaded) => {
            let config = &loaded.config;
            let with_key = config.providers.values().filter(|provider| provider.key.is_some()).count();
            let mode = if config.dev { ", dev mode" } else { "" };
            lines(&loaded.warnings, "warning: ")
                + &format!(
                    "{}: ok: {}, {with_key} of them with a key, {}, default provider {}{mode}\n",
                    args.file.display(),
                    count(config.providers.len(), "provider"),
                    count(config.routes.len(), "route"),
                    config.default_provider,
                )
        }
    }
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(text: &str, json: bool) -> (String, Result<Loaded, Vec<Fault>>, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("can.yaml");
        fs::write(&file, text).expect("written");
        let args = CheckArgs { file: file.clone(), json };
        let result = Config::load(&Source::new(Some(file.clone())));
        (if json { as_json(&result) } else { as_text(&result, &args) }, result, file)
    }

    #[test]
    fn says_where_every_fault_is() {
        let (text, result, file) = check("mode: normal\nhtp: 1\nretry:\n  attempts: x\n", false);
        assert!(result.is_err());
        let name = file.display();
        let expected = format!(
            "{name}:2: htp: unknown key; did you mean `http`?\n\
             {name}:4: retry.attempts: expected a whole number, found text\n{name}: 2 faults\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn sums_up_what_is_right() {
        let (text, result, _) = check(
            "providers: {lab: {base_url: http://lab/v1, api_key: k}}\nroutes: [{model: \"*\", to: [lab]}]\n",
            false,
        );
        assert!(result.is_ok());
        assert!(text.contains(": ok: 15 providers, ") && text.contains(", 1 route, default provider openai"), "{text}");
    }

    #[test]
    fn speaks_json() {
        let (text, ..) = check("htp: 1\n", true);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["ok"], false);
        assert_eq!(value["faults"][0]["line"], 1);
        assert_eq!(value["faults"][0]["path"], "htp");
    }
}
