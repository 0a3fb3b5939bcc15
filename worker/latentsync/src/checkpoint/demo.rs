//! The demo weights that come with latentfarm: a small model that `worker/demo-weights` trained on drawn faces
//! and synthetic speech. They are part of the program, so that a first render needs no download; a folder of
//! them is written like any other, and loaded through the same code.

use std::path::{Path, PathBuf};

use latentfarm_common::digest::Digest;

use super::metadata::{MadeBy, prepare_folder};
use crate::tensors::WeightsError;

/// A file of the folder: its path there and its contents.
type File = (&'static str, &'static [u8]);

macro_rules! file {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../../../weights/demo/", $path)))
    };
}

/// The metadata come first, so that even an unfinished folder is marked as one of demo weights.
const FILES: [File; 7] = [
    file!("latentfarm.json"),
    file!("unet_config.json"),
    file!("vae/config.json"),
    file!("whisper/tiny.json"),
    file!("latentsync_unet.safetensors"),
    file!("vae/diffusion_pytorch_model.safetensors"),
    file!("whisper/tiny.safetensors"),
];

/// Writes the demo weights into `dir`, which is made if it is missing.
///
/// # Errors
/// [`WeightsError::Foreign`] if the folder holds anything but earlier demo weights; another error if it cannot
/// be written.
pub fn write_demo(dir: &Path) -> Result<(), WeightsError> {
    prepare_folder(dir, MadeBy::Demo)?;
    for (name, contents) in FILES {
        let path = dir.join(name);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(WeightsError::folder(folder))?;
        std::fs::write(&path, contents).map_err(|error| WeightsError::write(&path)(error.into()))?;
    }
    Ok(())
}

/// Returns the folder of the demo weights under `caches`, a folder of files that can be made again, and writes
/// them if they are missing there or incomplete. Several processes may do so at once.
///
/// # Errors
/// Fails if the folder cannot be written.
pub fn cached_demo(caches: &Path) -> Result<PathBuf, WeightsError> {
    // Another release's weights have another folder.
    let metadata = Digest::of(FILES[0].1).to_string();
    let folder = caches.join(format!("demo-weights-{}", &metadata[..16]));
    if is_complete(&folder) {
        return Ok(folder);
    }
    std::fs::create_dir_all(caches).map_err(WeightsError::folder(caches))?;
    let partial = tempfile::Builder::new()
        .prefix("demo-weights-")
        .tempdir_in(caches)
        .map_err(WeightsError::folder(caches))?;
    write_demo(partial.path())?;
    let failed = WeightsError::folder(&folder);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    match std::fs::rename(partial.path(), &folder) {
        // Another process was faster.
        Err(_) if is_complete(&folder) => Ok(folder),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(folder),
    }
}

/// Whether a folder has all files in their sizes. The metadata hold the digests, against which the weights are
/// checked where they are loaded.
fn is_complete(folder: &Path) -> bool {
    FILES.iter().all(|(name, contents)| {
        std::fs::metadata(folder.join(name)).is_ok_and(|found| found.len() == contents.len() as u64)
    })
}

#[cfg(test)]
mod tests {
    use latentfarm_common::wire::job::WeightsKind;

    use super::*;
    use crate::checkpoint::{Checkpoint, FileCheck, verify};

    #[test]
    fn the_demo_weights_are_complete_and_small_and_say_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        write_demo(dir.path()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.kind(), WeightsKind::Demo);
        assert!(checkpoint.steps().is_some_and(|steps| (3..=8).contains(&steps)));
        assert!(checkpoint.bytes() <= 12 << 20, "{} bytes", checkpoint.bytes());
        let checks = verify(dir.path(), &mut |_| ()).unwrap();
        assert!(
            checks.len() == 3 && checks.iter().all(FileCheck::is_good),
            "{checks:?}"
        );
    }

    #[test]
    fn a_damaged_copy_in_the_cache_is_replaced_and_a_good_one_is_kept() {
        let caches = tempfile::tempdir().unwrap();
        let folder = cached_demo(caches.path()).unwrap();
        let unet = folder.join("latentsync_unet.safetensors");
        let written = std::fs::metadata(&unet).unwrap().modified().unwrap();
        assert_eq!(cached_demo(caches.path()).unwrap(), folder);
        assert_eq!(std::fs::metadata(&unet).unwrap().modified().unwrap(), written);

        std::fs::write(&unet, b"cut short").unwrap();
        assert_eq!(cached_demo(caches.path()).unwrap(), folder);
        assert!(std::fs::metadata(&unet).unwrap().len() > 1 << 20);
        assert_eq!(
            std::fs::read_dir(caches.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn a_folder_of_other_files_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
        assert!(matches!(
            write_demo(dir.path()),
            Err(WeightsError::Foreign { .. })
        ));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
