//! The files that a video is cut into, whether by copying packets or by encoding anew.

use std::path::{Path, PathBuf};

/// A file with a piece of the video track that decodes on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    pub path: PathBuf,
    /// Number of its first source frame.
    pub first: u64,
    /// Source frames in it, at least 1.
    pub frames: u64,
    /// Encoded anew, without loss, for want of a safe cut.
    pub reencoded: bool,
}

/// Path of the segment whose first source frame is `first`.
pub(super) fn segment_path(out_dir: &Path, first: u64) -> PathBuf {
    out_dir.join(format!("segment-{first:09}"))
}
