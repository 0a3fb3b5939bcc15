//! What folders hold, and what room their disks have.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Returns the bytes of all files under `path`; 0 if there are none. What vanishes meanwhile counts nothing.
pub fn written_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => written_bytes(&entry.path()),
        Ok(found) if found.is_file() => found.len(),
        _ => 0,
    });
    sizes.sum()
}

/// Returns the free bytes of the file system that holds `path`; `None` if it does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_below_a_folder_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        fs::write(folder.path().join("blobs/a"), [0; 100]).unwrap();
        fs::write(folder.path().join("b"), [0; 11]).unwrap();
        assert_eq!(written_bytes(folder.path()), 111);
        assert_eq!(written_bytes(&folder.path().join("absent")), 0);
    }

    #[test]
    fn the_room_of_a_folder_is_known_and_that_of_an_absent_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()) > Some(0));
        assert_eq!(free_bytes(&folder.path().join("absent")), None);
    }
}
