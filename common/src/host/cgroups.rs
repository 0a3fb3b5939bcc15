//! Memory control groups, v1 and v2: their limits, the memory that is available within them, and the
//! processes that the kernel killed at their limits.

use std::fs;
use std::path::{Path, PathBuf};

/// cgroup v1 writes "no limit" as a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// Returns the directories of the memory groups of this process and of all groups above them, innermost
/// first.
pub(super) fn own_groups() -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    dirs(&groups, Path::new("/sys/fs/cgroup"))
}

/// The memory limit of one control group and what is available within it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupMemory {
    pub(super) limit: u64,
    /// The limit less what is in use; reclaimable file pages count as available.
    pub(super) available: u64,
}

/// Reads the memory limit of a group and what is available within it; `None` if the group sets no limit.
pub(super) fn group_memory(dir: &Path) -> Option<GroupMemory> {
    let number = |name: &str| {
        fs::read_to_string(dir.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let (limit, used, reclaimable_keys) = match number("memory.max") {
        Some(limit) => (
            limit,
            number("memory.current")?,
            ["inactive_file ", "active_file "],
        ),
        None => (
            number("memory.limit_in_bytes")?,
            number("memory.usage_in_bytes")?,
            ["total_inactive_file ", "total_active_file "],
        ),
    };
    if limit >= NO_LIMIT {
        return None;
    }
    // Pages of files in use count too, as they do in the system's `MemAvailable`: the kernel writes them back
    // or drops them before it kills. Weights that an engine maps are most of them.
    let reclaimable = reclaimable_keys
        .iter()
        .filter_map(|key| keyed(dir, "memory.stat", key));
    let reclaimable: u64 = reclaimable.sum();
    Some(GroupMemory {
        limit,
        available: limit.saturating_sub(used.saturating_sub(reclaimable)),
    })
}

/// Returns the number of the group's processes that the kernel killed because memory ran out; `None` if it is
/// not counted.
pub(super) fn oom_kills(dir: &Path) -> Option<u64> {
    keyed(dir, "memory.events", "oom_kill ").or_else(|| keyed(dir, "memory.oom_control", "oom_kill "))
}

/// Reads the number after `key` in a file of `key number` lines. `key` includes the blank.
fn keyed(dir: &Path, name: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(name)).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// Returns the directories below `root` of the memory groups that the text of `/proc/self/cgroup` lists.
fn dirs(proc_self_cgroup: &str, root: &Path) -> Vec<PathBuf> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(name), text).unwrap();
    }

    fn available(dir: &Path) -> Option<u64> {
        group_memory(dir).map(|memory| memory.available)
    }

    #[test]
    fn v2_limit_counts_reclaimable_pages_as_room() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        write(&dir, "memory.max", "1000\n");
        write(&dir, "memory.current", "900\n");
        write(
            &dir,
            "memory.stat",
            "anon 500\ninactive_file 200\nactive_file 100\n",
        );
        let expected = GroupMemory {
            limit: 1000,
            available: 400,
        };
        assert_eq!(group_memory(&dir), Some(expected));
        write(&dir, "memory.max", "max\n");
        assert_eq!(group_memory(&dir), None);
    }

    #[test]
    fn v1_limit_is_read_and_a_huge_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory.limit_in_bytes", "1000");
        write(root.path(), "memory.usage_in_bytes", "1000");
        write(root.path(), "memory.stat", "total_inactive_file 10");
        assert_eq!(available(root.path()), Some(10));
        write(root.path(), "memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(available(root.path()), None);
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(oom_kills(root.path()), None);
        write(
            root.path(),
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        assert_eq!(oom_kills(root.path()), Some(2));
        write(
            root.path(),
            "memory.events",
            "oom 9\noom_kill 5\noom_group_kill 0\n",
        );
        assert_eq!(oom_kills(root.path()), Some(5));
    }

    #[test]
    fn every_ancestor_group_is_looked_at() {
        let v2 = dirs("0::/a/b\n", Path::new("/g"));
        assert_eq!(v2, ["/g/a/b", "/g/a", "/g/"].map(PathBuf::from));
        let v1 = dirs("5:cpu,cpuacct:/x\n4:memory:/y\n", Path::new("/g"));
        assert_eq!(v1, ["/g/memory/y", "/g/memory/"].map(PathBuf::from));
    }
}
