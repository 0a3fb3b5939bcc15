//! The error of a stitch: either a segment is at fault, which can be rendered again, or the output cannot be
//! written.

use std::path::PathBuf;

use latentfarm_common::media::MediaError;
use latentfarm_common::time::FrameRange;

use super::output::OutputError;
use super::tiling::TilingError;
use super::verify::SegmentError;

#[derive(Debug, thiserror::Error)]
pub enum StitchError {
    #[error("cannot join the segments")]
    Tiling(#[from] TilingError),
    /// One segment is unusable, so its chunk has to be rendered again.
    #[error("cannot use the segment of frames {range}")]
    Segment {
        /// Index of the segment in the request.
        index: usize,
        range: FrameRange,
        #[source]
        source: Box<SegmentError>,
    },
    /// The sound in the job's store is not what ingest wrote there.
    #[error("the job's copy of the sound is damaged: remove the job folder and render again")]
    Sound {
        #[source]
        source: Box<SegmentError>,
    },
    #[error("cannot write `{}`", path.display())]
    Output {
        path: PathBuf,
        #[source]
        source: MediaError,
    },
    #[error("cannot move the finished file into place")]
    Target(#[from] OutputError),
    #[error("cannot rename `{}` to `{}`", from.display(), to.display())]
    Rename {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
