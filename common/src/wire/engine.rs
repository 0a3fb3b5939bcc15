//! What the supervisor says to the engine over its standard input, and what it answers on standard output.
//! One request at a time; every request ends in exactly one of `Loaded`, `AudioReady`, `Window`, `Failed`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Message;
use super::job::{AudioWindows, ModelSpec};
use super::memory::{MemoryPlan, MemorySample, MemoryStage};
use crate::digest::Digest;
use crate::time::FrameRate;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineRequest {
    /// Load the checkpoint; a second `Load` of the same weights is answered at once.
    Load {
        weights_dir: String,
        expected: Digest,
        /// Plan of the windows that follow.
        plan: MemoryPlan,
    },
    /// Encode one audio window and keep its features.
    Audio(AudioRequest),
    /// Render one window of frames.
    Window(WindowRequest),
}

impl Message for EngineRequest {
    const KIND: u8 = 11;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioRequest {
    /// Digest of the whole track.
    pub track: Digest,
    pub track_samples: u64,
    pub layout: AudioWindows,
    pub log_mel_max: f32,
    /// Index on the global grid.
    pub window: u32,
    /// 16 kHz mono PCM of the window with its margins; empty asks whether it is cached already.
    pub pcm: Vec<i16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRequest {
    pub model: ModelSpec,
    pub track: Digest,
    pub track_samples: u64,
    pub layout: AudioWindows,
    /// Output frame number of the window's first frame, a multiple of 16.
    pub first_frame: u64,
    /// Output rate.
    pub rate: FrameRate,
    /// 16 aligned RGB crops, `16 x 3 x resolution x resolution`, planar; a short window is padded by the caller.
    pub faces: Vec<u8>,
    pub silence: Option<SilentFrames>,
    pub plan: MemoryPlan,
}

/// The frames of a window that hear digital silence instead of the speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentFrames {
    /// Track of the one audio window of silence that was encoded before, see
    /// [`silent_track`](crate::audio::silence::silent_track).
    pub track: Digest,
    /// Bit `i` stands for the window's frame `i`.
    pub frames: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineReply {
    Loaded {
        synthetic: bool,
        numerics_fingerprint: String,
        device: String,
        memory: MemorySample,
    },
    AudioReady {
        cached: bool,
        elapsed_ms: u64,
        memory: MemorySample,
    },
    /// A step or stage advanced; the request goes on.
    Progress {
        stage: EngineStage,
        memory: MemorySample,
    },
    /// Same layout as the request's faces: the mouth region rendered, the rest as given.
    Window {
        faces: Vec<u8>,
        timings: EngineTimings,
        /// After the window's cleanup: the baseline that must not grow.
        memory: MemorySample,
    },
    Failed(EngineFailure),
}

impl Message for EngineReply {
    const KIND: u8 = 12;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineStage {
    Loading,
    Audio,
    VaeEncode {
        frame: u32,
    },
    /// Step counted from 1.
    Denoise {
        step: u32,
        of: u32,
    },
    VaeDecode {
        frame: u32,
    },
}

impl EngineStage {
    /// Where its memory is booked.
    pub fn memory_stage(self) -> MemoryStage {
        match self {
            Self::Loading => MemoryStage::Load,
            Self::Audio => MemoryStage::Audio,
            Self::VaeEncode { .. } => MemoryStage::VaeEncode,
            Self::Denoise { .. } => MemoryStage::Denoise,
            Self::VaeDecode { .. } => MemoryStage::VaeDecode,
        }
    }
}

impl fmt::Display for EngineStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => f.write_str("loading the model"),
            Self::Audio => f.write_str("encoding speech"),
            Self::VaeEncode { frame } => write!(f, "VAE encode, frame {frame}"),
            Self::Denoise { step, of } => write!(f, "denoise, step {step} of {of}"),
            Self::VaeDecode { frame } => write!(f, "VAE decode, frame {frame}"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineTimings {
    pub vae_encode_ms: u64,
    pub denoise_ms: u64,
    pub vae_decode_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineFailure {
    OutOfMemory {
        stage: MemoryStage,
        needed_at_least_mib: Option<u64>,
        free_before_mib: u64,
    },
    /// The weights are missing, misshaped or not the expected ones.
    Unfit {
        message: String,
    },
    /// `Window` came for audio that is not cached (the engine was restarted).
    AudioMissing {
        window: u32,
    },
    Other {
        message: String,
    },
}
