//! What ingest is asked for, and how it reports its progress.

use std::path::PathBuf;

use latentfarm_common::media::CutLimits;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use super::timeline::OnShort;

/// Segments of about 5 s; a group of pictures of up to 13 s is still one segment (both at 25 per second).
pub const SEGMENT_LIMITS: CutLimits = CutLimits {
    target_frames: 128,
    max_frames: 320,
};

/// Where the constant output rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateChoice {
    Fixed(FrameRate),
    /// The video's own nominal or average rate.
    Source,
}

#[derive(Clone, Debug)]
pub struct IngestRequest {
    pub video: PathBuf,
    /// A sound file, or any file with an audio track.
    pub audio: PathBuf,
    /// An existing directory for temporary files, which are gone afterwards.
    pub scratch: PathBuf,
    pub rate: RateChoice,
    pub on_short: OnShort,
    pub keep_tail: bool,
    pub windows: AudioWindows,
    pub silence: SilenceMode,
    pub limits: CutLimits,
}

/// How far a stage of ingest is: source frames or 16 kHz samples done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngestProgress {
    pub stage: IngestStage,
    pub done: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestStage {
    /// Decoding the speech; in samples.
    Speech,
    /// Reading the video's time stamps; in source frames.
    Index,
    /// Cutting the video; in source frames.
    Cut,
}
