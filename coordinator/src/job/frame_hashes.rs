//! The hashes of the frames that a done record is about.

use latentfarm_common::frame::FrameHash;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord};

/// Returns the hash of each frame that was rendered, in order; none for an analysis.
pub(crate) fn frame_hashes(record: &DoneRecord) -> &[FrameHash] {
    match &record.body {
        DoneBody::Render { frame_hashes, .. } => frame_hashes,
        DoneBody::Analyze { .. } => &[],
    }
}
