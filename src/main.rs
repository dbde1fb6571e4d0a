//! The `can` binary: see [`chittycan::cli`].

use std::process::ExitCode;

use chittycan::cli::Cli;
use clap::Parser;

/// Less CPU per request than the system allocator (see the bench).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
