//! What looks into the segments of a farm: it brings them, and the pieces of the source video that they are compared
//! with, to this machine, and has a child process look at them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::media;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::runtime::Handle;

use crate::segment_check::{BadSegment, ExpectedPictures, Finding, LocalPictures, SegmentProcesses};
use crate::stitch;

/// Verifies the segment of a render record against the output frames that it should hold and, if they are known, the
/// pictures that it should show. It runs on a blocking thread.
pub type SegmentCheck =
    Arc<dyn Fn(&DoneRecord, FrameRange, Option<&ExpectedPictures>) -> Result<(), BadSegment> + Send + Sync>;

/// Compares the first pictures of two segments of one job. It runs on a blocking thread, and returns one clause that
/// describes what is wrong.
pub type PictureComparison =
    Arc<dyn Fn(&BlobRef, &BlobRef) -> Result<PictureDifference, String> + Send + Sync>;

/// What looks into the segments of a farm.
#[derive(Clone)]
pub struct SegmentReader {
    pub check: SegmentCheck,
    pub compare: PictureComparison,
}

impl SegmentReader {
    /// Reads the segments in a store with processes of this program. Copies of those that are stored elsewhere are made in
    /// `scratch`. The caller is on a runtime.
    pub(crate) fn new(store: &Store, scratch: PathBuf) -> Self {
        Self::with_program(None, store, scratch)
    }

    /// Reads the segments in a store with processes of a program that has the subcommand `check-segments`; this one if there
    /// is none given. Copies of those that are stored elsewhere are made in `scratch`. The caller is on a runtime.
    pub fn with_program(program: Option<&Path>, store: &Store, scratch: PathBuf) -> Self {
        let files = Arc::new(Files {
            store: store.clone(),
            scratch,
            runtime: Handle::current(),
            processes: SegmentProcesses::new(program),
        });
        let comparing = Arc::clone(&files);
        Self {
            check: Arc::new(move |record, range, expected| files.check(record, range, expected)),
            compare: Arc::new(move |one, other| comparing.compare(one, other)),
        }
    }
}

/// The segments as files of this machine. Its methods block.
struct Files {
    store: Store,
    scratch: PathBuf,
    runtime: Handle,
    processes: SegmentProcesses,
}

impl Files {
    fn check(
        &self,
        record: &DoneRecord,
        range: FrameRange,
        expected: Option<&ExpectedPictures>,
    ) -> Result<(), BadSegment> {
        // Two results may have the same content, so each check has a copy of its own, which goes with the folder.
        let own =
            tempfile::tempdir_in(&self.scratch).map_err(|error| BadSegment::Broken(one_line(&error)))?;
        let path = self
            .local(&record.artifact, own.path())
            .map_err(BadSegment::Broken)?;
        let pictures = expected.and_then(|expected| {
            let segments = expected.input.segments.iter().map(|slice| {
                let path = self.local(&slice.blob, own.path())?;
                let text = path.into_os_string().into_string();
                text.map_err(|path| format!("the path `{}` is not UTF-8", path.display()))
            });
            match segments.collect() {
                Ok(segments) => Some(LocalPictures {
                    expected: expected.clone(),
                    segments,
                }),
                Err(error) => {
                    tracing::warn!(chunk = %record.chunk, error, "a result is not compared with its source");
                    None
                }
            }
        });
        let asked = self
            .processes
            .check(path.clone(), record.artifact, range, pictures);
        match self.runtime.block_on(asked) {
            Ok(Finding::Good) => Ok(()),
            Ok(Finding::NotCompared(reason)) => {
                tracing::warn!(chunk = %record.chunk, reason, "a result is not compared with its source");
                Ok(())
            }
            Ok(Finding::Bad(bad)) => Err(bad),
            Err(error) => {
                tracing::warn!(%error, "cannot start a process that checks segments; this one does it");
                let checked = stitch::check_segment(&path, &record.artifact, range);
                checked
                    .map(|_info| ())
                    .map_err(|error| BadSegment::Broken(one_line(&error)))
            }
        }
    }

    fn compare(&self, one: &BlobRef, other: &BlobRef) -> Result<PictureDifference, String> {
        let own = tempfile::tempdir_in(&self.scratch).map_err(|error| one_line(&error))?;
        let (one, other) = (self.local(one, own.path())?, self.local(other, own.path())?);
        match self
            .runtime
            .block_on(self.processes.compare(one.clone(), other.clone()))
        {
            Ok(compared) => compared,
            Err(error) => {
                tracing::warn!(%error, "cannot start a process that compares segments; this one does it");
                media::compare_first_pictures(&one, &other).map_err(|error| one_line(&error))
            }
        }
    }

    fn local(&self, blob: &BlobRef, folder: &Path) -> Result<PathBuf, String> {
        // The caller is on a thread for blocking work, where waiting for the store is allowed.
        let path = self.runtime.block_on(self.store.local_file(blob, folder));
        path.map_err(|error| one_line(&error))
    }
}
