//! `can registry …`: shows what the gateway has done, and what it cost.
//!
//! The commands read the database file, with or without a running gateway.

mod costs;
mod metrics;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{input::Settings, output::complain};
use crate::store::StoreError;

/// Arguments of `can registry`.
#[derive(Args, Debug)]
pub struct RegistryArgs {
    /// The configuration file, for the database, tenants and budgets. Without it: the file of CAN_CONFIG, or else the defaults.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: RegistryCommand,
}

#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// Numbers about requests, cache, costs and latency.
    Metrics {
        #[command(subcommand)]
        command: MetricsCommand,
    },
    /// Costs over time.
    Analytics {
        #[command(subcommand)]
        command: AnalyticsCommand,
    },
}

#[derive(Debug, Subcommand)]
enum MetricsCommand {
    /// Show the numbers for a span of time.
    Show(metrics::ShowArgs),
}

#[derive(Debug, Subcommand)]
enum AnalyticsCommand {
    /// Show costs by day, and the state of the monthly budget.
    Costs(costs::CostsArgs),
}

/// Runs `can registry`.
pub fn run(args: RegistryArgs) -> ExitCode {
    let outcome = Settings::load(args.config).and_then(|settings| match args.command {
        RegistryCommand::Metrics { command: MetricsCommand::Show(args) } => metrics::show(&settings, &args),
        RegistryCommand::Analytics { command: AnalyticsCommand::Costs(args) } => costs::show(&settings, &args),
    });
    outcome.unwrap_or_else(|message| complain(&message))
}

/// The error message for a database that cannot be read.
fn unreadable(error: StoreError) -> String {
    format!("the database cannot be read: {error}")
}
