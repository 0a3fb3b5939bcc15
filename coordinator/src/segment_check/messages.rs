//! What the coordinator and its child processes that look at segments say to each other.

use std::path::PathBuf;

use latentfarm_common::frame::PictureDifference;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::blob::BlobRef;
use serde::{Deserialize, Serialize};

use super::expected::ExpectedPictures;
use super::finding::Finding;

/// A request to a child process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckRequest {
    /// Decode a segment, and compare its pictures with those of the source if these are given.
    Check {
        path: PathBuf,
        blob: BlobRef,
        range: FrameRange,
        pictures: Option<Box<LocalPictures>>,
    },
    /// Compare the first pictures of two segments.
    Compare { one: PathBuf, other: PathBuf },
}

impl Message for CheckRequest {
    const KIND: u8 = 23;
}

/// What the pictures of a segment are compared with, as files of this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LocalPictures {
    pub(crate) expected: ExpectedPictures,
    /// The paths of the segments of the source, in the order of the expected input.
    pub(crate) segments: Vec<String>,
}

/// A child's answer, one for each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckReply {
    Checked(Finding),
    /// How much the two first pictures differ, or why they cannot be compared.
    Compared(Result<PictureDifference, String>),
}

impl Message for CheckReply {
    const KIND: u8 = 24;
}
