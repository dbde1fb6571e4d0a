//! The `can` binary: see [`chittycan::cli`].

use std::process::ExitCode;

use chittycan::cli::Cli;
use clap::Parser;

/// Less CPU per request than the system allocator (see the bench).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2: milliseconds until freed memory goes back to the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Its default, by which it is recognised.
const DEFAULT_DELAY: std::ffi::c_long = 10;

/// `mi_option_abandoned_page_purge` of mimalloc 2, by default off: freed memory of a thread goes back as the thread ends.
const PURGE_ENDED_THREADS: libmimalloc_sys::mi_option_t = 12;

/// Gives freed memory back at once. By default the allocator waits for a later call, which on a gateway that has become idle
/// may not come: in the bench 17 MiB stayed after a load of large bodies. Three interleaved runs of small requests showed no
/// difference in CPU beyond the noise; by profile it is about 2 %. Threads that worked on large bodies and have ended left 25 to
/// 43 MiB for good in most runs.
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
