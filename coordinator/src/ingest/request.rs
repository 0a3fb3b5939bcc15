//! The request that ingest is given: the two files, and the choices that determine the frame table.

use std::path::PathBuf;

use latentfarm_common::media::{AudioOffset, Container, CutLimits, TrackChoice};
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};

use super::timeline::OnShort;

/// Source segments have about 5 s; a group of pictures of up to 13 s is still one segment (at 25 frames per
/// second).
pub const SEGMENT_LIMITS: CutLimits = CutLimits {
    target_frames: 128,
    max_frames: 320,
};

/// The fewest samples of 16 kHz that are rendered: one frame's length at 25 frames per second, which has two rows of
/// Whisper features.
pub(super) const MIN_SPEECH_SAMPLES: u64 = 640;

/// The source of the constant output frame rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateChoice {
    Fixed(FrameRate),
    /// The rate is the video's own nominal or average rate.
    Source,
}

/// The two input files, and how they are laid over each other in time.
#[derive(Clone, Debug)]
pub struct IngestRequest {
    pub video: PathBuf,
    /// A sound file, or any file with an audio track.
    pub audio: PathBuf,
    /// The audio track that is used.
    pub audio_track: TrackChoice,
    /// How much later the sound is played than its file says.
    pub audio_offset: AudioOffset,
    /// Whether the sound is encoded so that it ends exactly with the video, instead of being copied.
    pub exact_audio: bool,
    /// The container of the output, for which the sound is made.
    pub container: Container,
    /// An existing directory for temporary files, which ingest removes when it is done.
    pub scratch: PathBuf,
    pub rate: RateChoice,
    pub on_short: OnShort,
    /// Whether the part of the video after the end of the speech is kept, unchanged.
    pub keep_tail: bool,
    pub windows: AudioWindows,
    pub silence: SilenceMode,
    pub limits: CutLimits,
}
