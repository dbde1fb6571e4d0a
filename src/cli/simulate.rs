//! `can simulate`: runs the simulated provider alone.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;
use simulator::{Simulated, SimulatedConfig};

use crate::config::HumanDuration;

/// Run the simulated provider alone, without the gateway: an OpenAI lookalike for tests.
#[derive(Args, Debug)]
pub struct Simulate {
    /// The address to listen on; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The time between two events of a stream.
    #[arg(long, default_value = "5ms", value_name = "DURATION", value_parser = duration)]
    token_interval: Duration,
    /// The time before a reply starts.
    #[arg(long, default_value = "0ms", value_name = "DURATION", value_parser = duration)]
    latency: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    HumanDuration::parse(text).map(|duration| duration.0)
}

/// Runs the simulated provider until it is killed.
pub fn run(args: &Simulate) -> ExitCode {
    let config =
        SimulatedConfig { token_interval: args.token_interval, latency: args.latency, ..SimulatedConfig::default() };
    match Simulated::spawn_thread(args.listen, config) {
        Ok(simulated) => {
            eprintln!("simulated provider listening on http://{}", simulated.addr());
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("can: cannot listen on {}: {error}", args.listen);
            ExitCode::FAILURE
        }
    }
}
