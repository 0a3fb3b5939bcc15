//! Host memory: what is available to this process within the limits that its control groups and its address space
//! set, what processes hold of it, and whether the kernel is short of it.

mod cgroups;

use procfs::process::{ClearRefs, LimitValue, Process, Status};
use procfs::{Current as _, Meminfo, MemoryPressure};

const MIB: u64 = 1 << 20;

/// MiB that can be allocated before the kernel runs out: the smallest of `MemAvailable`, the room that the memory
/// cgroups (v1 or v2) leave with reclaimable file pages counted as free, and the rest of this process's address
/// space where that is limited (`ulimit -v`). 0 where nothing can be read.
pub fn available_mib() -> u64 {
    let system = Meminfo::current().ok().and_then(|memory| memory.mem_available);
    let groups = cgroups::own();
    let group = groups
        .iter()
        .filter_map(|dir| cgroups::bounds(dir))
        .map(|bounds| bounds.room)
        .min();
    let bounds = [system, group, address_space_room()];
    bounds.into_iter().flatten().min().unwrap_or(0) / MIB
}

/// MiB of host memory in all, or what the control groups allow of it.
pub fn total_mib() -> u64 {
    let system = Meminfo::current().map_or(0, |memory| memory.mem_total);
    let groups = cgroups::own();
    let limits = groups.iter().filter_map(|dir| cgroups::bounds(dir));
    limits.map(|bounds| bounds.limit).fold(system, u64::min) / MIB
}

/// MiB that this process holds in memory (resident set).
pub fn own_rss_mib() -> u64 {
    rss_mib(std::process::id())
}

/// MiB that a process holds in memory; 0 if it is gone.
pub fn rss_mib(pid: u32) -> u64 {
    // Rounded up: only a process that is gone has none.
    kib(pid, |status| status.vmrss).div_ceil(1024)
}

/// As [`rss_mib`] without the pages of mapped files: what becomes available when the process gives it up. The other
/// pages count as available all along.
pub fn held_mib(pid: u32) -> u64 {
    kib(pid, |status| Some(status.rssanon? + status.rssshmem?)) / 1024
}

/// Resident bytes of this process that no file backs; 0 where the kernel does not say.
pub fn own_anonymous_bytes() -> u64 {
    kib(std::process::id(), |status| status.rssanon) * 1024
}

/// Highest [`rss_mib`] since the process started, or since [`forget_peak`]; 0 if the kernel does not say.
pub fn peak_rss_mib(pid: u32) -> u64 {
    kib(pid, |status| status.vmhwm) / 1024
}

/// Begins the count of [`peak_rss_mib`] anew; false where the kernel refuses.
pub fn forget_peak(pid: u32) -> bool {
    process(pid).is_some_and(|process| process.clear_refs(ClearRefs::PeakRSS).is_ok())
}

/// Share of the last ten seconds, in percent, in which some task waited for memory; `None` where the kernel does not
/// measure it.
pub fn pressure_percent() -> Option<f32> {
    Some(MemoryPressure::current().ok()?.some.avg10)
}

/// Processes that the kernel has killed for want of memory, on the machine and in this process's control groups;
/// `None` where nothing is counted. Only its growth says something.
pub fn oom_kills() -> Option<u64> {
    let counters = procfs::vmstat().ok();
    let system = counters.and_then(|counters| u64::try_from(*counters.get("oom_kill")?).ok());
    let groups = cgroups::own();
    let groups = groups.iter().filter_map(|dir| cgroups::oom_kills(dir));
    system.into_iter().chain(groups).reduce(u64::saturating_add)
}

/// One figure in KiB of a process's status; 0 if the process is gone or the kernel does not say.
fn kib(pid: u32, figure: impl FnOnce(Status) -> Option<u64>) -> u64 {
    process(pid)
        .and_then(|process| figure(process.status().ok()?))
        .unwrap_or(0)
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// What `ulimit -v` leaves; children inherit the limit.
fn address_space_room() -> Option<u64> {
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
