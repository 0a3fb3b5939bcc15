//! Tasks: what the coordinator publishes and a worker pulls. Hints, not truth: a task may be lost or doubled.

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use super::job::{AudioSpec, EncoderSpec, ModelSpec, SourceSpec};
use super::memory::MemoryConstraints;
use crate::ids::{Attempt, ChunkId};
use crate::time::FrameRange;

/// One unit of work, at most [`super::MAX_MESSAGE_BYTES`] when encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub chunk: ChunkId,
    /// Its number is, with the chunk, the `Nats-Msg-Id`.
    pub attempt: Attempt,
    /// URL of the blob store, as workers reach it: `file:///path` or `nats://bucket`.
    pub store: String,
    pub body: TaskBody,
}

impl Message for Task {
    const KIND: u8 = 3;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskBody {
    Analyze(AnalyzeTask),
    Render(RenderTask),
}

/// Finds faces in a range of source frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalyzeTask {
    pub source: SourceSpec,
    /// Source frames; `start` is a multiple of 16.
    pub range: FrameRange,
    /// An [`AnalyzeInput`].
    pub input: BlobRef,
}

/// Renders a range of output frames to one encoded segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderTask {
    pub source: SourceSpec,
    pub audio: AudioSpec,
    pub model: ModelSpec,
    pub encoder: EncoderSpec,
    /// Output frames; `start` is a multiple of 16.
    pub range: FrameRange,
    /// A [`RenderInput`].
    pub input: BlobRef,
    pub memory: MemoryConstraints,
}

/// Where to find the pictures of some source frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSlice {
    pub blob: BlobRef,
    /// Number of the first source frame in `pts`.
    pub first: u64,
    /// PTS of consecutive source frames, first to last, that lie in this segment.
    pub pts: Vec<i64>,
}

/// Blob of an [`AnalyzeTask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalyzeInput {
    /// Covers `range`, and the one frame before it where there is one (for cut detection only).
    pub segments: Vec<SegmentSlice>,
}

impl Message for AnalyzeInput {
    const KIND: u8 = 4;
}

/// Blob of a [`RenderTask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderInput {
    /// Covers every source frame that `frames` names.
    pub segments: Vec<SegmentSlice>,
    /// One for each output frame of the range.
    pub frames: Vec<RenderFrame>,
    /// Audio windows that the range needs: (index on the global grid, s16le PCM with margins).
    pub audio: Vec<(u32, BlobRef)>,
}

impl Message for RenderInput {
    const KIND: u8 = 5;
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderFrame {
    /// Source frame shown in this output frame.
    pub source: u64,
    /// Frame-to-face matrix (2 x 3, row-major: a b tx, c d ty) in pixels; `None`: the frame passes through.
    pub face: Option<[f32; 6]>,
    pub mouth: Mouth,
}

impl RenderFrame {
    /// Whether the model's mouth is seen in it.
    pub fn is_rendered(&self) -> bool {
        self.face.is_some() && self.mouth != Mouth::Kept
    }
}

/// Where the mouth of a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mouth {
    /// Rendered from the speech.
    Speech,
    /// Rendered from the speech, and faded into the source picture: its share of 255.
    Fading(u8),
    /// The source picture's own.
    Kept,
    /// Rendered from digital silence.
    Closed,
}
