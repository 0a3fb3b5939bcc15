//! Requests of the supervisor to the media process, and its replies. During a render the two exchange
//! messages: the media process sends `Crops` for each window that shows a rendered mouth, and at most one
//! more before it receives the `Synced` of the previous one.

use serde::{Deserialize, Serialize};

use super::Message;
use super::job::{EncoderSpec, SourceSpec};
use super::outcome::FaceObservations;
use super::task::{RenderFrame, SegmentSlice};
use crate::frame::FrameHash;
use crate::lip_sync::LipOpening;
use crate::time::FrameRange;

/// A segment file on this machine and the source frames wanted from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalSlice {
    /// Path of the segment file.
    pub path: String,
    /// Number of the first source frame in `pts`.
    pub first: u64,
    /// PTS of the frames, in the source's time base, in order.
    pub pts: Vec<i64>,
}

impl LocalSlice {
    /// The frames of a segment that is a file of this machine.
    pub fn of(slice: &SegmentSlice, path: String) -> Self {
        Self {
            path,
            first: slice.first,
            pts: slice.pts.clone(),
        }
    }
}

/// A message from the supervisor to the media process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaRequest {
    /// Finds faces in a range of source frames.
    Analyze {
        /// The source video of the job.
        source: SourceSpec,
        /// The source frames to analyze.
        range: FrameRange,
        /// These cover the range, and the frame before it if there is one.
        segments: Vec<LocalSlice>,
    },
    /// Renders a range of output frames to one encoded segment.
    Render(RenderRequest),
    /// Answers `Crops` with the same window with the mouths rendered.
    Synced {
        /// Output frames of the window.
        window: FrameRange,
        /// The crops, in the layout of [`MediaReply::Crops`].
        faces: Vec<u8>,
    },
}

impl Message for MediaRequest {
    const KIND: u8 = 13;
}

/// A request to render a range of output frames to one encoded segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderRequest {
    /// The source video of the job.
    pub source: SourceSpec,
    /// How the segment is encoded.
    pub encoder: EncoderSpec,
    /// Side of the face crop in pixels.
    pub resolution_px: u32,
    /// The output frames to render.
    pub range: FrameRange,
    /// These cover every source frame in `frames`.
    pub segments: Vec<LocalSlice>,
    /// One entry for each output frame of the range.
    pub frames: Vec<RenderFrame>,
    /// Path at which the encoded segment is written.
    pub output: String,
}

/// A message from the media process to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaReply {
    /// More frames of the request are finished.
    Progress {
        /// Number of frames that were analyzed or encoded so far.
        frames_done: u32,
    },
    /// One window of crops to render.
    Crops {
        /// Output frames of the window.
        window: FrameRange,
        /// 16 aligned RGB crops (`16 x 3 x resolution x resolution`, planar). A frame without a face has the
        /// crop of the nearest frame of the window that has one; a short window is padded with its last crop.
        faces: Vec<u8>,
    },
    /// The end of an analysis.
    Analyzed {
        /// The faces of each frame.
        observations: FaceObservations,
        /// Time spent in each stage.
        timings: MediaTimings,
    },
    /// The end of a render.
    Rendered {
        /// Hash of every composited frame, before the encoder.
        frame_hashes: Vec<FrameHash>,
        /// Number of frames whose mouth was rendered.
        synced: u32,
        /// Number of frames that stayed as they were.
        passed: u32,
        /// How far each rendered mouth is open, one entry for each frame; `None` where none was rendered or
        /// seen.
        lips: Vec<Option<LipOpening>>,
        /// Time spent in each stage.
        timings: MediaTimings,
    },
    /// The end of a request that failed.
    Failed(MediaFailure),
}

impl Message for MediaReply {
    const KIND: u8 = 14;
}

/// Wall time of the media process in each stage of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaTimings {
    /// Milliseconds of decoding source frames.
    pub decode_ms: u64,
    /// Milliseconds of finding or aligning faces.
    pub face_ms: u64,
    /// Milliseconds of pasting rendered crops into the frames.
    pub paste_ms: u64,
    /// Milliseconds of encoding the segment.
    pub encode_ms: u64,
}

/// Why a request to the media process failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MediaFailure {
    /// No worker can use the file.
    BadInput {
        /// The error with its causes.
        message: String,
    },
    /// Another try may succeed, here or elsewhere.
    Other {
        /// The error with its causes.
        message: String,
    },
}
