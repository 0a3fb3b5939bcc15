//! Host memory: what is available to this process within the limits that its control groups and its address space
//! set, what processes hold of it, and whether the kernel is short of it.

mod groups;

use std::fs;

const MIB: u64 = 1 << 20;

/// MiB that can be allocated before the kernel runs out: the smallest of `MemAvailable`, the room that the memory
/// cgroups (v1 or v2) leave with reclaimable file pages counted as free, and the rest of this process's address
/// space where that is limited (`ulimit -v`). 0 where nothing can be read.
pub fn available_mib() -> u64 {
    let system = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| bytes_of(&text, "MemAvailable:"));
    let groups = groups::own();
    let group = groups
        .iter()
        .filter_map(|dir| groups::bounds(dir))
        .map(|bounds| bounds.room)
        .min();
    let bounds = [system, group, address_space_room()];
    bounds.into_iter().flatten().min().unwrap_or(0) / MIB
}

/// MiB of host memory in all, or what the control groups allow of it.
pub fn total_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let system = bytes_of(&text, "MemTotal:").unwrap_or(0);
    let groups = groups::own();
    let limits = groups.iter().filter_map(|dir| groups::bounds(dir));
    limits.map(|bounds| bounds.limit).fold(system, u64::min) / MIB
}

/// MiB that this process holds in memory (resident set).
pub fn own_rss_mib() -> u64 {
    status_mib(std::process::id(), "VmRSS:")
}

/// MiB that a process holds in memory; 0 if it is gone.
pub fn rss_mib(pid: u32) -> u64 {
    status_mib(pid, "VmRSS:")
}

/// As [`rss_mib`] without the pages of mapped files: what becomes available when the process gives it up. The other
/// pages count as available all along.
pub fn held_mib(pid: u32) -> u64 {
    status_mib(pid, "RssAnon:") + status_mib(pid, "RssShmem:")
}

/// Resident bytes of this process that no file backs; 0 where the kernel does not say.
pub fn own_anonymous_bytes() -> u64 {
    status_bytes(std::process::id(), "RssAnon:")
}

/// Highest [`rss_mib`] since the process started, or since [`forget_peak`]; 0 if the kernel does not say.
pub fn peak_rss_mib(pid: u32) -> u64 {
    status_mib(pid, "VmHWM:")
}

/// Begins the count of [`peak_rss_mib`] anew; false where the kernel refuses.
pub fn forget_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// Share of the last ten seconds, in percent, in which some task waited for memory; `None` where the kernel does not
/// measure it.
pub fn pressure_percent() -> Option<f32> {
    pressure_of(&fs::read_to_string("/proc/pressure/memory").ok()?)
}

/// Processes that the kernel has killed for want of memory, on the machine and in this process's control groups;
/// `None` where nothing is counted. Only its growth says something.
pub fn oom_kills() -> Option<u64> {
    let system = fs::read_to_string("/proc/vmstat").ok().and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    });
    let groups = groups::own();
    let groups = groups.iter().filter_map(|dir| groups::oom_kills(dir));
    system.into_iter().chain(groups).reduce(u64::saturating_add)
}

fn status_mib(pid: u32, key: &str) -> u64 {
    status_bytes(pid, key) / MIB
}

fn status_bytes(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    bytes_of(&status, key).unwrap_or(0)
}

/// Bytes of a `Key:  N kB` line.
fn bytes_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line[key.len()..]
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}

/// What `ulimit -v` leaves; children inherit the limit.
fn address_space_room() -> Option<u64> {
    let limit = address_space_limit(&fs::read_to_string("/proc/self/limits").ok()?)?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(limit.saturating_sub(bytes_of(&status, "VmSize:")?))
}

/// The soft limit in bytes; `None` where there is none.
fn address_space_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pressure_of(text: &str) -> Option<f32> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace()
        .find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
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

    #[test]
    fn an_address_space_limit_is_read_and_unlimited_is_none() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max processes             95000                95000                processes\n\
                 Max address space         {soft}            unlimited            bytes\n"
            )
        };
        assert_eq!(address_space_limit(&limits("4294967296")), Some(4 << 30));
        assert_eq!(address_space_limit(&limits("unlimited")), None);
    }

    #[test]
    fn pressure_is_the_ten_second_share() {
        let text = "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=2\n";
        assert_eq!(pressure_of(text), Some(12.5));
        assert_eq!(pressure_of(""), None);
    }
}
