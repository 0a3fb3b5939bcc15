//! Tasks, which the coordinator publishes and a worker pulls. They are hints, not truth: a task may be lost
//! or doubled.

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use super::job::{AudioSpec, EncoderSpec, ModelSpec, SourceSpec};
use super::memory::MemoryConstraints;
use crate::ids::{Attempt, ChunkId, WorkerId};
use crate::tags::Tags;
use crate::time::FrameRange;

/// One unit of work, at most [`super::MAX_MESSAGE_BYTES`] when encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The chunk that the task is for.
    pub chunk: ChunkId,
    /// The attempt at the chunk. Its number and the chunk make the `Nats-Msg-Id`.
    pub attempt: Attempt,
    /// URL by which workers reach the blob store: `file:///path` or `nats://bucket`.
    pub store: String,
    /// The workers that give the task back, because the result is to be compared with theirs.
    pub excluded: Vec<WorkerId>,
    /// The tags that a worker must have to run the task; one that lacks any of them gives it back.
    pub needed_tags: Tags,
    /// The work, with everything that it needs.
    pub body: TaskBody,
}

impl Message for Task {
    const KIND: u8 = 3;
}

/// The work of a task, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskBody {
    /// Finds faces in source frames.
    Analyze(AnalyzeTask),
    /// Renders output frames to a segment.
    Render(RenderTask),
}

/// A task to find faces in a range of source frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalyzeTask {
    /// The source video of the job.
    pub source: SourceSpec,
    /// The source frames to analyze; `start` is a multiple of 16.
    pub range: FrameRange,
    /// Blob that holds the [`AnalyzeInput`].
    pub input: BlobRef,
}

/// A task to render a range of output frames to one encoded segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderTask {
    /// The source video of the job.
    pub source: SourceSpec,
    /// The speech track of the job.
    pub audio: AudioSpec,
    /// The checkpoint and its parameters.
    pub model: ModelSpec,
    /// How the segment is encoded.
    pub encoder: EncoderSpec,
    /// The output frames to render; `start` is a multiple of 16.
    pub range: FrameRange,
    /// Blob that holds the [`RenderInput`].
    pub input: BlobRef,
    /// The memory plans that the worker may choose from.
    pub memory: MemoryConstraints,
}

/// Some consecutive source frames in one segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSlice {
    /// Blob of the segment file.
    pub blob: BlobRef,
    /// Number of the first source frame in `pts`.
    pub first: u64,
    /// PTS of the frames, in the source's time base, in order.
    pub pts: Vec<i64>,
}

/// The input blob of an [`AnalyzeTask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalyzeInput {
    /// These cover the task's range, and the frame before it if there is one, for the detection of cuts only.
    pub segments: Vec<SegmentSlice>,
}

impl Message for AnalyzeInput {
    const KIND: u8 = 4;
}

/// The input blob of a [`RenderTask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderInput {
    /// These cover every source frame in `frames`.
    pub segments: Vec<SegmentSlice>,
    /// One entry for each output frame of the range.
    pub frames: Vec<RenderFrame>,
    /// The audio windows of the range: their index on the global grid, and the blob of their s16le PCM with
    /// margins.
    pub audio: Vec<(u32, BlobRef)>,
}

impl Message for RenderInput {
    const KIND: u8 = 5;
}

/// One output frame of a [`RenderTask`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenderFrame {
    /// Number of the source frame that this output frame shows.
    pub source: u64,
    /// Matrix from the frame's to the face's pixels (2 x 3, row-major: a b tx, c d ty); `None` if the frame
    /// stays as it is.
    pub face: Option<[f32; 6]>,
    /// The source of the frame's mouth.
    pub mouth: Mouth,
}

impl RenderFrame {
    /// Whether the frame shows a mouth that the model rendered.
    pub fn is_rendered(&self) -> bool {
        self.face.is_some() && self.mouth != Mouth::Kept
    }
}

/// The source of a frame's mouth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mouth {
    /// The mouth is rendered from the speech.
    Speech,
    /// The mouth is rendered from the speech and blended with the source picture; its weight is this share of
    /// 255.
    Fading(u8),
    /// The mouth is that of the source picture.
    Kept,
    /// The mouth is rendered from digital silence.
    Closed,
}
