//! The source video after it was examined: it is read once more, and cut into segments, beside the rendering
//! of the first ones.

use std::io;
use std::path::{Path, PathBuf};

use latentfarm_common::error::FileError;
use latentfarm_common::frame::PictureFormat;
use latentfarm_common::media::{CutLimits, SegmentFile, VideoIndex, cut_segments};
use latentfarm_common::wire::job::{SegmentEntry, SegmentRecord};
use latentfarm_common::wire::media::LocalSlice;

use super::error::IngestError;
use super::sink::BlobSink;
use super::watched::WatchedFile;

/// A video that has been examined and is still to be cut.
pub struct SourceVideo {
    pub(super) index: VideoIndex,
    pub(super) picture: PictureFormat,
    /// Number of source frames that are cut, from the first on.
    pub(super) frames: u64,
    pub(super) limits: CutLimits,
    pub(super) watched: WatchedFile,
    /// An existing directory for temporary files.
    pub(super) scratch: PathBuf,
}

impl SourceVideo {
    /// Cuts the wanted part of the video into files in `folder`, for readers on this machine. `keep_on` is asked
    /// often, and ends the cut with its error.
    ///
    /// # Errors
    /// See [`cut`](Self::cut).
    pub fn cut_to_files(
        &self,
        folder: &Path,
        keep_on: &dyn Fn() -> io::Result<()>,
    ) -> Result<Vec<LocalSlice>, IngestError> {
        let mut slices = Vec::new();
        let mut keep = |segment: SegmentFile| {
            let first = usize::try_from(segment.first).map_err(io::Error::other)?;
            let count = usize::try_from(segment.frames).map_err(io::Error::other)?;
            slices.push(LocalSlice {
                path: segment.path.display().to_string(),
                first: segment.first,
                pts: self.index.pts[first..first + count].to_vec(),
            });
            Ok(())
        };
        let (index, picture) = (&self.index, &self.picture);
        let cut = cut_segments(
            index,
            picture,
            self.frames,
            folder,
            self.limits,
            keep_on,
            &mut keep,
        );
        self.watched.check()?;
        cut?;
        Ok(slices)
    }

    /// Cuts the video as far as it is wanted. Each segment is decoded, replaced if it is damaged, stored,
    /// and then handed to `record`, in order. Its bounds are a function of the video alone, so the last one may
    /// go on behind the frames that are wanted. Segments that begin within the first `recorded` source frames,
    /// which an earlier run has recorded, are made again only because the later ones depend on them. `keep_on` is
    /// asked often, and ends the cut with its error.
    ///
    /// # Errors
    /// An error that is about the video says so by [`IngestError::is_bad_input`]; it may come after any
    /// segment.
    pub fn cut(
        &self,
        recorded: u64,
        keep_on: &dyn Fn() -> io::Result<()>,
        sink: &mut dyn BlobSink,
        record: &mut dyn FnMut(SegmentRecord) -> io::Result<()>,
    ) -> Result<(), IngestError> {
        let scratch = tempfile::tempdir_in(&self.scratch)
            .map_err(FileError::at("make a scratch directory in", &self.scratch))?;
        let mut store = |segment: SegmentFile| {
            let (first, frames) = (segment.first, segment.frames);
            if first < self.frames && first >= recorded {
                self.watched.check().map_err(io::Error::other)?;
                let blob = sink.put_file(&segment.path)?;
                record(SegmentRecord {
                    entry: SegmentEntry { blob, first, frames },
                    reencoded: segment.reencoded,
                    defects: segment.defects,
                })?;
            }
            // The store may have moved the file.
            match std::fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        let (index, picture) = (&self.index, &self.picture);
        let (frames, limits) = (self.frames, self.limits);
        let cut = cut_segments(
            index,
            picture,
            frames,
            scratch.path(),
            limits,
            keep_on,
            &mut store,
        );
        // A video that is replaced while it is read may look damaged, so the change is named first.
        self.watched.check()?;
        Ok(cut?)
    }
}
