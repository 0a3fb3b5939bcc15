//! What the coordinator and its child processes that look at segments say to each other.

use std::path::PathBuf;

use latentfarm_common::frame::PictureDifference;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{EncoderSpec, SourceSpec};
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::task::RenderFrame;
use serde::{Deserialize, Serialize};

/// A request to a child process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckRequest {
    /// Decode a segment, and compare its pictures with those of the source if these are given.
    Check {
        path: PathBuf,
        blob: BlobRef,
        range: FrameRange,
        pictures: Option<LocalPictures>,
    },
    /// Compare the first pictures of two segments.
    Compare { one: PathBuf, other: PathBuf },
}

impl Message for CheckRequest {
    const KIND: u8 = 23;
}

/// As [`ExpectedPictures`](super::ExpectedPictures), with the segments of the source video as files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LocalPictures {
    pub(super) source: SourceSpec,
    pub(super) encoder: EncoderSpec,
    pub(super) resolution_px: u32,
    pub(super) segments: Vec<LocalSlice>,
    /// One entry for each frame of the range.
    pub(super) frames: Vec<RenderFrame>,
    /// One entry for each frame of the range; fewer if the loudness of the last ones is not known.
    pub(super) loudness: Vec<u8>,
}

/// A child's answer, one for each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckReply {
    /// The segment is what it should be, as far as was asked.
    Good,
    /// The segment is whole, and its pictures could not be compared for a reason that is not the segment's.
    NotCompared(String),
    /// How much the two first pictures differ.
    Compared(PictureDifference),
    /// The segment is damaged, or holds other frames; the text is one clause.
    Broken(String),
    /// The segment is whole, and its pictures are wrong; the text is one clause.
    Implausible(String),
}

impl Message for CheckReply {
    const KIND: u8 = 24;
}
