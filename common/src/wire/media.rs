//! What the supervisor says to the media child, and what it answers. A render is a conversation: the child
//! sends `Crops` for each window that shows a rendered mouth, at most one more before the `Synced` of the last.

use serde::{Deserialize, Serialize};

use super::Message;
use super::job::{EncoderSpec, SourceSpec};
use super::outcome::FaceObservations;
use super::task::RenderFrame;
use crate::frame::FrameHash;
use crate::time::FrameRange;

/// A segment file on this machine and the source frames wanted from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalSlice {
    pub path: String,
    pub first: u64,
    pub pts: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaRequest {
    Analyze {
        source: SourceSpec,
        range: FrameRange,
        segments: Vec<LocalSlice>,
    },
    Render(RenderRequest),
    /// Answer to `Crops`: the same window with the mouths rendered.
    Synced {
        window: FrameRange,
        faces: Vec<u8>,
    },
}

impl Message for MediaRequest {
    const KIND: u8 = 13;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderRequest {
    pub source: SourceSpec,
    pub encoder: EncoderSpec,
    pub resolution_px: u32,
    pub range: FrameRange,
    pub segments: Vec<LocalSlice>,
    pub frames: Vec<RenderFrame>,
    /// Where to write the encoded segment.
    pub output: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaReply {
    Progress {
        frames_done: u32,
    },
    /// 16 aligned RGB crops (`16 x 3 x resolution x resolution`, planar). Frames without a face hold the crop
    /// of the nearest frame of the window that has one; a short window is padded with its last crop.
    Crops {
        window: FrameRange,
        faces: Vec<u8>,
    },
    Analyzed {
        observations: FaceObservations,
        timings: MediaTimings,
    },
    Rendered {
        frame_hashes: Vec<FrameHash>,
        synced: u32,
        passed: u32,
        timings: MediaTimings,
    },
    Failed(MediaFailure),
}

impl Message for MediaReply {
    const KIND: u8 = 14;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaTimings {
    pub decode_ms: u64,
    pub face_ms: u64,
    pub paste_ms: u64,
    pub encode_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaFailure {
    /// The file cannot be used, by anyone.
    BadInput {
        message: String,
    },
    Other {
        message: String,
    },
}
