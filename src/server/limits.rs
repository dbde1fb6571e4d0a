//! How many connections clients may have: the most that the process's file descriptors allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{config, connections::Limits};

/// File descriptors reserved for the database, the cache, the admin API, and idle connections to providers.
const RESERVE: u64 = 256;

/// File descriptors per connection: each request in flight has a connection to a provider besides the client's.
const DESCRIPTORS_EACH: u64 = 2;

/// The least number of connections, however few descriptors there are.
const LEAST: u64 = 64;

/// The most connections without a setting: each takes about 12 KiB of memory when idle.
const MOST: u64 = 50_000;

/// Limits for connections to the admin API.
pub const OF_ADMIN: Limits = Limits { all: 256, per_address: 192 };

/// Limits for connections to the client API, for as many descriptors as the system lets the process have.
pub fn of_clients(settings: &config::Server) -> Limits {
    let descriptors = raise();
    let affordable = (descriptors.saturating_sub(RESERVE) / DESCRIPTORS_EACH).max(LEAST);
    let all = settings.max_connections.unwrap_or_else(|| affordable.min(MOST) as usize);
    if all as u64 > affordable {
        tracing::warn!(
            "server.max_connections is {all}, but {descriptors} file descriptors (ulimit -n) are enough for {affordable} \
             connections of clients"
        );
    }
    let per_address = settings.max_connections_per_address.unwrap_or(all - all / 4);
    tracing::info!(all, per_address, descriptors, "connections of clients are bounded");
    Limits { all, per_address }
}

/// Raises the limit of open files to what the system allows this process, and returns it.
fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let unlimited = u64::MAX;
    let (soft, hard) = (limit.current.unwrap_or(unlimited), limit.maximum.unwrap_or(unlimited));
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}
