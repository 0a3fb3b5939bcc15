//! The description of the files that a video is cut into, whether by copying packets or by re-encoding.

use std::path::{Path, PathBuf};

use super::MediaError;
use crate::wire::job::SourceDefect;

/// Receives each segment file as soon as it is complete.
pub(super) type Emit<'a> = &'a mut dyn FnMut(SegmentFile) -> Result<(), MediaError>;

/// A file with a piece of the video track that can be decoded on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The path of the segment file.
    pub path: PathBuf,
    /// Number of the first source frame in the file.
    pub first: u64,
    /// Number of source frames in the file, at least 1.
    pub frames: u64,
    /// Whether the frames were re-encoded without loss, because there was no safe cut.
    pub reencoded: bool,
    /// The stretches of the segment that are not shown as the source has them, in order.
    pub defects: Vec<SourceDefect>,
}

/// Returns the path of the segment whose first source frame is `first`.
pub(super) fn segment_path(out_dir: &Path, first: u64) -> PathBuf {
    out_dir.join(format!("segment-{first:09}"))
}
