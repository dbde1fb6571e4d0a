//! The `can` binary: see [`chittycan::cli`].

use std::process::ExitCode;

use chittycan::cli::Cli;
use clap::Parser;

/// mimalloc uses less CPU per request than the system allocator (see the bench).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2: milliseconds until freed memory goes back to the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// The default of [`PURGE_DELAY`], by which the option is recognised.
const DEFAULT_DELAY: std::ffi::c_long = 10;

/// `mi_option_abandoned_page_purge` of mimalloc 2, by default off: freed memory of a thread goes back as the thread ends.
const PURGE_ENDED_THREADS: libmimalloc_sys::mi_option_t = 12;

/// Makes the allocator give freed memory back at once. By default it waits for a later call, which may not come on a gateway
/// that has become idle: in the bench 17 MiB stayed after a load of large bodies. Three interleaved runs of small requests showed
/// no difference in CPU beyond the noise; by profile the cost is about 2 %. Without this, ended threads that had worked on large
/// bodies left 25 to 43 MiB for good in most runs.
#[allow(unsafe_code)]
fn return_memory_at_once() {
    // SAFETY: each call reads or writes one number of the allocator; no other thread runs yet.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == DEFAULT_DELAY {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, 0);
        }
        libmimalloc_sys::mi_option_set(PURGE_ENDED_THREADS, 1);
    }
}

fn main() -> ExitCode {
    return_memory_at_once();
    Cli::parse().run()
}
