//! What the kernel knows: CPU time and memory of a process, and the machine the figures belong to.

use std::process::Command;
use std::time::Duration;

/// CPU time (user and system) of another process and all its threads so far, from its CPU clock: in nanoseconds,
/// and including threads that have ended, which `/proc/<pid>/stat` counts in ticks of 10 ms only.
#[cfg(target_os = "linux")]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    let time = nix::time::clock_getcpuclockid(pid).ok()?.now().ok()?;
    Some(time.into())
}

/// Only Linux lets one process read the CPU clock of another.
#[cfg(not(target_os = "linux"))]
pub fn cpu_time(_pid: u32) -> Option<Duration> {
    None
}

/// Resident memory in KiB. `smaps_rollup` counts pages; `status` is cheaper but lags by a few hundred KiB.
pub fn resident_kib(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Rss:").or_else(|| resident_kib_quick(pid))
}

/// Resident memory in KiB, cheap enough to sample while the process works.
pub fn resident_kib_quick(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// CPU time of the whole machine, for what others took from it during the run.
pub struct Busy {
    steal: f64,
    total: f64,
    load: String,
}

impl Busy {
    pub fn now() -> Self {
        let stat = read("/proc/stat");
        let ticks: Vec<f64> =
            stat.lines().next().unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect();
        let load = read("/proc/loadavg").split(' ').next().unwrap_or("?").to_owned();
        Self { steal: ticks.get(7).copied().unwrap_or(0.0), total: ticks.iter().take(8).sum(), load }
    }
}

/// The machine, the time and the build, in lines for the end of a report.
pub fn facts(before: &Busy) -> String {
    let after = Busy::now();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let kernel = read("/proc/sys/kernel/osrelease");
    let stolen = 100.0 * (after.steal - before.steal) / (after.total - before.total).max(1.0);
    let build =
        if cfg!(debug_assertions) { "DEV PROFILE: these figures say nothing about a release" } else { "release" };
    format!(
        "machine: {cores} cores, {}, kernel {}\n\
         run: {}, {build}, load average {} before the run, {stolen:.1} % of CPU time stolen by the host during it\n",
        model.unwrap_or("unknown CPU"),
        kernel.trim(),
        date(),
        before.load,
    )
}

fn date() -> String {
    let said = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output().ok();
    said.and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(String::new, |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
