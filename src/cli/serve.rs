//! `can serve`: runs the gateway.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, SystemTime},
};

use clap::Args;
use simulator::{Simulated, SimulatedConfig};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::config::file_or_env;
use crate::{
    config::{Config, Fault, Loaded, Source},
    server::{Load, Reloader, Server, StartError},
    telemetry,
};

/// How often the files of the configuration are checked for changes.
const WATCH: Duration = Duration::from_millis(500);

/// Run the gateway.
#[derive(Args, Debug)]
pub struct Serve {
    /// The configuration file. Without it: the file of CAN_CONFIG, or else the defaults and the environment.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer from the built-in simulated provider: no key, no network, no cost.
    #[arg(long)]
    simulate: bool,
    /// Take the listening sockets, the reservations and the database over from a running gateway. Send that gateway SIGQUIT
    /// within 30 s.
    #[arg(long)]
    upgrade: bool,
}

/// Runs the gateway until a signal ends it.
pub fn run(args: Serve) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("can: cannot start:\n{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Serve) -> Result<(), StartError> {
    let hangups = Hangups::hear().map_err(|error| StartError(vec![format!("SIGHUP cannot be heard: {error}")]))?;
    let source = Source { simulate: args.simulate, ..Source::new(file_or_env(args.config)) };
    let first = load(&source)?;
    telemetry::init_log(&first.config.log);
    first.warnings.iter().for_each(|warning| tracing::warn!("{}", shown(warning, &source)));
    let simulated = match args.simulate {
        true => Some(simulate(&first.config)?),
        false => None,
    };
    let target = simulated.as_ref().map(Simulated::addr);
    let apply = move |config: Config| match target {
        Some(address) => config.simulated(address),
        None => config,
    };
    let server = Server::compose(apply(first.config), args.upgrade)?;
    let files = first.files;
    let reload: Load = Box::new(move || {
        let mut loaded = load(&source)?;
        loaded.config = apply(loaded.config);
        Ok(loaded)
    });
    watch(hangups, server.reloader(reload, first.text), files);
    if let Some(admin) = server.admin {
        tracing::info!(%admin, "admin API");
    }
    if target.is_some() {
        tracing::warn!("every provider is simulated: answers are made up and cost nothing");
    }
    let signals = server.signals();
    server.run(signals, || {
        tracing::info!("no request is open, exiting");
        telemetry::flush_access_log();
        std::process::exit(0);
    });
    telemetry::flush_access_log();
    Ok(())
}

fn load(source: &Source) -> Result<Loaded, StartError> {
    Config::load(source).map_err(|faults| StartError(faults.iter().map(|fault| shown(fault, source)).collect()))
}

fn shown(fault: &Fault, source: &Source) -> String {
    fault.in_file(source.file.as_deref().unwrap_or(Path::new("(no file)")))
}

fn simulate(config: &Config) -> Result<Simulated, StartError> {
    let config = SimulatedConfig {
        token_interval: config.simulate.token_interval,
        latency: config.simulate.latency,
        ..SimulatedConfig::default()
    };
    Simulated::spawn_thread(([127, 0, 0, 1], 0).into(), config)
        .map_err(|error| StartError(vec![format!("the simulated provider cannot start: {error}")]))
}

/// The stream of SIGHUP signals, and its runtime.
struct Hangups {
    runtime: Runtime,
    signal: Signal,
}

impl Hangups {
    /// Registers for SIGHUP, which no longer ends the process then: a SIGHUP during the start causes a reload once the gateway
    /// runs.
    fn hear() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signal = {
            let _entered = runtime.enter();
            signal(SignalKind::hangup())?
        };
        Ok(Self { runtime, signal })
    }
}

/// Reloads on SIGHUP and when one of the files changes.
fn watch(hangups: Hangups, reloader: Reloader, files: Vec<PathBuf>) {
    let Hangups { runtime, signal } = hangups;
    thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || runtime.block_on(follow(signal, &reloader, files)))
        .map_or_else(|error| tracing::error!(%error, "the configuration will not be reloaded"), drop);
}

async fn follow(mut hangup: Signal, reloader: &Reloader, mut files: Vec<PathBuf>) {
    let mut applied = stamps(&files);
    let mut last = applied.clone();
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(WATCH), if !files.is_empty() => false,
        };
        let now = stamps(&files);
        // A changed file is read once it stays unchanged for a moment: it may be half written, or about to be replaced.
        let settled = now == last;
        last.clone_from(&now);
        if asked || settled && now != applied {
            applied = now;
            // The reloader logs and counts a refusal; the watched files stay as they are.
            let outcome = if asked { reloader.reload() } else { reloader.reload_changed() };
            if let Ok(read) = outcome {
                // A file that changed after it was read keeps its old stamp, so that it is read again.
                let known = |file: &PathBuf| files.iter().position(|other| other == file).map(|at| applied[at]);
                let stamped = read.iter().map(|file| known(file).unwrap_or_else(|| stamp(file))).collect();
                (files, applied) = (read, stamped);
                last.clone_from(&applied);
            }
        }
    }
}

/// Modification time, length and inode of a file; `None` while it is missing.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| stamp(file)).collect()
}

/// The stamp of a file. It changes with the file, also when a symbolic link is switched to another file (Kubernetes ConfigMaps).
fn stamp(file: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let facts = std::fs::metadata(file).ok()?;
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}
