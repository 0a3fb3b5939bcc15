//! The job manifest: what the output is a function of. Created once, never changed.

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use crate::digest::Digest;
use crate::frame::PictureFormat;
use crate::ids::JobId;
use crate::time::{FrameRange, FrameRate, TimeBase};

/// The manifest of one job. Small: everything whose size grows with the video is in the `timeline` blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub id: JobId,
    /// Digests of the two input files as they were given.
    pub video_digest: Digest,
    pub audio_digest: Digest,
    pub source: SourceSpec,
    pub audio: AudioSpec,
    pub model: ModelSpec,
    pub encoder: EncoderSpec,
    /// Number of output frames, at least 1.
    pub frames: u64,
    /// Output frames of one `Render` chunk: a multiple of 16, 16..=480.
    pub chunk_frames: u32,
    /// Source frames of one `Analyze` chunk: a multiple of 16.
    pub analyze_frames: u32,
    /// The [`Timeline`].
    pub timeline: BlobRef,
}

impl Message for JobSpec {
    const KIND: u8 = 1;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    pub picture: PictureFormat,
    /// Time base of [`Timeline::source_pts`] and of the segments' tracks.
    pub time_base: TimeBase,
    /// Number of source frames.
    pub frames: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioSpec {
    /// Digest of the whole 16 kHz mono track as s16le; with an audio window's index it keys encoded features.
    pub digest: Digest,
    /// Length of the track in 16 kHz samples.
    pub samples: u64,
    /// Maximum of the whole track's log10 mel power, before the reference's clamp to 8 below it.
    pub log_mel_max: f32,
    pub windows: AudioWindows,
    pub silence: SilenceMode,
}

/// How the track is cut into the 30 s pieces that Whisper encodes. Each variant's comment is its help on the command
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum AudioWindows {
    /// A piece every 20 s, of which the middle is used: no jump at a seam
    Overlapping,
    /// Abutting pieces, as the reference cuts them
    Reference,
}

/// What becomes of the mouth while nobody speaks. Each variant's comment is its help on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum SilenceMode {
    /// Leave it to the model
    Off,
    /// Keep the source picture, with a short fade at either end
    Keep,
    /// Render from digital silence: the model closes the mouth
    Close,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Identity of the checkpoint: digest over the weight files' own digests and the configs.
    pub weights: Digest,
    /// Random weights for trying the farm: logs, report and metadata say so.
    pub synthetic: bool,
    /// Side of the face crop in pixels, a multiple of 64.
    pub resolution_px: u32,
    /// Denoising steps, 1..=1000.
    pub steps: u32,
    /// Scale of classifier-free guidance, see [`is_guided`].
    pub guidance_scale: f32,
    /// Keys every noise draw.
    pub seed: u64,
}

impl ModelSpec {
    /// Whether classifier-free guidance is on.
    pub fn is_guided(&self) -> bool {
        is_guided(self.guidance_scale)
    }
}

/// Whether a guidance scale turns classifier-free guidance on: at 1 the guided prediction is the conditional one.
pub fn is_guided(guidance_scale: f32) -> bool {
    guidance_scale > 1.0
}

/// How segments are encoded; equal for all chunks of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    pub rate: FrameRate,
    /// libx264 constant rate factor 0..=51, or `None` for lossless.
    pub crf: Option<u8>,
    /// libx264 preset name.
    pub preset: String,
}

/// The timeline blob: how output frames, source frames, segments and audio windows relate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// PTS of every source frame in presentation order, in the source's time base, strictly increasing.
    pub source_pts: Vec<i64>,
    /// Segments in order; together they cover all source frames.
    pub segments: Vec<SegmentEntry>,
    /// The source frame shown in each output frame.
    pub outputs: Vec<OutputFrame>,
    /// s16le PCM of each audio window with its margins, in order (see `audio::windows`).
    pub audio: Vec<BlobRef>,
    /// Output frames in which nobody speaks, in order; empty where silence is left to the model.
    pub silence: Vec<FrameRange>,
}

impl Message for Timeline {
    const KIND: u8 = 2;
}

/// A piece of the source video that decodes on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    pub blob: BlobRef,
    /// First source frame in it.
    pub first: u64,
    /// Number of source frames in it.
    pub frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFrame {
    pub source: u32,
    /// False for a kept tail that has no speech: the frame passes through untouched.
    pub synced: bool,
}
