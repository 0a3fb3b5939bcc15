//! Checks before any work that there is room at every place that a render writes to. Places on one file system
//! share its room. A render whose disk fills up nevertheless ends with that cause, and resumes.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use latentfarm_common::disk::free_bytes;
use latentfarm_common::nats::storage::{STORAGE_MEND, StorageRoom};

/// A place that the render writes to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// What the place is, such as `the work folder`.
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    /// Bytes that the render adds there, at its fullest moment.
    pub(super) bytes: u64,
    /// How the user chooses another place.
    pub(super) chosen_by: &'static str,
}

/// A file system, and what is free on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// The number of the device, which is the same for all folders of the file system.
    device: u64,
    pub(crate) free_bytes: u64,
}

/// File systems without enough room, with the places that the render would write to on each.
#[derive(Clone, Debug)]
pub struct NoRoom(Vec<(Volume, Vec<Place>)>);

impl Volume {
    /// Returns the file system that holds `path` or would hold it. `None` if it does not say what is free.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let existing = path.ancestors().find(|folder| folder.exists())?;
        Some(Self {
            device: fs::metadata(existing).ok()?.dev(),
            free_bytes: free_bytes(existing)?,
        })
    }
}

impl NoRoom {
    /// Checks the places on the file systems that `volume_of` names. Unknown free space counts as enough.
    pub(super) fn check(places: &[Place], volume_of: impl Fn(&Path) -> Option<Volume>) -> Result<(), Self> {
        let mut volumes: Vec<(Volume, Vec<Place>)> = Vec::new();
        for place in places {
            let Some(volume) = volume_of(&place.path) else {
                continue;
            };
            match volumes
                .iter_mut()
                .find(|(known, _)| known.device == volume.device)
            {
                Some((_, together)) => together.push(place.clone()),
                None => volumes.push((volume, vec![place.clone()])),
            }
        }
        volumes.retain(|(volume, together)| need(together) > volume.free_bytes);
        if volumes.is_empty() {
            Ok(())
        } else {
            Err(Self(volumes))
        }
    }
}

fn need(places: &[Place]) -> u64 {
    places.iter().map(|place| place.bytes).sum()
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (volume, places)) in self.0.iter().enumerate() {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let describe = |place: &Place| format!("{} `{}`", place.name, place.path.display());
            let names: Vec<String> = places.iter().map(describe).collect();
            let choices: Vec<&str> = places.iter().map(|place| place.chosen_by).collect();
            write!(
                f,
                "{}the job needs {} MiB for {}, where {} MiB are free: remove something there, or choose another place \
                 with {}",
                if index == 0 { "" } else { "; " },
                mib(need(places)),
                names.join(" and "),
                volume.free_bytes >> 20,
                choices.join(" and ")
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for NoRoom {}

/// The storage of a farm's server has too little room for a job.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the job needs about {} MiB of the farm's storage; {} has {} of its {} MiB free, and the jobs that the farm has need {} \
     MiB more: wait until they are over and fetched, or {STORAGE_MEND}",
    need_bytes.div_ceil(1 << 20), room.limited_by, room.free_bytes() >> 20, room.limit_bytes >> 20,
    promised_bytes.div_ceil(1 << 20)
)]
pub(crate) struct NoStorage {
    need_bytes: u64,
    promised_bytes: u64,
    room: StorageRoom,
}

impl NoStorage {
    /// Checks whether blobs of `need_bytes` fit besides those that other jobs may still store. Storage without a limit
    /// is enough.
    pub(crate) fn check(need_bytes: u64, promised_bytes: u64, room: Option<StorageRoom>) -> Result<(), Self> {
        match room.filter(|room| room.free_bytes() < need_bytes.saturating_add(promised_bytes)) {
            Some(room) => Err(Self {
                need_bytes,
                promised_bytes,
                room,
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::nats::storage::StorageLimit;

    fn place(name: &'static str, path: &str, mib: u64, chosen_by: &'static str) -> Place {
        Place {
            name,
            path: path.into(),
            bytes: mib << 20,
            chosen_by,
        }
    }

    #[test]
    fn places_on_one_file_system_share_its_room_and_all_that_is_short_is_named() {
        let places = [
            place("the work folder", "/a/work", 60, "--work-dir"),
            place("the output", "/a/out.mp4", 50, "-o"),
            place("the temporary folder", "/tmp", 5, "TMPDIR"),
        ];
        let disks = |a: u64, tmp: u64| {
            move |path: &Path| {
                let (device, mib) = if path.starts_with("/a") { (1, a) } else { (2, tmp) };
                Some(Volume {
                    device,
                    free_bytes: mib << 20,
                })
            }
        };
        assert!(NoRoom::check(&places, disks(110, 5)).is_ok());
        assert!(NoRoom::check(&places, |_| None).is_ok(), "unknown room is enough");
        let shared = NoRoom::check(&places, disks(100, 5)).unwrap_err().to_string();
        for part in [
            "110 MiB",
            "/a/work",
            "/a/out.mp4",
            "100 MiB are free",
            "--work-dir and -o",
        ] {
            assert!(shared.contains(part), "{shared}");
        }
        assert!(!shared.contains("/tmp"), "{shared}");
        let both = NoRoom::check(&places, disks(0, 4)).unwrap_err().to_string();
        assert!(both.contains("/a/work") && both.contains("TMPDIR"), "{both}");
    }

    #[test]
    fn a_farm_without_room_for_the_job_is_named_with_the_figures() {
        let room = |limit_mib: u64| StorageRoom {
            limited_by: StorageLimit::Bucket,
            used_bytes: 90 << 20,
            limit_bytes: limit_mib << 20,
        };
        let check = |room| NoStorage::check(9 << 20, 2 << 20, room);
        assert!(check(None).is_ok() && check(Some(room(101))).is_ok());
        let text = check(Some(room(100))).unwrap_err().to_string();
        for part in [
            "needs about 9 MiB",
            "need 2 MiB more",
            "the bucket farm-media",
            "10 of its 100 MiB free",
            "give JetStream",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_room_of_a_path_that_does_not_exist_yet_is_that_of_its_nearest_folder() {
        let folder = tempfile::tempdir().unwrap();
        let here = Volume::of(folder.path()).unwrap();
        let later = Volume::of(&folder.path().join("a/b/c")).unwrap();
        assert_eq!(here.device, later.device);
        // A bare name lies in the current folder.
        assert!(Volume::of(Path::new("out.mp4.latentfarm")).is_some());
    }
}
