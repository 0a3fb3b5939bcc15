//! Reads the name of this machine and the state of its memory: how much is available to this process within the limits of its control
//! groups and its address space, how much processes use, and whether the kernel runs short of it.
//!
//! The worker's supervisor reads these numbers before it accepts work, to report them in heartbeats, and when
//! a child process has ended; the engine reads its own memory use. All of them are 0 or `None` if the kernel
//! does not report them.

mod cgroups;

use procfs::process::{ClearRefs, LimitValue, Process, Status};
use procfs::{Current as _, Meminfo, MemoryPressure};

const MIB: u64 = 1 << 20;

/// Returns the MiB that can be allocated before memory runs out: the smallest of `MemAvailable`, the memory
/// that is available within the memory cgroups (v1 or v2), and the rest of this process's address space if
/// that is limited (`ulimit -v`). Reclaimable file pages count as available. Returns 0 if nothing can be
/// read.
pub fn available_mib() -> u64 {
    let system = Meminfo::current().ok().and_then(|memory| memory.mem_available);
    let groups = cgroups::own_groups();
    let group = groups
        .iter()
        .filter_map(|dir| cgroups::group_memory(dir))
        .map(|memory| memory.available)
        .min();
    let limits = [system, group, address_space_left()];
    limits.into_iter().flatten().min().unwrap_or(0) / MIB
}

/// Returns the MiB of host memory in all, or the limit of the control groups if that is lower.
pub fn total_mib() -> u64 {
    let system = Meminfo::current().map_or(0, |memory| memory.mem_total);
    let groups = cgroups::own_groups();
    let limits = groups.iter().filter_map(|dir| cgroups::group_memory(dir));
    limits.map(|memory| memory.limit).fold(system, u64::min) / MIB
}

/// Returns the name of this machine, if it has one in Unicode.
pub fn name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// Returns the resident set size of this process in MiB.
pub fn own_rss_mib() -> u64 {
    rss_mib(std::process::id())
}

/// Returns the resident set size of a process in MiB, or 0 if the process has ended.
pub fn rss_mib(pid: u32) -> u64 {
    // The size is rounded up, so that only a process that has ended has 0.
    kib(pid, |status| status.vmrss).div_ceil(1024)
}

/// Returns the resident MiB of a process without the pages of mapped files. These become available when the
/// process ends; pages of mapped files count as available at any time.
pub fn held_mib(pid: u32) -> u64 {
    kib(pid, |status| Some(status.rssanon? + status.rssshmem?)) / 1024
}

/// Returns the resident bytes of this process that no file backs, or 0 if the kernel does not report them.
pub fn own_anonymous_bytes() -> u64 {
    kib(std::process::id(), |status| status.rssanon) * 1024
}

/// Returns the highest resident set size in MiB since the process started or since [`reset_peak_rss`]; 0 if
/// the kernel does not report it.
pub fn peak_rss_mib(pid: u32) -> u64 {
    kib(pid, |status| status.vmhwm) / 1024
}

/// Resets the value of [`peak_rss_mib`] to the present size; returns false if the kernel refuses.
pub fn reset_peak_rss(pid: u32) -> bool {
    process(pid).is_some_and(|process| process.clear_refs(ClearRefs::PeakRSS).is_ok())
}

/// Returns the share of the last ten seconds, in percent, in which some task waited for memory (`some avg10`
/// of the kernel's pressure stall information); `None` if the kernel does not measure it.
pub fn pressure_percent() -> Option<f32> {
    Some(MemoryPressure::current().ok()?.some.avg10)
}

/// Returns the number of processes that the kernel has killed because memory ran out, on the machine and in
/// this process's control groups; `None` if nothing is counted. A kill may be counted more than once, so that
/// only the growth of the number has a meaning.
pub fn oom_kills() -> Option<u64> {
    let counters = procfs::vmstat().ok();
    let system = counters.and_then(|counters| u64::try_from(*counters.get("oom_kill")?).ok());
    let groups = cgroups::own_groups();
    let groups = groups.iter().filter_map(|dir| cgroups::oom_kills(dir));
    system.into_iter().chain(groups).reduce(u64::saturating_add)
}

/// Returns one number of a process's status, in KiB, or 0 if the process has ended or the kernel does not
/// report it.
fn kib(pid: u32, figure: impl FnOnce(Status) -> Option<u64>) -> u64 {
    process(pid)
        .and_then(|process| figure(process.status().ok()?))
        .unwrap_or(0)
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// Returns the bytes of this process's address space that `ulimit -v` leaves; child processes inherit the
/// limit.
fn address_space_left() -> Option<u64> {
    let process = Process::myself().ok()?;
    let LimitValue::Value(limit) = process.limits().ok()?.max_address_space.soft_limit else {
        return None;
    };
    Some(limit.saturating_sub(process.status().ok()?.vmsize? * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        assert!(available_mib() > 0 && available_mib() <= total_mib());
        assert!(own_rss_mib() > 0 && own_rss_mib() < total_mib());
        let own = std::process::id();
        assert!(held_mib(own) <= rss_mib(own) + 1);
        assert_eq!(rss_mib(u32::MAX), 0);
    }
}
