//! The command line of `can`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod check;
pub mod config;

/// ChittyCan Gateway: one OpenAI-compatible address in front of many LLM providers.
#[derive(Debug, Parser)]
#[command(name = "can", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file: reports all its faults at once.
    Check(check::CheckArgs),
    /// Show, explain or write configuration.
    Config(config::ConfigArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => check::run(args),
        Command::Config(args) => config::run(args),
    }
}
