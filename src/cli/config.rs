//! `can config …`: shows, explains and writes configuration.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::output::{complain, say};
use crate::{
    config::{self, Config, Source},
    dialect,
};

/// Arguments of `can config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show the configuration in effect (file, environment, defaults) as YAML, with secrets redacted.
    Print(PrintArgs),
    /// Write the commented default file to standard output.
    Default,
    /// Write the JSON Schema of the file to standard output.
    Schema,
    /// Write the reference of all keys (Markdown) to standard output.
    Reference,
    /// Write the disposition of each parameter in a translation between dialects (Markdown) to standard output.
    Dialects,
    /// Write a file for development: every model is served by a local model runner.
    Dev(DevArgs),
}

#[derive(Args, Debug)]
struct PrintArgs {
    /// The configuration file. Without it: the file of CAN_CONFIG, or else the defaults and the environment.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct DevArgs {
    /// Serve every model by Ollama. The option is required, although Ollama is the only supported runner.
    #[arg(long, required = true)]
    use_ollama: bool,
    /// The file to write.
    #[arg(long, short, value_name = "FILE", default_value = "can.yaml")]
    output: PathBuf,
    /// Write to standard output instead.
    #[arg(long, conflicts_with_all = ["output", "force"])]
    print: bool,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

/// Runs `can config`.
pub fn run(args: ConfigArgs) -> ExitCode {
    match args.command {
        ConfigCommand::Print(args) => print(file_or_env(args.config)),
        ConfigCommand::Default => say(&config::default_file()),
        ConfigCommand::Schema => say(&format!("{:#}\n", config::schema())),
        ConfigCommand::Reference => say(&config::reference()),
        ConfigCommand::Dialects => say(&dialect::document()),
        ConfigCommand::Dev(args) if args.print => say(&config::dev_file()),
        ConfigCommand::Dev(args) => match write_dev_file(&args.output, args.force) {
            Ok(message) => say(&message),
            Err(message) => complain(&message),
        },
    }
}

/// The configuration file of a command: the given one, or else the file of `CAN_CONFIG`. An empty path counts as none.
pub fn file_or_env(file: Option<PathBuf>) -> Option<PathBuf> {
    file.or_else(|| std::env::var_os("CAN_CONFIG").map(PathBuf::from)).filter(|file| !file.as_os_str().is_empty())
}

fn print(file: Option<PathBuf>) -> ExitCode {
    let name = file.clone().unwrap_or_else(|| PathBuf::from("configuration"));
    match Config::load(&Source::new(file)) {
        Ok(loaded) => say(&loaded.to_yaml()),
        Err(faults) => {
            let lines: Vec<_> = faults.iter().map(|fault| fault.in_file(&name)).collect();
            complain(&lines.join("\n"))
        }
    }
}

fn write_dev_file(output: &Path, force: bool) -> Result<String, String> {
    let name = output.display();
    let mut options = fs::OpenOptions::new();
    match force {
        true => options.write(true).create(true).truncate(true),
        false => options.write(true).create_new(true),
    };
    let written = options.open(output).and_then(|mut file| file.write_all(config::dev_file().as_bytes()));
    match written {
        Ok(()) => Ok(format!(
            "Wrote {name}: every model is served by the Ollama at http://127.0.0.1:11434.\n\n\
             Next:\n  ollama pull llama3.2 && ollama pull nomic-embed-text\n  can serve --config {name}\n  \
             export OPENAI_BASE_URL=http://localhost:8080/v1\n"
        )),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{name} is there already; --force replaces it, --output FILE writes elsewhere"))
        }
        Err(error) => Err(format!("cannot write {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_only_by_force() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("can.yaml");
        let message = write_dev_file(&file, false).expect("written");
        assert!(message.contains("can serve --config"), "{message}");
        assert_eq!(fs::read_to_string(&file).expect("a file"), config::dev_file());
        fs::write(&file, "mine").expect("written");
        assert!(write_dev_file(&file, false).expect_err("refused").contains("--force"));
        assert_eq!(fs::read_to_string(&file).expect("a file"), "mine");
        write_dev_file(&file, true).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("a file"), config::dev_file());
    }
}
