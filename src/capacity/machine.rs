//! How much memory the process may use: that of the machine, within the limits of the process's control groups.

use std::{fs, path::Path};

/// Bytes that are assumed if neither the machine nor a control group states a limit.
const ASSUMED: u64 = 2 << 30;

/// Bytes of memory that this process may use: the least of the machine's memory and the limits of the process's control groups
/// (`memory.max` of version 2, `memory.limit_in_bytes` of version 1) and of all groups above them. 2 GiB if nothing can be read.
pub fn usable_memory() -> u64 {
    usable_under(Path::new("/"))
}

fn usable_under(root: &Path) -> u64 {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let physical = physical(&read("proc/meminfo"));
    let groups = read("proc/self/cgroup");
    let limits = groups.lines().flat_map(|line| limits(root, line));
    physical.into_iter().chain(limits).min().unwrap_or(ASSUMED)
}

/// The bytes of a line such as `MemTotal:       16384000 kB`.
fn physical(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The limits of one line of `/proc/self/cgroup`: `0::/path` is version 2's, `4:memory:/path` one of version 1. Inside a
/// container the path may be the host's, which does not exist there: then the mount's root is the container's own group.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" if number == "0" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let path = path.trim_start_matches('/');
    // A group's limit holds for all groups below it. `max`, and version 1's number beyond all memory, are no limit.
    Path::new(path)
        .ancestors()
        .filter_map(|group| fs::read_to_string(root.join(mount).join(group).join(file)).ok()?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        usable_under(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1024 kB\nMemFree:  5 kB\n");
    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_limit_it_is_the_machines_memory() {
        assert_eq!(machine(&[]), ASSUMED);
        assert_eq!(machine(&[MEMINFO]), MIB);
        let unlimited = [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")];
        assert_eq!(machine(&unlimited), MIB);
        assert!(usable_memory() > 64 * MIB);
    }

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        let nested = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a.slice/b.scope\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "4096\n"),
            ("sys/fs/cgroup/a.slice/b.scope/memory.max", "8192\n"),
        ];
        assert_eq!(machine(&nested), 4096);
        let container = [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "65536\n")];
        assert_eq!(machine(&container), 65536);
    }

    #[test]
    fn version_1_is_read_too() {
        let lines = "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/docker/x\n";
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(machine(&[MEMINFO, ("proc/self/cgroup", lines), unlimited]), MIB);
        // The host's path does not exist in the container; its group is the mount's root.
        let limited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "32768\n");
        assert_eq!(machine(&[MEMINFO, ("proc/self/cgroup", lines), limited]), 32768);
    }
}
