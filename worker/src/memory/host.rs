//! Host memory: what is available to this process, within the limits that its control groups set.

use std::fs;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
/// cgroup v1 writes "no limit" as a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// MiB that can be allocated before the kernel runs out: the smaller of `MemAvailable` and the room that the
/// memory cgroups (v1 or v2) leave, reclaimable file pages counted as free. 0 where nothing can be read.
pub fn available_mib() -> u64 {
    let system = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo_bytes(&text, "MemAvailable:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let room = cgroup_dirs(&groups, Path::new("/sys/fs/cgroup"))
        .iter()
        .filter_map(|dir| cgroup_room(dir))
        .min();
    match (system, room) {
        (Some(system), Some(room)) => system.min(room) / MIB,
        (Some(bytes), None) | (None, Some(bytes)) => bytes / MIB,
        (None, None) => 0,
    }
}

/// MiB of host memory in all.
pub fn total_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo_bytes(&text, "MemTotal:").unwrap_or(0) / MIB
}

/// MiB that this process holds in memory (resident set).
pub fn own_rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    meminfo_bytes(&status, "VmRSS:").unwrap_or(0) / MIB
}

/// MiB that another process holds in memory; 0 if it is gone.
pub fn rss_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    meminfo_bytes(&status, "VmRSS:").unwrap_or(0) / MIB
}

/// Bytes of a `Key:  N kB` line.
fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line[key.len()..]
        .trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}

/// The memory cgroup of this process and all above it, innermost first.
fn cgroup_dirs(proc_self_cgroup: &str, root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for line in proc_self_cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let base = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|name| name == "memory") => root.join("memory"),
            _ => continue,
        };
        for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
            dirs.push(base.join(ancestor));
        }
    }
    dirs
}

/// Bytes left in one cgroup, or `None` where it sets no limit.
fn cgroup_room(dir: &Path) -> Option<u64> {
    let number = |name: &str| {
        fs::read_to_string(dir.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let (limit, used, reclaimable_key) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, "inactive_file "),
        None => (
            number("memory.limit_in_bytes")?,
            number("memory.usage_in_bytes")?,
            "total_inactive_file ",
        ),
    };
    if limit >= NO_LIMIT {
        return None;
    }
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix(reclaimable_key)?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_mib() > 0 && available_mib() <= total_mib());
        assert!(own_rss_mib() > 0 && own_rss_mib() < total_mib());
    }

    #[test]
    fn v2_limit_counts_reclaimable_pages_as_room() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        write(&dir, "memory.max", "1000\n");
        write(&dir, "memory.current", "900\n");
        write(&dir, "memory.stat", "anon 500\ninactive_file 300\n");
        assert_eq!(cgroup_room(&dir), Some(400));
        write(&dir, "memory.max", "max\n");
        assert_eq!(cgroup_room(&dir), None);
    }

    #[test]
    fn v1_limit_is_read_and_a_huge_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory.limit_in_bytes", "1000");
        write(root.path(), "memory.usage_in_bytes", "1000");
        write(root.path(), "memory.stat", "total_inactive_file 10");
        assert_eq!(cgroup_room(root.path()), Some(10));
        write(root.path(), "memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(cgroup_room(root.path()), None);
    }

    #[test]
    fn every_ancestor_group_is_looked_at() {
        let dirs = cgroup_dirs("0::/a/b\n", Path::new("/g"));
        assert_eq!(dirs, ["/g/a/b", "/g/a", "/g/"].map(PathBuf::from));
        let v1 = cgroup_dirs("5:cpu,cpuacct:/x\n4:memory:/y\n", Path::new("/g"));
        assert_eq!(v1, ["/g/memory/y", "/g/memory/"].map(PathBuf::from));
    }
}
