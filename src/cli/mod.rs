//! The command line: `can serve`, `can simulate`, `can health`, `can check`, `can config`, `can auth`, `can registry`,
//! `can cache`.

mod auth;
mod cache;
mod check;
mod config;
mod health;
mod input;
mod output;
mod registry;
mod serve;
mod simulate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The OpenAI-compatible LLM gateway.
#[derive(Parser, Debug)]
#[command(name = "can", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::Serve),
    /// Check a configuration file, and report all its faults at once.
    Check(check::CheckArgs),
    /// Show, explain or write configuration.
    Config(config::ConfigArgs),
    /// Create, list and end tokens.
    Auth(auth::AuthArgs),
    /// Show what the gateway has done and what it cost.
    Registry(registry::RegistryArgs),
    /// Show what the cache has saved, and purge it.
    Cache(cache::CacheArgs),
    Simulate(simulate::Simulate),
    Health(health::Health),
}

impl Cli {
    /// Runs the command, and returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Check(args) => check::run(args),
            Command::Config(args) => config::run(args),
            Command::Auth(args) => auth::run(args),
            Command::Registry(args) => registry::run(args),
            Command::Cache(args) => cache::run(args),
            Command::Simulate(args) => simulate::run(&args),
            Command::Health(args) => health::run(&args),
        }
    }
}
