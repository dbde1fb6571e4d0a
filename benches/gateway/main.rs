//! The end-to-end bench: what the gateway costs over a bare Pingora pass-through and over no proxy at all.
//!
//! ```text
//! cargo bench --bench gateway -- [--quick] [--seconds N] [--rounds N] [--concurrency N]
//!                                [--only json|sse|memory|upload] [--skip-gateway] [--assert]
//! ```
//!
//! Everything runs on loopback. The load client is this process; the mock upstream, the pass-through and the gateway
//! (the real `can` binary) are child processes of one worker thread each, so that the kernel tells their CPU time and
//! memory apart. Targets are measured in turn, and the order rotates from round to round, because the machines this
//! runs on are shared and noisy: read ratios taken inside one round, not absolute figures across rounds. The
//! pass-through runs twice; the ratio of those two equal processes is the noise floor of the run.
//!
//! A verdict per line of the performance budget comes last. With `--assert` a broken budget is exit code 1; a bench
//! that could not measure always fails.

#![allow(clippy::print_stdout, reason = "the report goes to stdout")]

mod bare;
mod children;
mod json;
mod machine;
mod memory;
mod report;
mod sse;
mod stats;
mod upstream;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use report::Verdicts;

/// Anything that stops the bench; it is printed once and becomes the exit code.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The allocator of `can`, so that the pass-through differs from the gateway in what it does only.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line. `cargo bench` adds `--bench` to it.
#[derive(Parser, Debug)]
#[command(name = "gateway bench")]
struct Args {
    /// Seconds of load per target, concurrency and round
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds per workload
    #[arg(long)]
    rounds: Option<usize>,
    /// Connections of the throughput run (latency is always measured with one)
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// A short run that shows that everything works; its figures are weak
    #[arg(long)]
    quick: bool,
    /// Run one workload only
    #[arg(long)]
    only: Option<Workload>,
    /// Measure direct and pass-through only
    #[arg(long)]
    skip_gateway: bool,
    /// Measure this `can` binary instead of the one cargo built
    #[arg(long, default_value = env!("CARGO_BIN_EXE_can"))]
    gateway: PathBuf,
    /// Fail when a budget is broken
    #[arg(long, conflicts_with = "skip_gateway")]
    assert: bool,

    /// The part this process plays; set on the children only
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// Where the pass-through listens
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
    /// Where the pass-through sends its requests
    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by test runners that ask every target for its tests: there are none
    #[arg(long, hide = true)]
    list: bool,
}

/// What is measured; see the module of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// 1 KiB chat requests with JSON replies: latency, throughput, CPU
    Json,
    /// The same from the cache: CPU
    Cache,
    /// Streams of events: latency per event
    Sse,
    /// Memory of idle streams, and after large bodies
    Memory,
    /// One very large forwarded upload: memory while it runs
    Upload,
}

/// The children that are this binary itself.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Bare,
    Upstream,
}

/// How much to measure, from the command line.
struct Effort {
    quick: bool,
    seconds: f64,
    rounds: usize,
    concurrency: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        return ExitCode::SUCCESS;
    }
    let outcome = match args.role {
        Some(Role::Upstream) => in_one_thread(upstream::run()).map(|()| ExitCode::SUCCESS),
        Some(Role::Bare) => bare::run(args.listen, args.upstream).map(|()| ExitCode::SUCCESS),
        None => in_one_thread(until_told_to_stop(args)),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("gateway bench: {failure}");
        ExitCode::FAILURE
    })
}

/// One thread for the client and one for the mock: they must stay cheap next to what they measure.
fn in_one_thread<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Returns early on a signal, so that the guards which end the children run then, too.
async fn until_told_to_stop(args: Args) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = measure(args) => outcome,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

async fn measure(args: Args) -> Result<ExitCode, Failure> {
    let gateway = (!args.skip_gateway).then_some(args.gateway.as_path());
    let effort = Effort {
        quick: args.quick,
        seconds: args.seconds.unwrap_or(if args.quick { 0.5 } else { 2.0 }).max(0.05),
        rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 8 }).max(1),
        concurrency: args.concurrency.max(1),
    };
    let runs = |workload| args.only.is_none_or(|only| only == workload);
    let before = machine::Busy::now();
    let mut verdicts = Verdicts::default();

    if runs(Workload::Json) {
        json::measure(gateway, &effort, json::Replies::Proxied, &mut verdicts).await?;
    }
    if runs(Workload::Cache) {
        json::measure(gateway, &effort, json::Replies::Cached, &mut verdicts).await?;
    }
    if runs(Workload::Sse) {
        sse::measure(gateway, &effort, &mut verdicts).await?;
    }
    if runs(Workload::Memory) {
        memory::idle_streams(gateway, &effort, &mut verdicts).await?;
        memory::large_bodies(gateway, &effort, &mut verdicts).await?;
    }
    if runs(Workload::Upload) {
        memory::upload(gateway, &effort, &mut verdicts).await?;
    }

    println!("{}", machine::facts(&before));
    println!("{verdicts}");
    Ok(if args.assert && !verdicts.all_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
